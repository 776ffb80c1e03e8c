# SPDX-License-Identifier: Apache-2.0
"""Activation memory for the Amaranth simulator."""

import random
from collections import deque

from hiddenfold.hw.actmem import READ_LATENCY


class ActivationReads:
    """Serves the ``act_r_*`` members of ``dut`` from ``words``.

    Data stand for the one cycle that is promised and are noise in all others. ``count`` is the
    number of reads.
    """

    def __init__(self, dut, words: dict[int, int]):
        self.count = 0
        self._dut = dut
        self._words = words
        self._noise = random.Random(len(words))

    async def run(self, ctx) -> None:
        """Background testbench."""
        dut = self._dut
        pipeline: deque = deque([None] * READ_LATENCY)
        while True:
            _, _, enabled, address = await ctx.tick().sample(dut.act_r_en, dut.act_r_addr)
            # An address of the cycle that just ended is number 1 of the pipeline.
            pipeline.append(self._words[address] if enabled else None)
            self.count += enabled
            pipeline.popleft()
            data = pipeline[0]
            if data is None:
                data = self._noise.getrandbits(len(dut.act_r_data))
            ctx.set(dut.act_r_data, data)
