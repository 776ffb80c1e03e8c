# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The ports of the generated Verilog never change by accident: docs and users build on them."""

import re
from pathlib import Path

import pytest
from amaranth.lib.wiring import Out

from hiddenfold.gen import ports
from hiddenfold.gen.target import Target
from hiddenfold.hw.core import Accelerator
from hiddenfold.sw.driver.simulator import target_verilog

#: One line a port: direction, bits, name; BUS stands for the target's `bus_bits`.
GOLDEN = Path(__file__).with_name("ports.golden").read_text("utf-8").splitlines()


def golden(target: Target) -> set[tuple[str, int, str]]:
    """The ports that a target must have."""
    sizes = {"BUS": target.bus_bits, "BUS/8": target.bus_bits // 8}
    lines = [line.split() for line in GOLDEN]
    return {(direction, sizes.get(bits) or int(bits), name) for direction, bits, name in lines}


@pytest.mark.parametrize("name", Target.names())
def test_every_target_has_the_golden_ports(name):
    target = Target.load(name)
    described = {(port.direction, port.width, port.name) for port in ports.ports(target)}
    assert described == golden(target)
    members = Accelerator(**target.hardware_parameters()).signature.members
    directions = {
        name: "output" if member.flow == Out else "input" for name, member in members.items()
    }
    assert {(directions[n], member.shape, n) for n, member in members.items()} == golden(target)


def test_the_verilog_has_them():
    target = Target.load("sim-tiny")
    text = target_verilog(target, print).read_text("utf-8")
    top = re.search(r"^module hiddenfold\((.*?)\);(.*?)^endmodule", text, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", top[2], re.MULTILINE)
    assert {(way, int(high or 0) + 1, name) for way, high, name in found} == golden(target)
    assert set(re.findall(r"\w+", top[1])) == {name for _, _, name in golden(target)}


def test_markdown_names_every_port():
    target = Target.load("sim-tiny")
    text = ports.markdown(target)
    for direction, bits, name in golden(target):
        assert re.search(rf"^\| `{name}` \| {direction} \| {bits} \|", text, re.MULTILINE), name
    assert "| `aresetn` | input | 1 | `aclk` | - | reset, active low, synchronous" in text
