# SPDX-License-Identifier: Apache-2.0
"""Radiona ULX3S: SDRAM and the UART of its USB socket around the accelerator (docs/boards.md).

    clk25 --+-- PLL --> sys 50 MHz: UART, bus, SDRAM controller --> sys2x 100 MHz: SDRAM pins
            +-- PLL --> core: accelerator, its end of the bridges

The memory controller and the pins run as LiteX runs them on this board by itself, and the
accelerator's clock is free. Addresses on the bus: :data:`MEMORY` and :data:`REGISTERS`.
"""

import argparse
import logging
import re
from pathlib import Path

from litedram.core.controller import LiteDRAMController
from litedram.core.crossbar import LiteDRAMCrossbar
from litedram.frontend.axi import LiteDRAMAXI2NativeR, LiteDRAMAXI2NativeW
from litedram.frontend.wishbone import LiteDRAMWishbone2Native
from litedram.modules import IS42S16160
from litedram.phy import HalfRateGENSDRPHY
from litex.build.io import DDROutput
from litex.gen import LiteXModule
from litex.soc.cores.clock import ECP5PLL
from litex.soc.cores.uart import RS232PHY, UARTBone
from litex.soc.interconnect import axi, stream, wishbone
from litex_boards.platforms import radiona_ulx3s
from migen import (
    ClockDomain,
    ClockDomainsRenamer,
    ClockSignal,
    Instance,
    ResetInserter,
    ResetSignal,
    Signal,
)
from migen.genlib.resetsync import AsyncResetSynchronizer

from hiddenfold.hw.boards.sdram import SdramStart

__all__ = ["MEMORY", "REGISTERS", "Ulx3s"]

#: Byte addresses of the SDRAM, for the host and the accelerator, and of its registers.
MEMORY, REGISTERS = 0x4000_0000, 0x8000_0000
#: Of the bus. SDRAM runs at twice this, the fastest at which all chips that were soldered to ULX3S
#: boards have a CAS latency of 2.
SYS_HZ = 50_000_000
#: Beats that may be under way to the accelerator, and that are collected from it.
READS, WRITES = 32, 16

_ADDRESS = ("valid", "addr", "len", "size", "burst", "id")


class Ulx3s(LiteXModule):
    """The design; ``clock`` (Hz) is the accelerator's, ``baud`` the UART's."""

    def __init__(self, platform, *, clock: float, baud: float, bus_bits: int):
        self.clocks = clocks = _Clocks(platform, clock)
        # The smallest chip; the others have more columns, which stay unused.
        chip = IS42S16160(SYS_HZ, "1:2")
        self.phy = HalfRateGENSDRPHY(platform.request("sdram"), SYS_HZ)
        self.start = SdramStart(self.phy, chip.timing_settings)
        self.controller = LiteDRAMController(
            self.start.settings, chip.geom_settings, chip.timing_settings, SYS_HZ
        )
        self.comb += self.controller.dfi.connect(self.start.dfi)
        self.crossbar = LiteDRAMCrossbar(self.controller.interface)
        # The controller works from the beginning, but nobody hears it before the start is over.
        self.comb += clocks.core_reset.eq(~self.start.done)

        self.serial = RS232PHY(platform.request("serial"), SYS_HZ, baud)
        self.host = ResetInserter()(UARTBone(self.serial, SYS_HZ))
        self.comb += self.host.reset.eq(~self.start.done)
        memory = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        registers = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        self.decoder = wishbone.Decoder(
            self.host.wishbone,
            [
                (lambda word: word[28:] == MEMORY >> 30, memory),
                (lambda word: word[28:] == REGISTERS >> 30, registers),
            ],
            register=True,
        )
        self.host_memory = LiteDRAMWishbone2Native(
            memory, self.crossbar.get_port(), base_address=MEMORY
        )
        host_registers = axi.AXILiteInterface(data_width=32, address_width=32)
        core_registers = axi.AXILiteInterface(data_width=32, address_width=32, clock_domain="core")
        self.host_registers = axi.Wishbone2AXILite(registers, host_registers)
        self.crossing = axi.AXILiteClockDomainCrossing(
            host_registers, core_registers, "sys", "core"
        )

        bus = axi.AXIInterface(
            data_width=bus_bits, address_width=32, id_width=1, clock_domain="core"
        )
        self.core_memory = _CoreMemory(bus, self.crossbar, bus_bits)
        self.specials += Instance("hiddenfold", **_ports(bus, core_registers))
        # Low, it would let the ESP32 take the FPGA over.
        self.comb += platform.request("wifi_gpio0").eq(1)


