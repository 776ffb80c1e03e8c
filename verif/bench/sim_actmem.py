# SPDX-License-Identifier: Apache-2.0
"""Activation memory for the Amaranth simulator."""

from collections import deque

from hiddenfold.hw.actmem import READ_LATENCY


class ActivationReads:
    """Serves the ``act_r_*`` members of ``dut`` from ``words``.

    Data stand for the one cycle that is promised and are 0 in all others, as those of
    ``ActivationMemory``. ``count`` is the number of reads.
    """

    def __init__(self, dut, words: dict[int, int]):
        self.count = 0
        self._dut = dut
        self._words = words

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
            ctx.set(dut.act_r_data, data or 0)
