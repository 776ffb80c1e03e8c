# SPDX-License-Identifier: Apache-2.0
"""Masked multiply-accumulate array: rows x lanes ternary weights on bit-planes of activations."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.array_ecp5 import Ecp5Row
from hiddenfold.hw.array_row import (
    GROUP,
    LATENCY,
    ArrayRow,
    PortableRow,
    partial_bits,
    register,
    tree,
)
from hiddenfold.hw.array_xc7 import Xc7Row

__all__ = ["MAPPINGS", "MaskedArray", "partial_bits", "row_class"]

#: Rows of vendor cells by device family; for 8 planes only.
MAPPINGS: dict[str, type[ArrayRow]] = {"ecp5": Ecp5Row, "xc7": Xc7Row}


def row_class(family: str, planes: int) -> type[ArrayRow]:
    """Return the kind of row for a device family; without a mapping the portable one."""
    return MAPPINGS.get(family, PortableRow) if planes == 8 else PortableRow


class MaskedArray(wiring.Component):
    """Per row: ``partial = sum over lanes of weight * plane value``, shifted to its pass.

    With ``m`` the mask and ``n`` the negative bit of a lane and ``x`` the activation's bits of
    this pass (``planes`` wide), the array adds ``(x and m) xor n``; a negative lane so contributes
    ``2^planes - 1 - x``, and the constant ``(2^planes - 1) * popcount(n)`` is subtracted once a
    row. One adder tree a row is enough for ternary weights, without a sign extension in it.

    Two tiles of codes exist: the *shadow*, loaded some rows at a time, and the *active* one.
    ``swap`` copies shadow to active; the next shadow's first rows may come in the same cycle.

    The attribute ``family`` of ``platform`` chooses the cells that rows are made of
    (:data:`MAPPINGS`). All kinds of rows have the same latency.

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
        ``negative`` is a subset of ``mask``.
    swap
        In the cycle of the first ``data`` of the new tile: that data and all later ones see it.
    data, pass_
        Activation word; number of the pass (planes ``pass_ * planes`` and up).
    partial
        ``rows`` signed numbers of ``partial_bits(lanes)`` bits, ``LATENCY`` cycles after ``data``.
    """

    LATENCY = LATENCY

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
        lanes, planes = self._lanes, self._planes
        kind = row_class(getattr(platform, "family", "sim"), planes)
        rows = [kind(lanes=lanes, planes=planes) for _ in range(self._rows)]
        like = rows[0]

        # Cycle 0: the planes of this pass. Then lanes and controls to their stages.
        bytes_ = [self.data.word_select(lane, 8) for lane in range(lanes)]
        values = [byte.word_select(self.pass_, planes) for byte in bytes_]
        shared = {"pass_": register(m, self.pass_, "pass")}
        for stage in range(like.stages):
            mine = like.lanes_of(stage)
            shared[f"x{stage}"] = register(m, Cat(values[k] for k in mine), "x", stage + 1)
            shared[f"swap{stage}"] = register(m, self.swap, "swap", stage)
        codes = [self._codes(m, like, part) for part in range(self._load_rows)]

        width = partial_bits(lanes)
        for number, row in enumerate(rows):
            m.submodules[f"row{number}"] = row
            group, part = divmod(number, self._load_rows)
            if part == 0:
                load = self.load & (self.group == group)
                for stage in range(like.stages):
                    shared[f"load{stage}"] = register(m, load, f"load{group}", stage)
            inputs = shared | codes[part]
            m.d.comb += [getattr(row, name).eq(value) for name, value in inputs.items()]
            m.d.comb += self.partial.word_select(number, width).eq(row.partial)
        return m

    def _codes(self, m: Module, like: ArrayRow, part: int) -> dict:
        """Return the codes for row ``part`` of each group, by the names of a row's inputs."""
        mask = self.mask.word_select(part, self._lanes)
        negative = self.negative.word_select(part, self._lanes)
        codes = {}
        for stage in range(like.stages):
            for name, value in (("mask", mask), ("negative", negative)):
                mine = Cat(value[lane] for lane in like.lanes_of(stage))
                codes[f"{name}{stage}"] = register(m, mine, f"{name}{part}", stage)
        # The popcount of the negative lanes takes a cycle on its way.
        counts = [
            register(m, tree(negative[start : start + GROUP]), f"count{start // GROUP}")
            for start in range(0, self._lanes, GROUP)
        ]
        count = Signal(range(self._lanes + 1))
        m.d.comb += count.eq(tree(counts))
        correction = like.to_correction(count)
        codes["correction"] = register(m, correction, "correction", like.correction_stage - 1)
        return codes