class _Clocks(LiteXModule):
    """Clock domains ``sys``, ``sys2x``, ``sys2x_ps`` (of the SDRAM's clock pin) and ``core``.

    ``core_reset`` holds the last one in reset.
    """

    def __init__(self, platform, clock: float):
        self.cd_sys = ClockDomain("sys")
        self.cd_sys2x = ClockDomain("sys2x")
        self.cd_sys2x_ps = ClockDomain("sys2x_ps")
        self.cd_core = ClockDomain("core")
        clk25 = platform.request("clk25")
        reset = platform.request("user_btn", 1)  # F1
        self.bus_pll, self.core_pll = ECP5PLL(), ECP5PLL()
        for pll in (self.bus_pll, self.core_pll):
            self.comb += pll.reset.eq(reset)
            pll.register_clkin(clk25, 25e6)
        self.bus_pll.create_clkout(self.cd_sys, SYS_HZ)
        self.bus_pll.create_clkout(self.cd_sys2x, 2 * SYS_HZ)
        self.bus_pll.create_clkout(self.cd_sys2x_ps, 2 * SYS_HZ, phase=180, with_reset=False)
        self.core_pll.create_clkout(self.cd_core, clock, margin=1e-6, with_reset=False)
        self.core_reset = Signal()
        self.specials += AsyncResetSynchronizer(
            self.cd_core, ~self.core_pll.locked | self.core_reset
        )
        self.specials += DDROutput(1, 0, platform.request("sdram_clock"), ClockSignal("sys2x_ps"))


class _CoreMemory(LiteXModule):
    """The accelerator's two ways to the memory controller, which share nothing.

    Reads change to the clock of the bus behind LiteDRAM's converter, where words are narrow, so
    they get all of the memory's bandwidth. For writes that would be wrong: LiteDRAM counts on it
    that the controller takes no data before their command, and FIFOs between the clocks do.
    """

    def __init__(self, bus: axi.AXIInterface, crossbar: LiteDRAMCrossbar, bus_bits: int):
        near = axi.AXIInterface(
            data_width=bus_bits, address_width=32, id_width=1, clock_domain="core"
        )
        # Registers in both directions: neither end waits for the other's logic.
        for begin, end in ((bus.ar, near.ar), (near.r, bus.r)):
            between = stream.Buffer(begin.description, pipe_ready=True)
            self._join(begin, ClockDomainsRenamer("core")(between), end)
        port = crossbar.get_port("read", data_width=bus_bits, clock_domain="core")
        self.reads = ClockDomainsRenamer("core")(LiteDRAMAXI2NativeR(near, port, READS, MEMORY))

        far = axi.AXIInterface(data_width=bus_bits, address_width=32, id_width=1)
        for begin, end, clocks in (
            (bus.aw, far.aw, ("core", "sys")),
            (bus.w, far.w, ("core", "sys")),
            (far.b, bus.b, ("sys", "core")),
        ):
            self._join(begin, stream.ClockDomainCrossing(begin.description, *clocks), end)
        port = crossbar.get_port("write", data_width=bus_bits)
        self.writes = LiteDRAMAXI2NativeW(far, port, WRITES, MEMORY)
        self.comb += [self.reads.cmd_grant.eq(1), self.writes.cmd_grant.eq(1)]

    def _join(self, begin, between, end) -> None:
        self.submodules += between
        self.comb += [begin.connect(between.sink), between.source.connect(end)]


def _ports(bus: axi.AXIInterface, registers: axi.AXILiteInterface) -> dict:
    """The accelerator's ports; ``i`` and ``o`` as the accelerator sees them."""
    ports = {"i_aclk": ClockSignal("core"), "i_aresetn": ~ResetSignal("core")}
    for channel, out, back in (
        ("aw", _ADDRESS, ("ready",)),
        ("w", ("valid", "data", "strb", "last"), ("ready",)),
        ("b", ("ready",), ("valid", "resp", "id")),
        ("ar", _ADDRESS, ("ready",)),
        ("r", ("ready",), ("valid", "data", "resp", "last", "id")),
    ):
        for direction, names in (("o", out), ("i", back)):
            for name in names:
                signal = getattr(getattr(bus, channel), name)
                ports[f"{direction}_m_axi_{channel}{name}"] = signal
    for channel, out, back in (
        ("aw", ("ready",), ("valid", "addr")),
        ("w", ("ready",), ("valid", "data", "strb")),
        ("b", ("valid", "resp"), ("ready",)),
        ("ar", ("ready",), ("valid", "addr")),
        ("r", ("valid", "data", "resp"), ("ready",)),
    ):
        for direction, names in (("o", out), ("i", back)):
            for name in names:
                signal = getattr(getattr(registers, channel), name)
                width = 12 if name == "addr" else len(signal)
                ports[f"{direction}_s_axi_{channel}{name}"] = signal[:width]
    return ports | {"i_s_axi_awprot": 0, "i_s_axi_arprot": 0}


def main() -> None:
    """Write ``top.v`` and ``top.lpf`` into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clock-mhz", type=float, required=True)
    parser.add_argument("--baud", type=float, required=True)
    parser.add_argument("--bus-bits", type=int, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    logging.disable()
    platform = radiona_ulx3s.Platform(device="LFE5U-85F", toolchain="trellis")
    top = Ulx3s(platform, clock=args.clock_mhz * 1e6, baud=args.baud, bus_bits=args.bus_bits)
    platform.build(top, build_dir=str(args.output), build_name="top", run=False)
    file = args.output / "top.v"
    # Comments have the time: without them equal designs are equal files.
    text = re.sub(r"^\s*//.*\n", "", file.read_text(), flags=re.MULTILINE)
    # LiteX finds no driver, because the pins belong to cells of the device.
    file.write_text(text.replace("input  wire   [15:0] sdram_dq", "inout  wire   [15:0] sdram_dq"))


if __name__ == "__main__":
    main()
