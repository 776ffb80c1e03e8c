# SPDX-License-Identifier: Apache-2.0
"""Makes the wires of nextpnr's placement on ECP5 shorter, by simulated annealing (anneal.cpp).

nextpnr's own refinement takes only what is better at once. On the ULX3S designs this makes wires
shorter by a tenth to a sixth more (docs/boards.md).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiddenfold.gen import delays
from hiddenfold.gen.floorplan import LOGIC_ROWS, net_at
from hiddenfold.gen.steps import Progress, run_logged
from hiddenfold.gen.tools import ToolError, find_compiler

__all__ = ["SOURCE", "anneal"]

#: The program that does it.
SOURCE = Path(__file__).with_suffix(".cpp")
#: Moves tried for each cell, and temperature (tiles of wire) at the begin; that at the end.
_THOROUGH, _A_LITTLE = (3000, 1.0), (1000, 0.3)
_COLD = 0.03
#: Ends of nets in a tile that cost nothing, and what the square of the others costs, in tiles.
_PINS, _PRICE = 42, 0.03
#: What a tile between two cells on the longest path costs, besides the wire; on others, less.
_TIMING = 0.5
#: Nets of more ends are not looked at: clocks, constants, the reset.
_WIDEST = 1500
_CONSTANTS = re.compile("PACKER_|glbnet")
_LOGIC = re.compile(r"X(\d+)/Y(\d+)/SLICE([A-D])\.(K|FF|RAMW)([01]?)$")
_OTHER = re.compile(r"X(\d+)/Y(\d+)/(?:EBR(\d))?")
_KINDS = {"TRELLIS_COMB": "C", "TRELLIS_FF": "F", "TRELLIS_RAMW": "R", "DP16KD": "E"}
#: Places of block RAMs of an LFE5U-85F: column, row, number.
_BLOCK_RAMS = [
    (x + 2 * k, y, k)
    for y in (22, 46, 70, 82)
    for x in (*range(4, 59, 9), *range(69, 115, 9))
    for k in range(4)
]
_CARRY, _MEMORY = 1, 2
#: Ports of wide multiplexers, which synthesis makes none of.
_WIDE = ("OFX", "FXA", "FXB", "F1", "M")
_MODES = {"CCU2": _CARRY, "DPRAM": _MEMORY, "RAMW_BLOCK": _MEMORY}
#: Ports that have wires of their own.
_DEDICATED = {"FCI", "FCO", "CLK", "CLK0", "CLK1", "CLKA", "CLKB", "WCK"}
#: What nextpnr demands of a tile's flip-flops, and of a slice's.
_OF_TILE = (("CLK", "LSR"), ("CLKMUX", "LSRMUX", "SRMODE"))
_OF_SLICE = (("CE",), ("CEMUX", "GSR"))


def anneal(
    placed: dict[str, Any],
    work: Path,
    *,
    mhz: Mapping[str, float],
    log: Path,
    crowded: Mapping[tuple[int, int], int] | None = None,
    seed: int = 1,
    progress: Progress = lambda _: None,
) -> None:
    """Change the places in ``placed``, the JSON that nextpnr writes of a placed design.

    ``mhz`` has the clocks that are wanted, by the names of their nets. With ``crowded``, pins that
    a tile (column, row) shall have less, the places are changed a little, else thoroughly.
    ``work`` is a folder for files, ``log`` a file for messages. The same inputs give the same
    places. Raises :class:`~hiddenfold.gen.tools.ToolError` when no compiler is found, and for a
    design with multiplexers of several look-up tables (``synth_ecp5 -nowidelut`` makes none).
    """
    cells = placed["modules"]["top"]["cells"]
    names = [name for name, cell in cells.items() if _place(cell) is not None]
    (work / "problem").write_text(_problem(placed["modules"]["top"], names, mhz, crowded or {}))
    program = work / "anneal"
    compile_: list[str | Path] = [find_compiler().path, "-std=c++17", "-O3", "-o", program, SOURCE]
    run_logged(compile_, cwd=work, log=log, progress=progress, name=log.stem)
    moves, hot = _THOROUGH if crowded is None else _A_LITTLE
    tries = moves * sum(cells[name]["type"] in _KINDS for name in names)
    numbers = map(str, (tries, seed, hot, _COLD, _PINS, _PRICE, _TIMING))
    command: list[str | Path] = [program, "problem", "places", *numbers]
    run_logged(command, cwd=work, log=log, progress=progress, name=log.stem)
    lines = (work / "places").read_text().splitlines()
    for file in ("problem", "places", "anneal"):
        (work / file).unlink()
    for name, line in zip(names, lines[: len(names)], strict=True):
        _put(cells[name], *map(int, line.split()))
    _check(cells, names)


def _place(cell: dict[str, Any]) -> tuple[int, int, int] | None:
    """Column, row, and place in the tile or number of the block RAM (else -1)."""
    bel = cell["attributes"].get("NEXTPNR_BEL", "")
    if found := _LOGIC.match(bel):
        x, y, slice_, _, half = found.groups()
        return int(x), int(y), 2 * "ABCD".index(slice_) + int(half or 0)
    if found := _OTHER.match(bel):
        return int(found[1]), int(found[2]), int(found[3] or -1)
    return None


def _put(cell: dict[str, Any], x: int, y: int, place: int) -> None:
    slice_, half = f"X{x}/Y{y}/SLICE{'ABCD'[place // 2]}", place % 2
    bels = {"C": f"{slice_}.K{half}", "F": f"{slice_}.FF{half}", "R": f"{slice_}.RAMW"}
    bels["E"] = f"X{x}/Y{y}/EBR{place}"
    if kind := _KINDS.get(cell["type"]):
        cell["attributes"]["NEXTPNR_BEL"] = bels[kind]


def _key(cell: dict[str, Any], needs: tuple[tuple, tuple]) -> tuple:
    """What must be equal to that of a flip-flop's neighbours."""
    ports, parameters = needs
    nets = tuple(net_at(cell, port) for port in ports)
    values = [cell["parameters"].get(name) for name in parameters]
    # Of the modes of a reset only the asynchronous one is told apart.
    return nets + tuple(None if value == "LSR_OVER_CE" else value for value in values)


