# SPDX-License-Identifier: Apache-2.0
"""Instruction STORE: appends activation words to the output (docs/spec.md sections 6 and 7)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.actmem import READ_LATENCY


class Store(wiring.Component):
    """Reads ``count`` words from ``src`` on and sends them as bus beats, low part first.

    Holds one word: it is read when the word before has been sent, so each word takes
    ``READ_LATENCY + 1`` cycles besides its beats. Only programs compiled with tracing store maps.

    Parameters
    ----------
    lanes, bus_bits, act_addr_bits
        Shape of activation words, bus and activation memory; ``8 * lanes >= bus_bits``.

    Members
    -------
    start
        Begin; ``src`` and ``count`` (from 1) must be valid in this cycle.
    done
        Pulse after the last beat was accepted.
    act_r_en, act_r_addr, act_r_data
        Reads; data come ``READ_LATENCY`` cycles after the address.
    o
        Bus beats.
    """

    def __init__(self, *, lanes: int, bus_bits: int, act_addr_bits: int):
        if lanes * 8 % bus_bits:
            raise ValueError(
                f"a word of {lanes!r} lanes must be a whole number of beats of {bus_bits!r} bits"
            )
        self._beats = lanes * 8 // bus_bits
        super().__init__(
            {
                "start": In(1),
                "src": In(act_addr_bits),
                "count": In(32),
                "done": Out(1),
                "act_r_en": Out(1),
                "act_r_addr": Out(act_addr_bits),
                "act_r_data": In(lanes * 8),
                "o": Out(stream.Signature(bus_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left = Signal(32)
        word = Signal.like(self.act_r_data, reset_less=True)
        beat = Signal(range(self._beats))
        arriving = Signal(READ_LATENCY)
        m.d.sync += arriving.eq(arriving << 1 | self.act_r_en)
        m.d.comb += self.o.payload.eq(word.word_select(beat, len(self.o.payload)))
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [self.act_r_addr.eq(self.src), left.eq(self.count)]
                with m.If(self.start):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.act_r_en.eq(1)
                m.d.sync += [self.act_r_addr.eq(self.act_r_addr + 1), left.eq(left - 1)]
                m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += word.eq(self.act_r_data)
                with m.If(arriving[-1]):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(beat == self._beats - 1):
                        m.d.sync += beat.eq(0)
                        m.next = "READ"
                        with m.If(left == 0):
                            m.next = "END"
            with m.State("END"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
