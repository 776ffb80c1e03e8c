# SPDX-License-Identifier: Apache-2.0
"""Activation memory against plain Python: two readers, segments, banks."""

import random

import pytest
from amaranth.sim import Simulator

from hiddenfold.hw.actmem import READ_LATENCY, ActivationMemory


@pytest.mark.parametrize(("rows", "banks", "bank_words"), [(4, 1, 16), (8, 2, 8), (2, 4, 4)])
def test_reads_and_writes(rows, banks, bank_words):
    lanes, words = 8, banks * bank_words
    rng = random.Random(f"{rows}{banks}")
    dut = ActivationMemory(rows=rows, lanes=lanes, banks=banks, bank_words=bank_words)
    segments, bits = lanes // rows, rows * 8

    async def testbench(ctx):
        model = [0] * words
        pending = {"a": [], "b": []}  # what comes in the next cycles
        refused = 0
        for _ in range(600):
            write = rng.randrange(words)
            enable, data = rng.getrandbits(segments), rng.getrandbits(lanes * 8)
            # A read in the cycle of a write to the same word may return either value.
            reads = {name: rng.choice([n for n in range(words) if n != write]) for name in "ab"}
            on = {name: rng.random() < 0.7 for name in "ab"}
            for name in "ab":
                ctx.set(getattr(dut, f"{name}_en"), on[name])
                ctx.set(getattr(dut, f"{name}_addr"), reads[name])
            ctx.set(dut.w_en, enable)
            ctx.set(dut.w_addr, write)
            ctx.set(dut.w_data, data)
            same = reads["a"] // bank_words == reads["b"] // bank_words
            assert ctx.get(dut.b_ready) == (not (on["a"] and same))
            refused += on["b"] and on["a"] and same
            on["b"] = on["b"] and ctx.get(dut.b_ready)
            for name in "ab":
                pending[name].append(model[reads[name]] if on[name] else 0)
                if len(pending[name]) > READ_LATENCY:
                    assert ctx.get(getattr(dut, f"{name}_data")) == pending[name].pop(0)
            for segment in range(segments):
                if enable >> segment & 1:
                    part = (1 << bits) - 1 << segment * bits
                    model[write] = model[write] & ~part | data & part
            await ctx.tick()
        assert refused > 20

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
