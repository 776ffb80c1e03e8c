# SPDX-License-Identifier: Apache-2.0
"""Compiles generated Verilog and ``harness.cpp`` into a shared library, once per content.

Results are kept (:mod:`hiddenfold.sw.driver.cache`) under a hash of all that goes in: Verilog,
harness, flags, tool versions and the processor.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import find_compiler, find_verilator, run_tool
from hiddenfold.sw.driver.cache import cached, digest
from hiddenfold.sw.progress import progress_bar

TOP = "hiddenfold"
HARNESS = Path(__file__).with_name("harness.cpp")
#: Headers that stand in for those of zlib and lz4, which waveforms would need.
COMPRESSION = Path(__file__).with_name("fst")
#: Random initial values and X would cost speed; the design has resets for all it relies on.
VERILATOR_FLAGS = (
    *("--cc", "--make", "json", "--prefix", f"V{TOP}"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--threads", "1"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style", "--output-split", "20000"),
)
#: Wide enough for the widest signal: without it, wide signals are left out.
COVERAGE_FLAGS = ("--coverage-line", "--coverage-toggle", "--coverage-max-width", "4096")
FAST_FLAGS = ("-O3", "-march=native")
#: Initialisation and Verilator's run time are not hot: time spent on optimising them is lost.
SLOW_FLAGS = ("-O0",)
COMMON_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-w", "-DVERILATOR=1")

#: Called with a line of text when something slow begins.
Log = Callable[[str], None]


def target_verilog(target: Target, log: Log) -> Path:
    """Return the Verilog file of a target's top, generating it if the sources changed."""
    key = digest(
        repr(sorted(target.hardware_parameters().items())),
        importlib.metadata.version("amaranth"),
        source_digest(),
    )

    def make(folder: Path) -> None:
        from hiddenfold.gen.emit import generate

        log(f"generating the Verilog of target {target.name} (once)")
        generate(target, folder, portable=True)

    return cached(f"verilog-{key}", make) / f"{TOP}.v"


def simulator_library(
    verilog: Path,
    *,
    bus_bits: int,
    trace: bool,
    log: Log,
    flags: tuple[str, ...] = FAST_FLAGS,
    coverage: bool = False,
    mutants: bool = False,
    top: str = TOP,
    harness: Path = HARNESS,
) -> Path:
    """Return the shared library that simulates a Verilog file, compiling it if need be.

    ``trace`` builds the variant that can write waveforms (FST), ``coverage`` one that counts which
    lines, branches and bits were active; both are slower. ``mutants`` says that the Verilog has the
    input ``mutant`` of :mod:`hiddenfold.verif.signoff.mutants`. ``harness`` is the C++ file that
    drives the model of the module ``top``, a class ``Vhiddenfold``. Raises
    :class:`~hiddenfold.gen.tools.ToolError` if a tool is missing or fails.
    """
    verilator, compiler = find_verilator(), find_compiler()
    verilator_flags = (
        *VERILATOR_FLAGS,
        *("--top-module", top),
        *(("--trace-fst",) if trace else ()),
        *(COVERAGE_FLAGS if coverage else ()),
    )
    key = digest(
        verilog.read_text(encoding="utf-8"),
        harness.read_text(encoding="utf-8"),
        Path(__file__).read_text(encoding="utf-8"),
        repr((bus_bits, trace, flags, verilator_flags, mutants)),
        f"{verilator.version} {compiler.path} {compiler.version}",
        processor(),
    )

    def make(folder: Path) -> None:
        log("compiling the simulator (once)")
        work = folder / "build"
        verilator.run([*verilator_flags, "--Mdir", work, verilog])
        sources = json.loads((work / f"V{TOP}.json").read_text(encoding="utf-8"))["sources"]
        # Waveform code has groups of its own: classes_fast, support_fast, trace_fast and so on.
        groups = {name: files for name, files in sources.items() if name != "deps"}
        fast = [file for name in groups if name.endswith("_fast") for file in groups[name]]
        slow = [file for name in groups if not name.endswith("_fast") for file in groups[name]]
        fast.append(str(harness))
        defines = [
            f"-DHF_BUS_BITS={bus_bits}",
            *(f"-DVM_TRACE{kind}={int(trace)}" for kind in ("", "_FST")),
            *(f"-DVM_{name}=0" for name in ("SC", "TIMING", "TRACE_VCD", "TRACE_SAIF")),
            f"-DVM_COVERAGE={int(coverage)}",
            *(("-DHF_MUTANTS",) if mutants else ()),
        ]
        folders = (work, verilator.include, verilator.include / "vltstd", COMPRESSION)
        include = [f"-I{path}" for path in folders]
        jobs = []
        for number, (source, optimise) in enumerate(
            [(source, flags) for source in fast] + [(source, SLOW_FLAGS) for source in slow]
        ):
            target = str(work / f"{number}.o")
            jobs.append(
                [compiler.path, *COMMON_FLAGS, *optimise, *defines, *include]
                + ["-c", source, "-o", target]
            )
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            with progress_bar(len(jobs), "compiling") as tick:
                for _ in pool.map(run_tool, jobs):
                    tick(1)
        objects = [job[-1] for job in jobs]
        library = folder / f"lib{TOP}.so"
        run_tool([compiler.path, "-shared", "-o", library, *objects, "-lpthread"])
        shutil.rmtree(work)

    return cached(f"simulator-{key}", make) / f"lib{TOP}.so"


def source_digest() -> str:
    """Return a hash of the generator's own text.

    It stands for what the generator would produce: running it takes much longer.
    """
    sources = [
        path
        for package in (_package_folder("hw"), _package_folder("gen"))
        for path in sorted(package.glob("*.py"))
    ]
    return digest(*(path.name + "\n" + path.read_text(encoding="utf-8") for path in sources))


def _package_folder(name: str) -> Path:
    return Path(importlib.import_module(f"hiddenfold.{name}").__path__[0])


def processor() -> str:
    """Return what ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
