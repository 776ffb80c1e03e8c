# SPDX-License-Identifier: Apache-2.0
"""`hiddenfold build`: steps that are kept, the report, what it refuses."""

import importlib.metadata
import json
import re
import shutil
import sys

import pytest

from hiddenfold.gen import build as build_module
from hiddenfold.gen import places
from hiddenfold.gen.pll import reachable_clock, settable_clock, with_clock
from hiddenfold.gen.steps import Steps, run_logged
from hiddenfold.gen.target import Target
from hiddenfold.gen.timing import read_report, summary
from hiddenfold.gen.tools import ToolError
from hiddenfold.sw.cli import main
from hiddenfold.sw.progress import progress_line

USE = {
    "TRELLIS_COMB": {"used": 60000, "available": 83640},
    "TRELLIS_FF": {"used": 30000, "available": 83640},
    "DP16KD": {"used": 182, "available": 208},
    "MULT18X18D": {"used": 108, "available": 156},
    "TRELLIS_IO": {"used": 44, "available": 365},
}
PATH = {
    "from": "posedge $glbnet$core_clk",
    "to": "posedge $glbnet$core_clk",
    "path": [
        {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "a"}, "to": {"cell": "a"}},
        {"type": "routing", "delay": 2.25, "from": {"cell": "a"}, "to": {"cell": "b"}},
        {"type": "logic", "delay": 0.25, "from": {"cell": "b"}, "to": {"cell": "b"}},
        {"type": "routing", "delay": 1.0, "from": {"cell": "b"}, "to": {"cell": "c"}},
        {"type": "setup", "delay": 0.0, "from": {"cell": "c"}, "to": {"cell": "c"}},
    ],
}


def report(core_mhz: float) -> dict:
    """A report as nextpnr writes it."""
    return {
        "utilization": USE,
        "fmax": {
            "$glbnet$core_clk": {"achieved": core_mhz, "constraint": 90.0},
            "$glbnet$sys_clk": {"achieved": 60.0, "constraint": 50.0},
        },
        "critical_paths": [PATH, {**PATH, "path": []}],
    }


WANTED = (
    "Info: Max frequency for clock '$glbnet$core_clk': 42.67 MHz (FAIL at 90.00 MHz)\n",
    "Info: Max frequency for clock  '$glbnet$sys_clk': 58.75 MHz (PASS at 50.00 MHz)\n",
)


def without_constraints(data: dict) -> dict:
    """The report about a design that was read when it was placed already."""
    for entry in data["fmax"].values():
        entry["constraint"] = 12.0
    return data


def test_report_of_place_and_route():
    found = read_report(report(91.5), 90.0)
    assert (found["lut"], found["ff"], found["bram"], found["dsp"]) == (60000, 30000, 182, 108)
    assert found["available"] == {"lut": 83640, "ff": 83640, "bram": 208, "dsp": 156}
    assert (found["fmax_mhz"], found["clock_mhz"], found["timing_met"]) == (91.5, 90.0, True)
    assert found["clocks"]["sys_clk"] == {"fmax_mhz": 60.0, "clock_mhz": 50.0}
    assert found["critical_paths"] == [
        {
            "from_clock": "core_clk",
            "to_clock": "core_clk",
            "ns": 4.0,
            "wires_ns": 3.25,
            "levels": 1,
            "begin": "a",
            "end": "c",
        }
    ]
    assert not read_report(report(89.9), 90.0)["timing_met"]


def test_text_of_the_report():
    found = read_report(report(89.9), 90.0) | {"target": "t", "board": "b", "bitstream": "x.bit"}
    found |= {"wanted_mhz": 100.0}
    text = summary(found | {"steps": {"verilog": 1.0, "route": 99.0}, "kept": ["verilog"]})
    assert re.search(r"LUT4 +60,000 of  83,640   72%", text)
    assert re.search(r"core_clk +up to +89.9 MHz, +90.0 wanted: NOT MET", text)
    assert re.search(r"sys_clk +up to +60.0 MHz, +50.0 wanted: met", text)
    assert "4.00 ns (3.25 in wires, 1 levels)  core_clk -> core_clk: a -> c" in text
    assert "\nThe bitstream's clock is 90 MHz, which timing allows, instead of 100.\n" in text
    assert re.search(r"verilog +1 s \(kept from an earlier build\)\nroute +99 s$", text)