def _problem(
    module: dict[str, Any],
    names: list[str],
    mhz: Mapping[str, float],
    crowded: Mapping[tuple[int, int], int],
) -> str:
    """The text that anneal.cpp reads: sizes, rows of logic, cells, paths, and crowded tiles."""
    cells = module["cells"]
    left_out = {
        bit
        for name, net in module["netnames"].items()
        if _CONSTANTS.search(name)
        for bit in net["bits"]
    }
    cells_of: dict[str, set[int]] = {}
    ends: dict[int, int] = defaultdict(int)
    for name in names:
        connections = cells[name]["connections"].items()
        cells_of[name] = {
            bit
            for port, bits in connections
            if port not in _DEDICATED
            for bit in bits
            if isinstance(bit, int) and bit not in left_out
        }
        for bit in cells_of[name]:
            ends[bit] += 1
    numbers = {bit: k for k, bit in enumerate(b for b, n in ends.items() if 2 <= n <= _WIDEST)}
    chained = {}
    for k, name in enumerate(names):
        for bit in cells[name]["connections"].get("FCO", []):
            chained[bit] = k
    keys: dict[tuple, int] = {}
    used = {_place(cell) for cell in cells.values() if cell["type"] == "DP16KD"}
    free = [place for place in _BLOCK_RAMS if place not in used]
    total = len(names) + len(free)
    lines = [f"{total} {len(numbers)} {len(LOGIC_ROWS)}", " ".join(map(str, LOGIC_ROWS))]
    for name in names:
        cell = cells[name]
        kind = _KINDS.get(cell["type"], "X")
        of_tile = of_slice = previous = -1
        flag = 0
        if kind == "F":
            of_tile = keys.setdefault((_OF_TILE, *_key(cell, _OF_TILE)), len(keys))
            of_slice = keys.setdefault((_OF_SLICE, *_key(cell, _OF_SLICE)), len(keys))
            flag = int(bool(cell["connections"].get("DI")))
        elif kind == "C":
            if any(cell["connections"].get(port) for port in _WIDE):
                raise ToolError(f"anneal: {name} is part of a multiplexer of several tables")
            flag = _MODES.get(cell["parameters"].get("MODE"), 0)
            previous = next((chained.get(b, -1) for b in cell["connections"].get("FCI", [])), -1)
        nets = [numbers[bit] for bit in sorted(cells_of[name]) if bit in numbers]
        values = (kind, *(_place(cell) or ()), of_tile, of_slice, flag, previous, len(nets), *nets)
        lines.append(" ".join(map(str, values)))
    # A place that is free is a block RAM without nets.
    lines += [f"E {x} {y} {number} -1 -1 0 -1 0" for x, y, number in free]
    lines += delays.paths(module, names, numbers, mhz, lambda bit: bit not in left_out)
    lines.append(str(len(crowded)))
    lines += [f"{x} {y} {fewer}" for (x, y), fewer in crowded.items()]
    return "\n".join(lines) + "\n"


def _check(cells: dict[str, Any], names: list[str]) -> None:
    """Raise ``ToolError`` where places are taken twice or flip-flops do not go together."""
    taken: dict[str, str] = {}
    keys: dict[tuple, tuple] = {}
    for name in names:
        cell = cells[name]
        bel = cell["attributes"]["NEXTPNR_BEL"]
        if bel in taken:
            raise ToolError(f"anneal: {name} and {taken[bel]} are both at {bel}")
        taken[bel] = name
        if cell["type"] == "TRELLIS_FF":
            tile = bel.rsplit("/", 1)[0]
            for place, needs in ((tile, _OF_TILE), (bel.split(".")[0], _OF_SLICE)):
                key = _key(cell, needs)
                if keys.setdefault((place, needs), key) != key:
                    raise ToolError(f"anneal: {name} does not fit into {place}")
