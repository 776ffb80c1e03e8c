# SPDX-License-Identifier: Apache-2.0
"""Mutants are made, can be told apart, and are judged by what the checks find."""

import importlib
import inspect

import pytest

from hiddenfold.gen.tools import run_yosys
from hiddenfold.verif.signoff import python_mutation
from hiddenfold.verif.signoff.mutants import Mutant, make_mutants
from hiddenfold.verif.signoff.mutation import STOPPED, Mutation, Verdict

DESIGN = """
module part(input [3:0] a, output [3:0] y);
  assign y = a + 4'd3;
endmodule
module hiddenfold(input clk, input [3:0] a, output reg [3:0] q);
  wire [3:0] y;
  part part(.a(a), .y(y));
  always @(posedge clk) q <= y ^ {q[2:0], q[3]};
endmodule
"""


def test_mutants_act_only_when_chosen(tmp_path):
    source = tmp_path / "source.v"
    source.write_text(DESIGN)
    mutants = make_mutants(source, tmp_path, count=12, seed=1)
    assert [mutant.number for mutant in mutants] == list(range(1, 13))
    assert {mutant.module for mutant in mutants} == {"part", "hiddenfold"}
    assert len({mutant.where for mutant in mutants}) == 12
    assert "input [3:0] mutant" in (tmp_path / "mutants.v").read_text()

    def differs(number: int) -> bool:
        """Whether Yosys finds an input and a time at which a mutant and the design differ."""
        (tmp_path / "gate.v").write_text(
            "module gate(input clk, input [3:0] a, output [3:0] q);\n"
            f"  hiddenfold h(.clk(clk), .a(a), .q(q), .mutant(4'd{number}));\nendmodule\n"
        )
        log = run_yosys(
            "read_verilog source.v; prep -top hiddenfold -flatten; rename hiddenfold gold; "
            "design -stash gold; read_verilog mutants.v gate.v; prep -top gate -flatten; "
            "design -copy-from gold gold; delete t:$scopeinfo; "
            "miter -equiv -flatten gold gate miter; "
            "sat -seq 4 -set-init-zero -prove trigger 0 miter",
            cwd=tmp_path,
        )
        return "model found: FAIL!" in log

    assert not differs(0)
    assert sum(differs(number) for number in range(1, 13)) >= 8


def test_words_of_a_mutant():
    mutant = Mutant(
        3,
        "mutate -mode inv -module a.b -cell $x$1 -port Y -portbit 5 -wire \\w "
        "-wirebit 7 -src f.v:1.2-3.4",
    )
    assert mutant.module == "a.b"
    assert mutant.where == "a.b $x$1.Y[5] inv (wire \\w[7])"


def test_shares_of_found_mutants():
    outcome = Mutation(
        1,
        [
            Verdict(1, "one", "program 0", "x"),
            Verdict(2, "two", "program 1", "x"),
            Verdict(3, "three", STOPPED, ""),
            Verdict(4, "four", "", ""),
            Verdict(5, "five", "", ""),
        ],
    )
    summary = outcome.summary({"four": "because", "one": "not a survivor at all"})
    assert (summary["found"], summary["survivors"], summary["harmless"]) == (3, 2, 1)
    assert (summary["share"], summary["share_of_harmful"]) == (3 / 5, 3 / 4)
    assert [entry["where"] for entry in summary["unexplained"]] == ["five"]
    assert summary["found_by"] == {"program": 2, STOPPED: 1, "": 2}


@pytest.fixture(scope="module")
def check():
    return python_mutation.Check(networks=3)


def test_python_mutants_are_found(check):
    """The rounding of the golden model, and the order of masks in the compiler."""
    assert check.passes()
    for name, place in (("verif.golden.model", "requantize"), ("gen.tiling", "mask")):
        chosen = [m for m in python_mutation.mutants(name) if place in m[0]]
        assert len(chosen) > 3
        found = [not python_mutation.survives(check, *mutant[1:]) for mutant in chosen[:4]]
        assert any(found), [mutant[0] for mutant in chosen[:4]]
    assert check.passes(), "a mutant has left something behind"


def test_unchanged_code_survives(check):
    module = importlib.import_module("hiddenfold.verif.golden.model")
    assert inspect.isfunction(module.unfold)
    assert python_mutation.survives(check, module.unfold, module.unfold.__code__)