@pytest.mark.parametrize(("ns", "met"), [(9.75, True), (10.25, False)])
def test_paths_between_clocks_of_a_pll(ns, met):
    """They have the period of the faster clock; those to the accelerator's clock cross in FIFOs."""
    data = report(91.5)
    data["fmax"]["fast"] = {"achieved": 120.0, "constraint": 100.0}
    path = [{"type": "routing", "delay": ns, "from": {"cell": "a"}, "to": {"cell": "b"}}]
    crossing = {"from": "posedge $glbnet$sys_clk", "to": "posedge fast", "path": path}
    core = {"from": "posedge $glbnet$core_clk", "to": "posedge fast", "path": path}
    data["critical_paths"] += [core, crossing]
    found = read_report(data, 90.0)
    assert found["timing_met"] == met
    assert [late["from_clock"] for late in found["late_crossings"]] == ["sys_clk"] * (not met)


def pll(divider: int, phase: int, feedback: int = 18, second: int = 1) -> str:
    """A PLL in a configuration, as nextpnr writes it."""
    return (
        ".tile_group MIB_R4C0:PLL0_UL MIB_R5C0:PLL1_UL\nword: CLKI_DIV 0000000\n"
        f"word: CLKFB_DIV {feedback - 1:07b}\nword: CLKOP_DIV {divider - 1:07b}\n"
        f"word: CLKOP_CPHASE {phase:07b}\nword: CLKOS_DIV {second - 1:07b}\n"
        "enum: PLL_LOCK_STICKY DISABLED\n\n"
    )


def test_clock_that_a_pll_can_make():
    other = ".tile A:PLC2\nword: K0.INIT 0101\n\n"
    config = other + pll(8, 7, feedback=16) + other + pll(5, 4) + other
    assert reachable_clock(config, 90.0, 91.0) == 90.0
    assert reachable_clock(config, 90.0, 89.9) == 75.0
    assert reachable_clock(config, 90.0, 38.69) == 37.5
    assert with_clock(config, 90.0, 37.5) == (
        other + pll(8, 7, feedback=16) + other + pll(12, 11) + other
    )
    with pytest.raises(ValueError, match="^450 MHz cannot be divided to 3 MHz or less$"):
        reachable_clock(config, 90.0, 3.0)
    with pytest.raises(ValueError, match="^one PLL must make 80 MHz in the configuration, not 0$"):
        reachable_clock(config, 80.0, 80.0)
    # The bus has 50 MHz as well, and 100 for the memory.
    bus = pll(8, 7, feedback=16, second=4)
    config = bus + pll(8, 7, feedback=16)
    assert reachable_clock(config, 50.0, 48.0) == pytest.approx(400 / 9)
    assert with_clock(config, 50.0, 400 / 9) == bus + pll(9, 8, feedback=16)
    # Not rounded: what is just reached is not made slower.
    config = pll(12, 11, feedback=16)
    assert reachable_clock(config, 400 / 12, 33.3334) == 400 / 12


def test_clocks_that_the_boards_pll_can_make():
    assert settable_clock(90.0) == 90.0
    assert settable_clock(33.3333334) == pytest.approx(100 / 3)
    assert settable_clock(48.0) == pytest.approx(47.92, abs=0.01)
    assert settable_clock(3.125) == 3.125 and settable_clock(400.0) == 400.0
    for wanted in (3.0, 500.0):
        message = rf"must be in 3\.125\.\.400 MHz for the board's PLL, not {wanted:g}$"
        with pytest.raises(ValueError, match=message):
            settable_clock(wanted)


def test_reached_or_not_is_not_said_of_rounded_numbers():
    data = report(33.3334)
    assert read_report(data, 100 / 3)["timing_met"]
    assert not read_report(report(33.3332), 100 / 3)["timing_met"]


@pytest.fixture
def told():
    """Lines of progress."""
    return []


def work(steps: Steps, folder, made: list):
    """One step whose input is a text and a file."""

    def make(work) -> None:
        made.append(work)
        (work / "out").write_text("result")

    return steps.run("step", ["text", folder / "input"], make)


