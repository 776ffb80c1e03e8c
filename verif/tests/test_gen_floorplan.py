# SPDX-License-Identifier: Apache-2.0
"""Constructed places of the array's carry chains, and annealing of what nextpnr places."""

import copy
import itertools
import json
import random
import re
from collections import Counter

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring

from hiddenfold.gen import anneal as anneal_module
from hiddenfold.gen import floorplan
from hiddenfold.gen.anneal import anneal
from hiddenfold.gen.emit import Platform
from hiddenfold.gen.synth import synthesis_script
from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import ToolError, run_yosys
from hiddenfold.hw.array import MaskedArray


class Inside(wiring.Component):
    """A component under the name that it has in the accelerator."""

    def __init__(self, inner, name):
        self._inner, self._name = inner, name
        super().__init__(inner.signature.flip().flip())

    def elaborate(self, platform):
        m = Module()
        m.submodules[self._name] = self._inner
        for name, member in self._inner.signature.members.items():
            outer, inner = getattr(self, name), getattr(self._inner, name)
            m.d.comb += outer.eq(inner) if member.flow == wiring.Out else inner.eq(outer)
        return m


def target(rows, lanes):
    fields = vars(Target.load("ulx3s-85f"))
    return Target(**(fields | {"name": "t", "rows": rows, "lanes": lanes, "drain_rows": rows}))


@pytest.fixture(scope="module")
def synthesized(tmp_path_factory):
    """The flat netlist of an array of 8 rows of 32 lanes, and its target."""
    folder = tmp_path_factory.mktemp("array")
    wanted = target(8, 32)
    array = MaskedArray(rows=8, lanes=32, planes=8)
    top = Inside(Inside(array, "array"), "conv")
    text = verilog.convert(top, name="top", platform=Platform("ecp5"), emit_src=False)
    (folder / "top.v").write_text(text)
    run_yosys(
        f"read_verilog top.v; {synthesis_script('ecp5', 'top', flat=True)}; write_json top.json",
        cwd=folder,
    )
    return json.loads((folder / "top.json").read_text()), wanted


def test_chains_have_places_of_their_own(synthesized):
    design, wanted = copy.deepcopy(synthesized[0]), synthesized[1]
    # Two chains of four groups, four that count carries, one that adds up all.
    assert floorplan.place_array(design, wanted) == 8 * (8 + 4 + 1)
    cells = design["modules"]["top"]["cells"]
    halves = {n: c for n, c in cells.items() if c["type"] == "TRELLIS_COMB"}
    places = [cell["attributes"]["BEL"] for cell in halves.values()]
    assert len(set(places)) == len(places)
    carried = {c["connections"]["FCO"][0]: c for c in halves.values() if "FCO" in c["connections"]}
    order = [f"{letter}.K{half}" for letter in "ABCD" for half in "01"]
    for cell in halves.values():
        x, y, place = re.match(r"X(\d+)/Y(\d+)/SLICE(.*)", cell["attributes"]["BEL"]).groups()
        assert int(x) in floorplan.LOGIC_COLUMNS and int(y) in floorplan.LOGIC_ROWS
        if "FCI" in cell["connections"]:
            before = carried[cell["connections"]["FCI"][0]]["attributes"]["BEL"]
            u, v, earlier = re.match(r"X(\d+)/Y(\d+)/SLICE(.*)", before).groups()
            here = int(x) * 8 + order.index(place)
            assert v == y and here == int(u) * 8 + order.index(earlier) + 1
        else:
            assert place == "A.K0"
    # A register is where the look-up table is that feeds it.
    sums = {c["connections"]["F"][0]: c for c in halves.values() if "F" in c["connections"]}
    registers = [
        c for c in cells.values() if c["type"] == "TRELLIS_FF" and "BEL" in c["attributes"]
    ]
    assert len(registers) > 8 * 8 * 9
    for cell in registers:
        fed_by = sums[cell["connections"]["DI"][0]]["attributes"]["BEL"]
        assert cell["attributes"]["BEL"] == fed_by.replace("K", "FF")


def half(contents: str, inputs, carry: int) -> tuple[int, int]:
    """Sum and carry of a half of a carry cell (ccu2c_sim.vh of Yosys)."""
    bits = contents[::-1]
    f = int(bits[sum(bit << k for k, bit in enumerate(inputs))])
    return f ^ carry, carry if f else int(bits[inputs[0] | inputs[1] << 1])


