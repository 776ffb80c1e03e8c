# SPDX-License-Identifier: Apache-2.0
"""Builds Verilog for cocotb under Verilator, once per content, and runs single cocotb tests."""

import os
from collections.abc import Mapping
from pathlib import Path

from cocotb_tools.runner import get_runner

from hiddenfold.gen.tools import find_compiler, find_verilator
from hiddenfold.sw.driver.cache import cached, digest

#: cocotb makes all signals public, which leaves little to optimise: compile fast instead.
BUILD_FLAGS = (
    *("-O1", "--x-assign", "fast", "--x-initial", "fast", "--no-timing"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)
MAKE_FLAGS = " OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O0"


class CocotbBuild:
    """A compiled simulation of the module ``top`` in a Verilog file."""

    def __init__(self, verilog: Path, top: str):
        self._top = top
        self._runner = get_runner("verilator")
        verilator, compiler = find_verilator(), find_compiler()
        key = digest(
            verilog.read_text(encoding="utf-8"),
            Path(__file__).read_text(encoding="utf-8"),
            f"{top} {verilator.version} {compiler.path} {compiler.version}",
        )

        def make(folder: Path) -> None:
            environment = verilator.environment()
            # The runner takes its environment from this process.
            before = dict(os.environ)
            os.environ.update(environment, MAKEFLAGS=environment["MAKEFLAGS"] + MAKE_FLAGS)
            try:
                self._runner.build(
                    sources=[verilog],
                    hdl_toplevel=top,
                    build_dir=folder,
                    build_args=BUILD_FLAGS,
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
                if path.name != top:
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