def test_step_is_made_again_when_an_input_changes(tmp_path, told):
    (tmp_path / "input").write_text("1")
    made: list = []
    for content, times in (("1", 1), ("1", 1), ("2", 2)):
        (tmp_path / "input").write_text(content)
        with Steps.open(tmp_path / "out", told.append) as steps:
            place = work(steps, tmp_path, made)
        assert (place / "out").read_text() == "result"
        assert len(made) == times
    assert told == ["step: started", "step: done in 0 s", "step: up to date"] + told[:2]
    # A stamp that cannot be read stands for nothing.
    (place / "step.json").write_text("{")
    with Steps.open(tmp_path / "out", told.append) as steps:
        work(steps, tmp_path, made)
        assert steps.kept == []
    assert len(made) == 3


def test_interrupted_step_leaves_the_earlier_one(tmp_path, told):
    (tmp_path / "input").write_text("1")
    with Steps.open(tmp_path / "out", told.append) as steps:
        place = work(steps, tmp_path, [])

        def make(work) -> None:
            (work / "out").write_text("half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            steps.run("step", ["other"], make)
        assert (place / "out").read_text() == "result"
        work(steps, tmp_path, [])
        assert steps.kept == ["step"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "step"]


def test_remains_of_a_killed_build_are_removed(tmp_path, told):
    (tmp_path / ".step-old").mkdir()
    with Steps.open(tmp_path, told.append):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_two_builds_in_one_folder(tmp_path, told):
    with Steps.open(tmp_path, told.append):
        with (
            pytest.raises(ToolError, match="^another build is at work in .*: wait for it$"),
            Steps.open(tmp_path, told.append),
        ):
            pass


def test_failing_program_shows_the_end_of_its_log(tmp_path, told):
    code = "import sys; print('first'); print('ERROR: too large'); sys.exit(3)"
    with pytest.raises(
        ToolError, match=r"(?s)^route failed with exit status 3 .*ERROR: too large$"
    ):
        run_logged(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            log=tmp_path / "log",
            progress=told.append,
            name="route",
        )
    assert (tmp_path / "log").read_text() == "first\nERROR: too large\n"


def test_program_does_not_outlive_an_interrupt(tmp_path, monkeypatch):
    from hiddenfold.gen import steps

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    started = []
    popen = steps.subprocess.Popen
    monkeypatch.setattr(steps, "_TELL", 0.0)
    monkeypatch.setattr(
        steps.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0]
    )
    with pytest.raises(KeyboardInterrupt):
        run_logged(
            [sys.executable, "-c", "import time; time.sleep(600)"],
            cwd=tmp_path,
            log=tmp_path / "log",
            progress=interrupt,
            name="route",
        )
    assert started[0].returncode is not None


