# SPDX-License-Identifier: Apache-2.0
"""Running signature of a stream of words (docs/spec.md section 6) and the leap as hardware."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import lfsr


def leap(state: Value) -> Value:
    """Return the LFSR state 64 bits after ``state``, as a combinational expression."""
    return Cat(*lfsr.next_bits(list(state)))


class Signature(wiring.Component):
    """``value = leap(value) ^ word`` for each of ``words`` 64-bit words a cycle, low word first.

    Members
    -------
    clear
        Start anew; a word in the same cycle is ignored.
    en, data
        Take ``words`` words.
    value
        Signature of the words taken until the cycle before.
    """

    def __init__(self, *, words: int = 1):
        super().__init__(
            {"clear": In(1), "en": In(1), "data": In(64 * words), "value": Out(64, init=-1)}
        )

    def elaborate(self, platform):
        m = Module()
        value = self.value
        for word in range(0, len(self.data), 64):
            following = Signal(64, name=f"after{word // 64}")
            m.d.comb += following.eq(leap(value) ^ self.data[word : word + 64])
            value = following
        with m.If(self.clear):
            m.d.sync += self.value.eq(self.value.init)
        with m.Elif(self.en):
            m.d.sync += self.value.eq(value)
        return m
