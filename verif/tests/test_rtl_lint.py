# SPDX-License-Identifier: Apache-2.0
"""The generated Verilog in other tools: Verilator's lint and Yosys."""

import json
import re
from pathlib import Path

import pytest

from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import find_verilator, run_yosys
from hiddenfold.sw.driver.simulator import target_verilog

WAIVERS = Path(__file__).parent.parent / "lint.vlt"


@pytest.mark.parametrize("name", ["sim-tiny", "ulx3s-85f"])
def test_lint(name: str):
    verilog = target_verilog(Target.load(name), print)
    messages = find_verilator().run(
        ["--lint-only", "-Wall", "--top-module", "hiddenfold", WAIVERS, verilog]
    )
    assert "%Warning" not in messages and "%Error" not in messages


def test_lint_finds_what_is_not_waived(tmp_path: Path):
    text = target_verilog(Target.load("sim-tiny"), print).read_text(encoding="utf-8")
    broken = tmp_path / "hiddenfold.v"
    # Two drivers of one output of the top.
    text, count = re.subn(
        r"(module hiddenfold\(.*?)(endmodule)", r"\1  assign irq = aclk;\n\2", text, flags=re.S
    )
    assert count == 1
    broken.write_text(text, encoding="utf-8")
    with pytest.raises(RuntimeError, match="irq"):
        find_verilator().run(
            ["--lint-only", "-Wall", "--top-module", "hiddenfold", WAIVERS, broken]
        )


def test_yosys_reads_and_maps_the_top(tmp_path: Path):
    verilog = target_verilog(Target.load("sim-tiny"), print)
    # To a file: the mapper of the WebAssembly Yosys leaves nothing of the log after itself.
    run_yosys(
        f'read_verilog "{verilog}"; synth_ecp5 -top hiddenfold; check -assert; '
        "tee -q -o stat.json stat -json",
        cwd=tmp_path,
    )
    statistics = json.loads((tmp_path / "stat.json").read_text(encoding="utf-8"))
    cells = set(statistics["design"]["num_cells_by_type"])
    assert {"LUT4", "CCU2C", "TRELLIS_FF", "DP16KD"} <= cells, sorted(cells)
    # Nothing is left that the device does not have.
    assert not [cell for cell in cells if cell.startswith("$") and cell != "$scopeinfo"]
