# SPDX-License-Identifier: Apache-2.0
"""Resource figures of a target from Yosys, without place and route."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import run_yosys

__all__ = ["SYNTHESIS_FAMILIES", "TOPS", "count_cells", "synthesis_script", "synthesize"]

TOPS = ("array", "core")

#: Yosys command for each family. On ECP5 wide multiplexers (PFUMX) cost more LUTs than they save.
_COMMANDS = {
    "ecp5": "synth_ecp5 -nowidelut",
    "xc7": "synth_xilinx -family xc7 -noiopad -noclkbuf",
}
SYNTHESIS_FAMILIES = tuple(_COMMANDS)

#: Modules that Yosys maps once and counts as often as they occur.
_REPEATED = ("*array.row*", "*requantize.channel*")
_FLATTEN = "setattr -mod -unset keep_hierarchy *; setattr -unset keep_hierarchy */*; flatten; clean"

#: What one cell counts for. A carry cell of ECP5 (CCU2C) occupies two LUTs, a distributed memory
#: (TRELLIS_DPR16X4) six: four hold the bits, its write port takes the places of two. CARRY4 of the
#: 7 series has a place of its own and is no LUT; LUT6_2 is one LUT with two outputs. A memory of
#: 18 kbit is one unit, one of 36 kbit two.
_CELLS: dict[str, dict[str, tuple[str, int]]] = {
    "ecp5": {
        "LUT4": ("lut", 1),
        "CCU2C": ("lut", 2),
        "TRELLIS_DPR16X4": ("lut", 6),
        "TRELLIS_FF": ("ff", 1),
        "DP16KD": ("bram", 1),
        "PDPW16KD": ("bram", 1),
        "MULT18X18D": ("dsp", 1),
        "ALU54B": ("dsp", 1),
    },
    "xc7": {
        **{f"LUT{n}": ("lut", 1) for n in range(1, 7)},
        "LUT6_2": ("lut", 1),
        "INV": ("lut", 1),
        "SRL16E": ("lut", 1),
        "SRLC32E": ("lut", 1),
        "RAM32X1D": ("lut", 2),
        "RAM64X1D": ("lut", 2),
        "RAM32M": ("lut", 4),
        "RAM64M": ("lut", 4),
        "FDRE": ("ff", 1),
        "FDSE": ("ff", 1),
        "FDCE": ("ff", 1),
        "FDPE": ("ff", 1),
        "RAMB18E1": ("bram", 1),
        "RAMB36E1": ("bram", 2),
        "DSP48E1": ("dsp", 1),
    },
}

#: Carry cells: two bits on ECP5, four on the 7 series.
_CARRY = {"ecp5": "CCU2C", "xc7": "CARRY4"}


def synthesize(target: Target, family: str, top: str = "core") -> dict[str, Any]:
    """Synthesize the masked array alone or the whole accelerator of a target.

    Returns ``family, top, lut, ff, bram, dsp, macs_per_cycle, lut_per_mac, carry``; ``lut`` counts
    LUT4 on ECP5, with two for each carry cell, and LUT6 on the 7 series, where carry cells are
    apart; ``bram`` memories of 16 or 18 kbit; ``carry`` carry cells. Raises ``ValueError`` for an
    unknown family or top, :class:`~hiddenfold.gen.tools.ToolError` when Yosys fails.
    """
    if family not in SYNTHESIS_FAMILIES:
        raise ValueError(f"family must be one of {', '.join(SYNTHESIS_FAMILIES)}, not {family!r}")
    if top not in TOPS:
        raise ValueError(f"top must be one of {', '.join(TOPS)}, not {top!r}")
    name, text = _verilog(target, family, top)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "design.v").write_text(text)
        run_yosys(
            f"read_verilog design.v; {synthesis_script(family, name)}; "
            "tee -q -o stat.json stat -json",
            cwd=Path(folder),
        )
        statistics = json.loads(Path(folder, "stat.json").read_text())
    cells = statistics["design"]["num_cells_by_type"]
    counts = count_cells(cells, family)
    return {
        "family": family,
        "top": top,
        **counts,
        "macs_per_cycle": target.macs_per_cycle,
        "lut_per_mac": counts["lut"] / target.macs_per_cycle,
        "carry": cells.get(_CARRY[family], 0),
    }


def synthesis_script(family: str, top: str, *, flat: bool = False) -> str:
    """Yosys commands that map a design that has been read to the cells of a family.

    Repeated modules stay modules, which are mapped once, unless ``flat`` dissolves them afterwards.
    """
    keep = "; ".join(f"setattr -mod -set keep_hierarchy 1 {module}" for module in _REPEATED)
    script = f"{keep}; {_COMMANDS[family]} -top {top}"
    return f"{script}; {_FLATTEN}" if flat else script


def count_cells(cells: Mapping[str, int], family: str) -> dict[str, int]:
    """Sum Yosys' cell counts to ``lut, ff, bram, dsp``."""
    counts = dict.fromkeys(("lut", "ff", "bram", "dsp"), 0)
    for cell, number in cells.items():
        resource, units = _CELLS[family].get(cell, ("", 0))
        if resource:
            counts[resource] += units * number
    return counts


def _verilog(target: Target, family: str, top: str) -> tuple[str, str]:
    """Name of the module and Verilog of the part."""
    from hiddenfold.gen import emit

    if top == "core":
        return emit.TOP, emit.verilog(target, family=family)
    from amaranth.back import verilog

    from hiddenfold.gen.verilog import tidy
    from hiddenfold.hw.array import MaskedArray

    array = MaskedArray(
        rows=target.rows, lanes=target.lanes, planes=target.planes, load_rows=target.load_rows
    )
    platform = emit.Platform(family)
    text = verilog.convert(
        array, name="array", platform=platform, emit_src=False, strip_internal_attrs=True
    )
    return "array", tidy(text)
