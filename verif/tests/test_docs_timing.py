# SPDX-License-Identifier: Apache-2.0
"""The timing diagrams in docs/timing.md are what the registers do."""

import json
import re
from pathlib import Path

import pytest
from amaranth.sim import Simulator

from hiddenfold.hw import regmap
from hiddenfold.hw.registers import Registers

PAGE = Path(__file__).parents[2] / "docs" / "timing.md"
INPUTS = {"busy", "done"}
SENT = {"s_axi_awvalid", "s_axi_wvalid", "s_axi_bready", "s_axi_arvalid", "s_axi_rready"}
CHECKED = {
    "Write a register": {"s_axi_awready", "s_axi_wready", "s_axi_bvalid", "start", "irq"},
    "Read a register": {"s_axi_arready", "s_axi_rvalid"},
}


def diagrams() -> dict[str, list[dict]]:
    """The signals of each diagram, by the heading above it."""
    pattern = r"^## (.+?)$.*?^```wavedrom\n(.*?)^```"
    found = re.findall(pattern, PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return {title: [row for row in json.loads(text)["signal"] if row] for title, text in found}


def levels(wave: str) -> str:
    """A wave with its repetitions written out."""
    return re.sub(r"(.)(\.+)", lambda match: match[1] * (1 + len(match[2])), wave)


@pytest.mark.parametrize("title", diagrams())
def test_diagrams_are_whole(title):
    rows = diagrams()[title]
    assert len({len(row["wave"]) for row in rows}) == 1
    for row in rows:
        labels = len(re.findall("=", row["wave"]))
        assert len(row.get("data", [])) == labels, row["name"]


@pytest.mark.parametrize("title", CHECKED)
def test_diagram_is_what_happens(title):
    rows = {row["name"]: row for row in diagrams()[title]}
    waves = {name: levels(row["wave"]) for name, row in rows.items()}
    dut = Registers(target_id=1, rows=32, lanes=64, planes=8, bus_bits=64)
    found = {name: "" for name in CHECKED[title]}
    data = {}

    async def testbench(ctx):
        # Address and data are held: only their valid says when they count.
        for channel in ("aw", "ar"):
            if f"s_axi_{channel}addr" in rows:
                name = rows[f"s_axi_{channel}addr"]["data"][0]
                ctx.set(getattr(dut, f"s_axi_{channel}addr"), regmap.REGISTERS[name].offset)
        if "s_axi_wdata" in rows:
            ctx.set(dut.s_axi_wdata, int(rows["s_axi_wdata"]["data"][0], 16))
            ctx.set(dut.s_axi_wstrb, 0xF)
        await ctx.tick()
        for cycle in range(len(waves["aclk"])):
            for name in (INPUTS | SENT) & set(waves):
                ctx.set(getattr(dut, name), int(waves[name][cycle]))
            for name in found:
                found[name] += str(ctx.get(getattr(dut, name)))
            if "s_axi_rvalid" in found and ctx.get(dut.s_axi_rvalid):
                data["s_axi_rdata"] = f"0x{ctx.get(dut.s_axi_rdata):08X}"
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert found == {name: waves[name] for name in found}
    for name, value in data.items():
        assert rows[name]["data"] == [value]
