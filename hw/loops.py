# SPDX-License-Identifier: Apache-2.0
"""The loop over output-channel blocks and pixel tiles that every part of the engine follows."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import isa

#: Members of every part that walks pixel tiles: fields of CONV, stable while in use.
LOOP_BOUNDS = {
    "blocks": In(isa.BLOCK_BITS),
    "images": In(8),
    "tile_images": In(8),
    "out_h": In(isa.MAP_BITS),
    "tile_rows": In(isa.MAP_BITS),
}


class TileCounter(wiring.Component):
    """Walks ``for block: for image group: for row tile`` (docs/spec.md section 6, order of work).

    Members
    -------
    blocks, images, tile_images, out_h, tile_rows
        Loop bounds, stable while in use; see :meth:`connect_bounds`.
    start
        Go to block 0, tile 0 (seen in the next cycle).
    step
        Go to the next pixel tile.
    block, row, rows, maps
        Current block, first output row of the tile, output rows and images in it.
    again
        The pixel tile is not the first of its block.
    last_rows, last_tile, last
        The tile holds the last rows of its images; is the last of its block; of the layer.
    """

    def __init__(self):
        super().__init__(
            {
                **LOOP_BOUNDS,
                "start": In(1),
                "step": In(1),
                "block": Out(isa.BLOCK_BITS),
                "row": Out(isa.MAP_BITS),
                "rows": Out(isa.MAP_BITS),
                "maps": Out(8),
                "again": Out(1),
                "last_rows": Out(1),
                "last_tile": Out(1),
                "last": Out(1),
            }
        )

    def connect_bounds(self, m: Module, unit) -> None:
        """Take the loop bounds from the members of the same names of ``unit``."""
        for name in LOOP_BOUNDS:
            m.d.comb += getattr(self, name).eq(getattr(unit, name))

    def elaborate(self, platform):
        m = Module()
        # From the first row of the tile and the first image of the group on.
        rows_left = Signal(isa.MAP_BITS)
        images_left = Signal(8)
        # What comes after the tile, the group and the block, minus one: negative if there is
        # nothing. So "last" is a bit of a register and no comparison.
        rows_after = Signal(signed(isa.MAP_BITS + 1))
        images_after = Signal(signed(9))
        blocks_after = Signal(signed(isa.BLOCK_BITS + 1))
        last_group = images_after[-1]
        m.d.comb += [
            self.last_rows.eq(rows_after[-1]),
            self.rows.eq(Mux(self.last_rows, rows_left, self.tile_rows)),
            self.maps.eq(Mux(last_group, images_left, self.tile_images)),
            self.last_tile.eq(self.last_rows & last_group),
            self.last.eq(self.last_tile & blocks_after[-1]),
        ]
        first_rows_after = self.out_h - self.tile_rows - 1
        first_images_after = self.images - self.tile_images - 1
        with m.If(self.start):
            m.d.sync += [
                self.block.eq(0),
                self.row.eq(0),
                rows_left.eq(self.out_h),
                images_left.eq(self.images),
                rows_after.eq(first_rows_after),
                images_after.eq(first_images_after),
                blocks_after.eq(self.blocks - 2),
                self.again.eq(0),
            ]
        with m.Elif(self.step):
            m.d.sync += [
                self.row.eq(Mux(self.last_rows, 0, self.row + self.tile_rows)),
                rows_left.eq(Mux(self.last_rows, self.out_h, rows_left - self.tile_rows)),
                rows_after.eq(Mux(self.last_rows, first_rows_after, rows_after - self.tile_rows)),
            ]
            with m.If(self.last_rows):
                m.d.sync += [
                    images_left.eq(Mux(last_group, self.images, images_left - self.tile_images)),
                    images_after.eq(
                        Mux(last_group, first_images_after, images_after - self.tile_images)
                    ),
                ]
            m.d.sync += self.again.eq(~self.last_tile)
            with m.If(self.last_tile):
                m.d.sync += [self.block.eq(self.block + 1), blocks_after.eq(blocks_after - 1)]
        return m
