# SPDX-License-Identifier: Apache-2.0
"""Places of the array's carry chains on an LFE5U-85F, for nextpnr to place the rest around them.

A placer that knows nothing of the array scatters its rows; then the activations, which go to all of
them, take more wires than the device has (docs/boards.md). Here each row is a strip of two rows of
tiles: chains of lanes to the left and right, in the same columns in every row, and what adds them
up in the gap between them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from hiddenfold.gen.target import Target
from hiddenfold.hw.array_ecp5 import STAGES, lane_groups

__all__ = ["LOGIC_COLUMNS", "LOGIC_ROWS", "fits", "net_at", "place_array"]

#: Columns and rows of tiles that hold four slices each.
LOGIC_COLUMNS = range(2, 125)
LOGIC_ROWS = tuple(y for y in range(2, 94) if y not in (10, 22, 34, 46, 58, 70, 82))

#: Upper rows of the strips: four in each band between rows of block RAMs and multipliers. Two rows
#: of tiles stay free beside block RAMs (rows 22, 46, 70, 82) for their many wires, and one amid the
#: strips.
_STRIPS = (2, 4, 6, 8) + tuple(y + k for y in (11, 25, 35, 49, 59, 72, 85) for k in (0, 2, 5, 7))
#: Tiles of a group's chain and to the next one, which leave others room for their wires.
_STEP = 7
#: Columns of the gap, and of what adds up in it: half of them stay free for what passes.
_GAP = 24
_LEFT = 22
#: Begin in the gap, and row of the strip, of the chains that add up.
_SUMS = {
    "join": (0, 0),
    "total": (3, 0),
    "sums": (6, 0),
    "high2": (0, 1),
    "high3": (3, 1),
    "high4": (6, 1),
    "high5": (9, 1),
}
#: Side (left or right of the gap) and row of the strip of each chain of lanes.
_SIDES = ((1, 1), (0, 0), (1, 0), (0, 1))
_HALVES = 8  # of carry cells in a tile
_REGISTER = re.compile(r"\.array\.row(\d+)\.(group\d+|high\d+|join|total)(?=[_.$\[]|$)")
_PARTIAL_SUM = ".conv.sums."
#: Contents of a look-up table, its inputs, and the net of the sum.
_Half = tuple[str, dict[str, list], int | None]


def fits(target: Target) -> bool:
    """Whether a target's array has the shape that there are places for."""
    return (
        target.planes == 8
        and target.lanes in (16, 32, 64)
        and target.rows <= len(_STRIPS)
        and len(_STRIPS) % target.rows == 0
    )


def place_array(design: dict[str, Any], target: Target) -> int:
    """Give the array's carry chains, and those of the partial sums, places in a flat netlist.

    ``design`` is Yosys' JSON with the one module ``top``; its chains become the half cells that
    nextpnr packs them to. Returns how many chains were placed. Raises ``ValueError`` when the
    netlist has not the chains that the target's array is made of.
    """
    module = design["modules"]["top"]
    netlist = _Netlist(module)
    named = netlist.named_chains()
    places = _places(target)
    expected = {(row, name) for row, name in places if name != "sums"}
    if missing := sorted(expected - set(named)):
        (row, name), number = missing[0], len(missing)
        raise ValueError(f"the netlist lacks {number} chains, such as {name} of row {row}")
    for key, chain in named.items():
        netlist.place(chain, *places[key])
    return len(named)


