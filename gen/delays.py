# SPDX-License-Identifier: Apache-2.0
"""Paths of a placed ECP5 design, as text for anneal.cpp, which computes their delays.

The delays are nanoseconds of speed grade 6, rounded: of an array of 2,048 MACs a cycle the longest
path came out at 26.4 ns, where nextpnr said 26.6 before routing and 22.9 after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hiddenfold.gen.floorplan import net_at

__all__ = ["paths"]

_CLOCK_PORTS = ("CLK", "CLKA", "WCK")
#: From a look-up table's inputs and carry to its outputs.
_TABLE = {("A", "F"): 0.24, ("A", "FCO"): 0.45, ("FCI", "F"): 0.44, ("FCI", "FCO"): 0.035}
_MULTIPLIER = 3.6
#: From the clock to the outputs, and what inputs need before it.
_OUT = {"TRELLIS_FF": 0.52, "DP16KD": 5.7}
_OUT_REGISTERED = 0.6  # of a block RAM
_SETUP = {"DI": 0.0, "M": 0.3, "CE": 0.3, "LSR": 0.3}
_SETUP_OF_OTHERS = 0.2
#: Inputs that take their net from the same tile.
_LOCAL = {"FCI", "DI", "WD", "WAD0", "WAD1", "WAD2", "WAD3"}
_THROUGH = {"TRELLIS_RAMW": 0.0, "MULT18X18D": _MULTIPLIER}


class _Paths:
    """Numbers nets and collects lines; a net that is none joins all inputs to all outputs."""

    def __init__(self, numbers: Mapping[int, int], clocks: Mapping[int, int]):
        self._numbers, self._clocks = numbers, clocks
        self._order: dict[Any, int] = {}
        self.starts: dict[int, tuple[int, int, float]] = {}
        self.edges: list[tuple[int, int, int, int, float]] = []

    def net(self, key: Any) -> int:
        """The number of a net."""
        return self._order.setdefault(key, len(self._order))

    def domain(self, cell: dict[str, Any]) -> int:
        """The number of a cell's clock, -1 without one."""
        nets = (net_at(cell, port) for port in _CLOCK_PORTS)
        return next((self._clocks[n] for n in nets if isinstance(n, int) and n in self._clocks), -1)

    def lines(self, periods: list[float]) -> Iterator[str]:
        """What anneal.cpp reads."""
        yield f"{len(self._order)} {len(self.edges)} {len(periods)}"
        yield " ".join(map(str, periods))
        for key, number in self._order.items():
            driver, domain, delay = self.starts.get(number, (-1, -1, 0.0))
            yield f"{self._numbers.get(key, -1)} {driver} {domain} {delay}"
        for edge in self.edges:
            yield " ".join(map(str, edge))


def paths(
    module: dict[str, Any],
    names: list[str],
    numbers: Mapping[int, int],
    mhz: Mapping[str, float],
    used: Callable[[int], bool],
) -> list[str]:
    """Lines of text: sizes, periods, and a line for each net and each input of a cell.

    ``names`` has the cells in the order of their numbers, ``numbers`` those of the annealed nets,
    ``mhz`` the clocks by the names of their nets. ``used`` tells which nets take part at all.
    """
    clocks = {bit: k for k, name in enumerate(mhz) for bit in module["netnames"][name]["bits"]}
    found = _Paths(numbers, clocks)
    for number, name in enumerate(names):
        cell = module["cells"][name]
        kind, domain = cell["type"], found.domain(cell)
        ends: dict[str, list[tuple[str, int]]] = {"input": [], "output": [], "inout": []}
        for port, bits in cell["connections"].items():
            for bit in bits:
                if isinstance(bit, int) and bit not in clocks and used(bit):
                    ends[cell["port_directions"][port]].append((port, found.net(bit)))
        begin = _OUT.get(kind, 0.0)
        if "OUTREG" in (cell["parameters"].get(f"REGMODE_{port}") for port in "AB"):
            begin = _OUT_REGISTERED
        for _, net in ends["output"]:
            found.starts[net] = (number, domain if kind in _OUT else -1, begin)
        if kind in _THROUGH:
            middle = found.net(name)
            found.edges += [(n, number, middle, -1, _THROUGH[kind]) for _, n in ends["input"]]
            found.edges += [(middle, -1, n, -1, 0.0) for _, n in ends["output"]]
            continue
        for port, net in ends["input"]:
            sink = -1 if port in _LOCAL else number
            table = "A" if port in ("B", "C", "D") else port
            if kind == "TRELLIS_COMB" and (table, "F") in _TABLE:
                found.edges += [
                    (net, sink, out, -1, _TABLE[table, end]) for end, out in ends["output"]
                ]
            else:
                found.edges.append((net, sink, -1, domain, _SETUP.get(port, _SETUP_OF_OTHERS)))
    return list(found.lines([1000 / value for value in mhz.values()]))
