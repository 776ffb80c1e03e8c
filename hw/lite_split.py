# SPDX-License-Identifier: Apache-2.0
"""Divides the bus of a host between AXI4-Lite registers and words of other things."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.axi import axi4_lite_ports

#: Address of the accelerator's registers, 4 KiB.
REGISTERS = 0x8000_0000


def word_port():
    """Members of a master that reads and writes single words of 32 bits.

    All its signals stand from ``request`` until ``done``, in whose cycle ``found`` is read.
    """
    return {
        "request": Out(1),
        "write": Out(1),
        "address": Out(32),
        "data": Out(32),
        "found": In(32),
        "done": In(1),
    }


class LiteSplit(wiring.Component):
    """AXI4-Lite slave: accesses to 4 KiB go on to a slave, all others to a port for words.

    One access at a time; a write's address and data must both stand until they are taken, as those
    of :class:`hiddenfold.hw.bridge.UartBridge` do.

    Members
    -------
    s_axi_*
        AXI4-Lite slave, 32 address bits.
    m_axi_*
        AXI4-Lite master, 12 address bits: the registers.
    request, write, address, data, found, done
        Port for words, see :func:`word_port`.
    """

    def __init__(self):
        self._registers = axi4_lite_ports("m_axi")
        super().__init__(
            {
                **axi4_lite_ports("s_axi", addr_bits=32),
                **{name: member.flip() for name, member in self._registers.items()},
                **word_port(),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mine = Signal()
        found = Signal(32)
        for name, member in self._registers.items():
            inner, outer = getattr(self, name), getattr(self, name.replace("m_axi", "s_axi"))
            if member.flow == In and not name.endswith(("valid", "ready")):
                m.d.comb += inner.eq(outer)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.s_axi_arvalid | (self.s_axi_awvalid & self.s_axi_wvalid)):
                    m.d.sync += [
                        self.write.eq(~self.s_axi_arvalid),
                        self.address.eq(
                            Mux(self.s_axi_arvalid, self.s_axi_araddr, self.s_axi_awaddr)
                        ),
                        self.data.eq(self.s_axi_wdata),
                    ]
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.d.sync += mine.eq(self.address[12:] == REGISTERS >> 12)
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                with m.If(mine):
                    with m.If(self.write):
                        m.d.comb += [
                            self.m_axi_awvalid.eq(self.s_axi_awvalid),
                            self.m_axi_wvalid.eq(self.s_axi_wvalid),
                            self.s_axi_awready.eq(self.m_axi_awready),
                            self.s_axi_wready.eq(self.m_axi_wready),
                            self.m_axi_bready.eq(self.s_axi_bready),
                            self.s_axi_bvalid.eq(self.m_axi_bvalid),
                        ]
                        with m.If(self.m_axi_bvalid & self.s_axi_bready):
                            m.next = "IDLE"
                    with m.Else():
                        m.d.comb += [
                            self.m_axi_arvalid.eq(self.s_axi_arvalid),
                            self.s_axi_arready.eq(self.m_axi_arready),
                            self.m_axi_rready.eq(self.s_axi_rready),
                            self.s_axi_rvalid.eq(self.m_axi_rvalid),
                            self.s_axi_rdata.eq(self.m_axi_rdata),
                        ]
                        with m.If(self.m_axi_rvalid & self.s_axi_rready):
                            m.next = "IDLE"
                with m.Else():
                    m.d.comb += self.request.eq(1)
                    with m.If(self.done):
                        m.d.sync += found.eq(self.found)
                        m.next = "TAKE"
            with m.State("TAKE"):
                with m.If(self.write):
                    m.d.comb += [self.s_axi_awready.eq(1), self.s_axi_wready.eq(1)]
                with m.Else():
                    m.d.comb += self.s_axi_arready.eq(1)
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += [
                    self.s_axi_bvalid.eq(self.write),
                    self.s_axi_rvalid.eq(~self.write),
                    self.s_axi_rdata.eq(found),
                ]
                with m.If(Mux(self.write, self.s_axi_bready, self.s_axi_rready)):
                    m.next = "IDLE"
        return m
