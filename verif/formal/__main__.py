# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.formal [FOLDER]``: all proofs; exit status 1 if one fails.

What was proved, and how, is in ``proofs.json`` of the folder.
"""

import json
import sys
import time
from pathlib import Path

from hiddenfold.gen.tools import ToolError
from hiddenfold.hw.array import MAPPINGS
from hiddenfold.verif.formal import (
    axi_lite,
    axi_read,
    axi_write,
    control,
    expand,
    generator,
    jump,
    loops,
    sequencer,
    streams,
    weights,
)
from hiddenfold.verif.formal.prover import prove, reach

#: Name, what to prove, cycles of induction, cycles within which all covers must be reached.
PROOFS = [
    ("leap = 64 serial steps", generator.harness_leap, 1, 1),
    ("jump-ahead = serial steps", jump.harness, 1, 1),
    ("signature of two words a cycle", generator.harness_signature, 2, 3),
    ("expansion of partly frozen masks", expand.harness, 1, 1),
    ("expansion of a row of 64 lanes", expand.harness_row, 1, 1),
    ("stream FIFO", streams.harness_fifo, 4, 12),
    ("short queue", streams.harness_queue, 2, 8),
    ("splitter", streams.harness_splitter, 2, 8),
    ("joiner", streams.harness_joiner, 2, 8),
    ("loops over pixel tiles", loops.harness, 2, 10),
    ("sequencer", sequencer.harness, 2, 20),
    ("run control", control.harness, 2, 10),
    ("counters", control.harness_counters, 2, 16),
    ("AXI4-Lite slave and status", axi_lite.harness, 3, 12),
    ("AXI4 read channel", axi_read.harness, 2, 16),
    ("AXI4 write channel", axi_write.harness, 4, 24),
]
#: Lanes of the rows of vendor cells that are proven.
LANES = (8, 16, 32, 64)


def main() -> int:
    """Run all proofs and return the exit status."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/formal").resolve()
    results: list[dict] = []
    for family in MAPPINGS:
        begin, text = time.monotonic(), f"proved for {', '.join(map(str, LANES))} lanes"
        proved = True
        try:
            weights.prove_cells(family, folder / family)
            for lanes in LANES:
                weights.prove_row(family, lanes, folder / family)
        except (ToolError, weights.Unproven) as error:
            proved, text = False, str(error)
        _report(results, f"rows of {family} cells", proved, text, begin)
    for number, (name, harness, depth, cover_depth) in enumerate(PROOFS):
        begin = time.monotonic()
        proof = prove(*harness(), folder / str(number), depth=depth)
        covers = reach(*harness(), folder / str(number), depth=cover_depth)
        _report(
            results,
            name,
            proof.proved and covers.proved,
            f"{proof.text}; {covers.text}",
            begin,
            depth=depth,
            covers=covers.text.split(" ", maxsplit=1)[0] if covers.proved else "0",
        )
    (folder / "proofs.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    return int(not all(result["proved"] for result in results))


def _report(
    results: list[dict],
    name: str,
    proved: bool,
    text: str,
    begin: float,
    *,
    depth: int = 0,
    covers: str = "",
) -> None:
    seconds = time.monotonic() - begin
    print(f"{name}: {'' if proved else 'FAILED '}{text} ({seconds:.1f} s)", flush=True)
    results.append(
        {"name": name, "proved": proved, "depth": depth, "covers": covers, "seconds": seconds}
    )


if __name__ == "__main__":
    sys.exit(main())
