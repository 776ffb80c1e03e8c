# SPDX-License-Identifier: Apache-2.0
"""Partial-sum buffer: two banks, one accumulates while the other is drained."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out


class PartialSums(wiring.Component):
    """``rows`` accumulators for each of ``depth`` pixels, in two banks.

    Accumulation: ``valid, index, bank, overwrite`` in cycle 0, ``partial`` in cycle
    ``PARTIAL_DELAY``; the sum is stored ``STORE_DELAY`` cycles after cycle 0 and may be read by
    an address in the cycle after. The same pixel must not come again within ``STORE_DELAY``
    cycles. Sums are exact: the compiler proves that ``acc_bits`` suffice (spec section 4.3).

    Drain: ``drain_data`` is valid ``READ_LATENCY`` cycles after its index; ``drain_bank`` is the
    bank that is not accumulating. The rows are read in equal ``parts``: bit ``k`` of
    ``drain_parts`` lets part ``k`` through; the others are 0.

    Both banks are kept twice, once for each reader. A memory for each bank would hold no less in
    block RAMs of 512 words, and would need two multiplexers as wide as all accumulators.

    Parameters
    ----------
    rows, depth, acc_bits, partial_bits
        Accumulators a pixel, pixels a bank, width of an accumulator and of a row of ``partial``.
    parts
        Parts of the rows that can be read apart; it divides ``rows``.
    """

    READ_LATENCY = 2
    PARTIAL_DELAY = 2
    STORE_DELAY = 3

    def __init__(self, *, rows: int, depth: int, acc_bits: int, partial_bits: int, parts: int):
        self._rows = rows
        self._depth = depth
        self._acc_bits = acc_bits
        self._partial_bits = partial_bits
        self._parts = parts
        super().__init__(
            {
                "valid": In(1),
                "index": In(range(depth)),
                "bank": In(1),
                "overwrite": In(1),
                "partial": In(rows * partial_bits),
                "drain_index": In(range(depth)),
                "drain_bank": In(1),
                "drain_parts": In(parts),
                "drain_data": Out(rows * acc_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        stages = [(self.valid, self.index, self.bank, self.overwrite)]
        for age in range(1, self.STORE_DELAY + 1):
            stage = tuple(
                Signal.like(s, name=f"{n}{age}", reset_less=n != "valid")
                for s, n in zip(stages[-1], ("valid", "index", "bank", "overwrite"), strict=True)
            )
            m.d.sync += [new.eq(old) for new, old in zip(stage, stages[-1], strict=True)]
            stages.append(stage)
        parts = Signal(self._parts, reset_less=True)
        m.d.sync += parts.eq(self.drain_parts)

        total = Signal(self._rows * self._acc_bits, reset_less=True)
        reads = {}
        for reader in ("accumulate", "drain"):
            banks = memory.Memory(
                shape=len(total), depth=2 * self._depth, init=[], attrs={"no_rw_check": 1}
            )
            m.submodules[f"banks_{reader}"] = banks
            write = banks.write_port()
            reads[reader] = banks.read_port()
            valid, index, bank, _ = stages[-1]
            m.d.comb += [
                write.addr.eq(Cat(index, bank)),
                write.data.eq(total),
                write.en.eq(valid),
            ]
        m.d.comb += [
            reads["accumulate"].addr.eq(Cat(self.index, self.bank)),
            reads["accumulate"].en.eq(self.valid),
            reads["drain"].addr.eq(Cat(self.drain_index, self.drain_bank)),
        ]
        # A new sum begins with 0, and parts that are not wanted are 0: a register is cleared for
        # nothing, a multiplexer is not to be had for that.
        old = Signal(len(total), reset_less=True)
        drained = Signal(len(total), reset_less=True)
        overwrite = stages[1][3]
        with m.If(overwrite):
            m.d.sync += old.eq(0)
        with m.Else():
            m.d.sync += old.eq(reads["accumulate"].data)
        size = len(total) // self._parts
        for part in range(self._parts):
            with m.If(parts[part]):
                m.d.sync += drained.word_select(part, size).eq(
                    reads["drain"].data.word_select(part, size)
                )
            with m.Else():
                m.d.sync += drained.word_select(part, size).eq(0)
        m.d.comb += self.drain_data.eq(drained)

        sums = [
            (
                old.word_select(row, self._acc_bits).as_signed()
                + self.partial.word_select(row, self._partial_bits).as_signed()
            )[: self._acc_bits]
            for row in range(self._rows)
        ]
        m.d.sync += total.eq(Cat(*sums))
        return m
