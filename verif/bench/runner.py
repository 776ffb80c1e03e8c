# SPDX-License-Identifier: Apache-2.0
"""Builds Verilog for cocotb under Verilator or Icarus, once per content, and runs single tests."""

import os
from collections.abc import Mapping
from pathlib import Path

from cocotb_tools.runner import get_runner

from hiddenfold.gen.tools import find_compiler, find_verilator, run_tool
from hiddenfold.sw.driver.cache import cached, digest

#: cocotb makes all signals public, which leaves little to optimise: compile fast instead.
BUILD_FLAGS = (
    *("-O1", "--x-assign", "fast", "--x-initial", "fast", "--no-timing"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)
#: A second simulator, from the system's packages if it is there.
ICARUS = "icarus"
_ICARUS_FLAGS = ("-g2012",)
MAKE_FLAGS = " OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O0"


class CocotbBuild:
    """A compiled simulation of the module ``top`` in a Verilog file."""

    def __init__(self, verilog: Path, top: str, simulator: str = "verilator"):
        """Build with Verilator or :data:`ICARUS`."""
        self._top = top
        self._runner = get_runner(simulator)
        if simulator == ICARUS:
            version = run_tool(["iverilog", "-V"]).splitlines()[0]
            environment, kept = dict(os.environ), "sim.vvp"
            flags: tuple[str, ...] = _ICARUS_FLAGS
        else:
            verilator, compiler = find_verilator(), find_compiler()
            version = f"{verilator.version} {compiler.path} {compiler.version}"
            environment, flags, kept = verilator.environment(), BUILD_FLAGS, top
            environment["MAKEFLAGS"] += MAKE_FLAGS
        key = digest(
            verilog.read_text(encoding="utf-8"),
            Path(__file__).read_text(encoding="utf-8"),
            f"{top} {simulator} {version}",
        )

        def make(folder: Path) -> None:
            # The runner takes its environment from this process.
            before = dict(os.environ)
            os.environ.update(environment)
            try:
                self._runner.build(
                    sources=[verilog],
                    hdl_toplevel=top,
                    build_dir=folder,
                    build_args=flags,
                    timescale=("1ns", "1ps"),
                    log_file=folder / "build.log",
                )
            except SystemExit as error:
                log = (folder / "build.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"build of {top} for cocotb failed:\n{log[-4000:]}") from error
            finally:
                os.environ.clear()
                os.environ.update(before)
            for path in folder.iterdir():
                if path.name != kept:
                    path.unlink()

        self._folder = cached(f"cocotb-{key}", make)

    def run(
        self,
        module: str,
        test: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run the cocotb test ``test`` of ``module``; its files go to ``folder``.

        Raises ``AssertionError`` with the end of its log if it does not pass.
        """
        log, results = folder / f"{test}.log", folder / f"{test}.xml"
        try:
            self._runner.test(
                test_module=module,
                hdl_toplevel=self._top,
                hdl_toplevel_lang="verilog",
                test_filter=rf"\.{test}$",
                seed=1,
                build_dir=self._folder,
                test_dir=folder,
                results_xml=str(results),
                extra_env={"COCOTB_ANSI_OUTPUT": "0", **(environment or {})},
                log_file=log,
            )
        except (RuntimeError, SystemExit) as error:
            raise AssertionError(f"{test} failed:\n{_tail(log)}") from error
        text = results.read_text(encoding="utf-8")
        if text.count("<testcase") != 1 or "<failure" in text or "<error" in text:
            raise AssertionError(f"{test} failed:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else "no log"
