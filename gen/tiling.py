# SPDX-License-Identifier: Apache-2.0
"""How a convolution is cut into pieces: pixel tiles, rectangles, mask tiles (spec section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiddenfold.hw import isa
from hiddenfold.sw import frozen
from hiddenfold.sw.signs import tap_order

__all__ = [
    "Geometry",
    "PixelTile",
    "Rectangle",
    "Stripe",
    "mask_words",
    "needs_gap",
    "pixel_tiles",
    "rectangles",
    "tile_images",
    "tile_rows",
]


class Geometry(NamedTuple):
    """Window and maps of a convolution."""

    kernel: int
    stride: int
    in_h: int
    in_w: int
    out_h: int
    out_w: int
    #: Input rows above the centre of the first output row, of a stripe from within a map.
    top: int = 0


class Stripe(NamedTuple):
    """Rows `first` and on of a map and the input rows that they are computed from.

    `top` of the input rows lie above the one at the centre of the first output row.
    """

    first: int
    rows: int
    in_first: int
    in_rows: int
    top: int


class PixelTile(NamedTuple):
    """Output rows from `first_row` on of `images` images, whose sums are built up together."""

    first_row: int
    rows: int
    images: int


class Rectangle(NamedTuple):
    """Output pixels that a tap reaches in each image of a pixel tile.

    Columns `x0 <= x < x1`, rows `y0 <= y < y1` counted within the tile.
    """

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def pixels(self) -> int:
        """Number of pixels; 0 when the tap reaches nothing but padding."""
        return max(0, self.y1 - self.y0) * max(0, self.x1 - self.x0)


def tile_rows(out_h: int, out_w: int, depth: int) -> int:
    """Rows of a pixel tile: the fewest tiles that fit `depth` pixels, as even as they can be.

    0 when not even one row fits.
    """
    most = depth // out_w
    if most == 0:
        return 0
    tiles = -(-out_h // most)
    return -(-out_h // tiles)


def tile_images(images: int, map_pixels: int, depth: int) -> int:
    """Images of a pixel tile: the fewest groups of whole maps that fit, as even as they can be."""
    most = max(1, depth // map_pixels)
    groups = -(-images // most)
    return -(-images // groups)


def pixel_tiles(out_h: int, rows: int, images: int, together: int) -> tuple[PixelTile, ...]:
    """The pixel tiles of a block in order, of `rows` rows of `together` images each."""
    return tuple(
        PixelTile(row, min(rows, out_h - row), min(together, images - image))
        for image in range(0, images, together)
        for row in range(0, out_h, rows)
    )


def rectangles(shape: Geometry, first_row: int, rows: int) -> list[Rectangle]:
    """What each tap, in stored order, reaches of the pixel tile of `rows` rows from `first_row`."""
    result = []
    centre = (shape.kernel - 1) // 2
    for tap in tap_order(shape.kernel):
        y0, y1 = _span(
            tap // shape.kernel - centre + shape.top, shape.stride, shape.in_h, shape.out_h
        )
        x0, x1 = _span(tap % shape.kernel - centre, shape.stride, shape.in_w, shape.out_w)
        result.append(
            Rectangle(max(y0 - first_row, 0), min(y1 - first_row, rows), x0, x1),
        )
    return result


def _span(offset: int, stride: int, in_size: int, out_size: int) -> tuple[int, int]:
    """Output positions `p` from start to end with `0 <= p*stride + offset < in_size`."""
    start = max(0, -(offset // stride))
    end = min(out_size, (in_size - 1 - offset) // stride + 1)
    return start, end


def needs_gap(shape: Geometry, tiles: Sequence[PixelTile], repeats: int) -> bool:
    """Whether a pixel can come twice within `isa.PIXEL_SPACING` cycles in any of the pixel tiles.

    Each rectangle is passed `repeats` times (lane words x bit-plane passes) before the next one,
    each time for all images, one pixel a cycle, without a pause.
    """
    return any(
        _too_close(rectangles(shape, tile.first_row, tile.rows), tile.images, repeats)
        for tile in set(tiles)
    )


def _too_close(taps: list[Rectangle], images: int, repeats: int) -> bool:
    """`needs_gap` for one pixel tile."""
    for i, earlier in enumerate(taps):
        if not earlier.pixels:
            continue
        if repeats > 1 and images * earlier.pixels < isa.PIXEL_SPACING:
            return True
        between = 0
        for later in taps[i + 1 :]:
            if between >= isa.PIXEL_SPACING:
                break
            distance = _distance(earlier, later, images)
            if distance is not None and distance + between < isa.PIXEL_SPACING:
                return True
            between += images * later.pixels * repeats
    return False


def _distance(a: Rectangle, b: Rectangle, images: int) -> int | None:
    """Fewest cycles between the same pixel in `a` and in `b` right behind it; None: no such pixel.

    The distance is linear in image and y and does not depend on x, so that of the first or last
    image in the first or last common row is the smallest.
    """
    x = max(a.x0, b.x0)
    top, bottom = max(a.y0, b.y0), min(a.y1, b.y1) - 1
    if x >= min(a.x1, b.x1) or top > bottom:
        return None

    def position(box: Rectangle, image: int, y: int) -> int:
        return image * box.pixels + (y - box.y0) * (box.x1 - box.x0) + x - box.x0

    return min(
        images * a.pixels - position(a, image, y) + position(b, image, y)
        for image in (0, images - 1)
        for y in (top, bottom)
    )


def mask_words(
    groups: NDArray[np.uint8], channels: int, rows: int, lanes: int, stored: int = 8
) -> NDArray[np.uint64]:
    """Mask stream of a layer as uint64[blocks, words].

    `groups`, uint8[Cout, taps, 8 * CW], holds `stored` mask bits of each group of 8 channels in its
    low bits: a mask's bytes, or those of `frozen.rotated`.
    """
    outputs, taps, _ = groups.shape
    blocks, lane_words = -(-outputs // rows), -(-channels // lanes)
    # A lane word is a whole number of groups, so tiles are cut and turned without unpacking bits.
    padded = np.zeros((blocks * rows, taps, lane_words * lanes // 8), dtype=np.uint8)
    padded[:outputs] = groups[:, :, : padded.shape[2]]
    tiles = padded.reshape(blocks, rows, taps, lane_words, lanes // 8).transpose(0, 2, 3, 1, 4)
    packed = frozen.pack(tiles, stored).reshape(blocks, -1)
    return packed.view("<u8").astype(np.uint64)
