# SPDX-License-Identifier: Apache-2.0
"""Joins the AXI4 writes of two masters."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.axi import axi4_write_ports
from hiddenfold.hw.fifo import ShortQueue


class WriteMerger(wiring.Component):
    """One AXI4 write port for two masters, burst by burst; master 0 goes first.

    Both masters send a burst's beats without being asked for them by a third party, as
    :class:`hiddenfold.hw.axi_write.WriteChannel` does, so a burst of one cannot block the other for
    ever. All use a single ID, so responses come in the order of the bursts.

    Members
    -------
    s0_axi_*, s1_axi_*
        To the masters.
    m_axi_*
        AXI4 master, see :func:`hiddenfold.hw.axi.axi4_write_ports`.
    """

    def __init__(self, *, data_bits: int, outstanding: int = 16):
        self._outstanding = outstanding
        members = axi4_write_ports("m_axi", data_bits=data_bits)
        # Without the prefix.
        self._ports = {name.removeprefix("m_axi_"): member for name, member in members.items()}
        for i in range(2):
            members |= {f"s{i}_axi_{name}": member.flip() for name, member in self._ports.items()}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        # Masters of the bursts without their response, oldest first.
        m.submodules.owners = owners = ShortQueue(shape=1, depth=self._outstanding)
        busy = Signal()  # a burst has begun and not all of it was sent
        owner = Signal()
        address_left, data_left = Signal(), Signal()
        address_sent, data_sent = Signal(), Signal()

        def of(i: int, name: str):
            return getattr(self, f"s{i}_axi_{name}")

        for name, member in self._ports.items():
            if member.flow == Out and name not in ("awvalid", "wvalid", "bready"):
                m.d.comb += getattr(self, f"m_axi_{name}").eq(Mux(owner, of(1, name), of(0, name)))
        m.d.comb += [
            self.m_axi_awvalid.eq(busy & address_left),
            self.m_axi_wvalid.eq(
                busy & data_left & Mux(owner, self.s1_axi_wvalid, self.s0_axi_wvalid)
            ),
            self.m_axi_bready.eq(1),
            address_sent.eq(self.m_axi_awvalid & self.m_axi_awready),
            data_sent.eq(self.m_axi_wvalid & self.m_axi_wready & self.m_axi_wlast),
            owners.i.payload.eq(~self.s0_axi_awvalid),
            owners.i.valid.eq(~busy & (self.s0_axi_awvalid | self.s1_axi_awvalid)),
            owners.o.ready.eq(self.m_axi_bvalid),
        ]
        for i in range(2):
            mine = owner == i
            m.d.comb += [
                of(i, "awready").eq(address_sent & mine),
                of(i, "wready").eq(busy & data_left & mine & self.m_axi_wready),
                of(i, "bvalid").eq(self.m_axi_bvalid & owners.o.valid & (owners.o.payload == i)),
                of(i, "bresp").eq(self.m_axi_bresp),
                of(i, "bid").eq(self.m_axi_bid),
            ]
        with m.If(owners.i.valid & owners.i.ready):
            m.d.sync += [
                busy.eq(1),
                owner.eq(owners.i.payload),
                address_left.eq(1),
                data_left.eq(1),
            ]
        with m.Elif(busy):
            with m.If(address_sent):
                m.d.sync += address_left.eq(0)
            with m.If(data_sent):
                m.d.sync += data_left.eq(0)
            with m.If((address_sent | ~address_left) & (data_sent | ~data_left)):
                m.d.sync += busy.eq(0)
        return m


def connect_master(m: Module, master, merger: WriteMerger, index: int) -> None:
    """Connect the ``m_axi_*`` write members of a component to port ``index``."""
    for name, member in merger.signature.members.items():
        prefix = f"s{index}_axi_"
        if name.startswith(prefix):
            inner, outer = getattr(merger, name), getattr(master, "m_axi_" + name[len(prefix) :])
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
