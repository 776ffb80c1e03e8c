# SPDX-License-Identifier: Apache-2.0
"""TileCounter walks exactly the loops of docs/spec.md section 6, for any bounds."""

from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal

from hiddenfold.hw.loops import LOOP_BOUNDS, TileCounter
from hiddenfold.verif.formal.prover import before, inputs, open_up


def harness() -> tuple[Module, list]:
    """TileCounter against three nested loops; bounds that FieldCheck lets pass, stable in use."""
    dut = TileCounter()
    m = Module()
    m.submodules.dut, inner = open_up(dut)
    first = before(m, 0, init=1)
    m.d.comb += Assume(~dut.step | ~first)
    running = Signal()
    over = Signal()  # the last tile of the layer was left
    with m.If(dut.start):
        m.d.sync += [running.eq(1), over.eq(0)]
    with m.Elif(dut.step & dut.last):
        m.d.sync += over.eq(1)
    for name in LOOP_BOUNDS:
        bound = getattr(dut, name)
        m.d.comb += Assume(bound != 0)
        m.d.comb += Assume(bound < 1 << min(len(bound), 12))
        with m.If(before(m, dut.start) | running):
            m.d.comb += Assume(first | dut.start | (bound == before(m, bound)))

    # The loops as they are written in the specification.
    block, group, row = Signal.like(dut.block), Signal(16), Signal(16)
    next_row = row + dut.tile_rows
    next_group = group + dut.tile_images
    with m.If(dut.start):
        m.d.sync += [block.eq(0), group.eq(0), row.eq(0)]
    with m.Elif(dut.step):
        m.d.sync += row.eq(next_row)
        with m.If(next_row >= dut.out_h):
            m.d.sync += [row.eq(0), group.eq(next_group)]
            with m.If(next_group >= dut.images):
                m.d.sync += [group.eq(0), block.eq(block + 1)]
    with m.If(running & ~dut.start):
        m.d.comb += [
            Assert(row < dut.out_h),
            Assert(group < dut.images),
            Assert(dut.row == row),
            Assert(inner["rows_left"] == dut.out_h - row),
            Assert(inner["images_left"] == dut.images - group),
            Assert(inner["rows_after"] == dut.out_h - next_row - 1),
            Assert(inner["images_after"] == dut.images - next_group - 1),
            Assert(dut.block == block),
            Assert(dut.rows == Mux(next_row >= dut.out_h, dut.out_h - row, dut.tile_rows)),
            Assert(dut.maps == Mux(next_group >= dut.images, dut.images - group, dut.tile_images)),
            Assert(dut.again == ((row != 0) | (group != 0))),
            Assert(dut.last_rows == (next_row >= dut.out_h)),
            Assert(dut.last_tile == ((next_row >= dut.out_h) & (next_group >= dut.images))),
        ]
    with m.If(running & ~dut.start & ~over):
        m.d.comb += [
            Assert(block < dut.blocks),
            Assert(inner["blocks_after"] == dut.blocks - block - 2),
            Assert(dut.last == (dut.last_tile & (block == dut.blocks - 1))),
        ]
    m.d.comb += [
        Cover(running & ~dut.start & dut.last & dut.again & (block == 1)),
        Cover(running & ~dut.start & (group != 0) & (row != 0)),
    ]
    return m, inputs(dut)
