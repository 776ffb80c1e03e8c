# SPDX-License-Identifier: Apache-2.0
"""Activation memory: banks of block RAM with one read and one write port each."""

from collections import defaultdict
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

#: Cycles from a read address to its data (block RAM plus its output register).
READ_LATENCY = 2


class ActivationMemory(wiring.Component):
    """Words of ``lanes`` x 8 bits in ``banks`` banks of ``bank_words`` words.

    Two readers and one writer. Reader ``a`` takes whole words and is never refused. Reader ``b``
    takes a part of a word, and is refused (``b_ready`` low in the same cycle) while ``a`` reads the
    same bank. Data come ``READ_LATENCY`` cycles after an accepted address; in all other cycles they
    are 0. A read in the cycle of a write to the same word may return either value.

    Parameters
    ----------
    lanes, write_lanes, part_bits
        A word is written in segments of ``write_lanes`` channels, and read by ``b`` in parts of
        ``part_bits``.
    banks, bank_words
        Powers of two; the upper address bits choose the bank.

    Members
    -------
    a_en, a_addr, a_data
        Reader of words.
    b_en, b_addr, b_part, b_ready, b_data
        Reader of parts.
    w_en, w_addr, w_data
        Writer; bit ``i`` of ``w_en`` writes segment ``i``.
    """

    def __init__(
        self, *, lanes: int, write_lanes: int, part_bits: int, banks: int, bank_words: int
    ):
        self._segment_bits = write_lanes * 8
        self._banks = banks
        self._bank_words = bank_words
        address_bits = exact_log2(banks * bank_words)
        super().__init__(
            {
                "a_en": In(1),
                "a_addr": In(address_bits),
                "a_data": Out(lanes * 8),
                "b_en": In(1),
                "b_addr": In(address_bits),
                "b_part": In(range(lanes * 8 // part_bits)),
                "b_ready": Out(1),
                "b_data": Out(part_bits),
                "w_en": In(lanes // write_lanes),
                "w_addr": In(address_bits),
                "w_data": In(lanes * 8),
            }
        )

    def bank_of(self, address):
        """Return the bank of an address."""
        return address[exact_log2(self._bank_words) :] if self._banks > 1 else Cat(0)

    def elaborate(self, platform):
        m = Module()
        offset_bits = exact_log2(self._bank_words)
        a_bank, b_bank, w_bank = map(self.bank_of, (self.a_addr, self.b_addr, self.w_addr))
        m.d.comb += self.b_ready.eq(~(self.a_en & (a_bank == b_bank)))
        # A bank reads in each cycle: an enable would come late. Each reader has its own register
        # behind each bank. What it does not read of them is cleared, so that an OR makes its data.
        part_bits = len(self.b_data)
        words: list[Signal] = []
        parts: dict[int, list[Signal]] = defaultdict(list)
        for k in range(self._banks):
            bank = memory.Memory(
                shape=len(self.a_data),
                depth=self._bank_words,
                init=[],
                attrs={"no_rw_check": 1},
            )
            m.submodules[f"bank{k}"] = bank
            write = bank.write_port(granularity=self._segment_bits)
            read = bank.read_port()
            a_here = self.a_en & (a_bank == k)
            b_here = self.b_en & (b_bank == k) & ~a_here
            m.d.comb += [
                write.addr.eq(self.w_addr[:offset_bits]),
                write.data.eq(self.w_data),
                write.en.eq(self.w_en & (w_bank == k).replicate(len(self.w_en))),
                read.addr.eq(self.b_addr[:offset_bits]),
            ]
            with m.If(a_here):
                m.d.comb += read.addr.eq(self.a_addr[:offset_bits])
            words.append(_if_read(m, f"a{k}", a_here, read.data))
            for number in range(len(self.a_data) // part_bits):
                here = b_here & (self.b_part == number)
                part = read.data.word_select(number, part_bits)
                parts[number].append(_if_read(m, f"b{k}_{number}", here, part))
        # Banks first, whose memories can lie side by side; tools would cut the OR anywhere.
        of_parts = []
        for number, banks in parts.items():
            of_part = Signal(part_bits, name=f"part_b{number}", attrs={"keep": 1})
            m.d.comb += of_part.eq(reduce(or_, banks))
            of_parts.append(of_part)
        m.d.comb += [self.a_data.eq(reduce(or_, words)), self.b_data.eq(reduce(or_, of_parts))]
        return m


def _if_read(m: Module, name: str, here, data) -> Signal:
    """Return a register of what a bank gives a cycle after ``here``, and 0 in other cycles."""
    was_here = Signal(name=f"was_here_{name}", reset_less=True)
    word = Signal(len(data), name=f"word_{name}", reset_less=True)
    m.d.sync += [was_here.eq(here), word.eq(0)]
    with m.If(was_here):
        m.d.sync += word.eq(data)
    return word