def _places(target: Target) -> dict[tuple[int, str], tuple[int, int]]:
    """Column and row of the first tile of each chain, by row of the array and the chain's name."""
    steps = defaultdict(list)
    for group, (_, chain) in enumerate(lane_groups(target.lanes)):
        steps[chain].append(group)
    sums = dict(_SUMS)
    for stage in range(2, STAGES - len(steps[0]) + 1):
        del sums[f"high{stage}"]
    if len(steps) < 3:
        del sums["join"]
    gap = _LEFT + 4 * _STEP
    places = {}
    # Rows that are requantized by the same channel are neighbours.
    parts = target.rows // target.drain_rows
    order = [
        part * target.drain_rows + k for k in range(target.drain_rows) for part in range(parts)
    ]
    for number, top in zip(order, _STRIPS[:: len(_STRIPS) // target.rows], strict=True):
        for chain, groups in steps.items():
            right, lower = _SIDES[chain]
            for step, group in enumerate(groups):
                # The last group of a chain is the nearest to the gap.
                away = len(groups) - 1 - step
                x = gap + _GAP + away * _STEP if right else gap - 5 - away * _STEP
                places[number, f"group{group}"] = (x, top + lower)
        for name, (x, lower) in sums.items():
            places[number, name] = (gap + x, top + lower)
    return places


class _Netlist:
    """Carry chains of a module, by the registers that their sums go to."""

    def __init__(self, module: dict[str, Any]):
        self._cells = module["cells"]
        self._carry = {n: c for n, c in self._cells.items() if c["type"] == "CCU2C"}
        self._registers: dict[int, str] = {}
        for name, cell in self._cells.items():
            if cell["type"] == "TRELLIS_FF":
                net = net_at(cell, "DI")
                if isinstance(net, int):
                    self._registers.setdefault(net, name)
        self._free = 1 + max(
            bit
            for cell in self._cells.values()
            for bits in cell["connections"].values()
            for bit in bits
            if isinstance(bit, int)
        )

    def named_chains(self) -> dict[tuple[int, str], list[str]]:
        """The carry cells of each chain by row of the array and name."""
        found: dict[tuple[int, str], list[str]] = {}
        sums = []
        row_of: dict[int | str | None, int] = {}
        for chain in self._chains():
            registers = [name for net in self._sums(chain) if (name := self._registers.get(net))]
            keys = Counter(m.groups() for name in registers if (m := _REGISTER.search(name)))
            if keys:
                (row, name), _ = keys.most_common(1)[0]
                found[int(row), name] = chain
                if name == "total":
                    row_of |= {net_at(self._cells[ff], "Q"): int(row) for ff in registers}
            elif sum(_PARTIAL_SUM in name for name in registers) > _HALVES:
                sums.append(chain)
        # A partial sum belongs to the row that it adds.
        for chain in sums:
            inputs = (net_at(self._carry[cell], port + half) for cell in chain for port in "AB"
                      for half in "01")  # fmt: skip
            rows = Counter(row_of[net] for net in inputs if net in row_of)
            if rows:
                found[rows.most_common(1)[0][0], "sums"] = chain
        return found

    def _chains(self) -> Iterator[list[str]]:
        after = {net_at(cell, "CIN"): name for name, cell in self._carry.items()}
        for name, cell in self._carry.items():
            if isinstance(net_at(cell, "CIN"), int):
                continue
            chain = [name]
            while (following := after.get(net_at(self._carry[chain[-1]], "COUT"))) is not None:
                chain.append(following)
            yield chain

    def _sums(self, chain: list[str]) -> Iterator[int]:
        """The nets of a chain's sums."""
        for name in chain:
            for half in "01":
                net = net_at(self._carry[name], f"S{half}")
                if isinstance(net, int):
                    yield net

    def place(self, chain: list[str], x: int, y: int) -> None:
        """Make half cells of carry cells, at places from the tile (x, y) on to the right."""
        # A first carry cell makes the carry 0 that the chain begins with, as nextpnr would.
        halves: list[_Half] = [("0" * 16, {}, None)] * 2
        for name in chain:
            halves += [self._half(name, half) for half in "01"]
        for number, (contents, inputs, net) in enumerate(halves):
            tile, place = divmod(number, _HALVES)
            slice_ = f"X{x + tile}/Y{y}/SLICE{'ABCD'[place // 2]}"
            connections = dict(inputs)
            if net is not None:
                connections["F"] = [net]
                if register := self._registers.get(net):
                    self._cells[register]["attributes"]["BEL"] = f"{slice_}.FF{place % 2}"
            if number:
                connections["FCI"] = [self._free]
                self._free += 1
            if number < len(halves) - 1:
                connections["FCO"] = [self._free]
            self._cells[f"{chain[0]}$half{number}"] = {
                "type": "TRELLIS_COMB",
                "parameters": {
                    "MODE": "CCU2",
                    "INITVAL": contents,
                    "CCU2_INJECT1": "NO",
                    "WREMUX": "WRE",
                },
                "attributes": {"BEL": f"{slice_}.K{place % 2}"},
                "port_directions": {
                    port: "output" if port in ("F", "FCO") else "input" for port in connections
                },
                "connections": connections,
            }
        for name in chain:
            del self._cells[name]

    def _half(self, name: str, half: str) -> _Half:
        """Contents, inputs and net of the sum of one half of a carry cell."""
        cell = self._carry[name]
        if cell["parameters"][f"INJECT1_{half}"] != "NO":
            raise ValueError(f"carry cell {name}: INJECT1_{half} must be NO")
        contents, inputs = cell["parameters"][f"INIT{half}"], {}
        for address_bit, port in enumerate("ABCD"):
            net = net_at(cell, port + half)
            if isinstance(net, int):
                inputs[port] = [net]
            elif net != "1":
                contents = _without(contents, address_bit)
        total = net_at(cell, f"S{half}")
        return contents, inputs, total if isinstance(total, int) else None


def _without(contents: str, address_bit: int) -> str:
    """A look-up table that takes an input for 0; what has no net is 1 in the device."""
    bits = contents[::-1]
    return "".join(bits[address & ~(1 << address_bit)] for address in reversed(range(16)))


def net_at(cell: dict[str, Any], port: str) -> int | str | None:
    """The net at a port of one bit: a number, a constant, or None."""
    return (cell["connections"].get(port) or [None])[0]
