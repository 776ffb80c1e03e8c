# SPDX-License-Identifier: Apache-2.0
"""Reads from a serial NOR flash (W25Q, IS25LP and alike), and lets a host send it commands.

Clock mode 0: the flash takes bits at the rising edge of its clock and changes its own at the
falling edge. The clock runs at half the system clock or less.
"""

from typing import NamedTuple

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

ADDRESS_BITS = 24
#: Clock periods of a command and its address.
_COMMAND_BITS = 8 + ADDRESS_BITS
#: A read: so many words from a byte address, which is a multiple of the word.
REQUEST = data.StructLayout({"address": ADDRESS_BITS, "words": 9})
#: The upper ``bits`` bits of a word, to send as they are.
RAW = data.StructLayout({"word": 32, "bits": 6})


class ReadMode(NamedTuple):
    """A read command: its code, dummy clock periods, data bits per period."""

    code: int
    dummy: int
    width: int


MODES = {
    "single": ReadMode(0x03, 0, 1),
    "fast": ReadMode(0x0B, 8, 1),
    "quad": ReadMode(0x6B, 8, 4),
}


class Flash(wiring.Component):
    """Flash controller: streams of words out of the flash, and raw bytes for commands.

    A request that begins where the last one ended goes on without a new command: between the two
    the clock stands still, which a flash allows for any time.

    Parameters
    ----------
    word_bits
        Bits of a word, a multiple of 8; the flash's first byte is the least significant.
    mode
        Key of :data:`MODES`.
    half_period
        System clock cycles of half a period of the flash's clock.
    deselect_cycles
        Cycles for which the flash stays deselected between two commands.

    Members
    -------
    i
        Requests, :data:`REQUEST`.
    o
        Their words.
    raw_select
        A host takes the flash: it is selected once a read that has begun is over.
    raw_i
        What it sends while it has it, :data:`RAW`, most significant bit first.
    raw_o, raw_done
        The last 32 bits that came back; a pulse when they have.
    cs_n, sck, io_i, io_o, io_oe
        The flash's pins; ``io_oe`` is per bit. IO2 and IO3 are driven high in single modes.
    """

    def __init__(
        self,
        *,
        word_bits: int,
        mode: str = "quad",
        half_period: int = 1,
        deselect_cycles: int = 8,
    ):
        if mode not in MODES:
            raise ValueError(f"flash mode must be one of {', '.join(MODES)}, not {mode!r}")
        if half_period < 1 or deselect_cycles < 1:
            raise ValueError("half period and deselect time must be at least 1 cycle")
        self._mode = MODES[mode]
        self._word_bits = word_bits
        self._half_period = half_period
        self._deselect_cycles = deselect_cycles
        super().__init__(
            {
                "i": In(stream.Signature(REQUEST)),
                "o": Out(stream.Signature(word_bits)),
                "raw_select": In(1),
                "raw_i": In(stream.Signature(RAW)),
                "raw_o": Out(32),
                "raw_done": Out(1),
                "cs_n": Out(1, init=1),
                "sck": Out(1),
                "io_i": In(4),
                "io_o": Out(4, init=0b1100),
                "io_oe": Out(4, init=0b1101),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mode = self._mode
        bytes_per_word = self._word_bits // 8
        timer = Signal(range(max(self._half_period, self._deselect_cycles)))
        periods = Signal(range(max(_COMMAND_BITS + mode.dummy, self._word_bits, 32) + 1))
        shift_out = Signal(_COMMAND_BITS)
        shift_in = Signal(max(self._word_bits, 32))
        place = Signal(ADDRESS_BITS)  # of the next word
        words = Signal(9)
        stepping = Signal()  # the flash's clock runs
        sampled = Signal()  # rising edge: a bit comes
        quad = Signal()  # data come on all pins
        m.d.comb += [
            stepping.eq(periods != 0),
            sampled.eq(stepping & (timer == 0) & ~self.sck),
            self.raw_o.eq(shift_in[:32]),
        ]
        # The bit for the next rising edge is put out at the falling edge.
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(stepping):
            m.d.sync += [self.sck.eq(~self.sck), timer.eq(self._half_period - 1)]
            with m.If(self.sck):
                m.d.sync += [periods.eq(periods - 1), shift_out.eq(shift_out << 1)]
        with m.If(sampled):
            with m.If(quad):
                m.d.sync += shift_in.eq(Cat(self.io_i, shift_in))
            with m.Else():
                m.d.sync += shift_in.eq(Cat(self.io_i[1], shift_in))
        m.d.comb += [
            self.io_o.eq(Cat(shift_out[-1], C(0b110, 3))),
            self.io_oe.eq(Mux(quad, 0b0000, 0b1101)),
        ]
        # Bytes come most significant bit first.
        m.d.comb += self.o.payload.eq(
            Cat(*[shift_in[8 * i : 8 * i + 8] for i in reversed(range(bytes_per_word))])
        )
        follows = Signal()
        m.d.comb += follows.eq(self.i.payload.address == place)

        with m.FSM():
            with m.State("DESELECT"):
                m.d.sync += [self.cs_n.eq(1), quad.eq(0), timer.eq(self._deselect_cycles - 1)]
                m.next = "IDLE"
            with m.State("IDLE"):
                with m.If(timer == 0):
                    with m.If(self.raw_select):
                        m.d.sync += self.cs_n.eq(0)
                        m.next = "RAW"
                    with m.Elif(self.i.valid):
                        m.d.comb += self.i.ready.eq(1)
                        m.d.sync += [
                            self.cs_n.eq(0),
                            place.eq(self.i.payload.address),
                            words.eq(self.i.payload.words),
                            shift_out.eq(Cat(self.i.payload.address, C(mode.code, 8))),
                            periods.eq(_COMMAND_BITS + mode.dummy),
                            timer.eq(self._half_period - 1),
                        ]
                        m.next = "COMMAND"
            with m.State("COMMAND"):
                # The pins are let go in the middle of the dummy periods.
                with m.If(periods == 4):
                    m.d.sync += quad.eq(mode.width == 4)
                with m.If(~stepping):
                    m.d.sync += periods.eq(self._word_bits // mode.width)
                    m.next = "WORD"
            with m.State("WORD"):
                with m.If(~stepping):
                    m.d.comb += self.o.valid.eq(1)
                    with m.If(self.o.ready):
                        m.d.sync += [place.eq(place + bytes_per_word), words.eq(words - 1)]
                        with m.If(words == 1):
                            m.next = "PAUSE"
                        with m.Else():
                            m.d.sync += periods.eq(self._word_bits // mode.width)
            with m.State("PAUSE"):
                with m.If(self.raw_select):
                    m.next = "DESELECT"
                with m.Elif(self.i.valid & ~follows):
                    m.next = "DESELECT"
                with m.Elif(self.i.valid):
                    m.d.comb += self.i.ready.eq(1)
                    m.d.sync += [
                        words.eq(self.i.payload.words),
                        periods.eq(self._word_bits // mode.width),
                    ]
                    m.next = "WORD"
            with m.State("RAW"):
                with m.If(~stepping):
                    m.d.comb += self.raw_i.ready.eq(1)
                    with m.If(self.raw_i.valid):
                        m.d.sync += [
                            shift_out.eq(self.raw_i.payload.word),
                            periods.eq(self.raw_i.payload.bits),
                            timer.eq(self._half_period - 1),
                        ]
                        m.next = "SHIFT"
                    with m.Elif(~self.raw_select):
                        m.next = "DESELECT"
            with m.State("SHIFT"):
                with m.If(~stepping):
                    m.d.comb += self.raw_done.eq(1)
                    m.next = "RAW"
        return m
