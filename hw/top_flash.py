# SPDX-License-Identifier: Apache-2.0
"""The cheapest board: an accelerator, a serial flash with the program, and a serial line."""

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.axi import axi4_lite_ports, axi4_ports
from hiddenfold.hw.bridge import UartBridge
from hiddenfold.hw.core import Accelerator
from hiddenfold.hw.flash import Flash
from hiddenfold.hw.flash_port import FlashPort
from hiddenfold.hw.lite_split import LiteSplit
from hiddenfold.hw.local_memory import LocalMemory

#: Address of the :class:`FlashPort`, beside the accelerator's registers.
FLASH_PORT = 0x8000_1000


class FlashTop(wiring.Component):
    """The accelerator without DRAM: docs/boards.md has the map of its addresses.

    Parameters
    ----------
    bus_bits, **parameters
        Those of :class:`hiddenfold.hw.core.Accelerator`.
    bit_cycles
        Clock cycles per bit of the serial line.
    timeout_cycles
        Those after which an incomplete command is dropped: 0.1 s.
    buffer_bytes
        Memory for images, results and the driver's list; a power of two.
    mode, half_period
        Of the flash, see :class:`hiddenfold.hw.flash.Flash`.
    protect
        Bytes at the flash's begin that the host cannot change.

    Members
    -------
    aclk, aresetn
        Clock; synchronous reset, active low.
    uart_rx, uart_tx
        Serial line.
    flash_cs_n, flash_sck, flash_io_i, flash_io_o, flash_io_oe
        Pins of the flash; ``flash_io_oe`` is per pin, high drives it.
    irq
        Of the accelerator; a light, for example.
    """

    def __init__(
        self,
        *,
        bit_cycles: int,
        timeout_cycles: int,
        buffer_bytes: int = 16384,
        mode: str = "quad",
        half_period: int = 1,
        protect: int = 0,
        bus_bits: int,
        **parameters: int,
    ):
        self.core = Accelerator(bus_bits=bus_bits, **parameters)
        self.bridge = UartBridge(bit_cycles=bit_cycles, timeout_cycles=timeout_cycles)
        self.memory = LocalMemory(data_bits=bus_bits, buffer_bytes=buffer_bytes)
        self.flash = Flash(word_bits=bus_bits, mode=mode, half_period=half_period)
        self._bus_bits = bus_bits
        self._protect = protect
        super().__init__(
            {
                "aclk": In(1),
                "aresetn": In(1),
                "uart_rx": In(1),
                "uart_tx": Out(1),
                "flash_cs_n": Out(1),
                "flash_sck": Out(1),
                "flash_io_i": In(4),
                "flash_io_o": Out(4),
                "flash_io_oe": Out(4),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        core = self.core
        # It makes its own clock domain, of the same clock.
        m.submodules.core = DomainRenamer({"sync": "core"})(core)
        m.submodules.bridge = bridge = self.bridge
        m.submodules.memory = memory = self.memory
        m.submodules.flash = flash = self.flash
        m.submodules.split = split = LiteSplit()
        m.submodules.port = port = FlashPort(protect=self._protect)
        m.d.comb += [
            ClockSignal().eq(self.aclk),
            ResetSignal().eq(~self.aresetn),
            core.aclk.eq(self.aclk),
            core.aresetn.eq(self.aresetn),
            self.irq.eq(core.irq),
            bridge.rx.eq(self.uart_rx),
            self.uart_tx.eq(bridge.tx),
            self.flash_cs_n.eq(flash.cs_n),
            self.flash_sck.eq(flash.sck),
            flash.io_i.eq(self.flash_io_i),
            self.flash_io_o.eq(flash.io_o),
            self.flash_io_oe.eq(flash.io_oe),
        ]
        join_bus(m, bridge, "m_axi", split, "s_axi", axi4_lite_ports("", addr_bits=32), Out)
        join_bus(m, split, "m_axi", core, "s_axi", axi4_lite_ports(""), Out)
        join_bus(m, core, "m_axi", memory, "s_axi", axi4_ports("", data_bits=self._bus_bits), In)
        # Everything in the upper half that is not the accelerator is the flash's port.
        to_port = split.address[31]
        m.d.comb += [
            port.request.eq(split.request & to_port),
            memory.host_request.eq(split.request & ~to_port),
            split.found.eq(memory.host_found),
            split.done.eq(memory.host_done),
            port.write.eq(split.write),
            port.address.eq(split.address),
            port.data.eq(split.data),
            memory.host_write.eq(split.write),
            memory.host_address.eq(split.address),
            memory.host_data.eq(split.data),
            flash.raw_select.eq(port.raw_select),
            port.raw_o.eq(flash.raw_o),
            port.raw_done.eq(flash.raw_done),
        ]
        with m.If(to_port):
            m.d.comb += [split.found.eq(port.found), split.done.eq(port.done)]
        wiring.connect(m, memory.flash_i, flash.i)
        wiring.connect(m, flash.o, memory.flash_o)
        wiring.connect(m, port.raw_i, flash.raw_i)
        return m


def join_bus(
    m: Module, master, master_prefix: str, slave, slave_prefix: str, ports, forward
) -> None:
    """Connect a bus; ``ports`` without a prefix, those of flow ``forward`` lead to the master."""
    for name, member in ports.items():
        at_master = getattr(master, master_prefix + name)
        at_slave = getattr(slave, slave_prefix + name)
        if member.flow == forward:
            m.d.comb += at_master.eq(at_slave)
        else:
            m.d.comb += at_slave.eq(at_master)
