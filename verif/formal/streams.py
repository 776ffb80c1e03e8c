# SPDX-License-Identifier: Apache-2.0
"""Stream components lose, double, swap and change no word, whatever their neighbours do.

One word is marked when it comes, at any time. From then on the proof knows its value and how many
words must leave before it, and asserts where in the component it is.
"""

from amaranth.hdl import Assert, Cover, Module, Mux, Signal

from hiddenfold.hw.fifo import ShortQueue, StreamFifo
from hiddenfold.hw.gearbox import Joiner, Splitter
from hiddenfold.verif.formal.prover import assert_stable, inputs, open_up

_WIDTH = 3


class _Marked:
    """The marked word: ``marked``, its ``value``, and the words ``ahead`` of it."""

    def __init__(self, m: Module, dut, held, *, limit: int):
        """``held`` is the number of words in ``dut``, at most ``limit``."""
        self.choose = Signal()  # free
        self.marked, self.value, self.ahead = Signal(), Signal(_WIDTH), Signal(range(limit + 1))
        taken = dut.i.valid & dut.i.ready
        given = dut.o.valid & dut.o.ready
        with m.If(~self.marked & self.choose & taken):
            m.d.sync += [
                self.marked.eq(1),
                self.value.eq(dut.i.payload),
                self.ahead.eq(held - given),
            ]
        with m.If(self.marked & given):
            m.d.sync += [self.marked.eq(self.ahead != 0), self.ahead.eq(self.ahead - 1)]
            with m.If(self.ahead == 0):
                m.d.comb += Assert(dut.o.payload == self.value)
        with m.If(self.marked):
            m.d.comb += Assert(self.ahead < held)
        m.d.comb += [
            Assert(held <= limit),
            Assert(~dut.o.valid | (held != 0)),
            Cover((held == limit) & self.marked & (self.ahead == limit - 1)),
            Cover(self.marked & (self.ahead == 0) & given),
        ]
        assert_stable(m, dut.o.valid, dut.o.ready, dut.o.payload)


def harness_fifo(*, depth: int = 4) -> tuple[Module, list]:
    """StreamFifo with words of 3 bits."""
    dut = StreamFifo(shape=_WIDTH, depth=depth)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    stored, read_valid = inner["stored"], inner["read_valid"]
    held = Signal(range(depth + 3))
    m.d.comb += held.eq(stored + read_valid + dut.o.valid)
    word = _Marked(m, dut, held, limit=depth + 2)
    # Where it is: output register, read stage, or memory.
    read_address, write_address = inner["read__addr"], inner["write__addr"]
    in_front = dut.o.valid + read_valid
    behind = Signal(range(depth))
    m.d.comb += [
        behind.eq(read_address + word.ahead - in_front),
        Assert(stored <= depth),
        Assert((write_address - read_address)[: len(read_address)] == stored[: len(read_address)]),
    ]
    with m.If(word.marked):
        with m.If((word.ahead == 0) & dut.o.valid):
            m.d.comb += Assert(dut.o.payload == word.value)
        with m.Elif(word.ahead < in_front):
            m.d.comb += Assert(inner.read_data("words") == word.value)
        with m.Else():
            m.d.comb += Assert(inner.word("words", behind) == word.value)
    return m, [*inputs(dut), word.choose]


def harness_queue(*, depth: int = 3) -> tuple[Module, list]:
    """ShortQueue with words of 3 bits."""
    dut = ShortQueue(shape=_WIDTH, depth=depth)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    count, read_address, write_address = inner["count"], inner["read__addr"], inner["write__addr"]
    word = _Marked(m, dut, count, limit=depth)
    place = Signal.like(read_address)
    m.d.comb += [
        place.eq(read_address + word.ahead),
        Assert(count <= depth),
        Assert((write_address - read_address)[: len(place)] == count[: len(place)]),
    ]
    with m.If(word.marked):
        m.d.comb += Assert(inner.word("words", place) == word.value)
    return m, [*inputs(dut), word.choose]


def harness_splitter(*, parts: int = 4) -> tuple[Module, list]:
    """Splitter: the parts of a word leave in order, and it is taken with the last of them."""
    dut = Splitter(in_bits=parts * _WIDTH, out_bits=_WIDTH)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    given = dut.o.valid & dut.o.ready
    count = Signal(range(parts))
    with m.If(given):
        m.d.sync += count.eq(Mux(count == parts - 1, 0, count + 1))
    with m.If(dut.o.valid):
        m.d.comb += Assert(dut.o.payload == dut.i.payload.word_select(count, _WIDTH))
    m.d.comb += [
        Assert(dut.o.valid == dut.i.valid),
        Assert(inner["part"] == count),
        Assert((dut.i.valid & dut.i.ready) == (given & (count == parts - 1))),
        Cover(dut.i.valid & dut.i.ready),
    ]
    return m, inputs(dut)


def harness_joiner(*, parts: int = 4) -> tuple[Module, list]:
    """Joiner: what leaves is the last ``parts`` words that came, each in its place, once."""
    dut = Joiner(in_bits=_WIDTH, out_bits=parts * _WIDTH)
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    taken, given = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
    count = Signal(range(parts))  # words of the next group that have come
    m.d.comb += Assert(inner["left"] == parts - 1 - count)
    with m.If(taken):
        m.d.sync += count.eq(Mux(count == parts - 1, 0, count + 1))
    whole = Signal()  # a group is complete and has not left
    with m.If(taken & (count == parts - 1)):
        m.d.sync += whole.eq(1)
    with m.Elif(given):
        m.d.sync += whole.eq(0)
    m.d.comb += [
        Assert(dut.o.valid == whole),
        Assert((dut.i.ready == 0) == (whole & ~dut.o.ready)),
        Cover(given & taken),
    ]
    for place in range(parts):
        word = Signal(_WIDTH, name=f"word{place}")
        with m.If(taken & (count == place)):
            m.d.sync += word.eq(dut.i.payload)
        with m.If(whole):
            # A new group begins to come only when the old one leaves.
            m.d.comb += Assert(count == 0)
            m.d.comb += Assert(dut.o.payload.word_select(place, _WIDTH) == word)
        with m.Elif(count > place):
            at = (parts - count + place)[: len(count)]
            m.d.comb += Assert(dut.o.payload.word_select(at, _WIDTH) == word)
    assert_stable(m, dut.o.valid, dut.o.ready, dut.o.payload)
    return m, inputs(dut)
