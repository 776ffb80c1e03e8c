# SPDX-License-Identifier: Apache-2.0
"""How a target executes a convolution or a classifier: everything but addresses and masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from hiddenfold.gen import tiling
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import Geometry, PixelTile, Stripe
from hiddenfold.sw.operations import Classifier, Conv
from hiddenfold.sw.shapes import Execution, Shape, WeightShape

__all__ = ["ConvPlan", "map_shape", "stored_eighths"]


@dataclass(frozen=True)
class ConvPlan:
    """Numbers that the instruction and the cost model share (docs/spec.md section 6).

    `tiles` are the pixel tiles of a block.
    """

    shape: Geometry
    passes: int
    blocks: int
    in_words: int
    images: int
    tile_images: int
    tile_rows: int
    tiles: tuple[PixelTile, ...]
    gap: bool

    @staticmethod
    def make(
        execution: Execution, target: Target, images: int = 1, stripe: Stripe | None = None
    ) -> ConvPlan:
        """Plan an execution that has weights and whose rows fit the partial-sum memory.

        `stripe` tells which of its rows one instruction computes; None stands for all.
        """
        op = execution.op
        kernel, stride = (op.kernel, op.stride) if isinstance(op, Conv) else (1, 1)
        source, result = execution.in_shape, map_shape(execution)
        stripe = stripe or Stripe(0, result.height, 0, source.height, 0)
        shape = Geometry(
            kernel, stride, stripe.in_rows, source.width, stripe.rows, result.width, stripe.top
        )
        rows = tiling.tile_rows(shape.out_h, shape.out_w, target.psum_depth)
        together = tiling.tile_images(images, shape.out_h * shape.out_w, target.psum_depth)
        tiles = tiling.pixel_tiles(shape.out_h, rows, images, together)
        passes = -(-execution.in_bits // target.planes)
        in_words = -(-execution.in_shape.channels // target.lanes)
        return ConvPlan(
            shape=shape,
            passes=passes,
            blocks=-(-execution.out_shape.channels // target.rows),
            in_words=in_words,
            images=images,
            tile_images=together,
            tile_rows=rows,
            tiles=tiles,
            gap=_needs_gap(shape, tiles, passes * in_words),
        )


@lru_cache(maxsize=1024)
def _needs_gap(shape: Geometry, tiles: tuple[PixelTile, ...], repeats: int) -> bool:
    return tiling.needs_gap(shape, tiles, repeats)


def stored_eighths(shape: WeightShape, m: int, target: Target) -> int:
    """How many of 8 mask bits a program stores of a stream of which a model stores `m`.

    All of them where the hardware's view of the frozen ones would differ: it knows no channels that
    do not exist, and takes whole words of a block's stream.
    """
    if shape.in_channels % target.lanes or shape.out_channels % target.rows:
        return 8
    block = shape.kernel**2 * shape.in_channels * target.rows * m // 8
    return m if block % target.mask_bits == 0 else 8


def map_shape(execution: Execution) -> Shape:
    """The pixels that an operation computes; a classifier computes a logit map and adds it up."""
    if isinstance(execution.op, Classifier):
        return Shape(*execution.in_shape[:2], execution.out_shape.channels)
    return execution.out_shape