def differing(original, design):
    """Name of a carry cell whose halves are not what became of them, for any inputs; or None."""
    old = {n: c for n, c in original["modules"]["top"]["cells"].items() if c["type"] == "CCU2C"}
    new = design["modules"]["top"]["cells"]
    after = {cell["connections"]["CIN"][0]: name for name, cell in old.items()}
    begins = [name for name, cell in old.items() if cell["connections"]["CIN"][0] == "0"]
    for root in (name for name in begins if name not in new):
        halves = (new[f"{root}$half{k}"] for k in itertools.count())
        first = [next(halves), next(halves)]
        # Whatever the carry into the first is, none comes out of it.
        if any(half(c["parameters"]["INITVAL"], [1] * 4, ci)[1] for c in first for ci in (0, 1)):
            return root
        carry = first[1]["connections"]["FCO"]
        name = root
        while name is not None:
            cell = old[name]
            for which in "01":
                mine = next(halves)
                if mine["connections"]["FCI"] != carry:
                    return name
                carry = mine["connections"].get("FCO")
                total = cell["connections"].get(f"S{which}", ["x"])[0]
                if isinstance(total, int) and mine["connections"].get("F") != [total]:
                    return name
                wanted = [cell["connections"].get(port + which, ["0"])[0] for port in "ABCD"]
                found = [mine["connections"].get(port, ["1"])[0] for port in "ABCD"]
                nets = sorted({net for net in wanted if isinstance(net, int)})
                for values in itertools.product((0, 1), repeat=len(nets)):
                    now = dict(zip(nets, values, strict=True)) | {"0": 0, "1": 1}
                    for ci in (0, 1):
                        if half(
                            cell["parameters"][f"INIT{which}"], [now[n] for n in wanted], ci
                        ) != half(mine["parameters"]["INITVAL"], [now[n] for n in found], ci):
                            return name
            name = after.get(cell["connections"].get("COUT", ["x"])[0])
    return None


def test_half_cells_compute_what_the_carry_cells_did(synthesized):
    """For all inputs of each."""
    original, wanted = synthesized
    design = copy.deepcopy(original)
    floorplan.place_array(design, wanted)
    assert differing(original, design) is None
    cells = design["modules"]["top"]["cells"]
    chosen = next(name for name, cell in cells.items() if len(cell["connections"]) == 7)
    contents = cells[chosen]["parameters"]["INITVAL"]
    cells[chosen]["parameters"]["INITVAL"] = contents[:-1] + str(1 - int(contents[-1]))
    assert differing(original, design) is not None


def test_a_netlist_without_the_array_is_refused(synthesized):
    design = copy.deepcopy(synthesized[0])
    with pytest.raises(ValueError, match=r"lacks \d+ chains, such as \w+ of row 8$"):
        floorplan.place_array(design, target(16, 32))


