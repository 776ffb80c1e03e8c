# SPDX-License-Identifier: Apache-2.0
"""Expands partly frozen masks (docs/spec.md section 2.1)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Channels of a group, and values of the instruction's field ``free``: 8, 4, 2 or 1 of them stored.
GROUP = 8
FREE_VALUES = 4


class GroupExpander(wiring.Component):
    """The mask bits of 8 neighbouring channels. Combinational.

    Members
    -------
    free
        Of the mask bits, ``m = 8 >> free`` are stored; with 0 all are.
    stored
        Bit ``j`` is the mask bit of the free channel ``j``; bits from ``m`` on are 0.
    sign, freeze
        The group's bytes of the sign word and of the freeze word.
    mask
        The mask bits in the order of the channels.
    """

    def __init__(self):
        super().__init__(
            {
                "free": In(range(FREE_VALUES)),
                "stored": In(GROUP),
                "sign": In(GROUP),
                "freeze": In(GROUP),
                "mask": Out(GROUP),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rotation = Signal(3)
        m.d.comb += rotation.eq(Mux(self.free == 0, 0, (self.sign ^ self.freeze)[:3]))
        stored = self.stored
        # The low m bits, rotated along: where a stored bit belongs.
        mine = Signal(GROUP)
        with m.Switch(self.free):
            for free in range(FREE_VALUES):
                with m.Case(free):
                    m.d.comb += mine.eq((1 << (GROUP >> free)) - 1)
        for bit in range(3):
            stored = Mux(rotation[bit], stored.rotate_left(1 << bit), stored)
            mine = Mux(rotation[bit], mine.rotate_left(1 << bit), mine)
        m.d.comb += self.mask.eq((stored & mine) | (self.freeze & ~mine))
        return m


class Expander(wiring.Component):
    """The mask bits of ``width`` channels from their stored bits. Combinational.

    Members
    -------
    free
        As in :class:`GroupExpander`.
    stored
        The groups' stored bits without gaps, the first group's lowest; the bits above are ignored.
    sign, freeze
        Bits of the sign words and of the freeze words.
    mask
        Mask bits.
    """

    def __init__(self, *, width: int):
        self._groups = width // GROUP
        super().__init__(
            {
                "free": In(range(FREE_VALUES)),
                "stored": In(width),
                "sign": In(width),
                "freeze": In(width),
                "mask": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        for number in range(self._groups):
            group = GroupExpander()
            m.submodules[f"group{number}"] = group
            with m.Switch(self.free):
                for free in range(FREE_VALUES):
                    with m.Case(free):
                        m.d.comb += group.stored.eq(self.stored.word_select(number, GROUP >> free))
            m.d.comb += [
                group.free.eq(self.free),
                group.sign.eq(self.sign.word_select(number, GROUP)),
                group.freeze.eq(self.freeze.word_select(number, GROUP)),
                self.mask.word_select(number, GROUP).eq(group.mask),
            ]
        return m
