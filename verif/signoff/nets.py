# SPDX-License-Identifier: Apache-2.0
"""Which named signals of the Verilog are one net, and which are none: for coverage of toggled bits.

A signal has a name in each module that it passes, and parts of it have more. Yosys, with the
hierarchy flattened, constants propagated and equal cells merged, says which bits are the same net,
so that each counts once; which are constants, so that they cannot toggle; and which nothing reads,
so that they are not in the hardware.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from hiddenfold.gen.tools import run_yosys
from hiddenfold.verif.signoff.coverage import Point
from hiddenfold.verif.signoff.mutants import TOP

_TOGGLE = re.compile(r"(.*?)(?:\[(-?\d+)\])?:([01]->[01])")
#: An element of a memory.
_ELEMENT = re.compile(r".*\[\d+\]")


@dataclass(frozen=True)
class Nets:
    """Bits of each signal by its path: numbers of nets, or texts for constants."""

    bits: dict[str, list[int | str]]

    @classmethod
    def of(cls, verilog: Path) -> "Nets":
        """Let Yosys read a Verilog file, in its folder."""
        file = verilog.with_name("nets.json")
        run_yosys(
            f"read_verilog {verilog.name}; hierarchy -top {TOP}; proc; flatten; opt -full; "
            f"write_json {file.name}",
            cwd=verilog.parent,
        )
        modules = json.loads(file.read_text(encoding="utf-8"))["modules"]
        return cls({name: net["bits"] for name, net in modules[TOP]["netnames"].items()})

    def merged(self, counts: dict[Point, int]) -> tuple[dict[Point, int], int]:
        """Counts with toggles of each net once, under its shortest name, and how many were none.

        Points that are not toggles stay as they are. Elements of memories are left out: what they
        hold has come through a port, which is counted.
        """
        result: dict[Point, int] = {}
        names: dict[tuple[int, str], list[Point]] = defaultdict(list)
        uncounted = 0
        for point, count in counts.items():
            found = _TOGGLE.fullmatch(point.what) if point.kind == "toggle" else None
            if found is None:
                result[point] = count
                continue
            if _ELEMENT.fullmatch(found[1]):
                continue
            path = ".".join([*point.module.split(".")[1:], found[1]])
            bits = self.bits.get(path)
            net = bits[int(found[2] or 0)] if bits else "unread"
            if isinstance(net, str):
                uncounted += 1
            else:
                names[net, found[3]].append(point)
        for points in names.values():
            shortest = min(points, key=lambda p: (p.module.count("."), len(p.what), p.what))
            result[shortest] = sum(counts[point] for point in points)
        return result, uncounted