def refuse(capsys, *arguments) -> str:
    """Run a build that must be refused; return its message."""
    assert main(["build", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_refuses(capsys, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert "family must be ecp5 for board ulx3s, not 'sim'" in refuse(
        capsys, "--target", "sim-tiny", "-o", out
    )
    assert "board must be one of ulx3s, not 'x'" in refuse(
        capsys, "--target", "ulx3s-85f", "--board", "x", "-o", out
    )
    monkeypatch.setattr(build_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "nextpnr-ecp5 is not installed: `pip install 'hiddenfold[hw,board,build]'`" in refuse(
        capsys, "--target", "ulx3s-85f", "-o", out
    )
    assert not out.exists()


@pytest.fixture
def tools(monkeypatch):
    """Programs in place of the tools, which only write what the next step reads.

    Yields the names of those that ran, and the clock in MHz and the PLL that place and route finds.
    """
    routed = json.dumps({"modules": {"top": {"cells": {}, "netnames": {}}}})
    calls, found = [], {"mhz": 91.5, "pll": pll(5, 4), "routed": routed}
    found |= {"look": None, "crowded": []}

    def run(command, *, cwd, log, progress, name, until=None):
        calls.append(name)
        if name == "look":
            (cwd / until.name.replace(until.stem.rsplit("_")[-1], "1")).write_text("9,9,\n")
            if (heat := found["look"]) is not None:
                rounds = int(until.stem.rsplit("_")[-1]) - 1
                (cwd / f"heat_congestion_by_coordinate_{rounds}.csv").write_text(heat)
            return
        text = str([str(word) for word in command])
        top = cwd.parent / "board" / "top.v"
        files = {
            "board": {"top.v": text, "top.lpf": "pins"},
            "synthesis": {"top.json": json.dumps([text, top.read_text() if top.exists() else ""])},
            "place": {"placed.json": json.dumps({"modules": {"top": {"by": text, "cells": {}}}})},
            "route": {
                "seen.json": (cwd / "placed.json").read_text() if name == "route" else "",
                "routed.json": found["routed"],
                "top.config": f".comment {text}\n\n{found['pll']}",
                "report.json": json.dumps(without_constraints(report(found["mhz"]))),
            },
            "bitstream": {"ulx3s-small.bit": text},
        }[name]
        for file, content in files.items():
            (cwd / file).write_text(content)
        log.write_text("".join(WANTED) if name == "place" else "")

    monkeypatch.setattr(build_module, "run_logged", run)
    monkeypatch.setattr(build_module.floorplan, "place_array", lambda design, target: 0)

    def anneal(design, work, *, crowded, **options):
        calls.append("anneal")
        found["crowded"].append(crowded)

    monkeypatch.setattr(build_module.anneal, "anneal", anneal)
    monkeypatch.setattr(build_module, "_program", lambda function, name: (name,))
    monkeypatch.setattr(build_module.emit, "verilog", lambda target, family: f"{family} core")
    return calls, found


@pytest.fixture
def small():
    """A target for the board, at 90 MHz."""
    target = Target.load("ulx3s-85f")
    return Target(**(vars(target) | {"name": "small", "clock_mhz": 90}))


def test_steps_of_a_build(tmp_path, tools, small, told):
    calls, place = tools
    found = build_module.build(small, tmp_path, progress=told.append)
    # The look finds no crowds.
    assert calls == ["board", "synthesis", "place", "anneal", "look", "route", "bitstream"]
    assert place["crowded"] == [None]
    assert found["bitstream"] == str(tmp_path / "bitstream" / "ulx3s-small.bit")
    assert (found["clock_mhz"], found["wanted_mhz"], found["timing_met"]) == (90.0, 90, True)
    assert found["clocks"]["sys_clk"]["clock_mhz"] == 50.0
    routed = json.loads((tmp_path / "route" / "seen.json").read_text())["modules"]["top"]
    assert routed["settings"]["router2/bbMargin/x"] == "10 "
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "report.txt").read_text() == summary(found) + "\n"
    assert found["kept"] == [] and list(found["steps"]) == [
        *("verilog", "board", "synthesis", "place", "anneal"),
        *("look", "ease", "route", "bitstream"),
    ]
    # Another seed places anew, and nothing before that.
    calls.clear()
    found = build_module.build(small, tmp_path, seed=2, progress=told.append)
    assert calls == ["place", "anneal", "look", "route", "bitstream"]
    assert found["kept"] == ["verilog", "board", "synthesis"]
    # Another clock is another design.
    calls.clear()
    place["pll"] = pll(6, 5)
    build_module.build(small, tmp_path, seed=2, clock_mhz=75, progress=told.append)
    assert calls[0] == "board"


def test_a_missing_compiler_is_found_missing_at_once(tmp_path, tools, small, monkeypatch):
    monkeypatch.setenv("CXX", "none")
    monkeypatch.setattr(build_module, "find_compiler", build_module.find_compiler.__wrapped__)
    with pytest.raises(ToolError, match=r"^no C\+\+ compiler found \(tried none\): "):
        build_module.build(small, tmp_path)
    assert tools[0] == []


def test_a_tool_of_the_system_that_changed_works_again(tmp_path, tools, small, monkeypatch):
    calls, _ = tools
    program = tmp_path / "nextpnr"

    def install(version: str) -> None:
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)

    def absent(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(build_module, "_program", lambda function, name: (str(program),))
    monkeypatch.setattr(build_module.importlib.metadata, "version", absent)
    install("1.0")
    build_module.build(small, tmp_path / "out")
    calls.clear()
    build_module.build(small, tmp_path / "out")
    assert calls == []
    install("1.1")
    build_module.build(small, tmp_path / "out")
    assert calls == ["place", "anneal", "look", "route", "bitstream"]


def test_crowds_are_eased(tmp_path, tools, small):
    """Cells are moved away from where the router has crowds."""
    calls, found = tools
    rows = ["0," * 30 + "\n"] * 40
    found["look"] = "".join([*rows[:20], "0," * 12 + "40," + "0," * 17 + "\n", *rows[21:]])
    build_module.build(small, tmp_path)
    assert calls[2:] == ["place", "anneal", "look", "anneal", "route", "bitstream"]
    thorough, crowded = found["crowded"]
    assert thorough is None
    assert crowded[20, 12] == 12 and crowded[20, 14] == crowded[18, 12] == round(12 * 0.6065)
    assert (20, 17) not in crowded and max(crowded.values()) == 12
    assert not list(tmp_path.glob("look/heat_*"))


def test_places_are_constraints_of_the_placer():
    """With places that are merely loaded, nextpnr exchanges inputs of carries and memories."""
    attributes = {"NEXTPNR_BEL": "X4/Y5/SLICEA.K0", "BEL_STRENGTH": "5", "src": "a.v:1"}
    multiplier, pins = {"NEXTPNR_BEL": "X4/Y10/MULT18_0"}, {"CE0": [], "A0": [7]}
    cells = {
        "table": {"type": "TRELLIS_COMB", "attributes": attributes, "connections": {"M": []}},
        "mul": {"type": "MULT18X18D", "attributes": multiplier, "connections": pins},
    }
    design = {"modules": {"top": {"cells": cells, "settings": {"place": "1", "seed": "1"}}}}
    places.as_constraints(design)
    assert cells["table"]["attributes"] == {"BEL": "X4/Y5/SLICEA.K0", "src": "a.v:1"}
    assert cells["table"]["connections"] == {"M": []}
    assert cells["mul"]["attributes"] == {"BEL": "X4/Y10/MULT18_0"}
    assert cells["mul"]["connections"] == {"CE0": ["x"], "A0": [7]}
    assert design["modules"]["top"]["settings"] == {"seed": "1"}


@pytest.mark.parametrize(
    ("mode", "pins", "right"),
    [("CCU2", "AA", True), ("CCU2", "BA", True), ("CCU2", "CD", True), ("CCU2", "CB", False),
     ("DPRAM", "DD", True), ("DPRAM", "CD", False), ("RAMW_BLOCK", "AB", False),
     ("LOGIC", "AD", True), (None, "AD", True)],
)  # fmt: skip
def test_exchanged_inputs_of_a_routed_design(tmp_path, tools, small, mode, pins, right):
    parameters = {} if mode is None else {"MODE": mode}
    bel = {"NEXTPNR_BEL": "X4/Y5/SLICEC.K1"}
    table = {"type": "TRELLIS_COMB", "attributes": bel, "parameters": parameters}
    other = {"type": "TRELLIS_FF", "attributes": {"NEXTPNR_BEL": "X4/Y5/SLICEC.FF1"}}
    hop = "X4/Y5/H02E0701;X4/Y5/0_0_V01->0_0_H02E0701;1"
    routing = (
        f"X4/Y5/A5;;1;{hop};X4/Y5/{pins[1]}5_SLICE;X4/Y5/0_0_{pins[0]}5->0_0_{pins[1]}5_SLICE;1"
    )
    nets = {"n": {"attributes": {"ROUTING": routing}}, "empty": {"attributes": {}}}
    cells = {"table": table, "other": other | {"parameters": {}}}
    tools[1]["routed"] = json.dumps({"modules": {"top": {"cells": cells, "netnames": nets}}})
    if right:
        build_module.build(small, tmp_path)
        return
    with pytest.raises(ToolError) as raised:
        build_module.build(small, tmp_path)
    assert str(raised.value) == (
        f"nextpnr took input {pins[0]} of the {mode} at X4/Y5/SLICEC.K1 for {pins[1]} (net n): the "
        "bitstream would compute something else"
    )
    assert not (tmp_path / "route").exists() and not (tmp_path / "bitstream").exists()


def test_clock_that_is_not_reached_becomes_slower(tmp_path, tools, small):
    _, place = tools
    place["mhz"] = 80.0
    found = build_module.build(small, tmp_path)
    assert (found["fmax_mhz"], found["clock_mhz"], found["wanted_mhz"]) == (80.0, 75.0, 90)
    assert found["timing_met"]
    assert (tmp_path / "bitstream" / "top.config").read_text().endswith(pll(6, 5))
    assert (tmp_path / "route" / "top.config").read_text().endswith(pll(5, 4))


def test_progress_without_a_terminal(capsys):
    with progress_line() as tell:
        for text in ("a: started", "a: 1 s", "a: 2 s", "a: done in 3 s", "b: started"):
            tell(text)
    assert capsys.readouterr().err == "a: started\na: done in 3 s\nb: started\n"
