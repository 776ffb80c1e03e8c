# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.sw.search.ablation``: accuracy of variants of one search.

Searches every variant of a configuration with several seeds, and writes a table with mean and
spread. The test split is not used: training images are held out, of CIFAR the last 5,000, of others
the share `train.held_out` of the first variant, or a tenth. Runs that are finished are kept and one
that was stopped is resumed, so the command may be repeated.

A file of variants names a configuration, what all variants change in it (tables `model` and
`train`), and what each of them does::

    base = "../cifar100-hfn-ablation.toml"

    [[variant]]
    name = "torch"
    model = { generator = "torch" }

The `teacher` of a variant may be the name of one before it: that one's run with the same seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.operations import shorten
from hiddenfold.sw.search.config import load_config, merge, parse_config
from hiddenfold.sw.search.data import Split, hold_out, load_split
from hiddenfold.sw.search.run_directory import CHECKPOINT
from hiddenfold.sw.search.settings import FOLDERS, SearchConfig
from hiddenfold.sw.search.train import train
from hiddenfold.sw.toml import parse_toml

__all__ = ["load_variants", "run", "table"]

HELD_OUT = 5000
TABLE = "table.md"

# Tables of a file of variants that hold for all of them.
_COMMON = ("model", "train")

# Held-out top-1 of every finished run, by variant and seed.
Results = dict[str, dict[int, float]]
# Configurations by name of the variant.
Variants = dict[str, SearchConfig]


def load_variants(path: str | Path) -> Variants:
    """Read a file of variants; `ValueError` names the file, the variant and what is wrong in it."""
    path = Path(path)
    try:
        data = parse_toml(path.read_bytes())
        base, entries = data.pop("base", None), data.pop("variant", None)
        unknown = [key for key in data if key not in _COMMON]
        if unknown:
            allowed = ", ".join(("base", *_COMMON, "variant"))
            raise ValueError(f"Key {shorten(unknown[0])} is unknown; allowed: {allowed}")
        if not isinstance(base, str):
            raise ValueError(f"Key 'base' must name a file, not {shorten(base)}")
        if not isinstance(entries, list) or not entries:
            raise ValueError("Key 'variant' must list at least 1 variant")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    common = merge(load_config(path.parent / base).to_dict(), data)
    variants: Variants = {}
    for entry in entries:
        name = _name(path, entry, variants)
        try:
            variants[name] = one = parse_config(merge(common, entry))
            first = next(iter(variants.values()))
            if (one.dataset, one.image) != (first.dataset, first.image):
                raise ValueError("Keys 'dataset' and 'image' must be those of all variants")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: variant {name}: {error}") from error
    return variants


def _name(path: Path, entry: Any, before: Variants) -> str:
    """Take the name out of a variant; it becomes the name of a directory."""
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: variant must be a table, not {shorten(entry)}")
    name = entry.pop("name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        allowed = "lower-case letters, digits and hyphens"
        raise ValueError(f"{path}: name of a variant must be {allowed}, not {shorten(name)}")
    if name in before:
        raise ValueError(f"{path}: name of a variant must be unique, not {name!r} twice")
    return name


def run(variants: Variants, data: tuple[Split, Split], out: Path, seeds: Sequence[int]) -> Results:
    """Search every variant with the `seeds`; all variants of a seed first."""
    results: Results = {name: {} for name in variants}
    for seed in seeds:
        for name, config in variants.items():
            # The seed of the search gives first scores, order of images and augmentation: the same
            # for all variants, so that nothing but what they change differs.
            teacher = config.train.teacher
            if teacher in variants:
                teacher = str(out / f"{teacher}-{seed}")
            one = dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, seed=seed),
                train=dataclasses.replace(config.train, seed=seed, teacher=teacher),
            )
            directory = out / f"{name}-{seed}"
            resume = (directory / CHECKPOINT).exists()
            row = train(one, "", directory, resume=resume, data=data)
            results[name][seed] = row["top1"]
            write_atomically(out / TABLE, table(results).encode())
            print(f"{name}, seed {seed}: {row['top1']:.2f} %", file=sys.stderr, flush=True)
    return results


def table(results: Results) -> str:
    """Markdown: top-1 per seed, mean, and standard deviation over seeds (of a sample)."""
    seeds = sorted(set().union(*results.values()))
    head = ["variant", *(f"seed {seed}" for seed in seeds), "mean", "deviation"]
    lines = [head, ["---"] * len(head)]
    for name, found in results.items():
        values = list(found.values())
        mean = f"{statistics.mean(values):.2f}" if values else ""
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells = [f"{found[seed]:.2f}" if seed in found else "" for seed in seeds]
        lines.append([f"`{name}`", *cells, mean, spread])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Run and print the table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("variants", metavar="VARIANTS.toml", type=Path)
    parser.add_argument("--data", metavar="DIR", type=Path, default=Path("data"))
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="how many (default: 3)")
    parser.add_argument(
        "--first", metavar="SEED", type=int, default=1, help="the first (default: 1)"
    )
    args = parser.parse_args()
    try:
        variants = load_variants(args.variants)
        first = next(iter(variants.values()))
        split = load_split(first.dataset, args.data, "train", first.image)
        seeds = range(args.first, args.first + args.seeds)
        print(table(run(variants, _held_out(split, first), args.out, seeds)), end="")
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"ablation: {error}")


def _held_out(split: Split, config: SearchConfig) -> tuple[Split, Split]:
    if config.dataset in FOLDERS:  # their pictures are in the order of the classes
        return hold_out(split, config.train.held_out or 0.1)
    numbers = torch.arange(len(split))
    return split.part(numbers[:-HELD_OUT]), split.part(numbers[-HELD_OUT:])


if __name__ == "__main__":
    main()
