# SPDX-License-Identifier: Apache-2.0
"""Instruction STORE: appends activation words to the output (docs/spec.md sections 6 and 7)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.beats import BeatReader


class Store(wiring.Component):
    """Reads ``count`` words from ``src`` on and sends them as bus beats, low part first.

    Only programs compiled with tracing store maps.

    Parameters
    ----------
    lanes, bus_bits, part_bits, act_addr_bits
        Shape of activation words, bus, what is read of a word at once, and activation memory.

    Members
    -------
    start
        Begin; ``src`` and ``count`` (from 1) must be valid in this cycle.
    done
        Pulse after the last beat was sent.
    r_en, r_addr, r_part, r_ready, r_data, o_valid, o_data, room
        Reads and beats, see :class:`hiddenfold.hw.beats.BeatReader`.
    """

    def __init__(self, *, lanes: int, bus_bits: int, part_bits: int, act_addr_bits: int):
        self._beats = BeatReader(
            lanes=lanes,
            bus_bits=bus_bits,
            part_bits=part_bits,
            act_addr_bits=act_addr_bits,
            count_bits=32,
        )
        super().__init__(
            {
                "start": In(1),
                "src": In(act_addr_bits),
                "count": In(32),
                "done": Out(1),
                **self._beats.outside(),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.beats = beats = self._beats
        beats.connect_outside(m, self)
        busy = Signal()
        m.d.comb += [
            beats.start.eq(self.start),
            beats.word.eq(self.src),
            beats.words.eq(self.count),
            self.done.eq(busy & beats.done),
        ]
        with m.If(self.start):
            m.d.sync += busy.eq(1)
        with m.Elif(self.done):
            m.d.sync += busy.eq(0)
        return m
