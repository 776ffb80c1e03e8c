# SPDX-License-Identifier: Apache-2.0
"""Reads words of the activation memory as beats of the bus."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw.actmem import READ_LATENCY

#: Members that whoever uses a :class:`BeatReader` has as its own.
_OUTSIDE = ("r_en", "r_addr", "r_part", "r_ready", "r_data", "o_valid", "o_data", "room")


class BeatReader(wiring.Component):
    """Reads words by the parts that hold a beat each, low part first, one a cycle.

    Nothing holds a beat that has been read, so ``room`` is for all that may be on their way.

    Parameters
    ----------
    lanes, bus_bits, part_bits, act_addr_bits
        Shape of activation words, bus, what is read of a word at once, and activation memory;
        ``8 * lanes >= part_bits >= bus_bits``.
    count_bits
        Width of ``words``.

    Members
    -------
    start, word, words
        Read ``words`` (from 1) words from ``word`` on. Only when ``done``.
    done
        All beats have been sent.
    r_en, r_addr, r_part, r_ready, r_data
        Reads; one is made in a cycle with ``r_en`` and ``r_ready``. Data come ``READ_LATENCY``
        cycles later.
    o_valid, o_data
        Beats; they are taken. ``o_data`` is 0 or of no interest in other cycles.
    room
        At least ``READ_LATENCY + 1`` more beats are taken.
    """

    def __init__(
        self, *, lanes: int, bus_bits: int, part_bits: int, act_addr_bits: int, count_bits: int
    ):
        if not 8 * lanes >= part_bits >= bus_bits:
            raise ValueError(
                f"part bits must be from {bus_bits!r}, the bus bits, to {8 * lanes!r}, a word's, "
                f"not {part_bits!r}"
            )
        self._beats = lanes * 8 // bus_bits
        super().__init__(
            {
                "start": In(1),
                "word": In(act_addr_bits),
                "words": In(count_bits),
                "done": Out(1),
                "r_en": Out(1),
                "r_addr": Out(act_addr_bits),
                "r_part": Out(range(lanes * 8 // part_bits)),
                "r_ready": In(1),
                "r_data": In(part_bits),
                "o_valid": Out(1),
                "o_data": Out(bus_bits),
                "room": In(1),
            }
        )

    def outside(self) -> dict:
        """Return the members that its user has, too."""
        return {name: self.signature.members[name] for name in _OUTSIDE}

    def connect_outside(self, m: Module, user) -> None:
        """Connect these members to those of the user."""
        for name, member in self.outside().items():
            inner, outer = getattr(self, name), getattr(user, name)
            m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)

    def elaborate(self, platform):
        m = Module()
        bus_bits = len(self.o_data)
        beat = Signal(range(self._beats))
        shared = exact_log2(len(self.r_data) // bus_bits)  # bits of the beat in a part
        # Words after this one, and whether there is none: the sign.
        left = Signal(signed(len(self.words) + 1), init=-1)
        arriving = Signal(READ_LATENCY)
        read = Signal()
        place = [beat[:shared]]
        for age in range(1, READ_LATENCY + 1):
            place.append(Signal(shared, name=f"place{age}", reset_less=True))
            m.d.sync += place[age].eq(place[age - 1])
        m.d.sync += arriving.eq(Cat(read, arriving))
        m.d.comb += [
            self.r_en.eq(~left[-1] & self.room),
            self.r_part.eq(beat[shared:]),
            read.eq(self.r_en & self.r_ready),
            self.o_valid.eq(arriving[-1]),
            self.o_data.eq(self.r_data.word_select(place[-1], bus_bits)),
            self.done.eq(left[-1] & ~arriving.any()),
        ]
        with m.If(read):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == self._beats - 1):
                m.d.sync += [beat.eq(0), self.r_addr.eq(self.r_addr + 1), left.eq(left - 1)]
        with m.If(self.start):
            m.d.sync += [self.r_addr.eq(self.word), left.eq(self.words - 1)]
        return m
