# SPDX-License-Identifier: Apache-2.0
"""Masked multiply-accumulate array: rows x lanes ternary weights on bit-planes of activations."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

#: Lanes that are added before the first pipeline register.
GROUP = 8


def partial_bits(lanes: int) -> int:
    """Return the width of a signed row sum over all 8 planes."""
    return ceil_log2(lanes * 255 + 1) + 1


def tree(terms):
    """Return the sum of the unsigned terms as a balanced tree of adders."""
    terms = list(terms)
    while len(terms) > 1:
        pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(pairs) * 2 :]
    return terms[0]


class ArrayRow(wiring.Component):
    """One row of :class:`MaskedArray`; a module of its own, so that tools compile it once.

    Members
    -------
    load, mask, negative
        Write the shadow codes.
    swap
        Copy shadow to active.
    x
        ``lanes`` values of ``planes`` bits, in cycle 1 of the array's pipeline.
    pass_
        Pass of the values that came in the cycle before.
    partial
        Signed row sum, in cycle 3.
    """

    def __init__(self, *, lanes: int, planes: int):
        self._lanes = lanes
        self._planes = planes
        super().__init__(
            {
                "load": In(1),
                "mask": In(lanes),
                "negative": In(lanes),
                "swap": In(1),
                "x": In(lanes * planes),
                "pass_": In(3),
                "partial": Out(partial_bits(lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, planes = self._lanes, self._planes
        shadow_mask, shadow_negative = Signal(lanes), Signal(lanes)
        mask, negative = Signal(lanes), Signal(lanes)
        shadow_count, count, count1 = (
            Signal(range(lanes + 1), name=name) for name in ("shadow_count", "count", "count1")
        )
        with m.If(self.load):
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
        groups = []
        for start in range(0, lanes, GROUP):
            total = tree(
                (self.x.word_select(lane, planes) & mask[lane].replicate(planes))
                ^ negative[lane].replicate(planes)
                for lane in range(start, min(start + GROUP, lanes))
            )
            group = Signal(len(total), name=f"group{start // GROUP}")
            m.d.sync += group.eq(total)
            groups.append(group)

        # Cycle 2: row sum, correction, weight of the planes.
        exact = Signal(signed(len(self.partial)))
        m.d.comb += exact.eq(tree(groups) - ((count1 << planes) - count1))
        shifted = exact
        for bit in range((8 // planes - 1).bit_length()):
            shifted = Mux(self.pass_[bit], shifted << (planes << bit), shifted)
        m.d.sync += self.partial.eq(shifted)
        return m


class MaskedArray(wiring.Component):
    """Per row: ``partial = sum over lanes of weight * plane value``, shifted to its pass.

    With ``m`` the mask and ``n`` the negative bit of a lane and ``x`` the activation's bits of
    this pass (``planes`` wide), the array adds ``(x and m) xor n``; a negative lane so contributes
    ``2^planes - 1 - x``, and the constant ``(2^planes - 1) * popcount(n)`` is subtracted once a
    row. One adder tree a row is enough for ternary weights, without a sign extension in it.

    Two tiles of codes exist: the *shadow*, loaded some rows at a time, and the *active* one.
    ``swap`` copies shadow to active; the next shadow's first rows may come in the same cycle.

    Pipeline, with ``data`` valid in cycle 0: cycle 0 select planes; 1 lane terms and group sums;
    2 row sums, correction, shift; 3 ``partial`` valid.

    Parameters
    ----------
    rows, lanes, planes
        Shape of the array.
    load_rows
        Rows of the shadow tile that are written at a time; it divides ``rows``.

    Members
    -------
    load, group, mask, negative
        Write rows ``group * load_rows`` and up of the shadow tile, the first in the lowest bits.
    swap
        In the cycle of the first ``data`` of the new tile: that data and all later ones see it.
    data, pass_
        Activation word; number of the pass (planes ``pass_ * planes`` and up).
    partial
        ``rows`` signed numbers of ``partial_bits(lanes)`` bits, ``LATENCY`` cycles after ``data``.
    """

    LATENCY = 3

    def __init__(self, *, rows: int, lanes: int, planes: int, load_rows: int = 1):
        self._rows = rows
        self._lanes = lanes
        self._planes = planes
        self._load_rows = load_rows
        super().__init__(
            {
                "load": In(1),
                "group": In(range(rows // load_rows)),
                "mask": In(lanes * load_rows),
                "negative": In(lanes * load_rows),
                "swap": In(1),
                "data": In(lanes * 8),
                "pass_": In(3),
                "partial": Out(rows * partial_bits(lanes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        planes = self._planes
        # Cycle 0: the planes of this pass, register.
        x = Signal(self._lanes * planes)
        bytes_ = [self.data.word_select(lane, 8) for lane in range(self._lanes)]
        m.d.sync += x.eq(Cat(*(byte.word_select(self.pass_, planes) for byte in bytes_)))
        pass1, pass2 = Signal(3), Signal(3)
        m.d.sync += [pass1.eq(self.pass_), pass2.eq(pass1)]

        width = partial_bits(self._lanes)
        for number in range(self._rows):
            row = ArrayRow(lanes=self._lanes, planes=planes)
            m.submodules[f"row{number}"] = row
            group, part = divmod(number, self._load_rows)
            m.d.comb += [
                row.load.eq(self.load & (self.group == group)),
                row.mask.eq(self.mask.word_select(part, self._lanes)),
                row.negative.eq(self.negative.word_select(part, self._lanes)),
                row.swap.eq(self.swap),
                row.x.eq(x),
                row.pass_.eq(pass2),
                self.partial.word_select(number, width).eq(row.partial),
            ]
        return m
