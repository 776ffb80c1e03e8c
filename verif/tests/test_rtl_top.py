# SPDX-License-Identifier: Apache-2.0
"""Runs the cocotb bench of the shipped top (``hiddenfold.verif.bench.tb_top``) on sim-tiny."""

from pathlib import Path

import pytest

from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.simulator import target_verilog
from hiddenfold.verif.bench.case import write_case
from hiddenfold.verif.bench.runner import CocotbBuild

MODULE = "hiddenfold.verif.bench.tb_top"
TESTS = (
    "identification",
    "network_with_full_bandwidth",
    "network_with_pauses",
    "counters",
    "registers_while_busy",
    "abort_anywhere",
    "reset_anywhere",
    "bus_errors",
    "damaged_program",
    "illegal_program",
    "windows",
    "watchdog",
)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the network, its images and its golden trace."""
    folder = tmp_path_factory.mktemp("case")
    write_case(Target.load("sim-tiny"), folder)
    return folder


@pytest.fixture(scope="module")
def build() -> CocotbBuild:
    """The compiled top."""
    return CocotbBuild(target_verilog(Target.load("sim-tiny"), print), "hiddenfold")


@pytest.mark.parametrize("test", TESTS)
def test_top(build: CocotbBuild, case: Path, tmp_path: Path, test: str):
    build.run(MODULE, test, tmp_path, {"HIDDENFOLD_CASE": str(case)})


def test_no_cocotb_test_is_forgotten():
    source = Path(__file__).parent.parent / "bench" / "tb_top.py"
    assert source.read_text(encoding="utf-8").count("@cocotb.test(") == len(TESTS)
