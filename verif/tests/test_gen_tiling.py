# SPDX-License-Identifier: Apache-2.0
"""Pieces of a convolution, against definitions that enumerate every pixel and every bit."""

import itertools

import numpy as np
import pytest

from hiddenfold.gen.checksum import repeated_signature, signature
from hiddenfold.gen.tiling import (
    Geometry,
    PixelTile,
    mask_words,
    needs_gap,
    pixel_tiles,
    rectangles,
    tile_images,
    tile_rows,
)
from hiddenfold.hw import isa, lfsr
from hiddenfold.sw.signs import pack

KERNELS = (1, 3, 5, 7)
SIZES = ((1, 1), (1, 9), (2, 2), (3, 5), (4, 4), (7, 2), (8, 8), (9, 16))


def geometry(kernel, stride, height, width, top=0):
    return Geometry(
        kernel,
        stride,
        height,
        width,
        (height - 1 - top) // stride + 1,
        (width - 1) // stride + 1,
        top,
    )


def taps(kernel):
    """Offsets of the taps, the centre first."""
    reach = kernel // 2
    offsets = list(itertools.product(range(-reach, reach + 1), repeat=2))
    offsets.remove((0, 0))
    return [(0, 0), *offsets]


def reached(shape, tap, first, rows):
    """Pixels (y within the tile, x) of a tile whose input of that tap exists."""
    dy, dx = tap
    return [
        (y, x)
        for y in range(rows)
        for x in range(shape.out_w)
        if 0 <= (y + first) * shape.stride + dy + shape.top < shape.in_h
        and 0 <= x * shape.stride + dx < shape.in_w
    ]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("size", SIZES)
def test_rectangles_hold_the_pixels_that_a_tap_reaches(kernel, stride, size):
    for top in range(min(kernel // 2, size[0] - 1) + 1):
        shape = geometry(kernel, stride, *size, top)
        for rows in (1, 2, shape.out_h):
            for first in range(0, shape.out_h, rows):
                here = min(rows, shape.out_h - first)
                boxes = rectangles(shape, first, here)
                for box, tap in zip(boxes, taps(kernel), strict=True):
                    pixels = [(y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)]
                    assert pixels == reached(shape, tap, first, here)
                    assert box.pixels == len(pixels)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("repeats", (1, 2, 5))
@pytest.mark.parametrize("images", (1, 2, 3, 5))
def test_gap_is_set_exactly_when_a_pixel_comes_too_soon(kernel, stride, size, repeats, images):
    shape = geometry(kernel, stride, *size)
    for rows in {1, max(1, shape.out_h // 2), shape.out_h}:
        tiles = pixel_tiles(shape.out_h, rows, images, 2 if rows == shape.out_h else 1)
        soon = False
        for tile in tiles:
            last = {}
            now = 0
            for tap in taps(kernel):
                pixels = reached(shape, tap, tile.first_row, tile.rows)
                for _ in range(repeats):
                    for pixel in itertools.product(range(tile.images), pixels):
                        soon |= now - last.get(pixel, -99) < isa.PIXEL_SPACING
                        last[pixel] = now
                        now += 1
        assert needs_gap(shape, tiles, repeats) == soon


def test_gap_is_seldom_needed():
    def gap(shape, repeats, images=1):
        return needs_gap(shape, [PixelTile(0, shape.out_h, images)], repeats)

    assert not gap(geometry(3, 1, 16, 16), 1)
    assert not gap(geometry(7, 1, 16, 16), 4)
    assert gap(geometry(3, 1, 2, 2), 1)
    assert not gap(geometry(3, 1, 4, 4), 8, images=2)


@pytest.mark.parametrize(
    ("height", "width", "depth", "rows"),
    [
        (32, 32, 256, 8),
        (8, 8, 64, 8),  # the whole map
        (9, 8, 64, 5),  # two tiles, as even as they can be
        (33, 32, 256, 7),
        (5, 64, 64, 1),
        (5, 65, 64, 0),  # not even one row
    ],
)
def test_tile_rows(height, width, depth, rows):
    assert tile_rows(height, width, depth) == rows


@pytest.mark.parametrize(
    ("images", "map_pixels", "depth", "together"),
    [
        (1, 16, 256, 1),
        (4, 16, 256, 4),
        (4, 256, 256, 1),
        (4, 1024, 256, 1),  # not even one map
        (5, 64, 256, 3),  # two groups, as even as they can be
        (130, 1, 64, 44),
    ],
)
def test_tile_images(images, map_pixels, depth, together):
    assert tile_images(images, map_pixels, depth) == together


def test_pixel_tiles_come_image_by_image():
    tiles = [(0, 4, 1), (4, 3, 1)]
    assert pixel_tiles(7, 4, 2, 1) == tuple(tiles * 2)
    assert pixel_tiles(7, 7, 5, 3) == ((0, 7, 3), (0, 7, 2))


@pytest.mark.parametrize("rows, lanes", [(4, 16), (8, 8), (32, 64), (64, 64), (4, 32)])
@pytest.mark.parametrize("outputs, inputs, kernel", [(1, 1, 1), (9, 65, 3), (33, 130, 1)])
def test_mask_words_hold_every_bit_at_its_place(rows, lanes, outputs, inputs, kernel):
    bits = np.random.default_rng(1).random((outputs, inputs, kernel, kernel)) < 0.5
    mask = pack(bits).reshape(outputs, kernel * kernel, -1)
    words = mask_words(mask.view(np.uint8), inputs, rows, lanes)
    blocks, lane_words = -(-outputs // rows), -(-inputs // lanes)
    assert words.shape == (blocks, kernel * kernel * lane_words * rows * lanes // 64)
    found = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, bitorder="little")
    found = found.reshape(blocks, kernel * kernel, lane_words, rows, lanes)
    expected = np.zeros_like(found)
    for channel, lane in itertools.product(range(outputs), range(inputs)):
        for index, (dy, dx) in enumerate(taps(kernel)):
            place = channel // rows, index, lane // lanes, channel % rows, lane % lanes
            expected[place] = bits[channel, lane, dy + kernel // 2, dx + kernel // 2]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("rows, lanes", [(4, 16), (8, 8), (32, 64)])
@pytest.mark.parametrize("stored", [4, 2, 1])
def test_mask_words_hold_the_stored_bits_without_gaps(rows, lanes, stored):
    outputs, inputs, positions = 2 * rows, 3 * lanes, 16
    groups = np.random.default_rng(1).integers(
        0, 1 << stored, (outputs, positions, 8 * -(-inputs // 64)), dtype=np.uint8
    )
    words = mask_words(groups, inputs, rows, lanes, stored)
    expected = 0
    place = 0
    for block, tap, word in itertools.product(range(2), range(positions), range(3)):
        for row, group in itertools.product(range(rows), range(lanes // 8)):
            bits = groups[block * rows + row, tap, word * (lanes // 8) + group]
            expected |= int(bits) << place
            place += stored
    assert words.astype("<u8").tobytes() == expected.to_bytes(place // 8, "little")


@pytest.mark.parametrize("blocks, words, times", [(1, 1, 1), (1, 8, 1), (3, 5, 2), (4, 33, 3)])
def test_signature_of_repeated_blocks(blocks, words, times):
    data = np.random.default_rng(words).integers(0, 1 << 64, (blocks, words), dtype=np.uint64)
    read = [int(word) for block in data for _ in range(times) for word in block]
    assert repeated_signature(data, times) == lfsr.signature(read)
    assert signature(data.reshape(-1)) == lfsr.signature(map(int, data.reshape(-1)))
