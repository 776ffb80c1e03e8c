# SPDX-License-Identifier: Apache-2.0
"""hw/unfold.py against docs/spec.md 4.1, written out as loops."""

import random

import pytest

from hiddenfold.hw.unfold import Unfold
from hiddenfold.verif.bench.sim_stream import Pattern, always, simulate, sometimes

ADDRESS = 0x4000_0010
DST = 37


class ReadPort:
    """Answers row commands from an image in memory; counts what was asked and taken."""

    def __init__(self, dut, content: bytes, bus_bits: int, pattern: Pattern):
        self._dut = dut
        self._content = content
        self._bytes = bus_bits // 8
        self._pattern = pattern
        self.asked = 0
        self.taken = 0

    async def run(self, ctx):
        dut, size = self._dut, self._bytes
        beats: list[int] = []
        offered = False
        ctx.set(dut.cmd.ready, 1)
        while True:
            if not offered and beats and self._pattern():
                ctx.set(dut.data.payload, beats.pop(0))
                offered = True
            ctx.set(dut.data.valid, offered)
            _, _, asked, cmd, ready = await ctx.tick().sample(
                dut.cmd.valid, dut.cmd.payload, dut.data.ready
            )
            if offered and ready:
                offered = False
                self.taken += 1
            if asked:
                for beat in range(cmd.beats):
                    place = cmd.address - ADDRESS + beat * size
                    assert 0 <= place <= len(self._content) - size
                    beats.append(int.from_bytes(self._content[place : place + size], "little"))
                self.asked += cmd.beats


