# SPDX-License-Identifier: Apache-2.0
"""LOAD and SAVE: words between activation memory and external memory, beside the units' work.

Both directions run at the same time, each in order. The units go first: a word is written or read
only in a cycle in which no unit needs the port.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from hiddenfold.hw.axi import COMMAND
from hiddenfold.hw.beats import BeatReader
from hiddenfold.hw.fifo import ShortQueue
from hiddenfold.hw.gearbox import Joiner

#: Transfers of one kind that wait or run: what a fence can tell apart.
DEPTH = 3


def transfer_layout(act_addr_bits: int) -> data.StructLayout:
    """Return the layout of a transfer: ``words`` from activation word ``word``, byte ``address``.

    ``address`` has a bit more than a bus address, so that a sum that does not fit shows.
    """
    return data.StructLayout({"word": act_addr_bits, "words": act_addr_bits + 1, "address": 33})


class Load(wiring.Component):
    """Reads words from external memory and writes them to activation memory.

    Parameters
    ----------
    lanes, bus_bits, part_bits, act_addr_bits
        Shape of activation words, bus, what is written of a word at once, and activation memory;
        ``8 * lanes >= part_bits >= bus_bits``.

    Members
    -------
    i
        Transfers; taken while fewer than ``DEPTH`` are unfinished.
    unfinished
        Transfers taken whose last word has not been written.
    cmd, data
        Port of the read channel.
    w_en, w_addr, w_part, w_data, w_ready
        Writes of parts of words; one is made in a cycle with ``w_en`` and ``w_ready``.
    """

    def __init__(self, *, lanes: int, bus_bits: int, part_bits: int, act_addr_bits: int):
        self._beats = lanes * 8 // bus_bits
        self._parts = lanes * 8 // part_bits
        self._layout = transfer_layout(act_addr_bits)
        super().__init__(
            {
                "i": In(stream.Signature(self._layout)),
                "unfinished": Out(range(DEPTH + 1)),
                "cmd": Out(stream.Signature(COMMAND)),
                "data": In(stream.Signature(bus_bits)),
                "w_en": Out(1),
                "w_addr": Out(act_addr_bits),
                "w_part": Out(range(self._parts)),
                "w_data": Out(part_bits),
                "w_ready": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # A transfer waits in both queues: its data may be asked for while those before arrive. The
        # second queue has the number of its last word.
        m.submodules.asking = asking = ShortQueue(shape=COMMAND, depth=DEPTH)
        m.submodules.arriving = arriving = ShortQueue(shape=self._layout, depth=DEPTH)
        connect(m, asking.o, flipped(self.cmd))
        push, done = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(asking.i.ready & arriving.i.ready & (self.unfinished != DEPTH)),
            push.eq(self.i.valid & self.i.ready),
            asking.i.valid.eq(push),
            asking.i.p.address.eq(self.i.p.address),
            asking.i.p.beats.eq(self.i.p.words << exact_log2(self._beats)),
            arriving.i.valid.eq(push),
            arriving.i.payload.eq(self.i.payload),
            arriving.i.p.words.eq(self.i.p.words - 1),
        ]
        m.d.sync += self.unfinished.eq(self.unfinished + push - done)

        # Part ``w_part`` of word number ``word`` of the transfer.
        m.submodules.joiner = joiner = Joiner(
            in_bits=len(self.data.payload), out_bits=len(self.w_data)
        )
        connect(m, flipped(self.data), joiner.i)
        word = Signal(len(self.i.p.words))
        last_part, last_word = Signal(), Signal()
        write = Signal()
        m.d.comb += [
            self.w_en.eq(joiner.o.valid),
            self.w_data.eq(joiner.o.payload),
            joiner.o.ready.eq(self.w_ready),
            last_part.eq(self.w_part == self._parts - 1),
            last_word.eq(word == arriving.o.p.words),
            write.eq(self.w_en & self.w_ready),
            self.w_addr.eq(arriving.o.p.word + word),
            done.eq(write & last_word & last_part),
            arriving.o.ready.eq(done),
        ]
        with m.If(write):
            m.d.sync += self.w_part.eq(self.w_part + 1)  # a power of two
            with m.If(last_part):
                m.d.sync += word.eq(Mux(last_word, 0, word + 1))
        return m


class Save(wiring.Component):
    """Reads words from activation memory and writes them to external memory.

    Parameters
    ----------
    lanes, bus_bits, part_bits, act_addr_bits
        Shape of activation words, bus, what is read of a word at once, and activation memory.

    Members
    -------
    i
        Transfers; taken while fewer than ``DEPTH`` are unfinished.
    unfinished
        Transfers taken of which the memory has not acknowledged every beat.
    start, address, o_valid, o_data, room, flush, idle
        To a :class:`hiddenfold.hw.axi_write.WriteChannel`.
    r_en, r_addr, r_part, r_ready, r_data
        Reads, see :class:`hiddenfold.hw.beats.BeatReader`.
    """

    def __init__(self, *, lanes: int, bus_bits: int, part_bits: int, act_addr_bits: int):
        self._layout = transfer_layout(act_addr_bits)
        self._beats = BeatReader(
            lanes=lanes,
            bus_bits=bus_bits,
            part_bits=part_bits,
            act_addr_bits=act_addr_bits,
            count_bits=act_addr_bits + 1,
        )
        super().__init__(
            {
                "i": In(stream.Signature(self._layout)),
                "unfinished": Out(range(DEPTH + 1)),
                "start": Out(1),
                "address": Out(33),
                "flush": Out(1),
                "idle": In(1),
                **self._beats.outside(),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = ShortQueue(shape=self._layout, depth=DEPTH)
        m.submodules.beats = beats = self._beats
        beats.connect_outside(m, self)
        push, done = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(queue.i.ready & (self.unfinished != DEPTH)),
            push.eq(self.i.valid & self.i.ready),
            queue.i.valid.eq(push),
            queue.i.payload.eq(self.i.payload),
            queue.o.ready.eq(done),
            self.address.eq(queue.o.p.address),
            beats.start.eq(self.start),
            beats.word.eq(queue.o.p.word),
            beats.words.eq(queue.o.p.words),
        ]
        m.d.sync += self.unfinished.eq(self.unfinished + push - done)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(queue.o.valid & self.idle):
                    m.d.comb += self.start.eq(1)
                    m.next = "SEND"
            with m.State("SEND"):
                with m.If(beats.done):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += self.flush.eq(1)
                with m.If(self.idle):
                    m.d.comb += done.eq(1)
                    m.next = "IDLE"
        return m
