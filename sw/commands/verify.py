# SPDX-License-Identifier: Apache-2.0
"""``verify``: random networks on the generated accelerator against the golden model."""

import argparse
from pathlib import Path
from typing import Any

from hiddenfold.sw.commands.common import Outcome, add_command, add_target, add_waves, at_least
from hiddenfold.sw.progress import progress_bar

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the command of this module."""
    parser = add_command(
        commands,
        "verify",
        verify,
        "compare random networks on the accelerator with the golden model",
        example="hiddenfold verify --target sim-tiny --seed 7 --count 25",
        detail="Every layer and iteration is compared, every bit.",
    )
    add_target(parser)
    parser.add_argument("--seed", metavar="S", type=at_least(0), required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--count", metavar="N", type=at_least(1), help="number of random networks")
    what.add_argument(
        "--config",
        metavar="NET.toml",
        type=Path,
        help="this architecture, with random masks and constants",
    )
    what.add_argument("--model", metavar="NET.hfn", type=Path, help="this network")
    parser.add_argument(
        "--failures",
        metavar="DIR",
        type=Path,
        help="keep networks that fail here, made as small as they still fail",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", metavar="N", type=at_least(1), help="processes that share the networks"
    )
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="share them among the workers of this Dask scheduler, tcp://host:port",
    )
    add_waves(parser)


def verify(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold verify``."""
    from hiddenfold.gen.target import Target
    from hiddenfold.sw.verify import verify as compare

    Target.load(args.target)
    if args.workers or args.scheduler:
        data = _spread(args)
    else:
        with progress_bar(args.count or 1, "networks") as tick:
            data = compare(
                args.target,
                args.seed,
                count=args.count,
                config=args.config,
                model=args.model,
                tick=tick,
                failures=args.failures,
                waves=args.waves,
            )
    text = (
        f"{args.target}: {data['networks']} networks, {data['layers']} layers and iterations, "
        f"{data['values_compared']:,} values compared, {data['mismatches']} mismatches "
        f"(seed {data['seed']})"
    )
    if data["first_mismatch"]:
        text += f"\nfirst mismatch: {data['first_mismatch']}"
    return Outcome(data, text, int(data["mismatches"] > 0))


def _spread(args: argparse.Namespace) -> dict[str, Any]:
    """The networks on several workers."""
    from hiddenfold.sw.verify_spread import verify_spread

    if args.count is None or args.waves:
        raise ValueError(
            "--workers and --scheduler share random networks: they need --count and make no --waves"
        )
    with progress_bar(args.count, "networks") as tick:
        return verify_spread(
            args.target,
            args.seed,
            args.count,
            workers=args.workers,
            scheduler=args.scheduler,
            failures=args.failures,
            tick=tick,
        )
