# SPDX-License-Identifier: Apache-2.0
"""`python -m hiddenfold.verif.second`: both golden models on random networks, and model files.

Exit code 0 when all is equal, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Model
from hiddenfold.verif.second.agreement import Agreement, check, random_network
from hiddenfold.verif.signoff.outcome import write_outcome


def main() -> int:
    """Compare, and print what was compared and what differed."""
    parser = argparse.ArgumentParser(prog="python -m hiddenfold.verif.second", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first network (default: 0)")
    parser.add_argument("--count", type=int, default=20, help="networks on each target")
    parser.add_argument("--targets", nargs="+", default=["sim-tiny", "peer-64"], metavar="T")
    parser.add_argument("--model", type=Path, help="a model file to compare as well")
    parser.add_argument("--json", type=Path, help="write the outcome here")
    args = parser.parse_args()
    result = Agreement()
    if args.model is not None:
        check(Model.load(args.model), Target.load(args.targets[0]), args.seed, result)
    for name in args.targets:
        target = Target.load(name)
        for seed in range(args.seed, args.seed + args.count):
            check(random_network(seed, target), target, seed, result)
        print(f"{name}: {result.networks} networks so far", flush=True)
    print(
        f"second golden model: {result.networks} networks, {result.layers} layers and iterations, "
        f"{result.values:,} values compared, {len(result.differences)} differences"
    )
    print("networks with " + ", ".join(f"{k}: {n}" for k, n in sorted(result.features.items())))
    for text in result.differences[:10]:
        print(text)
    write_outcome(args.json, asdict(result))
    return int(bool(result.differences))


if __name__ == "__main__":
    sys.exit(main())
