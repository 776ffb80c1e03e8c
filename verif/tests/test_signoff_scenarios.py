# SPDX-License-Identifier: Apache-2.0
"""The bench that judges mutants finds nothing wrong with the design itself."""

import pytest

from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.verif.signoff.scenarios import Bench, open_devices

TARGET = Target.load("sim-tiny")


@pytest.fixture(scope="module")
def open_device():
    library = simulator_library(
        target_verilog(TARGET, print), bus_bits=TARGET.bus_bits, trace=False, log=print
    )
    return open_devices(library, 0)


def test_the_design_passes_all_scenarios(open_device):
    names = []
    for name, scenario in Bench.make(networks=2, large=0).scenarios(open_device):
        scenario()
        names.append(name.rstrip(" 0123456789"))
    assert {"registers", "program", "watchdogs", "memories", "places", "network"} <= set(names)
    assert names[-1] == "cycle counts"


def test_accesses_that_do_not_wait(open_device):
    device = open_device()
    offsets = [0x28, 0x30, 0x20]
    device.access_together(offsets, [3, 4, 5], address=2, answer=3)
    for delays in ({}, {"address": 3}, {"answer": 2}):
        assert device.access_together(offsets[::-1], **delays) == [5, 4, 3]