@pytest.mark.parametrize(
    ("rows", "lanes", "planes", "fits"),
    [(32, 64, 8, True), (16, 64, 8, True), (8, 8, 8, False), (64, 64, 8, False),
     (4, 16, 1, False)],
)  # fmt: skip
def test_arrays_that_there_are_places_for(rows, lanes, planes, fits):
    fields = vars(Target.load("ulx3s-85f"))
    shape = {"name": "t", "rows": rows, "lanes": lanes, "planes": planes, "drain_rows": rows}
    assert floorplan.fits(Target(**(fields | shape))) == fits


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small designs need no more than a tenth of the moves."""
    monkeypatch.setattr(anneal_module, "_THOROUGH", (300, 1.0))


CLOCK, RESETS, ENABLES = 1, (None, 2), (None, 3, 4)
OUTPUTS = ("F", "FCO", "Q", "DOB0")


def scattered(seed: int) -> dict:
    """A design of chains, logic and block RAMs, placed legally and without regard to its nets."""
    chosen = random.Random(seed)
    cells, free = {}, iter(range(10, 1_000_000))

    def add(name, kind, bel, connections, parameters=()):
        cells[name] = {
            "type": kind,
            "attributes": {"NEXTPNR_BEL": bel},
            "parameters": dict(parameters),
            "connections": {p: [b] for p, b in connections.items() if b is not None},
            "port_directions": {p: "output" if p in OUTPUTS else "input" for p in connections},
        }

    tiles = [(x, y) for y in floorplan.LOGIC_ROWS[::9] for x in floorplan.LOGIC_COLUMNS[:-2:3]]
    chosen.shuffle(tiles)
    nets = [next(free) for _ in range(300)]
    tables: list[int] = []
    for number, (x, y) in enumerate(tiles[:250]):
        reset = chosen.choice(RESETS)
        chain = number < 40
        carry = None
        for place in range(16 if chain else 8):
            tile = f"X{x + place // 8}/Y{y}"
            letter, half = "ABCD"[place % 8 // 2], place % 2
            name = f"c{number}_{place}"
            out = nets[number] if number < 250 and not place else next(free)
            # Of two levels at most, so that no path is a circle.
            pins = {"A": chosen.choice(nets), "B": chosen.choice(tables or nets), "F": next(free)}
            if chain:
                pins |= {"FCI": carry, "FCO": (carry := next(free))}
            mode = {"MODE": "CCU2"} if chain else {}
            if chain or chosen.random() < 0.6:
                add(name, "TRELLIS_COMB", f"{tile}/SLICE{letter}.K{half}", pins, mode)
                fed = {"DI": pins["F"]}
                if not chain and pins["B"] in nets:
                    tables.append(pins["F"])
            else:
                fed = {"M": chosen.choice(nets)}
            if chosen.random() < 0.5:
                ff = {"CLK": CLOCK, "LSR": reset, "CE": ENABLES[place % 8 // 2 % 3], "Q": out}
                add(name + "q", "TRELLIS_FF", f"{tile}/SLICE{letter}.FF{half}", fed | ff)
    for number in range(6):
        pins = {"ADA0": chosen.choice(nets), "CLKA": CLOCK, "DOB0": nets[250 + number]}
        add(f"ram{number}", "DP16KD", f"X{4 + 9 * number}/Y22/EBR0", pins)
    add("fixed", "TRELLIS_IO", "X0/Y20/PIOA", {"O": nets[0]})
    netnames = {"clk": {"bits": [CLOCK]}}
    return {"modules": {"top": {"cells": cells, "netnames": netnames}}}


def places(design):
    cells = design["modules"]["top"]["cells"]
    return {name: cell["attributes"]["NEXTPNR_BEL"] for name, cell in cells.items()}


def wires(design) -> int:
    """Half perimeters of all nets."""
    boxes: dict = {}
    for cell in design["modules"]["top"]["cells"].values():
        x, y = map(int, re.match(r"X(\d+)/Y(\d+)", cell["attributes"]["NEXTPNR_BEL"]).groups())
        for port, (net,) in cell["connections"].items():
            if port not in ("CLK", "FCI", "FCO"):
                boxes.setdefault(net, []).append((x, y))
    return sum(
        max(x for x, _ in b) - min(x for x, _ in b) + max(y for _, y in b) - min(y for _, y in b)
        for b in boxes.values()
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_annealing_shortens_wires_and_breaks_nothing(tmp_path, seed):
    before, after = scattered(seed), scattered(seed)
    anneal(after, tmp_path, mhz={"clk": 1}, log=tmp_path / "log")
    assert wires(after) < 0.7 * wires(before)
    where = places(after)
    assert len(set(where.values())) == len(where)  # what a slice may hold, anneal() itself checks
    for name, bel in where.items():
        if name.startswith("ram"):
            x, y, number = map(int, re.match(r"X(\d+)/Y(\d+)/EBR(\d)$", bel).groups())
            assert y in (22, 46, 70, 82) and (x - 2 * number - 4 - 2 * (x > 66)) % 9 == 0
    assert where["fixed"] == "X0/Y20/PIOA"
    for name, bel in where.items():
        if name.endswith("q") and name[:-1] in where:
            cell = after["modules"]["top"]["cells"][name]
            if "DI" in cell["connections"]:
                assert where[name[:-1]] == bel.replace("FF", "K")
    for number in range(40):  # chains stay in one piece, from the begin of a tile on
        x, y = re.match(r"X(\d+)/Y(\d+)/SLICEA.K0$", where[f"c{number}_0"]).groups()
        for place in range(16):
            tile = f"X{int(x) + place // 8}/Y{y}/SLICE{'ABCD'[place % 8 // 2]}.K{place % 2}"
            assert where[f"c{number}_{place}"] == tile


def longest_path(design) -> float:
    """Of the only clock, in nanoseconds, by following every path from its end."""
    cells = design["modules"]["top"]["cells"]
    driver = {
        c["connections"][p][0]: c for c in cells.values() for p in OUTPUTS if p in c["connections"]
    }
    known: dict = {}

    def at(net, cell, port):
        source = driver.get(net)
        if source is None:
            return float("-inf")
        if port in ("DI", "FCI"):
            return leaves(net)
        (x, y), (u, v) = (
            map(int, re.match(r"X(\d+)/Y(\d+)", c["attributes"]["NEXTPNR_BEL"]).groups())
            for c in (cell, source)
        )
        dx, dy = abs(x - u), abs(y - v)
        wire = 0.08 * (6 + dx + dy + min(dx, 5) + min(dy, 5)) if dx or dy else 0.15
        return leaves(net) + wire

    def leaves(net):
        if net not in known:
            source = driver[net]
            pins = {p: n for p, (n,) in source["connections"].items()}
            if source["type"] == "TRELLIS_COMB":
                out = next(p for p in ("F", "FCO") if pins.get(p) == net)
                times = {"A": 0.24, "B": 0.24, "FCI": 0.44} if out == "F" else {
                    "A": 0.45, "B": 0.45, "FCI": 0.035
                }  # fmt: skip
                known[net] = max(at(pins[p], source, p) + t for p, t in times.items() if p in pins)
            else:
                known[net] = {"TRELLIS_FF": 0.52, "DP16KD": 5.7}.get(source["type"], float("-inf"))
        return known[net]

    setups = {"DI": 0.0, "M": 0.3, "CE": 0.3, "LSR": 0.3, "ADA0": 0.2}
    return max(
        at(net, cell, port) + setups[port]
        for cell in cells.values()
        if cell["type"] in ("TRELLIS_FF", "DP16KD")
        for port, (net,) in cell["connections"].items()
        if port in setups
    )


def test_annealing_draws_long_paths_together(tmp_path, monkeypatch):
    monkeypatch.setattr(anneal_module, "_TIMING", 10.0)
    relaxed, urgent = scattered(4), scattered(4)
    for design, mhz in ((relaxed, 1), (urgent, 100)):
        before = longest_path(design)
        anneal(design, tmp_path, mhz={"clk": mhz}, log=tmp_path / "log")
        said = [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()]
        assert said[0] == f"{before:.1f}"
    assert longest_path(urgent) < 0.95 * longest_path(relaxed)
    assert wires(urgent) < 1.1 * wires(relaxed)


def test_cells_leave_crowded_tiles(tmp_path):
    design = scattered(5)
    anneal(design, tmp_path, mhz={"clk": 1}, log=tmp_path / "log")

    def pins() -> Counter:
        """Ends of nets in each tile."""
        ends: Counter = Counter()
        for cell in design["modules"]["top"]["cells"].values():
            tile = tuple(map(int, re.findall(r"\d+", cell["attributes"]["NEXTPNR_BEL"])[:2]))
            if cell["type"] in ("TRELLIS_COMB", "TRELLIS_FF"):
                ends[tile] += len({net for (net,) in cell["connections"].values()} - {CLOCK})
        return ends

    fullest = dict(pins().most_common(5))
    crowded = dict.fromkeys(fullest, 42)
    anneal(design, tmp_path, mhz={"clk": 1}, crowded=crowded, log=tmp_path / "log")
    assert sum(pins()[tile] for tile in fullest) < sum(fullest.values()) / 2


def test_the_same_seed_gives_the_same_places(tmp_path):
    designs = [scattered(3) for _ in range(3)]
    for design, seed in zip(designs, (1, 1, 2), strict=True):
        anneal(design, tmp_path, mhz={"clk": 100}, log=tmp_path / "log", seed=seed)
    assert places(designs[0]) == places(designs[1]) != places(designs[2])


def test_wide_multiplexers_are_refused(tmp_path):
    design = scattered(1)
    design["modules"]["top"]["cells"]["c0_0"]["connections"]["M"] = [10]
    with pytest.raises(
        ToolError, match="^anneal: c0_0 is part of a multiplexer of several tables$"
    ):
        anneal(design, tmp_path, mhz={"clk": 100}, log=tmp_path / "log")