def make_image(generator, height, width) -> tuple[list, bytes]:
    """Return random pixels [y][x][c] and their layout in memory, with noise in the padding."""
    pixels = [[list(generator.randbytes(3)) for _ in range(width)] for _ in range(height)]
    pitch = -(-4 * width // 16) * 16
    rows = []
    for line in pixels:
        row = b"".join(bytes(pixel) + generator.randbytes(1) for pixel in line)
        rows.append(row + generator.randbytes(pitch - len(row)))
    return pixels, b"".join(rows)


def unfold(pixels, kernel: int, stride: int, lanes: int) -> list[int]:
    """Return the activation words of the unfolded image."""
    height, width = len(pixels), len(pixels[0])
    words = []
    for y in range(0, height, stride):
        for x in range(0, width, stride):
            channels = []
            for ky in range(kernel):
                for kx in range(kernel):
                    iy, ix = y + ky - kernel // 2, x + kx - kernel // 2
                    inside = 0 <= iy < height and 0 <= ix < width
                    channels += pixels[iy][ix] if inside else [0, 0, 0]
            data = bytes(channels)
            words += [
                int.from_bytes(data[i : i + lanes], "little") for i in range(0, len(data), lanes)
            ]
    return words


async def run_instruction(
    ctx, dut, port, pixels, kernel, stride, lanes, address=ADDRESS, **changes
):
    """Run IMAGE; return (writes as a list of (address, word), next address, cycles).

    ``changes`` are fields that differ from those of a whole image.
    """
    height, width = len(pixels), len(pixels[0])
    fields = {
        "kernel": kernel,
        "stride": stride,
        "in_h": height,
        "in_w": width,
        "out_h": (height - 1) // stride + 1,
        "out_w": (width - 1) // stride + 1,
        "out_words": -(-3 * kernel**2 // lanes),
        "dst": DST,
        "address": address,
        "top": 0,
        "start": 1,
    } | changes
    for name, value in fields.items():
        ctx.set(getattr(dut, name), value)
    writes = []
    cycles = 0
    finished = 0
    end = None
    while finished < 50:  # watch for surplus after the end
        _, _, done, next_address, en, place, word = await ctx.tick().sample(
            dut.done, dut.next_address, dut.act_w_en, dut.act_w_addr, dut.act_w_data
        )
        ctx.set(dut.start, 0)
        assert en or not word, "data beside those of a LOAD"
        if en:
            assert not finished, "write after done"
            writes.append((place, word))
        if done:
            assert not finished, "done twice"
            end = next_address
        if end is None:
            cycles += 1
            assert cycles < 60000
        else:
            finished += 1
    assert port.taken == port.asked
    return writes, end, cycles


CASES = [
    # kernel, stride, height, width, lanes, bus bits
    (3, 1, 8, 8, 64, 64),
    (3, 2, 8, 8, 64, 128),
    (3, 1, 5, 7, 8, 64),
    (3, 2, 5, 7, 16, 64),
    (3, 2, 6, 5, 32, 128),
    (3, 1, 1, 1, 32, 64),
    (3, 2, 1, 1, 8, 128),
    (3, 1, 1, 9, 32, 64),
    (3, 1, 9, 1, 32, 128),
    (3, 1, 4, 16, 32, 64),
    (1, 1, 4, 5, 8, 64),
    (1, 2, 4, 6, 8, 128),
    (1, 1, 6, 1, 64, 64),
    (1, 2, 3, 1, 64, 64),
    (5, 1, 7, 6, 16, 64),
    (5, 2, 6, 7, 64, 128),
    (5, 1, 2, 2, 32, 64),
    (7, 2, 11, 13, 64, 64),
    (7, 1, 3, 2, 8, 128),
    (7, 1, 1, 1, 64, 64),
    (7, 2, 10, 9, 32, 64),
    (7, 1, 4, 16, 64, 64),  # columns behind the edge must not reach the line buffers
]


@pytest.mark.parametrize("pattern", [always, sometimes(0.4, 1)], ids=["no gaps", "gaps"])
@pytest.mark.parametrize("stem_kernel", [0, 7], ids=["exact build", "build for 7"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_loops(case, stem_kernel, pattern):
    kernel, stride, height, width, lanes, bus_bits = case
    dut = Unfold(
        lanes=lanes,
        bus_bits=bus_bits,
        image_width=16,
        stem_kernel=stem_kernel or kernel,
        act_addr_bits=13,
    )
    generator = random.Random(str(case))
    pixels, content = make_image(generator, height, width)
    port = ReadPort(dut, content, bus_bits, pattern)

    async def testbench(ctx):
        writes, end, _ = await run_instruction(ctx, dut, port, pixels, kernel, stride, lanes)
        expected = unfold(pixels, kernel, stride, lanes)
        assert writes == list(enumerate(expected, DST))
        assert end == ADDRESS + len(content)

    simulate(dut, testbench, port.run)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_stripes_make_the_whole_image(kernel, stride):
    dut = Unfold(lanes=32, bus_bits=64, image_width=12, stem_kernel=7, act_addr_bits=13)
    height, width, rows = 11, 10, 2
    pixels, content = make_image(random.Random(kernel), height, width)
    pitch = len(content) // height
    port = ReadPort(dut, content, 64, sometimes(0.9, 2))
    expected = unfold(pixels, kernel, stride, 32)
    out_h = (height - 1) // stride + 1
    row_words = len(expected) // out_h

    async def testbench(ctx):
        for y in range(0, out_h, rows):
            count = min(rows, out_h - y)
            first = max(0, y * stride - kernel // 2)
            end = min(height, (y + count - 1) * stride + kernel // 2 + 1)
            changes = {"out_h": count, "top": y * stride - first}
            address = ADDRESS + first * pitch
            writes, after, _ = await run_instruction(
                ctx, dut, port, pixels[first:end], kernel, stride, 32, address, **changes
            )
            part = expected[y * row_words : (y + count) * row_words]
            assert writes == list(enumerate(part, DST))
            assert after == ADDRESS + end * pitch

    simulate(dut, testbench, port.run)


def test_images_of_different_kernels_one_after_the_other():
    """Nothing of one image may show in the next."""
    dut = Unfold(lanes=16, bus_bits=64, image_width=12, stem_kernel=7, act_addr_bits=13)
    generator = random.Random(5)
    shapes = [(7, 9, 12), (3, 6, 7), (5, 3, 3), (1, 4, 5), (7, 2, 12), (3, 5, 1), (7, 1, 9)]
    images = [(kernel, *make_image(generator, h, w)) for kernel, h, w in shapes]
    port = ReadPort(dut, b"".join(content for _, _, content in images), 64, sometimes(0.8, 2))

    async def testbench(ctx):
        address = ADDRESS
        for kernel, pixels, content in images:
            writes, end, _ = await run_instruction(ctx, dut, port, pixels, kernel, 1, 16, address)
            assert writes == list(enumerate(unfold(pixels, kernel, 1, 16), DST))
            assert end == address + len(content)
            address = end

    simulate(dut, testbench, port.run)


@pytest.mark.parametrize(
    ("kernel", "stride", "lanes", "expected"),
    [(3, 1, 32, 33 * 33), (3, 1, 16, 33 * 33 + 1024), (7, 2, 64, 35 * 35 + 2 * 256 - 1)],
)
def test_cycles(kernel, stride, lanes, expected):
    dut = Unfold(lanes=lanes, bus_bits=64, image_width=32, stem_kernel=kernel, act_addr_bits=13)
    pixels, content = make_image(random.Random(1), 32, 32)
    port = ReadPort(dut, content, 64, always)

    async def testbench(ctx):
        _, _, cycles = await run_instruction(ctx, dut, port, pixels, kernel, stride, lanes)
        # Start, command, first beat, two pipeline stages: 5 cycles besides the scan and the words
        # (the last position of the scan gives no output pixel with stride 2).
        assert cycles == expected + 5

    simulate(dut, testbench, port.run)
