# SPDX-License-Identifier: Apache-2.0
"""A second simulator: smoke tests of the top under Icarus Verilog, where it is installed."""

import shutil

import pytest

from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.simulator import target_verilog
from hiddenfold.verif.bench.case import write_case
from hiddenfold.verif.bench.runner import ICARUS, CocotbBuild

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="Icarus Verilog (iverilog) is not installed"
)


@pytest.fixture(scope="module")
def build() -> CocotbBuild:
    return CocotbBuild(target_verilog(Target.load("sim-tiny"), print), "hiddenfold", ICARUS)


@pytest.mark.parametrize("test", ["identification", "network_with_pauses"])
def test_top(build, tmp_path, test):
    """Reset values, registers and byte strobes; every layer and iteration of a network."""
    write_case(Target.load("sim-tiny"), tmp_path)
    environment = {"HIDDENFOLD_CASE": str(tmp_path)}
    build.run("hiddenfold.verif.bench.tb_top", test, tmp_path, environment)
