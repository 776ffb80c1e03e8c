# SPDX-License-Identifier: Apache-2.0
"""First in, first out: a stream FIFO in block RAM, and a short queue in distributed memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2


class StreamFifo(wiring.Component):
    """First in, first out: one word in and one word out per cycle.

    A word is offered at ``o`` three cycles after it was taken at ``i`` by an empty FIFO: one cycle
    each for the memory's write, its read and the output register (so that logic behind the FIFO
    does not start at the block RAM's slow output). Besides the ``depth`` words in the memory, one
    may be in the read stage and one in the output register.

    Parameters
    ----------
    shape
        Shape of the payload.
    depth
        Words in the memory, a power of two, at least 2.

    Members
    -------
    i, o
        Input and output streams. ``i.ready`` depends on registers only.
    room
        At least ``SLACK`` more words will be taken; never high with a depth below twice that. For
        those that cannot hold back what is on its way.
    """

    SLACK = 4

    def __init__(self, *, shape, depth: int):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"FIFO depth must be a power of two from 2, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__(
            {"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "room": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        # A read and a write of one address never meet: that needs an empty memory (no read) or a
        # full one (no write).
        m.submodules.words = words = memory.Memory(
            shape=self._shape, depth=self._depth, init=[], attrs={"no_rw_check": 1}
        )
        write = words.write_port()
        read = words.read_port()
        stored = Signal(range(self._depth + 1))
        read_valid = Signal()
        move = Signal()
        payload = Signal(self._shape, reset_less=True)
        m.d.comb += [
            self.o.payload.eq(payload),
            self.i.ready.eq(~stored[-1]),  # the depth is a power of two
            write.en.eq(self.i.valid & self.i.ready),
            write.data.eq(self.i.payload),
            move.eq(read_valid & (~self.o.valid | self.o.ready)),
            read.en.eq((stored != 0) & (~read_valid | move)),
        ]
        if self._depth >= 2 * self.SLACK:
            m.d.comb += self.room.eq(~(stored[-1] | stored[exact_log2(self.SLACK) : -1].all()))
        m.d.sync += stored.eq(stored + write.en - read.en)
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(read.en):
            m.d.sync += [read.addr.eq(read.addr + 1), read_valid.eq(1)]
        with m.Elif(move):
            m.d.sync += read_valid.eq(0)
        with m.If(move):
            m.d.sync += [payload.eq(read.data), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


class ShortQueue(wiring.Component):
    """A few words, for bookkeeping; a word is offered the cycle after it came.

    The words lie in distributed memory, whose look-up tables are less than those of the
    multiplexers before registers, even for a single bit.

    Parameters
    ----------
    shape
        Shape of the payload.
    depth
        Words, at least 1.

    Members
    -------
    i, o
        Input and output streams. ``i.ready`` depends on registers only: a full queue takes nothing
        even in the cycle in which a word leaves.
    """

    def __init__(self, *, shape, depth: int):
        if depth < 1:
            raise ValueError(f"queue depth must be at least 1, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        # A power of two, so that addresses need no comparison to go round.
        m.submodules.words = words = memory.Memory(
            shape=self._shape, depth=1 << ceil_log2(self._depth), init=[]
        )
        write = words.write_port()
        read = words.read_port(domain="comb")
        count = Signal(range(self._depth + 1))
        push = Signal()
        pop = Signal()
        m.d.comb += [
            self.i.ready.eq(count != self._depth),
            self.o.valid.eq(count != 0),
            self.o.payload.eq(read.data),
            push.eq(self.i.valid & self.i.ready),
            pop.eq(self.o.valid & self.o.ready),
            write.en.eq(push),
            write.data.eq(self.i.payload),
        ]
        m.d.sync += count.eq(count + push - pop)
        with m.If(push):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(pop):
            m.d.sync += read.addr.eq(read.addr + 1)
        return m
