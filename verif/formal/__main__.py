# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.formal [FOLDER]``: all proofs; exit status 1 if one fails."""

import sys
import time
from pathlib import Path

from hiddenfold.gen.tools import ToolError
from hiddenfold.hw.array import MAPPINGS
from hiddenfold.verif.formal import axi_lite, axi_read, axi_write, expand, generator, weights
from hiddenfold.verif.formal.prover import prove, reach

#: Name, what to prove, cycles of induction, cycles within which all covers must be reached.
PROOFS = [
    ("leap = 64 serial steps", generator.harness_leap, 1, 1),
    ("signature of two words a cycle", generator.harness_signature, 2, 3),
    ("expansion of partly frozen masks", expand.harness, 1, 1),
    ("AXI4-Lite slave and status", axi_lite.harness, 3, 12),
    ("AXI4 read channel", axi_read.harness, 4, 16),
    ("AXI4 write channel", axi_write.harness, 4, 24),
]
#: Lanes of the rows of vendor cells that are proven.
LANES = (8, 16, 32, 64)


def main() -> int:
    """Run all proofs and return the exit status."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/formal").resolve()
    failures = 0
    for family in MAPPINGS:
        try:
            weights.prove_cells(family, folder / family)
            for lanes in LANES:
                weights.prove_row(family, lanes, folder / family)
            print(f"rows of {family} cells: proved for {', '.join(map(str, LANES))} lanes")
        except (ToolError, weights.Unproven) as error:
            print(f"rows of {family} cells: FAILED {error}")
            failures += 1
    for number, (name, harness, depth, cover_depth) in enumerate(PROOFS):
        for check, cycles in ((prove, depth), (reach, cover_depth)):
            begin = time.monotonic()
            result = check(*harness(), folder / str(number), depth=cycles)
            seconds = time.monotonic() - begin
            print(f"{name}: {'FAILED ' * (not result.proved)}{result.text} ({seconds:.1f} s)")
            failures += not result.proved
    return int(failures != 0)


if __name__ == "__main__":
    sys.exit(main())
