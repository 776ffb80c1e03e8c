# SPDX-License-Identifier: Apache-2.0
"""Places as nextpnr-ecp5 must be given them, so that it routes carries and memories right.

Its router may exchange the inputs of a look-up table, whose contents are then exchanged as well. A
carry, and a look-up table that is a memory, are more than their contents. nextpnr notes where they
are when they are put in their places; of places that it reads as placed it does not know yet what
stands there, and takes all for plain tables (``bindBel`` and ``attributesToArchInfo`` of 0.11.1).
"""

from __future__ import annotations

import re
from typing import Any

from hiddenfold.gen.tools import ToolError

__all__ = ["as_constraints", "check_inputs"]

_INPUT = re.compile(r"X(\d+)/Y(\d+)/0_0_([A-D])([0-7])->0_0_([A-D])\4_SLICE")
#: Inputs that may be exchanged, by the mode of a look-up table; of others, all.
_EXCHANGED = {"CCU2": ("AB", "CD"), "DPRAM": (), "RAMW_BLOCK": ()}


def as_constraints(design: dict[str, Any]) -> None:
    """Make the places in ``design``, JSON that nextpnr wrote, those that its placer must take."""
    module = design["modules"]["top"]
    module.setdefault("settings", {}).pop("place", None)
    for cell in module["cells"].values():
        attributes = cell["attributes"]
        attributes.pop("BEL_STRENGTH", None)
        if (bel := attributes.pop("NEXTPNR_BEL", None)) is not None:
            attributes["BEL"] = bel
        if cell["type"] == "MULT18X18D":
            # Its placer asks for these ports, and a port of no bits is lost when it is read.
            for port, bits in cell["connections"].items():
                cell["connections"][port] = bits or ["x"]


def check_inputs(design: dict[str, Any]) -> None:
    """Raise ``ToolError`` where a routed design has inputs exchanged that must not be."""
    module = design["modules"]["top"]
    modes = {
        cell["attributes"].get("NEXTPNR_BEL"): cell["parameters"].get("MODE")
        for cell in module["cells"].values()
        if cell["type"] == "TRELLIS_COMB"
    }
    for name, net in module["netnames"].items():
        for x, y, source, table, pin in _INPUT.findall(net["attributes"].get("ROUTING", "")):
            slice_, half = "ABCD"[int(table) // 2], int(table) % 2
            bel = f"X{x}/Y{y}/SLICE{slice_}.K{half}"
            pairs = _EXCHANGED.get(modes.get(bel, ""), ("ABCD",))
            if source != pin and not any(source in pair and pin in pair for pair in pairs):
                raise ToolError(
                    f"nextpnr took input {source} of the {modes[bel]} at {bel} for {pin} (net "
                    f"{name}): the bitstream would compute something else"
                )
