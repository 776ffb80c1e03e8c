# SPDX-License-Identifier: Apache-2.0
"""Partial-sum buffer: two banks, one accumulates while the other is drained."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out


class PartialSums(wiring.Component):
    """``rows`` accumulators for each of ``depth`` pixels, in two banks.

    Accumulation: ``valid, index, bank, overwrite`` in cycle 0, ``partial`` in cycle
    ``PARTIAL_DELAY``; the sum is stored ``STORE_DELAY`` cycles after cycle 0 and may be read by
    an address in the cycle after. The same pixel must not come again within ``STORE_DELAY``
    cycles. Sums are exact: the compiler proves that ``acc_bits`` suffice (spec section 4.3).

    Drain: ``drain_data`` is valid ``READ_LATENCY`` cycles after ``drain_en``; ``drain_bank`` is the
    bank that is not accumulating.

    Parameters
    ----------
    rows, depth, acc_bits, partial_bits
        Accumulators a pixel, pixels a bank, width of an accumulator and of a row of ``partial``.
    """

    READ_LATENCY = 2
    PARTIAL_DELAY = 2
    STORE_DELAY = 3

    def __init__(self, *, rows: int, depth: int, acc_bits: int, partial_bits: int):
        self._rows = rows
        self._depth = depth
        self._acc_bits = acc_bits
        self._partial_bits = partial_bits
        super().__init__(
            {
                "valid": In(1),
                "index": In(range(depth)),
                "bank": In(1),
                "overwrite": In(1),
                "partial": In(rows * partial_bits),
                "drain_en": In(1),
                "drain_index": In(range(depth)),
                "drain_bank": In(1),
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
        drain_bank1, drain_bank2 = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [drain_bank1.eq(self.drain_bank), drain_bank2.eq(drain_bank1)]

        total = Signal(self._rows * self._acc_bits, reset_less=True)
        words = []
        for k in range(2):
            bank = memory.Memory(
                shape=len(total), depth=self._depth, init=[], attrs={"no_rw_check": 1}
            )
            m.submodules[f"bank{k}"] = bank
            write = bank.write_port()
            read = bank.read_port()
            mine = self.valid & (self.bank == k)
            word = Signal(len(total), name=f"word{k}", reset_less=True)
            m.d.comb += [
                read.addr.eq(Mux(mine, self.index, self.drain_index)),
                read.en.eq(mine | (self.drain_en & (self.drain_bank == k))),
                write.addr.eq(stages[-1][1]),
                write.data.eq(total),
                write.en.eq(stages[-1][0] & (stages[-1][2] == k)),
            ]
            m.d.sync += word.eq(read.data)
            words.append(word)
        m.d.comb += self.drain_data.eq(Mux(drain_bank2, words[1], words[0]))

        _, _, bank, overwrite = stages[self.PARTIAL_DELAY]
        old = Mux(overwrite, 0, Mux(bank, words[1], words[0]))
        sums = [
            (
                old.word_select(row, self._acc_bits).as_signed()
                + self.partial.word_select(row, self._partial_bits).as_signed()
            )[: self._acc_bits]
            for row in range(self._rows)
        ]
        m.d.sync += total.eq(Cat(*sums))
        return m
