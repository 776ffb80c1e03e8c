# SPDX-License-Identifier: Apache-2.0
"""Builds Verilog for cocotb under Verilator and runs single cocotb tests in it."""

import os
from collections.abc import Mapping
from pathlib import Path

from cocotb_tools.runner import get_runner

from hiddenfold.gen.tools import find_verilator

#: cocotb makes all signals public, which leaves little to optimise: compile fast instead.
BUILD_FLAGS = ("-O1", "--x-assign", "fast", "--x-initial", "fast", "--no-timing", "-Wno-fatal")
QUIET = ("-Wno-lint", "-Wno-style")
MAKE_FLAGS = " OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O1"


class CocotbBuild:
    """A compiled simulation of the module ``top`` in ``verilog``; ``folder`` holds its files."""

    def __init__(self, verilog: Path, top: str, folder: Path):
        self._top = top
        self._folder = folder
        self._runner = get_runner("verilator")
        environment = find_verilator().environment()
        # The runner takes its environment from this process, at its build step only.
        before = dict(os.environ)
        os.environ.update(environment, MAKEFLAGS=environment["MAKEFLAGS"] + MAKE_FLAGS)
        try:
            self._runner.build(
                sources=[verilog],
                hdl_toplevel=top,
                build_dir=folder,
                build_args=[*BUILD_FLAGS, *QUIET],
                timescale=("1ns", "1ps"),
                log_file=folder.with_suffix(".build.log"),
            )
        finally:
            os.environ.clear()
            os.environ.update(before)

    def run(self, module: str, test: str, environment: Mapping[str, str] | None = None) -> None:
        """Run the cocotb test ``test`` of ``module``; raise ``AssertionError`` if it fails."""
        log = self._folder / f"{module}.{test}.log"
        results = self._folder / f"{module}.{test}.xml"
        try:
            self._runner.test(
                test_module=module,
                hdl_toplevel=self._top,
                testcase=test,
                seed=1,
                build_dir=self._folder,
                results_xml=str(results),
                extra_env={"COCOTB_ANSI_OUTPUT": "0", **(environment or {})},
                log_file=log,
            )
        except (RuntimeError, SystemExit) as error:
            raise AssertionError(f"{module}.{test} failed:\n{_tail(log)}") from error
        text = results.read_text(encoding="utf-8")
        if "<testcase" not in text or "<failure" in text or "<error" in text:
            raise AssertionError(f"{module}.{test} failed:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else "no log"
