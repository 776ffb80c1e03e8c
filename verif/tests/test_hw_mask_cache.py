# SPDX-License-Identifier: Apache-2.0
"""Mask cache against a list of what each pixel tile must get, and what is asked for."""

import random

import pytest
from amaranth.sim import Simulator

from hiddenfold.hw.conv import MaskFetcher
from hiddenfold.hw.mask_cache import MaskCache

SIZE = 1024
MASK_BITS = 128


def configure(ctx, dut, layer, repeated):
    for name, value in layer.items():
        if name in dut.signature.members:
            ctx.set(getattr(dut, name), value)
    ctx.set(dut.repeated, repeated)
    ctx.set(dut.start, 1)


def random_layer(rng):
    images = rng.randint(1, 3)
    return {
        "blocks": rng.randint(1, 3),
        "images": images,
        "tile_images": rng.randint(1, images),
        "out_h": rng.randint(1, 5),
        "tile_rows": rng.randint(1, 5),
        "count": 2 * rng.randint(1, 12),
        "cached": rng.random() < 0.8,
        "cache": rng.randrange(5),
        "address": 64 * rng.randrange(100),
    }


def pixel_tiles(layer):
    groups = -(-layer["images"] // layer["tile_images"])
    return groups * -(-layer["out_h"] // layer["tile_rows"])


@pytest.mark.parametrize("seed", range(6))
def test_words_of_every_pixel_tile(seed):
    """Each layer runs three times, as in a loop; without pauses a word comes every cycle."""
    rng = random.Random(seed)
    pause = rng.choice((0.0, 0.5))
    dut = MaskCache(mask_bits=MASK_BITS, size=SIZE)

    async def testbench(ctx):
        for _ in range(5):
            layer = random_layer(rng)
            tiles, words = pixel_tiles(layer), layer["count"] // 2
            blocks = [
                [rng.getrandbits(MASK_BITS) for _ in range(words)] for _ in range(layer["blocks"])
            ]
            expected = [word for block in blocks for _ in range(tiles) for word in block]
            for repeated in (False, True, True):
                configure(ctx, dut, layer, repeated)
                await ctx.tick()
                ctx.set(dut.start, 0)
                if layer["cached"]:
                    outside = [] if repeated else [word for block in blocks for word in block]
                else:
                    outside = list(expected)
                found, cycles = [], 0
                while len(found) < len(expected) and cycles < 10 * len(expected) + 100:
                    valid = bool(outside) and rng.random() >= pause
                    ready = rng.random() >= pause
                    ctx.set(dut.i.valid, valid)
                    ctx.set(dut.i.payload, outside[0] if valid else 0)
                    ctx.set(dut.o.ready, ready)
                    if ready and ctx.get(dut.o.valid):
                        found.append(ctx.get(dut.o.payload))
                    if valid and ctx.get(dut.i.ready):
                        outside.pop(0)
                    cycles += 1
                    await ctx.tick()
                ctx.set(dut.o.ready, 0)
                assert found == expected
                assert not outside and not ctx.get(dut.o.valid)
                assert pause or cycles == len(expected) + 2

    simulate(dut, testbench)


@pytest.mark.parametrize("seed", range(6))
def test_only_what_is_not_kept_is_asked_for(seed):
    rng = random.Random(seed)
    dut = MaskFetcher(bus_bits=64)

    async def testbench(ctx):
        for _ in range(5):
            layer = random_layer(rng)
            tiles = pixel_tiles(layer)
            for repeated in (False, True):
                configure(ctx, dut, layer, repeated)
                await ctx.tick()
                ctx.set(dut.start, 0)
                times = (0 if repeated else 1) if layer["cached"] else tiles
                expected = [
                    (layer["address"] + 8 * layer["count"] * block, layer["count"])
                    for block in range(layer["blocks"])
                    for _ in range(times)
                ]
                found = []
                for _ in range(6 * layer["blocks"] * tiles + 20):
                    ready = rng.random() < 0.5
                    ctx.set(dut.cmd.ready, ready)
                    if ready and ctx.get(dut.cmd.valid):
                        found.append((ctx.get(dut.cmd.p.address), ctx.get(dut.cmd.p.beats)))
                    await ctx.tick()
                assert found == expected

    simulate(dut, testbench)


def simulate(dut, testbench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
