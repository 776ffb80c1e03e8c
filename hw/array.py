# SPDX-License-Identifier: Apache-2.0
"""Masked multiply-accumulate array: rows x lanes ternary weights on bit-planes of activations."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

#: Lanes that are added before the first pipeline register.
GROUP = 8


def tree(terms):
    """Return the sum of the unsigned terms as a balanced tree of adders."""
    terms = list(terms)
    while len(terms) > 1:
        pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(pairs) * 2 :]
    return terms[0]


class MaskedArray(wiring.Component):
    """Per row: ``partial = sum over lanes of weight * plane value``, shifted to its pass.

    With ``m`` the mask and ``n`` the negative bit of a lane and ``x`` the activation's bits of
    this pass (``planes`` wide), the array adds ``(x and m) xor n``; a negative lane so contributes
    ``2^planes - 1 - x``, and the constant ``(2^planes - 1) * popcount(n)`` is subtracted once a
    row. One adder tree a row is enough for ternary weights, without a sign extension in it.

    Two tiles of codes exist: the *shadow*, loaded row by row, and the *active* one. ``swap`` copies
    shadow to active.

    Pipeline, with ``data`` valid in cycle 0: cycle 0 select planes; 1 lane terms and group sums;
    2 row sums, correction, shift; 3 ``partial`` valid.

    Members
    -------
    load, row, mask, negative
        Write a row of the shadow tile.
    swap
        In the cycle of the first ``data`` of the new tile, or up to the next: that data and all
        later ones see the new tile.
    data, pass_
        Activation word; number of the pass (planes ``pass_ * planes`` and up).
    partial
        ``rows`` signed numbers of ``partial_bits(lanes)`` bits, ``LATENCY`` cycles after ``data``.
    """

    LATENCY = 3

    def __init__(self, *, rows: int, lanes: int, planes: int):
        self._rows = rows
        self._lanes = lanes
        self._planes = planes
        super().__init__(
            {
                "load": In(1),
                "row": In(range(rows)),
                "mask": In(lanes),
                "negative": In(lanes),
                "swap": In(1),
                "data": In(lanes * 8),
                "pass_": In(3),
                "partial": Out(rows * self.partial_bits(lanes)),
            }
        )

    @staticmethod
    def partial_bits(lanes: int) -> int:
        """Return the width of a signed row sum over all 8 planes."""
        return ceil_log2(lanes * 255 + 1) + 1

    def elaborate(self, platform):
        m = Module()
        lanes, planes = self._lanes, self._planes
        passes = 8 // planes

        # Cycle 0: the planes of this pass, register.
        values = []
        for lane in range(lanes):
            value = Signal(planes, name=f"x{lane}")
            byte = self.data[lane * 8 : lane * 8 + 8]
            m.d.sync += value.eq(byte.word_select(self.pass_, planes) if passes > 1 else byte)
            values.append(value)
        pass1, pass2 = Signal(3), Signal(3)
        m.d.sync += [pass1.eq(self.pass_), pass2.eq(pass1)]

        width = self.partial_bits(lanes)
        for row in range(self._rows):
            shadow_mask = Signal(lanes, name=f"shadow_mask{row}")
            shadow_negative = Signal(lanes, name=f"shadow_negative{row}")
            shadow_count = Signal(range(lanes + 1), name=f"shadow_count{row}")
            mask = Signal(lanes, name=f"mask{row}")
            negative = Signal(lanes, name=f"negative{row}")
            count = Signal(range(lanes + 1), name=f"count{row}")
            count1 = Signal(range(lanes + 1), name=f"count_delayed{row}")
            with m.If(self.load & (self.row == row)):
                m.d.sync += [
                    shadow_mask.eq(self.mask),
                    shadow_negative.eq(self.negative),
                    shadow_count.eq(tree(self.negative)),
                ]
            with m.If(self.swap):
                m.d.sync += [
                    mask.eq(shadow_mask),
                    negative.eq(shadow_negative),
                    count.eq(shadow_count),
                ]
            m.d.sync += count1.eq(count)

            # Cycle 1: masked, conditionally inverted activations, added in groups.
            terms = [
                (value & mask[lane].replicate(planes)) ^ negative[lane].replicate(planes)
                for lane, value in enumerate(values)
            ]
            groups = []
            for start in range(0, lanes, GROUP):
                total = tree(terms[start : start + GROUP])
                group = Signal(len(total), name=f"group{row}_{start // GROUP}")
                m.d.sync += group.eq(total)
                groups.append(group)

            # Cycle 2: row sum, correction, weight of the planes.
            exact = Signal(signed(width), name=f"exact{row}")
            m.d.comb += exact.eq(tree(groups) - ((count1 << planes) - count1))
            shifted = exact
            if passes > 1:
                shifted = Mux(pass2[0], exact << planes, exact)
                for bit in range(1, (passes - 1).bit_length()):
                    shifted = Mux(pass2[bit], shifted << (planes << bit), shifted)
            m.d.sync += self.partial.word_select(row, width).eq(shifted)
        return m
