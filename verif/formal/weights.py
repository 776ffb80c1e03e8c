# SPDX-License-Identifier: Apache-2.0
"""Proof that a row of the array made of vendor cells computes the row sum, for any number of lanes.

Solvers cannot compare adder trees of 64 operands. But each cell of such a row conserves weight: of
a full adder, ``sum + 2 * carry = a + b + c`` as numbers. So the weights of the output bits, 1, 2, 4
and so on, are carried backwards from the outputs through each cell and each register. If every
cell can be passed, the result equals the sum of the weighted bits that remain at the inputs, for
all values of them, modulo 2 to its width. What remains must be what docs/spec.md wants: 2^b for
bit b of each lane's ``(x and mask) xor negative``, and -255 times the number of negative lanes.

The cells' equations themselves are proven by SAT from the vendor's models (:func:`prove_cells`).
"""

import json
from collections import defaultdict
from itertools import product
from pathlib import Path

from amaranth.back import verilog

from hiddenfold.gen.tools import run_yosys
from hiddenfold.hw.array import row_class
from hiddenfold.hw.array_ecp5 import ADD, CARRY, CUT, SUM, TERM
from hiddenfold.hw.array_row import LATENCY, ArrayRow
from hiddenfold.hw.array_xc7 import PAIR, THREE

#: Files with the models of a family's cells, in Yosys' folder.
MODELS = {"ecp5": "+/ecp5/cells_sim.v", "xc7": "+/xilinx/cells_sim.v"}


class Unproven(Exception):
    """A cell does not conserve weight, or the result is not the row sum; the message says where."""


