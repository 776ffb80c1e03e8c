# SPDX-License-Identifier: Apache-2.0
"""A row of the array on the look-up tables and carry cells of the AMD 7 series."""

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value

from hiddenfold.hw.array_ecp5 import extended, table
from hiddenfold.hw.array_row import LATENCY, ArrayRow, partial_bits, register


def _pair(x1: int, m1: int, n1: int, x2: int, n2: int, m2: int) -> int:
    return x1 & m1 ^ n1 ^ m2 & (x2 ^ n2)


def _three(a: int, b: int, c: int, d: int, _: int, full: int) -> int:
    return a ^ b ^ c ^ d if full else int(a + b + c > 1)


# O5 of a LUT6_2 is O6 with its last input low. A bit of the carry chain adds O6, the carry below
# and, where O6 is low, twice its second input.
#: Two lanes in one table: O6 is the sum of their terms without carry, O5 the first term. That works
#: because the mask, the last input, takes the second term away: ``(x and m) xor n`` is
#: ``m and (x xor n)`` where n is a part of m.
PAIR = table(_pair, 6)
#: Three numbers in one table: O6 is a + b + c + d without carries, O5 the carry of a + b + c, which
#: is d of the next bit.
THREE = table(_three, 6)


def look_up2(m: Module, contents: int, *inputs) -> tuple[Signal, Signal]:
    """Return O6 and O5 of a LUT6_2."""
    o6, o5 = Signal(name="o6"), Signal(name="o5")
    ports = {f"i_I{k}": value for k, value in enumerate(inputs)}
    m.submodules += Instance("LUT6_2", p_INIT=Const(contents, 64), o_O6=o6, o_O5=o5, **ports)
    return o6, o5


def carry_chain(m: Module, bits: list[tuple[Value, Value]]) -> Value:
    """Return the sum of (S, DI) bits on CARRY4 cells, low bit first, and its carry."""
    total, carries = [], [Const(0, 1)]
    for start in range(0, len(bits), 4):
        part = bits[start : start + 4]
        part += [(Const(0, 1), Const(0, 1))] * (4 - len(part))
        out, carry = Signal(4, name="sum"), Signal(4, name="carry")
        m.submodules += Instance(
            "CARRY4",
            i_CI=carries[-1],
            i_CYINIT=Const(0, 1),
            i_S=Cat(s for s, _ in part),
            i_DI=Cat(di for _, di in part),
            o_O=out,
            o_CO=carry,
        )
        total.extend(out)
        carries.extend(carry)
    return Cat(total[: len(bits)], carries[len(bits)])


def add_three(m: Module, numbers: list, width: int = 0) -> Value:
    """Return the sum of three unsigned numbers with its carries, or cut to ``width`` bits."""
    size = width or max(map(len, numbers)) + 1
    bits, below = [], Const(0, 1)
    for a, b, c in zip(*(extended(number, size) for number in numbers), strict=True):
        s, carry = look_up2(m, THREE, a, b, c, below, Const(0, 1), Const(1, 1))
        bits.append((s, below))
        below = carry
    total = carry_chain(m, bits)
    return total[:width] if width else total


class Xc7Row(ArrayRow):
    """A row of 8 planes: two lanes in each table, then three numbers in each table.

    Each level of adders ends in a register. The last adder takes the correction.
    """

    stages = 5
    correction_weight = 1

    def __init__(self, *, lanes: int, planes: int):
        assert planes == 8, "8 planes"
        # Levels of adders until two numbers are left, for the last one.
        numbers, self._levels = lanes // 2, 0
        while numbers > 2:
            numbers = numbers // 3 + numbers % 3
            self._levels += 1
        self.correction_stage = 1 + self._levels
        super().__init__(lanes=lanes, planes=planes)

    def to_correction(self, count) -> Value:
        return (count - (count << 8))[: partial_bits(self._lanes)]

    def sum(self, m, lanes, correction):
        numbers = []
        for number, (first, second) in enumerate(zip(lanes[::2], lanes[1::2], strict=True)):
            (x1, m1, n1), (x2, m2, n2) = first, second
            tables = [look_up2(m, PAIR, a, m1, n1, b, n2, m2) for a, b in zip(x1, x2, strict=True)]
            numbers.append(register(m, carry_chain(m, tables), f"pair{number}"))
        for level in range(self._levels):
            threes = len(numbers) // 3
            sums = [add_three(m, numbers[3 * k : 3 * k + 3]) for k in range(threes)]
            numbers = [
                register(m, number, f"level{level}_{k}")
                for k, number in enumerate(sums + numbers[3 * threes :])
            ]
        total = add_three(m, [*numbers, correction], len(self.partial))
        return register(m, total, "total", LATENCY - 2 - self._levels)
