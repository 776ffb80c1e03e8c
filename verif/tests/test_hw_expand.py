# SPDX-License-Identifier: Apache-2.0
"""hw/expand.py and sw/frozen.py: every content of a group, there and back."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from hiddenfold.hw.expand import Expander
from hiddenfold.sw import frozen

GROUPS = 8


def all_groups(m):
    """Every (stored bits, rotation, freeze byte) of a group, in words of 8 groups.

    With all bits stored it does not matter what the generator makes: that is 8 bytes then.
    """
    stored, rotation, freeze = np.meshgrid(
        np.arange(1 << m, dtype=np.uint8),
        np.arange(8 if m < 8 else 1, dtype=np.uint8),
        np.arange(256 if m < 8 else 8, dtype=np.uint8),
        indexing="ij",
    )
    return (part.reshape(-1, 1, GROUPS) for part in (stored, rotation, freeze))


def as_words(groups):
    return np.ascontiguousarray(groups).view("<u8").astype(np.uint64)


@pytest.mark.parametrize("m", (8, 4, 2, 1))
def test_every_content_of_a_group_round_trips(m):
    """Compressed by the software, a mask comes out of the hardware as it was."""
    stored, rotation, freeze = all_groups(m)

    def turned(bits):
        return bits << rotation | bits >> (8 - rotation) % 8

    free = turned(np.full_like(rotation, (1 << m) - 1))
    here = turned(stored)
    mask = as_words(here | (freeze & ~free))
    words = as_words(free)
    pattern = frozen.Pattern(m, words, as_words(freeze & ~free), rotation)
    packed = frozen.compress(mask, pattern)
    np.testing.assert_array_equal(frozen.expand(packed, pattern), mask)
    assert len(packed) == stored.size * m // 8

    sign = as_words(freeze ^ rotation)
    freezes = as_words(freeze)
    dut = Expander(width=8 * GROUPS)

    async def bench(ctx):
        ctx.set(dut.free, (8 // m).bit_length() - 1)
        for number in range(len(mask)):
            bits = int.from_bytes(packed[number * m : (number + 1) * m], "little")
            # What lies above belongs to the next row.
            ctx.set(dut.stored, bits | (0x5A5A_5A5A_5A5A_5A5A << 8 * m) & ((1 << 64) - 1))
            ctx.set(dut.sign, int(sign[number, 0, 0]))
            ctx.set(dut.freeze, int(freezes[number, 0, 0]))
            await ctx.delay(1e-9)
            assert ctx.get(dut.mask) == int(mask[number, 0, 0])

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
