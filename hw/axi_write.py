# SPDX-License-Identifier: Apache-2.0
"""AXI4 master that appends to memory."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw.axi import (
    add,
    address_constants,
    axi4_write_ports,
    burst_limit,
    check_channel,
)
from hiddenfold.hw.fifo import StreamFifo


class WriteChannel(wiring.Component):
    """AXI4 write master that appends beats to memory from a pointer.

    A burst begins when it is complete in the FIFO, so that the bus never waits for the producer.
    After ``stop`` or an error no burst begins; what is in the FIFO then stays there until reset.

    Parameters
    ----------
    data_bits
        Width of the bus.
    max_burst
        Longest burst in beats, a power of two up to 256.
    outstanding
        Bursts without their response.

    Members
    -------
    start, address, limit
        ``start`` sets the pointer and the end of the window. Only while ``idle``, and before the
        first beat.
    i, room
        Beats to append; as those of :class:`hiddenfold.hw.fifo.StreamFifo`.
    flush
        Send what is in the FIFO even if it is less than a burst.
    stop
        Begin no burst.
    idle
        No burst begun lacks its response, ``beat`` is 0, and the FIFO is empty or will not be sent.
    error_bus, error_window
        SLVERR or DECERR was seen; a burst that ends above ``limit`` was wanted. Stay until reset.
    beat
        A beat was transferred in the cycle before.
    m_axi_aw*, m_axi_w*, m_axi_b*
        AXI4 master, see :func:`axi4_write_ports`.
    """

    def __init__(self, *, data_bits: int, max_burst: int = 16, outstanding: int = 8):
        check_channel(data_bits=data_bits, max_burst=max_burst, outstanding=outstanding)
        self._data_bits = data_bits
        self._max_burst = max_burst
        self._outstanding = outstanding
        super().__init__(
            {
                "start": In(1),
                "address": In(33),
                "limit": In(33),
                "i": In(stream.Signature(data_bits)),
                "room": Out(1),
                "flush": In(1),
                "stop": In(1),
                "idle": Out(1),
                "error_bus": Out(1),
                "error_window": Out(1),
                "beat": Out(1),
                **axi4_write_ports("m_axi", data_bits=data_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = 2 * self._max_burst
        beat_bits = exact_log2(self._data_bits // 8)
        m.submodules.fifo = fifo = StreamFifo(shape=self._data_bits, depth=depth)
        # As in BurstMaker, 2^32 is above every limit.
        pointer = Signal(33)
        end = Signal(33)
        limit = Signal(33)
        longest = Signal(exact_log2(self._max_burst))  # AWLEN of the longest burst from there on
        length = Signal.like(longest)
        # Beats taken and not yet given to a burst: FIFO memory, read stage, output register.
        level = Signal(range(depth + 3))
        w_left = Signal(range(self._max_burst + 1))
        sending = Signal()  # w_left is not 0
        unanswered = Signal(range(self._outstanding + 1))
        halted = Signal()
        sender_free = Signal()
        begin = Signal()
        beat = Signal()
        minus_beats = Signal(signed(len(length) + 1))
        wiring.connect(m, wiring.flipped(self.i), fifo.i)
        m.d.comb += [
            minus_beats.eq((~Cat(length, Const(0, 1))).as_signed()),
            self.room.eq(fifo.room),
            *address_constants(self, "aw", self._data_bits),
            halted.eq(self.stop | self.error_bus | self.error_window),
            sender_free.eq(~self.m_axi_awvalid & ~sending),
            self.idle.eq(((level == 0) | halted) & sender_free & (unanswered == 0) & ~self.beat),
            self.m_axi_wdata.eq(fifo.o.payload),
            self.m_axi_wstrb.eq(-1),
            self.m_axi_wlast.eq(w_left == 1),
            self.m_axi_wvalid.eq(fifo.o.valid & sending),
            fifo.o.ready.eq(self.m_axi_wready & sending),
            beat.eq(self.m_axi_wvalid & self.m_axi_wready),
            self.m_axi_bready.eq(1),
        ]
        m.d.sync += [
            longest.eq(burst_limit(pointer[beat_bits:], self._max_burst, beat_bits)),
            level.eq(add(level, Mux(begin, minus_beats, 0), self.i.valid & self.i.ready)),
            unanswered.eq(unanswered + begin - (self.m_axi_bvalid & (unanswered != 0))),
            self.beat.eq(beat),
        ]
        with m.If(self.m_axi_bvalid & self.m_axi_bresp[1]):
            m.d.sync += self.error_bus.eq(1)
        with m.If(self.m_axi_awready):
            m.d.sync += self.m_axi_awvalid.eq(0)
        with m.If(beat):
            m.d.sync += [w_left.eq(w_left - 1), sending.eq(~self.m_axi_wlast)]
        with m.FSM():
            with m.State("LENGTH"):  # ``longest`` follows ``pointer`` by a cycle
                m.next = "GATHER"
            with m.State("GATHER"):
                with m.If(level > longest):
                    m.d.sync += length.eq(longest)
                    m.next = "END"
                with m.Elif(self.flush & (level != 0)):
                    m.d.sync += length.eq(level - 1)
                    m.next = "END"
            with m.State("END"):
                m.d.sync += end.eq(pointer - (minus_beats << beat_bits))
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If((end > limit) | pointer[32]):
                    m.d.sync += self.error_window.eq(1)
                m.next = "SEND"
            with m.State("SEND"):
                with m.If(sender_free & (unanswered != self._outstanding) & ~halted):
                    m.d.comb += begin.eq(1)
                    m.d.sync += [
                        self.m_axi_awvalid.eq(1),
                        self.m_axi_awaddr.eq(pointer),
                        self.m_axi_awlen.eq(length),
                        w_left.eq(length + 1),
                        sending.eq(1),
                        pointer.eq(end),
                    ]
                    m.next = "LENGTH"
        with m.If(self.start):
            m.d.sync += [pointer.eq(self.address), limit.eq(self.limit)]
        return m