class Netlist:
    """The part of a row between its codes and its output.

    Nets are Yosys' numbers, constants are "0" and "1".
    """

    def __init__(self, row: ArrayRow, family: str, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        text = verilog.convert(row, name="row", emit_src=False)
        (folder / "row.v").write_text(text, encoding="utf-8")
        run_yosys(
            f"read_verilog -lib {MODELS[family]}; read_verilog row.v; "
            "hierarchy -top row -purge_lib; proc; opt_expr; opt_clean; write_json row.json",
            cwd=folder,
        )
        module = json.loads((folder / "row.json").read_text(encoding="utf-8"))["modules"]["row"]
        self.cells = module["cells"]
        self.nets = {name: net["bits"] for name, net in module["netnames"].items()}
        self.driver = {
            bit: name
            for name, cell in self.cells.items()
            for port, bits in cell["connections"].items()
            if cell["port_directions"][port] == "output"
            for bit in bits
        }

        #: Carries of tables with two constant zeros are zero whatever their weight.
        self.zeros = {
            pins["O5"][0]
            for cell in self.cells.values()
            if cell["type"] == "LUT6_2" and int(cell["parameters"]["INIT"], 2) == THREE
            for pins in [cell["connections"]]
            if [pins[pin][0] for pin in ("I0", "I1", "I2")].count("0") >= 2
        }

    def inputs(self, name: str) -> list:
        """Nets that a cell reads, constants left out."""
        cell = self.cells[name]
        return [
            bit
            for port, bits in cell["connections"].items()
            if cell["port_directions"][port] == "input"
            for bit in bits
            if isinstance(bit, int)
        ]

    def backwards(self, stop: set) -> list[str]:
        """Cells between the nets in ``stop`` and the output, each after all that read it."""
        order: list[str] = []
        seen = set()

        def visit(bit) -> None:
            stack = [(bit, None)]
            while stack:
                bit, done = stack.pop()
                if done is not None:
                    order.append(done)
                    continue
                name = self.driver.get(bit)
                if bit in stop or name is None or name in seen:
                    continue
                seen.add(name)
                stack.append((bit, name))
                stack += [(source, None) for source in self.inputs(name)]

        for bit in self.nets["partial"]:
            visit(bit)
        return order[::-1]


class Weights:
    """Weights of nets by time, modulo 2^bits; those of ``zeros`` do not matter."""

    def __init__(self, bits: int, zeros: set):
        self._zeros = zeros
        self._mask = (1 << bits) - 1
        self._of: defaultdict = defaultdict(lambda: defaultdict(int))
        self.constant = 0

    def add(self, net, time: int, weight: int) -> None:
        """Add to a net's weight; ``net`` may be any key."""
        if net == "1":
            self.constant += weight
        elif net != "0" and net not in self._zeros:
            self._of[net][time] += weight

    def take(self, net) -> list[tuple[int, int]]:
        """Return and forget (time, weight) of a net."""
        return [(t, w & self._mask) for t, w in self._of.pop(net, {}).items() if w & self._mask]

    def rest(self) -> dict:
        """All (net, time) with a weight, and the constant."""
        left = {(net, t): w & self._mask for net, ts in self._of.items() for t, w in ts.items()}
        left["constant", 0] = self.constant & self._mask
        return {key: weight for key, weight in left.items() if weight}

    def term(self, x, mask, negative, time: int, weight: int) -> None:
        """Add to the weight of ``(x and mask) xor negative``."""
        if (mask, negative) == ("1", "0"):
            self.add(x, time, weight)
        elif (mask, negative) == ("1", "1"):
            self.constant += weight
            self.add(x, time, -weight)
        else:
            self.add(("term", x, mask, negative), time, weight)


def carry_back(netlist: Netlist, stop: set, bits: int) -> Weights:
    """Carry the weights of the output back to the nets in ``stop``."""
    weights = Weights(bits, netlist.zeros)
    for place, net in enumerate(netlist.nets["partial"]):
        weights.add(net, 0, 1 << place)
    for name in netlist.backwards(stop):
        cell = netlist.cells[name]
        pins = cell["connections"]
        if cell["type"] == "$dff":
            for q, d in zip(pins["Q"], pins["D"], strict=True):
                for time, weight in weights.take(q):
                    weights.add(d, time - 1, weight)
        elif cell["type"] in _PASS:
            _PASS[cell["type"]](weights, name, {k: v[0] for k, v in pins.items()}, cell, netlist)
        else:
            raise Unproven(f"cell {name} is of unknown type {cell['type']}")
    return weights


def _contents(cell: dict, name: str) -> int:
    return int(cell["parameters"][name], 2)


def _pass_lut4(weights: Weights, name: str, pins: dict, cell: dict, netlist: Netlist) -> None:
    a, b, c = pins["A"], pins["B"], pins["C"]
    contents = _contents(cell, "INIT")
    if contents == TERM:
        for time, weight in weights.take(pins["Z"]):
            weights.term(a, b, c, time, weight)
    elif contents == SUM:
        # The carry is the other table of the same inputs; it must have twice the weight.
        other = [
            other["connections"]["Z"][0]
            for other in netlist.cells.values()
            if other["type"] == "LUT4" and _contents(other, "INIT") == CARRY
            if [other["connections"][k][0] for k in "ABC"] == [a, b, c]
        ]
        for time, weight in weights.take(pins["Z"]):
            for net in (a, b, c):
                weights.add(net, time, weight)
            weights.add(other[0] if other else (name, "carry"), time, -2 * weight)
    elif contents != CARRY:
        raise Unproven(f"LUT4 {name} has unknown contents {contents:#06x}")


def _pass_ccu2c(weights: Weights, name: str, pins: dict, cell: dict, netlist: Netlist) -> None:
    if any(cell["parameters"][f"INJECT1_{k}"] != "NO" for k in "01"):
        raise Unproven(f"CCU2C {name} injects")
    for half, carry_in, carry_out in ((1, (name, "carry"), "COUT"), (0, pins["CIN"], None)):
        a, b, c, d, s = (pins.get(f"{pin}{half}", (name, pin, half)) for pin in "ABCDS")
        out = pins.get(carry_out, (name, carry_out)) if carry_out else (name, "carry")
        contents = _contents(cell, f"INIT{half}")
        if contents == ADD:
            for time, weight in weights.take(s):
                weights.add(a, time, weight)
                weights.term(b, c, d, time, weight)
                weights.add(carry_in, time, weight)
                weights.add(out, time, -2 * weight)
        elif contents == CUT and (c, d) == ("1", "1"):
            for time, weight in weights.take(s):
                weights.add(carry_in, time, weight)
            for time, weight in weights.take(out):
                weights.add(a, time, weight)
        else:
            raise Unproven(f"CCU2C {name} has unknown contents {contents:#06x}")


def _pass_lut6_2(weights: Weights, name: str, pins: dict, cell: dict, netlist: Netlist) -> None:
    if _contents(cell, "INIT") not in (PAIR, THREE):
        raise Unproven(f"LUT6_2 {name} has unknown contents")


def _pass_carry4(weights: Weights, name: str, pins: dict, cell: dict, netlist: Netlist) -> None:
    many = cell["connections"]
    if pins["CYINIT"] != "0":
        raise Unproven(f"CARRY4 {name} has a carry at CYINIT")
    for place in reversed(range(4)):
        below = many["CO"][place - 1] if place else pins["CI"]
        s, second = many["S"][place], many["DI"][place]
        for time, weight in weights.take(many["O"][place]):
            look_up = netlist.cells[netlist.driver.get(s, name)]
            i = {pin: bits[0] for pin, bits in look_up["connections"].items()}
            if look_up["type"] != "LUT6_2" or i.get("O6") != s:
                raise Unproven(f"CARRY4 {name} adds what is not of a table")
            weights.add(below, time, weight)
            weights.add(many["CO"][place], time, -2 * weight)
            if _contents(look_up, "INIT") == PAIR and second == i["O5"]:
                weights.term(i["I0"], i["I1"], i["I2"], time, weight)
                weights.term(i["I3"], i["I5"], i["I4"], time, weight)
            elif _contents(look_up, "INIT") == THREE and second == i["I3"] and i["I5"] == "1":
                for pin in ("I0", "I1", "I2", "I3"):
                    weights.add(i[pin], time, weight)
                weights.add(i.get("O5", (name, "O5", place)), time, -2 * weight)
            else:
                raise Unproven(f"CARRY4 {name} has a wrong second input")


_PASS = {
    "LUT4": _pass_lut4,
    "CCU2C": _pass_ccu2c,
    "LUT6_2": _pass_lut6_2,
    "CARRY4": _pass_carry4,
}


def prove_row(family: str, lanes: int, folder: Path) -> int:
    """Prove the row of ``family`` with 8 planes; return how many weights were compared.

    Files go to ``folder``. Raises :class:`Unproven`.
    """
    row = row_class(family, 8)(lanes=lanes, planes=8)
    netlist = Netlist(row, family, folder)
    nets = netlist.nets
    expected = {}
    for stage in range(row.stages):
        time = stage + 1 - LATENCY
        for place in range(len(row.lanes_of(stage))):
            codes = (nets[f"active_mask{stage}"][place], nets[f"active_negative{stage}"][place])
            for bit in range(8):
                x = nets[f"x{stage}"][8 * place + bit]
                expected[("term", x, *codes), time] = 1 << bit
    bits = len(row.partial)
    for place, net in enumerate(nets["active_correction"]):
        time = row.correction_stage + 1 - LATENCY
        expected[net, time] = row.correction_weight << place & (1 << bits) - 1
    stop = {net for name, part in nets.items() if name.startswith("active_") for net in part}
    found = carry_back(netlist, stop, bits).rest()
    if found != expected:
        key, time = next(iter(found.items() ^ expected.items()))[0]
        weight, wanted = (weights.get((key, time), 0) for weights in (found, expected))
        raise Unproven(f"{key} of {-time} cycles ago has weight {weight}, not {wanted}")
    return len(expected)


def prove_cells(family: str, folder: Path) -> None:
    """Prove the equations that :func:`carry_back` uses, for all inputs; ``ToolError`` if not."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells.v").write_text(_LEMMAS[family](), encoding="utf-8")
    run_yosys(
        f"read_verilog -nooverwrite {MODELS[family]}; read_verilog -formal cells.v; "
        "hierarchy -top lemma -purge_lib; proc; flatten; async2sync; chformal -lower; opt_clean; "
        "sat -verify -prove-asserts lemma",
        cwd=folder,
    )


def _lemma_ecp5() -> str:
    """The equations of the cells of ECP5: carry cells in all combinations, and the tables."""
    terms = {"p": "(p[1] & p[2] ^ p[3])", "q": "(q[1] & q[2] ^ q[3])"}
    lines = ["module lemma(input [3:0] p, q, input ci);"]
    for number, (low, high) in enumerate(product((ADD, CUT), repeat=2)):
        pins = [".CIN(ci)", f".COUT(c[{number}])", f".S0(s[{number}])", f".S1(t[{number}])"]
        for half, (word, contents) in enumerate((("p", low), ("q", high))):
            for place, pin in enumerate("ABCD"):
                free = contents == ADD or place < 2
                pins.append(f".{pin}{half}({f'{word}[{place}]' if free else 1})")
        below, between = f"s[{number}] == ci", "p[0]"
        if low == ADD:  # the carry between the halves does not come out
            total = f"(ci + p[0] + {terms['p']})"
            below, between = f"s[{number}] == {total} % 2", f"{total} / 2"
        above = f"t[{number}] == {between} && c[{number}] == q[0]"
        if high == ADD:
            above = f"t[{number}] + 2 * c[{number}] == {between} + q[0] + {terms['q']}"
        lines += [
            f"CCU2C #(.INIT0(16'd{low}), .INIT1(16'd{high}), .INJECT1_0(\"NO\"), "
            f'.INJECT1_1("NO")) cell{number}({", ".join(pins)});',
            f"always @* assert ({below} && {above});",
        ]
    for number, contents in enumerate((SUM, CARRY, TERM)):
        lines.append(
            f"LUT4 #(.INIT(16'd{contents})) table{number}"
            f"(.A(p[0]), .B(p[1]), .C(p[2]), .D(1'b0), .Z(z[{number}]));"
        )
    lines += [
        "always @* assert (z[0] + 2 * z[1] == p[0] + p[1] + p[2]);",
        "always @* assert (z[2] == ((p[0] & p[1]) ^ p[2]));",
        "endmodule",
    ]
    lines.insert(1, "wire [3:0] s, t, c; wire [2:0] z;")
    return "\n".join(lines)


def _lemma_xc7() -> str:
    """The equations of the cells of the 7 series; n is a part of m."""
    return f"""
module lemma(input [3:0] s, di, input ci, x1, m1, n1, x2, m2, q2, a, b, c, d);
  wire [3:0] o, co, o6_, o5_;
  wire n2 = m2 & q2;
  CARRY4 carry(.CI(ci), .CYINIT(1'b0), .S(s), .DI(di), .O(o), .CO(co));
  wire [3:0] below = {{co[2:0], ci}};
  genvar k;
  for (k = 0; k < 4; k = k + 1)
    always @* assert (o[k] + 2 * co[k] == below[k] + s[k] + 2 * (!s[k] & di[k]));
  wire p6, p5, t6, t5;
  LUT6_2 #(.INIT(64'd{PAIR})) pair(
    .I0(x1), .I1(m1), .I2(n1), .I3(x2), .I4(n2), .I5(m2), .O6(p6), .O5(p5));
  always @* assert (p6 + 2 * (!p6 & p5) == ((x1 & m1) ^ n1) + ((x2 & m2) ^ n2));
  LUT6_2 #(.INIT(64'd{THREE})) three(
    .I0(a), .I1(b), .I2(c), .I3(d), .I4(1'b0), .I5(1'b1), .O6(t6), .O5(t5));
  always @* assert (t6 + 2 * (!t6 & d) + 2 * t5 == a + b + c + d);
endmodule
"""


_LEMMAS = {"ecp5": _lemma_ecp5, "xc7": _lemma_xc7}
