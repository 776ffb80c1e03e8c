# SPDX-License-Identifier: Apache-2.0
"""hw/pool.py against docs/spec.md 4.4, written out as loops."""

import random

import pytest

from hiddenfold.hw.pool import Pool
from hiddenfold.verif.bench.sim_actmem import ActivationReads
from hiddenfold.verif.bench.sim_stream import simulate

SRC, DST = 5, 700


def pool(tensor, kernel: int, stride: int) -> list:
    """Return the pooled tensor of [y][x][word][lane]."""
    height, width = len(tensor), len(tensor[0])
    pad = kernel // 2
    result = []
    for y in range(0, height, stride):
        line = []
        for x in range(0, width, stride):
            taps = [
                tensor[iy][ix]
                for iy in range(max(0, y - pad), min(height, y + pad + 1))
                for ix in range(max(0, x - pad), min(width, x + pad + 1))
            ]
            line.append(
                [
                    [max(lanes) for lanes in zip(*words, strict=True)]
                    for words in zip(*taps, strict=True)
                ]
            )
        result.append(line)
    return result


def words_of(tensor) -> list[int]:
    return [
        int.from_bytes(bytes(lanes), "little")
        for line in tensor
        for pixel in line
        for lanes in pixel
    ]


def random_tensor(generator, height, width, words, lanes) -> list:
    return [
        [[list(generator.randbytes(lanes)) for _ in range(words)] for _ in range(width)]
        for _ in range(height)
    ]


async def run_instruction(ctx, dut, kernel, stride, height, width, words, **changes):
    """Run POOL; return (writes as a list of (address, word), cycles until done).

    ``changes`` are fields that differ from those of a whole map.
    """
    fields = {
        "kernel": kernel,
        "stride": stride,
        "in_h": height,
        "in_w": width,
        "out_h": (height - 1) // stride + 1,
        "out_w": (width - 1) // stride + 1,
        "in_words": words,
        "src": SRC,
        "dst": DST,
        "top": 0,
        "start": 1,
    } | changes
    for name, value in fields.items():
        ctx.set(getattr(dut, name), value)
    writes, pieces = [], []
    cycles = after = 0
    end = False
    while after < 50:
        _, _, done, en, place, part = await ctx.tick().sample(
            dut.done, dut.act_w_en, dut.act_w_addr, dut.act_w_data
        )
        ctx.set(dut.start, 0)
        assert not (end and (done or en)), "surplus after the end"
        assert en or not part, "data beside those of a LOAD"
        if en:
            # The parts of a word come in order.
            parts = len(dut.act_w_en)
            bits = len(dut.act_w_data)
            assert en == 1 << len(pieces)
            pieces.append(part << bits * len(pieces))
            if len(pieces) == parts:
                writes.append((place, sum(pieces)))
                pieces.clear()
        cycles += not end
        after += end
        end |= bool(done)
        assert cycles < 30000
    assert not pieces
    return writes, cycles


CASES = [
    # kernel, stride, height, width, lane words, lanes, parts of a word
    (3, 2, 8, 8, 1, 16, 1),
    (3, 2, 7, 5, 2, 8, 1),
    (3, 1, 4, 5, 3, 8, 1),
    (1, 1, 3, 4, 2, 8, 2),
    (1, 2, 5, 4, 1, 64, 8),
    (5, 1, 4, 6, 1, 8, 4),
    (5, 2, 5, 5, 2, 8, 1),
    (7, 2, 9, 8, 1, 8, 1),
    (7, 1, 2, 3, 2, 32, 2),
    (3, 2, 1, 1, 1, 8, 8),
    (7, 2, 1, 1, 4, 8, 1),
    (3, 1, 1, 6, 1, 8, 8),
    (3, 2, 6, 1, 2, 8, 1),
    (3, 2, 2, 2, 5, 8, 4),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_loops(case):
    kernel, stride, height, width, words, lanes, parts = case
    dut = Pool(lanes=lanes, part_lanes=lanes // parts, act_addr_bits=10)
    tensor = random_tensor(random.Random(str(case)), height, width, words, lanes)
    # Reads of anything but the tensor are an error of the memory's (KeyError).
    memory = ActivationReads(dut, dict(enumerate(words_of(tensor), SRC)))
    expected = words_of(pool(tensor, kernel, stride))

    async def testbench(ctx):
        writes, cycles = await run_instruction(ctx, dut, kernel, stride, height, width, words)
        assert writes == list(enumerate(expected, DST))
        out_h, setup = (height - 1) // stride + 1, width.bit_length() + kernel // 2
        # Start, last step of the product and of the corner; a cycle per output row; the pipeline.
        assert cycles == len(expected) * parts * kernel**2 + out_h + setup + 3 + 4

    simulate(dut, testbench, memory.run)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_stripes_make_the_whole_map(kernel, stride):
    dut = Pool(lanes=8, part_lanes=2, act_addr_bits=10)
    height, width, rows = 11, 4, 2
    tensor = random_tensor(random.Random(kernel), height, width, 2, 8)
    words: dict[int, int] = {}
    memory = ActivationReads(dut, words)
    expected = pool(tensor, kernel, stride)

    async def testbench(ctx):
        for y in range(0, len(expected), rows):
            part = expected[y : y + rows]
            first = max(0, y * stride - kernel // 2)
            end = min(height, (y + len(part) - 1) * stride + kernel // 2 + 1)
            words.clear()
            words.update(enumerate(words_of(tensor[first:end]), SRC))
            shape = (end - first, width, 2)
            changes = {"out_h": len(part), "top": y * stride - first}
            writes, _ = await run_instruction(ctx, dut, kernel, stride, *shape, **changes)
            assert writes == list(enumerate(words_of(part), DST))

    simulate(dut, testbench, memory.run)


def test_one_instruction_after_the_other():
    dut = Pool(lanes=8, part_lanes=2, act_addr_bits=10)
    generator = random.Random(3)
    shapes = [(3, 2, 6, 7, 1), (1, 1, 2, 2, 3), (5, 1, 3, 4, 2), (3, 2, 1, 1, 1)]
    words: dict[int, int] = {}
    memory = ActivationReads(dut, words)

    async def testbench(ctx):
        for kernel, stride, height, width, depth in shapes:
            tensor = random_tensor(generator, height, width, depth, 8)
            words.clear()
            words.update(enumerate(words_of(tensor), SRC))
            writes, _ = await run_instruction(ctx, dut, kernel, stride, height, width, depth)
            assert writes == list(enumerate(words_of(pool(tensor, kernel, stride)), DST))

    simulate(dut, testbench, memory.run)
