# SPDX-License-Identifier: Apache-2.0
"""The loop over output-channel blocks and pixel tiles that every part of the engine follows."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class TileCounter(wiring.Component):
    """Walks ``for block: for pixel tile`` (docs/spec.md section 6, order of work).

    Members
    -------
    blocks, out_h, tile_rows
        Loop bounds, stable while in use.
    start
        Go to block 0, tile 0 (seen in the next cycle).
    step
        Go to the next tile.
    block, row, rows
        Current block, first output row of the tile, output rows in it.
    last_tile, last
        The tile is the last of its block; of the layer.
    """

    blocks: In(16)
    out_h: In(16)
    tile_rows: In(16)
    start: In(1)
    step: In(1)
    block: Out(16)
    row: Out(16)
    rows: Out(16)
    last_tile: Out(1)
    last: Out(1)

    def elaborate(self, platform):
        m = Module()
        remaining = Signal(16)
        m.d.comb += [
            remaining.eq(self.out_h - self.row),
            self.last_tile.eq(remaining <= self.tile_rows),
            self.rows.eq(Mux(self.last_tile, remaining, self.tile_rows)),
            self.last.eq(self.last_tile & (self.block == self.blocks - 1)),
        ]
        with m.If(self.start):
            m.d.sync += [self.block.eq(0), self.row.eq(0)]
        with m.Elif(self.step):
            with m.If(self.last_tile):
                m.d.sync += [self.block.eq(self.block + 1), self.row.eq(0)]
            with m.Else():
                m.d.sync += self.row.eq(self.row + self.tile_rows)
        return m
