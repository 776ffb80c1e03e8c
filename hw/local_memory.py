# SPDX-License-Identifier: Apache-2.0
"""Memory of a board without DRAM: a buffer in block RAM to write, and a flash to read."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw.axi import axi4_ports
from hiddenfold.hw.flash import ADDRESS_BITS, REQUEST

#: Addresses on the bus: the flash from 0 on, and the buffer.
BUFFER = 0x4000_0000
_OKAY, _SLVERR, _DECERR = 0b00, 0b10, 0b11


class LocalMemory(wiring.Component):
    """AXI4 slave in front of a buffer and of a flash, with a port for single words beside it.

    One burst at a time; writes go before reads, and the bus before the port. Writes to the flash
    are answered SLVERR, accesses elsewhere DECERR; the port reads 0 there.

    Parameters
    ----------
    data_bits
        64 or 128, of the bus.
    buffer_bytes
        A power of two.

    Members
    -------
    s_axi_*
        AXI4 slave for an accelerator: INCR bursts of whole beats, a single ID.
    host_request, host_write, host_address, host_data, host_found, host_done
        Port for words of 32 bits: the request and what belongs to it stand until ``host_done``,
        when ``host_found`` is what was read.
    flash_i, flash_o
        To a :class:`hiddenfold.hw.flash.Flash` of the same word size.
    """

    def __init__(self, *, data_bits: int, buffer_bytes: int):
        if data_bits not in (64, 128):
            raise ValueError(f"bus bits must be 64 or 128, not {data_bits!r}")
        if buffer_bytes < 1024 or buffer_bytes & (buffer_bytes - 1):
            raise ValueError(f"buffer must be a power of two from 1024 bytes, not {buffer_bytes!r}")
        self._bytes = data_bits // 8
        self._words = buffer_bytes // self._bytes
        master = axi4_ports("s_axi", data_bits=data_bits)
        super().__init__(
            {
                **{name: member.flip() for name, member in master.items()},
                "host_request": In(1),
                "host_write": In(1),
                "host_address": In(32),
                "host_data": In(32),
                "host_found": Out(32),
                "host_done": Out(1),
                "flash_i": Out(stream.Signature(REQUEST)),
                "flash_o": In(stream.Signature(data_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = memory.Memory(
            shape=8 * self._bytes, depth=self._words, init=[]
        )
        write = buffer.write_port(granularity=8)
        read = buffer.read_port()
        beat_bits = exact_log2(self._bytes)
        index_bits = exact_log2(self._words)
        address = Signal(32)
        beats = Signal(9)
        identifier = Signal()
        response = Signal(2)
        fetched = Signal()  # the buffer's read port holds the beat
        lane = self.host_address[2:beat_bits]

        def in_buffer(where):
            return where[beat_bits + index_bits :] == BUFFER >> (beat_bits + index_bits)

        def in_flash(where):
            return where[ADDRESS_BITS:] == 0

        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(address[beat_bits:]),
            write.addr.eq(address[beat_bits:]),
            write.data.eq(self.s_axi_wdata),
            self.flash_i.payload.address.eq(address & ~(self._bytes - 1)),
            self.flash_i.payload.words.eq(beats),
            self.s_axi_rid.eq(identifier),
            self.s_axi_bid.eq(identifier),
            self.s_axi_rlast.eq(beats == 1),
            self.s_axi_rresp.eq(response),
            self.s_axi_bresp.eq(response),
            self.s_axi_rdata.eq(Mux(in_buffer(address), read.data, self.flash_o.payload)),
        ]

        def next_beat():
            m.d.sync += [address.eq(address + self._bytes), beats.eq(beats - 1), fetched.eq(0)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [
                    self.s_axi_awready.eq(1),
                    self.s_axi_arready.eq(~self.s_axi_awvalid),
                ]
                m.d.sync += [fetched.eq(0), response.eq(_OKAY)]
                with m.If(self.s_axi_awvalid):
                    m.d.sync += [address.eq(self.s_axi_awaddr), identifier.eq(self.s_axi_awid)]
                    with m.If(~in_buffer(self.s_axi_awaddr)):
                        m.d.sync += response.eq(Mux(in_flash(self.s_axi_awaddr), _SLVERR, _DECERR))
                    m.next = "WRITE"
                with m.Elif(self.s_axi_arvalid):
                    m.d.sync += [
                        address.eq(self.s_axi_araddr),
                        beats.eq(self.s_axi_arlen + 1),
                        identifier.eq(self.s_axi_arid),
                    ]
                    with m.If(in_buffer(self.s_axi_araddr)):
                        m.next = "READ_BUFFER"
                    with m.Elif(in_flash(self.s_axi_araddr)):
                        m.next = "ASK_FLASH"
                    with m.Else():
                        m.d.sync += response.eq(_DECERR)
                        m.next = "REFUSE"
                with m.Elif(self.host_request & ~self.host_done):
                    m.d.sync += [address.eq(self.host_address), beats.eq(1)]
                    m.next = "HOST"
            with m.State("WRITE"):
                m.d.comb += self.s_axi_wready.eq(1)
                with m.If(self.s_axi_wvalid):
                    with m.If(response == _OKAY):
                        m.d.comb += write.en.eq(self.s_axi_wstrb)
                    next_beat()
                    with m.If(self.s_axi_wlast):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.comb += self.s_axi_bvalid.eq(1)
                with m.If(self.s_axi_bready):
                    m.next = "IDLE"
            with m.State("READ_BUFFER"):
                m.d.comb += self.s_axi_rvalid.eq(fetched)
                m.d.sync += fetched.eq(1)
                with m.If(fetched & self.s_axi_rready):
                    next_beat()
                    with m.If(beats == 1):
                        m.next = "IDLE"
            with m.State("ASK_FLASH"):
                m.d.comb += self.flash_i.valid.eq(1)
                with m.If(self.flash_i.ready):
                    m.next = "READ_FLASH"
            with m.State("READ_FLASH"):
                m.d.comb += [
                    self.s_axi_rvalid.eq(self.flash_o.valid),
                    self.flash_o.ready.eq(self.s_axi_rready),
                ]
                with m.If(self.flash_o.valid & self.s_axi_rready):
                    next_beat()
                    with m.If(beats == 1):
                        m.next = "IDLE"
            with m.State("REFUSE"):
                m.d.comb += self.s_axi_rvalid.eq(1)
                with m.If(self.s_axi_rready):
                    next_beat()
                    with m.If(beats == 1):
                        m.next = "IDLE"
            with m.State("HOST"):
                m.d.sync += fetched.eq(1)
                with m.If(in_buffer(address)):
                    with m.If(self.host_write):
                        m.d.comb += [
                            write.en.eq(Const(0b1111, 4) << (lane << 2)),
                            write.data.eq(self.host_data.replicate(self._bytes // 4)),
                        ]
                        m.next = "HOST_DONE"
                    with m.Elif(fetched):
                        m.d.sync += self.host_found.eq(read.data.word_select(lane, 32))
                        m.next = "HOST_DONE"
                with m.Elif(in_flash(address) & ~self.host_write):
                    m.d.comb += self.flash_i.valid.eq(1)
                    with m.If(self.flash_i.ready):
                        m.next = "HOST_FLASH"
                with m.Else():
                    m.d.sync += self.host_found.eq(0)
                    m.next = "HOST_DONE"
            with m.State("HOST_FLASH"):
                m.d.comb += self.flash_o.ready.eq(1)
                with m.If(self.flash_o.valid):
                    m.d.sync += self.host_found.eq(self.flash_o.payload.word_select(lane, 32))
                    m.next = "HOST_DONE"
            with m.State("HOST_DONE"):
                m.d.comb += self.host_done.eq(1)
                m.next = "IDLE"
        return m
