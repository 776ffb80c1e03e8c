# SPDX-License-Identifier: Apache-2.0
"""Waveforms: the FST writer without zlib and lz4, and the files that show signals in viewers."""

import re

import pytest
import pywellen

from hiddenfold.gen.states import state_machines
from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import find_verilator, run_tool
from hiddenfold.sw.cli import main
from hiddenfold.sw.driver.simulator import COMPRESSION, target_verilog
from hiddenfold.sw.driver.waves import write_views

TARGET = Target.load("sim-tiny")
COUNTER = """
module t(input clk, output reg [31:0] count, output [199:0] wide);
  initial count = 0;
  always @(posedge clk) count <= count + 3;
  assign wide = {168'h123456789abcdef, count};
endmodule
"""
PROGRAM = """
#include "Vt.h"
#include "verilated_fst_c.h"
int main() {
    Verilated::traceEverOn(true);
    Vt t;
    VerilatedFstC waves;
    t.trace(&waves, 99);
    waves.open("t.fst");
    for (int time = 0; time < 2000; ++time) {
        t.clk = time & 1;
        t.eval();
        waves.dump(time);
    }
    waves.close();
}
"""


def test_waveforms_need_no_compression_library(tmp_path):
    """Verilator's writer with our headers in place of those of zlib and lz4."""
    (tmp_path / "t.v").write_text(COUNTER)
    (tmp_path / "main.cpp").write_text(PROGRAM)
    flags = ["--cc", "--exe", "--build", "--trace-fst", "-CFLAGS", f"-I{COMPRESSION}"]
    quick = ["-MAKEFLAGS", "OPT_FAST=-O0 OPT_GLOBAL=-O0"]
    # Verilator's makefile asks for the libraries all the same: empty ones show that none is used.
    for name in ("z", "lz4"):
        run_tool(["ar", "rc", tmp_path / f"lib{name}.a"])
    quick += ["-LDFLAGS", f"-L{tmp_path}"]
    find_verilator().run([*flags, *quick, "--Mdir", "work", "t.v", "main.cpp"], cwd=tmp_path)
    run_tool([tmp_path / "work" / "Vt"], cwd=tmp_path)
    waves = pywellen.Waveform(str(tmp_path / "t.fst"))
    signals = {var.full_name: var.signal for var in waves.all_vars()}
    assert {"TOP.clk", "TOP.t.count", "TOP.t.wide"} <= set(signals)
    for time in (0, 1, 2, 777, 1998):
        count = 3 * ((time + 1) // 2)
        assert int(signals["TOP.t.count"].value_at(time)) == count
        assert int(signals["TOP.t.wide"].value_at(time)) == 0x123456789ABCDEF << 32 | count


@pytest.fixture(scope="module")
def modules() -> dict[str, str]:
    """The modules of the generated Verilog by name."""
    text = target_verilog(TARGET, print).read_text("utf-8")
    return {
        name.lstrip("\\"): body
        for name, body in re.findall(
            r"^module (\S+) ?\((.*?)^endmodule", text, re.MULTILINE | re.DOTALL
        )
    }


def width_of(modules: dict[str, str], path: str) -> int:
    """The width of a signal of the generated Verilog, by its hierarchical name below the top."""
    *instances, signal = path.split(".")
    module = "hiddenfold"
    for instance in instances:
        found = re.search(
            rf"^  \\?(\S+) +\\?{re.escape(instance)} \(", modules[module], re.MULTILINE
        )
        assert found, path
        module = found[1]
    declared = re.search(
        rf"^  (?:wire|reg) (?:\[(\d+):0\] )?{re.escape(signal)}[ ;]", modules[module], re.MULTILINE
    )
    assert declared, path
    return int(declared[1] or 0) + 1


def test_state_machines_are_those_of_the_verilog(modules):
    machines = state_machines(TARGET)
    assert len(machines) == len({machine.path for machine in machines}) >= 10
    for machine in machines:
        assert width_of(modules, machine.path) == machine.width
        assert len(machine.names) == len(set(machine.names.values())) > 2
    assert machines[0].path == "control.fsm_state" and machines[0].names[0] == "IDLE"


def test_views_show_signals_of_the_verilog(modules, tmp_path):
    files = write_views(TARGET, tmp_path / "x.fst")
    gtkwave, surfer = (tmp_path / "x.gtkw").read_text(), (tmp_path / "x.sucl").read_text()
    shown = re.findall(r"^variable_add TOP\.hiddenfold\.(\S+)$", surfer, re.MULTILINE)
    in_gtkwave = re.findall(r"^TOP\.hiddenfold\.([^\s\[]+)(?:\[(\d+):0\])?$", gtkwave, re.MULTILINE)
    assert [name for name, _ in in_gtkwave] == shown and len(shown) > 60
    for name, high in in_gtkwave:
        assert width_of(modules, name) == int(high or 0) + 1, name
    names = re.findall(r"^\^1 (.+)$", gtkwave, re.MULTILINE)
    assert set(names) == {str(path) for path in files if path.suffix == ".txt"}
    for name in names:
        with open(name) as file:
            assert all(re.fullmatch(r"[0-9a-f] [A-Z0-9_]+\n", line) for line in file)


def test_waves_are_for_the_simulator(capsys, tiny_hfn, tiny_png, tmp_path):
    arguments = ["run", str(tiny_hfn), str(tiny_png), "--backend", "golden"]
    assert main([*arguments, "--waves", str(tmp_path / "x.fst")]) == 2
    assert "--waves is for the simulated accelerator" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--waves", "x.vcd"])
    assert "must be the name of an .fst file, not 'x.vcd'" in capsys.readouterr().err
