# SPDX-License-Identifier: Apache-2.0
"""Parts of the convolution engine against plain Python, cycle by cycle."""

import random
from itertools import pairwise

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from hiddenfold.hw import lfsr
from hiddenfold.hw.array import MaskedArray, partial_bits
from hiddenfold.hw.gearbox import Joiner
from hiddenfold.hw.pixels import PixelStreamer
from hiddenfold.hw.rectangle import TapWalker
from hiddenfold.hw.requant import Requantize
from hiddenfold.hw.weights import TileLoader


def simulate(component, testbench, *, background=()):
    """Run ``testbench`` (and endless ``background`` ones) on ``component`` with a clock."""
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    for process in background:
        simulator.add_testbench(process, background=True)
    simulator.run()


@pytest.mark.parametrize(
    (
        "rows",
        "lanes",
        "load_rows",
        "mask_bits",
        "kernel",
        "in_words",
        "blocks",
        "out_h",
        "tile_rows",
        "m",
    ),
    [
        (8, 8, 1, 64, 1, 1, 1, 1, 1, 8),  # smallest layer
        (8, 8, 1, 64, 3, 3, 2, 5, 2, 8),  # several lane words, blocks and pixel tiles
        (4, 16, 2, 64, 3, 5, 2, 4, 4, 8),  # crosses a 64-channel word, two groups a mask word
        (8, 64, 1, 64, 3, 2, 3, 2, 1, 8),  # a mask word a row
        (4, 32, 1, 128, 1, 3, 2, 3, 2, 8),  # several rows a mask word
        (4, 64, 2, 128, 5, 1, 2, 1, 1, 8),  # two rows a mask word
        (8, 64, 2, 128, 1, 1, 3, 2, 1, 8),  # one tile a block
        (8, 8, 1, 64, 3, 8, 2, 2, 1, 1),  # stored bits of eight rows in a byte
        (4, 16, 2, 64, 3, 6, 2, 2, 1, 4),  # a block ends with a mask word, not a tile
        (4, 64, 2, 128, 1, 2, 2, 1, 1, 2),
        (4, 64, 1, 64, 1, 2, 2, 2, 1, 1),
    ],
)
@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_tile_loader(
    rows, lanes, load_rows, mask_bits, kernel, in_words, blocks, out_h, tile_rows, m, idle
):
    rng = random.Random(f"{rows}{lanes}{kernel}{in_words}{idle}")
    seed = rng.getrandbits(64) | 1
    taps = kernel * kernel
    words = -(-in_words * lanes // 64)
    stored_masks = {
        (block, tap, word, row): rng.getrandbits(lanes * m // 8)
        for block in range(blocks)
        for tap in range(taps)
        for word in range(in_words)
        for row in range(rows)
    }
    expected, bits = [], []
    for block in range(blocks):
        for _ in range(-(-out_h // tile_rows)):
            for tap in range(taps):
                for word in range(in_words):
                    tile = []
                    for row in range(rows):
                        channel = block * rows + row
                        state = lfsr.jump(seed, channel * lfsr.CHANNEL_JUMP)
                        position = word * lanes
                        for _ in range((tap * words + position // 64) * (1 if m == 8 else 2)):
                            state = lfsr.leap(state)
                        sign = state >> position % 64 & (1 << lanes) - 1
                        freeze = lfsr.leap(state) >> position % 64 & (1 << lanes) - 1
                        stored = stored_masks[block, tap, word, row]
                        mask = freeze if m < 8 else stored
                        for n in range(lanes * m // 8 if m < 8 else 0):
                            group, j = divmod(n, m)
                            rotation = (sign ^ freeze) >> 8 * group & 7
                            place = 8 * group + (rotation + j) % 8
                            mask = mask & ~(1 << place) | (stored >> n & 1) << place
                        tile.append((mask, mask & sign))
                        bits.append(stored)
                    expected.append(tile)
    row_bits = lanes * m // 8
    masks_in = sum(stored << row_bits * n for n, stored in enumerate(bits))
    words_in = [
        masks_in >> mask_bits * n & (1 << mask_bits) - 1
        for n in range(len(bits) * row_bits // mask_bits)
    ]
    signature = lfsr.signature(
        masks_in >> 64 * n & (1 << 64) - 1 for n in range(len(bits) * row_bits // 64)
    )
    dut = TileLoader(rows=rows, lanes=lanes, load_rows=load_rows, mask_bits=mask_bits)

    async def testbench(ctx):
        for name, value in {
            "seed": seed,
            "frozen": m < 8,
            "free": (8 // m).bit_length() - 1,
            "kernel": kernel,
            "in_words": in_words,
            "blocks": blocks,
            "out_h": out_h,
            "tile_rows": tile_rows,
            "start": 1,
        }.items():
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        ctx.set(dut.start, 0)
        # As in the engine: a pass is prepared, its first slot comes, two cycles later the swap.
        found, swaps, used = [], [], 0
        shadow = [None] * rows
        prepared = slot = early = swap = False
        for cycle in range(40 * len(bits) + 100):
            early, swap, slot = slot, early, prepared
            valid = used < len(words_in) and rng.random() >= idle
            ctx.set(dut.release, slot)
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.i.payload, words_in[used] if valid else 0)
            if swap:
                found.append(list(shadow))
                swaps.append(cycle)
            if ctx.get(dut.load):
                for n in range(load_rows):
                    code = (
                        ctx.get(dut.mask.word_select(n, lanes)),
                        ctx.get(dut.negative.word_select(n, lanes)),
                    )
                    shadow[ctx.get(dut.group) * load_rows + n] = code
            used += valid and ctx.get(dut.i.ready)
            prepared = bool(ctx.get(dut.full)) and rng.random() >= idle
            await ctx.tick()
            if len(found) == len(expected):
                break
        assert found == expected
        assert used == len(words_in)
        assert ctx.get(dut.done)
        assert ctx.get(dut.check_value) == signature
        if not idle:
            times = {after - before for before, after in pairwise(swaps)}
            assert times <= {rows // load_rows}

    simulate(dut, testbench)


@pytest.mark.parametrize("parts", [2, 4])
def test_joiner(parts):
    rng = random.Random(parts)
    dut = Joiner(in_bits=8, out_bits=8 * parts)
    data = rng.randbytes(30 * parts)

    async def testbench(ctx):
        found, used, cycles = b"", 0, 0
        while len(found) < len(data):
            pause = cycles > 10 * parts and rng.random() < 0.5
            valid = used < len(data) and not (pause and rng.random() < 0.5)
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.i.payload, data[used] if valid else 0)
            ctx.set(dut.o.ready, not pause)
            if not pause and ctx.get(dut.o.valid):
                found += ctx.get(dut.o.payload).to_bytes(parts, "little")
            used += valid and ctx.get(dut.i.ready)
            cycles += 1
            # Without pauses nothing is held up.
            assert cycles > 10 * parts or used == cycles
            await ctx.tick()
        assert found == data

    simulate(dut, testbench)


@pytest.mark.parametrize(
    ("rows", "lanes", "planes", "load_rows"),
    [(1, 8, 8, 1), (2, 8, 1, 1), (4, 16, 2, 2), (1, 64, 4, 1), (2, 64, 8, 2)],
)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_array(rows, lanes, planes, load_rows, density):
    rng = random.Random(f"{rows}{lanes}{planes}{density}")
    dut = MaskedArray(rows=rows, lanes=lanes, planes=planes, load_rows=load_rows)
    width = partial_bits(lanes)
    tiles = []
    for _ in range(4):
        masks = [
            sum((rng.random() < density) << lane for lane in range(lanes)) for _ in range(rows)
        ]
        tiles.append([(mask, mask & rng.getrandbits(lanes)) for mask in masks])
    pixels = [
        [
            ([rng.choice((0, 255, rng.randrange(256))) for _ in range(lanes)], pass_)
            for _ in range(3)
            for pass_ in range(8 // planes)
        ]
        for _ in tiles
    ]
    expected = [
        [
            sum(
                ((x >> pass_ * planes) % (1 << planes) << pass_ * planes)
                * (mask >> lane & 1)
                * (1 - 2 * (negative >> lane & 1))
                for lane, x in enumerate(values)
            )
            for mask, negative in tile
        ]
        for tile, tile_pixels in zip(tiles, pixels, strict=True)
        for values, pass_ in tile_pixels
    ]
    found = []

    async def load(ctx, tile):
        ctx.set(dut.load, 1)
        for group in range(rows // load_rows):
            ctx.set(dut.group, group)
            for n, (mask, negative) in enumerate(tile[group * load_rows :][:load_rows]):
                ctx.set(dut.mask.word_select(n, lanes), mask)
                ctx.set(dut.negative.word_select(n, lanes), negative)
            await ctx.tick()
        ctx.set(dut.load, 0)

    async def testbench(ctx):
        for tile, tile_pixels in zip(tiles, pixels, strict=True):
            # While the rows of this tile are loaded, the last one's results leave.
            await load(ctx, tile)
            for number, (values, pass_) in enumerate(tile_pixels):
                ctx.set(dut.swap, number == 0)
                ctx.set(dut.data, sum(x << 8 * lane for lane, x in enumerate(values)))
                ctx.set(dut.pass_, pass_)
                await ctx.tick()
            ctx.set(dut.swap, 0)
            await ctx.tick().repeat(MaskedArray.LATENCY)

    async def monitor(ctx):
        live = []
        async for *_, swap, value in ctx.tick().sample(dut.swap, dut.partial):
            live.append(swap)
            if len(live) > MaskedArray.LATENCY:
                age = len(live) - 1 - MaskedArray.LATENCY
                started = [n for n, s in enumerate(live) if s and n <= age]
                if started and age - started[-1] < len(pixels[0]):
                    row_values = []
                    for row in range(rows):
                        raw = value >> row * width & (1 << width) - 1
                        row_values.append(raw - (1 << width) * (raw >> width - 1))
                    found.append(row_values)

    simulate(dut, testbench, background=[monitor])
    assert found == expected


def test_requantize():
    rows, acc_bits = 2, 24
    rng = random.Random(5)
    dut = Requantize(rows=rows, acc_bits=acc_bits)

    def extreme(bits, signed=True):
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        return rng.choice(
            (low, high, rng.randint(low, high), rng.randint(-99, 99) if signed else 0)
        )

    async def testbench(ctx):
        for _ in range(400):
            shift, residual, out_bits = 4 * rng.randrange(8), extreme(16, False), rng.randint(1, 8)
            ctx.set(dut.shift, shift)
            ctx.set(dut.residual, residual)
            ctx.set(dut.out_bits, out_bits)
            expected = []
            for row in range(rows):
                acc, multiplier, bias = extreme(acc_bits), extreme(16), extreme(24)
                res = rng.choice((0, 255, rng.randrange(256)))
                ctx.set(dut.acc.word_select(row, acc_bits), acc % (1 << acc_bits))
                ctx.set(dut.multiplier.word_select(row, 16), multiplier % (1 << 16))
                ctx.set(dut.bias.word_select(row, 24), bias % (1 << 24))
                ctx.set(dut.res.word_select(row, 8), res)
                value = (acc * multiplier >> shift) + res * residual + bias
                expected.append(min(max(value >> 8, 0), (1 << out_bits) - 1))
            keep = rng.random() < 0.9
            ctx.set(dut.keep, keep)
            expected = [value * keep for value in expected]
            await ctx.tick().repeat(Requantize.LATENCY)
            found = [ctx.get(dut.y.word_select(row, 8)) for row in range(rows)]
            assert found == expected

    simulate(dut, testbench)


def random_layer(rng):
    """Fields of a convolution, some with several images in a pixel tile."""
    kernel, stride = rng.choice((1, 3, 5, 7)), rng.choice((1, 2))
    in_h, in_w = rng.randint(1, 12), rng.randint(1, 12)
    top = min(rng.randint(0, kernel // 2), in_h - 1)
    out_h, out_w = (in_h - 1 - top) // stride + 1, (in_w - 1) // stride + 1
    images = rng.choice((1, 1, 2, 3, 5))
    tile_images = rng.randint(1, images)
    return {
        "kernel": kernel,
        "stride": stride,
        "in_h": in_h,
        "in_w": in_w,
        "out_h": out_h,
        "out_w": out_w,
        "top": top,
        "in_words": rng.randint(1, 3),
        "src": rng.randrange(100),
        "blocks": rng.randint(1, 2),
        "images": images,
        "tile_images": tile_images,
        "tile_rows": out_h if tile_images > 1 else rng.randint(1, out_h),
    }


def walk(layer):
    """Yield (first image, images, first row, rows, tap, first tap, last tap) in order of work."""
    kernel = layer["kernel"]
    pad = (kernel - 1) // 2
    taps = [(0, 0)] + [
        (y - pad, x - pad) for y in range(kernel) for x in range(kernel) if (y, x) != (pad, pad)
    ]
    for _ in range(layer["blocks"]):
        for image in range(0, layer["images"], layer["tile_images"]):
            maps = min(layer["tile_images"], layer["images"] - image)
            for row in range(0, layer["out_h"], layer["tile_rows"]):
                rows = min(layer["tile_rows"], layer["out_h"] - row)
                for tap in taps:
                    yield image, maps, row, rows, tap, tap == taps[0], tap == taps[-1]


def reached(layer, row, rows, tap):
    """Return (address without ``src``, index) of the pixels of one image that a tap reaches."""
    found = []
    for y in range(row, row + rows):
        for x in range(layer["out_w"]):
            in_y = y * layer["stride"] + tap[0] + layer["top"]
            in_x = x * layer["stride"] + tap[1]
            if 0 <= in_y < layer["in_h"] and 0 <= in_x < layer["in_w"]:
                pixel = in_y * layer["in_w"] + in_x
                found.append((pixel * layer["in_words"], (y - row) * layer["out_w"] + x))
    return found


def set_fields(ctx, dut, layer):
    for name in set(layer) & set(dut.signature.members):
        ctx.set(getattr(dut, name), layer[name])


@pytest.mark.parametrize("seed", range(16))
def test_tap_walker(seed):
    rng = random.Random(seed)
    layer = random_layer(rng)
    image_words = layer["in_h"] * layer["in_w"] * layer["in_words"]
    expected = []
    for image, maps, row, rows, tap, first, last in walk(layer):
        pixels = reached(layer, row, rows, tap)
        if not pixels:
            expected.append((True, first, last))
            continue
        (address, index), (_, end) = pixels[0], pixels[-1]
        (y0, x0), (y1, x1) = divmod(index, layer["out_w"]), divmod(end, layer["out_w"])
        address += layer["src"] + image * image_words
        place = (address, index, maps - 2, y1 - y0 - 1, x1 - x0 - 1)
        expected.append((False, first, last, *place))
    dut = TapWalker(address_bits=14, index_bits=8)

    async def testbench(ctx):
        set_fields(ctx, dut, layer)
        await ctx.tick()
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        found = []
        for _ in range(30 * len(expected) + 60):
            ready = rng.random() < 0.5
            ctx.set(dut.o.ready, ready)
            if ready and ctx.get(dut.o.valid):
                o = {name: ctx.get(getattr(dut.o.p, name)) for name in dut.o.p.shape().members}
                flags = (bool(o["empty"]), bool(o["first"]), bool(o["last"]))
                place = tuple(o[name] for name in ("address", "index", "maps", "rows", "cols"))
                found.append(flags if o["empty"] else (*flags, *place))
            await ctx.tick()
        assert found == expected
        assert ctx.get(dut.image_words) == image_words

    simulate(dut, testbench)


@pytest.mark.parametrize("seed", range(16))
def test_pixel_streamer(seed):
    """Each pixel of each pass of each tile in order, with the walker in front."""
    rng = random.Random(seed)
    layer = random_layer(rng)
    passes = rng.randint(1, 2)
    image_words = layer["in_h"] * layer["in_w"] * layer["in_words"]
    expected = []
    tiles = 0
    for image, maps, row, rows, tap, first, last in walk(layer):
        tiles += first
        pixels = reached(layer, row, rows, tap)
        for word in range(layer["in_words"]):
            for pass_ in range(passes):
                fresh = first and word == pass_ == 0
                for n in range(maps):
                    base = layer["src"] + (image + n) * image_words + word
                    skip = n * layer["out_h"] * layer["out_w"]
                    expected += [
                        (base + address, index + skip, pass_, fresh, (tiles - 1) % 2)
                        for address, index in pixels
                    ]
        if last:
            expected.append("end")
    module = Module()
    module.submodules.taps = taps = TapWalker(address_bits=14, index_bits=10)
    module.submodules.dut = dut = PixelStreamer(address_bits=14, index_bits=10)
    connect(module, taps.o, dut.i)
    module.d.comb += dut.image_words.eq(taps.image_words)

    async def testbench(ctx):
        for part in (taps, dut):
            set_fields(ctx, part, layer)
        ctx.set(dut.passes, passes)
        await ctx.tick()
        ctx.set(taps.start, 1)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(taps.start, 0)
        ctx.set(dut.start, 0)
        found = []
        ended = 0
        for _ in range(20 * len(expected) + 100 * len(list(walk(layer)))):
            # Tiles of weights come at once, banks are drained at random.
            ctx.set(dut.shadow_full, 1)
            drained = ended > 0 and rng.random() < 0.2
            ctx.set(dut.drained, drained)
            ended -= drained
            if ctx.get(dut.valid):
                names = ("address", "index", "pass_", "overwrite", "bank")
                found.append(tuple(ctx.get(getattr(dut, name)) for name in names))
            if ctx.get(dut.end):
                found.append("end")
                ended += 1
            await ctx.tick()
            if len(found) == len(expected):
                break
        assert found == expected

    simulate(module, testbench)
