# SPDX-License-Identifier: Apache-2.0
"""Jump-ahead of the rows' states (docs/spec.md 1.2): the circuit is the serial step, 2^40 times.

No solver can take 2^40 steps. But one step is a matrix over GF(2), and squaring it 40 times is
exact. That the circuit computes the same matrix is proved for all states of a single bit; it is an
exclusive or of bits of the state and nothing else, so it is right for their sums, which are all
states.
"""

from functools import reduce

from amaranth.hdl import Assert, Cat, Cover, Module, Signal

from hiddenfold.hw import lfsr

#: Steps between neighbouring output channels.
_DOUBLINGS = 40


def _serial_matrix() -> list[int]:
    """One step: shift right by one; the new bit 63 is the parity of bits 0, 1, 3 and 4."""
    return [1 << row + 1 for row in range(63)] + [0b11011]


def _product(left: list[int], right: list[int]) -> list[int]:
    """The product of two matrices of 64 rows, whose bit ``j`` is column ``j``."""
    columns = range(64)
    return [reduce(int.__xor__, (right[j] for j in columns if row >> j & 1), 0) for row in left]


def harness(*, rows: int = 2) -> tuple[Module, list]:
    """Jumps over up to ``rows`` channels, written as the tile loader writes them."""
    one = _serial_matrix()
    for _ in range(_DOUBLINGS):
        one = _product(one, one)
    place, state = Signal(6), Signal(64)
    m = Module()
    m.d.comb += state.eq(1 << place)
    power = one
    for channels in range(1, rows + 1):
        lines = lfsr.jump_matrix(channels * lfsr.CHANNEL_JUMP)
        jumped, expected = Signal(64, name=f"jumped{channels}"), Signal(64, name=f"by{channels}")
        m.d.comb += [
            jumped.eq(Cat(*((state & line).xor() for line in lines))),
            expected.eq(Cat(*((state & line).xor() for line in power))),
            Assert(jumped == expected),
            Cover(jumped[0]),
        ]
        power = _product(power, one)
    return m, [place]
