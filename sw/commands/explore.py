# SPDX-License-Identifier: Apache-2.0
"""``explore``: what a model would take on many targets."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hiddenfold.sw.commands.common import (
    Outcome,
    add_command,
    default_model,
    format_bytes,
    format_table,
)
from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.progress import progress_bar

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the command of this module."""
    parser = add_command(
        commands,
        "explore",
        explore,
        "predict speed, traffic and size on many targets",
        example="hiddenfold explore --targets ulx3s-85f,zu7ev --batches 1,2,4 "
        "--vary planes=2,4,8 -o out/explore",
        detail="Writes a table (explore.json, explore.csv) and a plot (explore.svg) of frames per "
        "second against LUTs, block RAMs and traffic. Nothing is synthesized or simulated: cycles "
        "and bytes are the compiler's predictions, LUTs and block RAMs are estimates.",
    )
    parser.add_argument(
        "model", metavar="M.hfn", type=Path, nargs="?", help="default: the shipped model"
    )
    parser.add_argument(
        "--targets",
        metavar="T,...",
        type=lambda text: text.split(","),
        help="names or TOML files (default: all that come with Hiddenfold)",
    )
    parser.add_argument(
        "--batches", metavar="B,...", type=_integers, default=[1], help="batch sizes (default: 1)"
    )
    parser.add_argument(
        "--vary",
        metavar="PARAMETER=N,...",
        type=_variation,
        action="append",
        default=[],
        help="also other values of a target's parameter; all combinations of several",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)


def _integers(text: str) -> list[int]:
    try:
        return [int(part, 0) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be integers with commas, not {text!r}") from None


def _variation(text: str) -> tuple[str, list[int]]:
    key, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be PARAMETER=N,..., not {text!r}")
    return key, _integers(values)


def explore(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold explore``."""
    from hiddenfold.gen.explore import as_csv, variants
    from hiddenfold.gen.explore import explore as predict
    from hiddenfold.gen.explore_plot import plot
    from hiddenfold.gen.target import Target
    from hiddenfold.sw.model import Model

    model = Model.load(args.model or default_model())
    names = args.targets or Target.names()
    values: dict[str, list[int]] = {}
    for key, some in args.vary:
        values.setdefault(key, []).extend(some)
    targets = [variant for name in names for variant in variants(Target.load(name), values)]
    with progress_bar(len(targets) * len(args.batches), "targets") as tick:
        points = predict(model, targets, args.batches, tick)
    args.output.mkdir(parents=True, exist_ok=True)
    entries = [asdict(point) for point in points]
    files = {
        "explore.json": json.dumps({"model": model.name, "points": entries}, indent=1) + "\n",
        "explore.csv": as_csv(points),
        "explore.svg": plot(points, f"{model.name}: predicted frames a second"),
    }
    for name, text in files.items():
        write_atomically(args.output / name, text.encode())
    rows = [
        [
            point.target,
            str(point.batch),
            f"{point.lut:,}",
            str(point.bram),
            f"{point.cycles:,}",
            f"{point.utilization:.2f}",
            f"{point.frames_per_second:.1f}",
            f"{format_bytes(round(point.bytes_per_second or 0))}/s",
        ]
        for point in points
        if point.refused is None
    ]
    head = ("target", "batch", "LUTs", "block RAMs", "cycles", "utilization", "frames/s", "traffic")
    lines = [format_table(head, rows)] if rows else []
    lines += [f"batch {p.batch}: {p.refused}" for p in points if p.refused is not None]
    lines.append(f"wrote {', '.join(files)} to {args.output}")
    data = {"model": model.name, "points": entries} | {
        Path(name).suffix[1:]: str(args.output / name) for name in files
    }
    return Outcome(data, "\n".join(lines))
