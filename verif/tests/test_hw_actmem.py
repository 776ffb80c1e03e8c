# SPDX-License-Identifier: Apache-2.0
"""Activation memory against plain Python: two readers, segments, banks."""

import random

import pytest
from amaranth.sim import Simulator

from hiddenfold.hw.actmem import READ_LATENCY, ActivationMemory


@pytest.mark.parametrize(
    ("write_lanes", "part_bits", "banks", "bank_words"),
    [(4, 64, 1, 16), (8, 16, 2, 8), (2, 32, 4, 4)],
)
def test_reads_and_writes(write_lanes, part_bits, banks, bank_words):
    lanes, words = 8, banks * bank_words
    rng = random.Random(f"{write_lanes}{banks}")
    dut = ActivationMemory(
        lanes=lanes,
        write_lanes=write_lanes,
        part_bits=part_bits,
        banks=banks,
        bank_words=bank_words,
    )
    segments, bits = lanes // write_lanes, write_lanes * 8

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
            part = rng.randrange(lanes * 8 // part_bits)
            ctx.set(dut.b_part, part)
            ctx.set(dut.w_en, enable)
            ctx.set(dut.w_addr, write)
            ctx.set(dut.w_data, data)
            same = reads["a"] // bank_words == reads["b"] // bank_words
            assert ctx.get(dut.b_ready) == (not (on["a"] and same))
            refused += on["b"] and on["a"] and same
            on["b"] = on["b"] and ctx.get(dut.b_ready)
            word = {"a": model[reads["a"]]}
            word["b"] = model[reads["b"]] >> part * part_bits & (1 << part_bits) - 1
            for name in "ab":
                pending[name].append(word[name] if on[name] else 0)
                if len(pending[name]) > READ_LATENCY:
                    assert ctx.get(getattr(dut, f"{name}_data")) == pending[name].pop(0)
            for segment in range(segments):
                if enable >> segment & 1:
                    written = (1 << bits) - 1 << segment * bits
                    model[write] = model[write] & ~written | data & written
            await ctx.tick()
        assert refused > 20

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
