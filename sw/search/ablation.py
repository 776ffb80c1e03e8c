# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.sw.search.ablation``: accuracy with each generator of weight signs.

Searches the network of a configuration with every generator and several seeds, and writes a table
with mean and spread. The test split is not used: the last 5,000 training images are held out. Runs
that are finished are kept and one that was stopped is resumed, so the command may be repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path

from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.search.config import load_config
from hiddenfold.sw.search.data import Split, load_split
from hiddenfold.sw.search.generators import GENERATORS
from hiddenfold.sw.search.run_directory import CHECKPOINT
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.train import train

__all__ = ["run", "table"]

HELD_OUT = 5000
TABLE = "table.md"

# Held-out top-1 of every finished run, by generator and seed.
Results = dict[str, dict[int, float]]


def run(config: SearchConfig, data: tuple[Split, Split], out: Path, seeds: int) -> Results:
    """Search with every generator and the seeds 1 .. `seeds`; all generators of a seed first."""
    results: Results = {generator: {} for generator in GENERATORS}
    for seed in range(1, seeds + 1):
        for generator in GENERATORS:
            # The seed of the search gives first scores, order of images and augmentation: the same
            # for all generators, so that nothing but the signs differs.
            one = dataclasses.replace(
                config,
                model=dataclasses.replace(config.model, generator=generator, seed=seed),
                train=dataclasses.replace(config.train, seed=seed),
            )
            directory = out / f"{generator}-{seed}"
            resume = (directory / CHECKPOINT).exists()
            row = train(one, "", directory, resume=resume, data=data)
            results[generator][seed] = row["top1"]
            write_atomically(out / TABLE, table(results).encode())
            print(f"{generator}, seed {seed}: {row['top1']:.2f} %", file=sys.stderr, flush=True)
    return results


def table(results: Results) -> str:
    """Markdown: top-1 per seed, mean, and standard deviation over seeds (of a sample)."""
    seeds = sorted(set().union(*results.values()))
    head = ["generator", *(f"seed {seed}" for seed in seeds), "mean", "deviation"]
    lines = [head, ["---"] * len(head)]
    for generator, found in results.items():
        values = list(found.values())
        mean = f"{statistics.mean(values):.2f}" if values else ""
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells = [f"{found[seed]:.2f}" if seed in found else "" for seed in seeds]
        lines.append([f"`{generator}`", *cells, mean, spread])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Run and print the table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("config", metavar="CONFIG.toml", type=Path)
    parser.add_argument("--data", metavar="DIR", type=Path, default=Path("data"))
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", metavar="N", type=int, default=3)
    args = parser.parse_args()
    try:
        config = load_config(args.config)
        split = load_split(config.dataset, args.data, "train", config.image)
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"ablation: {error}")
    data = (
        Split(split.images[:-HELD_OUT], split.labels[:-HELD_OUT]),
        Split(split.images[-HELD_OUT:], split.labels[-HELD_OUT:]),
    )
    print(table(run(config, data, args.out, args.seeds)), end="")


if __name__ == "__main__":
    main()
