# SPDX-License-Identifier: Apache-2.0
"""`python -m hiddenfold.verif.fuzz`: hostile files against every reader.

Exit code 0 when each was refused in one line or could be used, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from hiddenfold.verif.fuzz.campaign import campaign
from hiddenfold.verif.fuzz.kinds import KINDS
from hiddenfold.verif.signoff.outcome import write_outcome


def main() -> int:
    """Run the inputs of all chosen kinds and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m hiddenfold.verif.fuzz", description=__doc__)
    parser.add_argument(
        "kinds",
        nargs="*",
        choices=[*KINDS, []],
        metavar="KIND",
        help=f"any of {', '.join(KINDS)} (default: all)",
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=2000, help="inputs of each kind")
    parser.add_argument("--json", type=Path, help="write the outcome here")
    args = parser.parse_args()
    outcome = []
    for name in args.kinds or KINDS:
        start = time.process_time()
        findings = campaign(name, KINDS[name], args.first, args.count)
        print(
            f"{name}: inputs {args.first}..{args.first + args.count - 1}, "
            f"{findings.accepted} accepted, {len(findings.found)} findings, "
            f"slowest {findings.slowest:.2f} s, memory {findings.peak / 1e6:.0f} MB, "
            f"{time.process_time() - start:.0f} s of processor time",
            flush=True,
        )
        for text in findings.found[:20]:
            print(
                f"  {text} (repeat: python -m hiddenfold.verif.fuzz {name} "
                f"--first {text.split()[1].rstrip(':')} --count 1)"
            )
        outcome.append({"kind": name, "first": args.first} | asdict(findings))
    write_outcome(args.json, outcome)
    return int(any(kind["found"] for kind in outcome))


if __name__ == "__main__":
    sys.exit(main())
