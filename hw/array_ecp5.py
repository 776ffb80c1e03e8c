# SPDX-License-Identifier: Apache-2.0
"""A row of the array on the carry cells of Lattice ECP5."""

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value

from hiddenfold.hw.array_row import LATENCY, ArrayRow, register

#: Lanes that are added up in one cycle, and those of a chain of such cycles; cycles of all chains.
GROUP = 4
CHAIN = 16
STAGES = CHAIN // GROUP + 1


def table(function, inputs: int = 4) -> int:
    """Return the contents of a look-up table; the first argument is bit 0 of the address."""
    return sum(
        function(*(address >> bit & 1 for bit in range(inputs))) << address
        for address in range(1 << inputs)
    )


# A half of a carry cell computes f(A, B, C, D). Its sum is f xor carry; the carry goes on if f
# is 1, else it becomes f(A, B, 0, 0). So these two functions make of it
#: a full adder of A, (B and C) xor D and the carry,
ADD = table(lambda a, b, c, d: a ^ (b & c ^ d))
#: a full adder of A, one of two bits (C if B is set, else D) and the carry,
PICK = table(lambda a, b, c, d: a ^ (c if b else d))
#: with C = D = 1, the end of one adder (the sum is its carry) and the begin of the next (with A).
CUT = table(lambda a, b, c, d: a & (1 - c) & (1 - d))
#: Plain look-up tables: both bits of A + B + C, and (A and B) xor C.
SUM = table(lambda a, b, c, d: a ^ b ^ c)
CARRY = table(lambda a, b, c, d: int(a + b + c > 1))
TERM = table(lambda a, b, c, d: a & b ^ c)


def look_up(m: Module, contents: int, a, b, c) -> Signal:
    """Return the output of a LUT4 of three inputs."""
    out = Signal(name="lut")
    m.submodules += Instance(
        "LUT4", p_INIT=Const(contents, 16), i_A=a, i_B=b, i_C=c, i_D=Const(0, 1), o_Z=out
    )
    return out


def count3(m: Module, a, b, c) -> Value:
    """Return a + b + c, two bits."""
    return Cat(look_up(m, SUM, a, b, c), look_up(m, CARRY, a, b, c))


def lane_groups(lanes: int) -> list[tuple[int, int]]:
    """Return stage and chain of each group of lanes."""
    steps = min(lanes, CHAIN) // GROUP
    return sorted(
        (STAGES - steps + step - (chain > 0), chain)
        for chain in range(lanes // GROUP // steps)
        for step in range(steps)
    )


def extended(value, width: int) -> list:
    """Return the bits of an unsigned value, with zeros to ``width``."""
    return [value[k] if k < len(value) else Const(0, 1) for k in range(width)]


class CarryChain:
    """Adders laid end to end on carry cells (CCU2C), so that no half cell is lost between them.

    A timing analyser takes a cut for a path. So an adder must begin later in the clock cycle than
    the one before it ends, as it does when it adds to that one's sum.
    """

    def __init__(self, m: Module):
        self._m = m
        self._halves: list[dict] = []

    def add(self, terms, carry_in=None, *, carry_out: bool = True, contents: int = ADD) -> Value:
        """Return the sum of ``terms`` (A, B, C, D) of each bit, low bit first, and its carry."""
        if self._halves and self._halves[-1]["init"] == CUT:
            self._halves[-1]["A"] = Const(0, 1) if carry_in is None else carry_in
        elif self._halves or carry_in is not None:
            self._half(CUT, Const(0, 1) if carry_in is None else carry_in, 0, 1, 1)
        bits = [self._half(contents, *term) for term in terms]
        if carry_out:
            bits.append(self._half(CUT, 0, 0, 1, 1))
        return Cat(bits)

    def add_numbers(self, a, b, carry_in=None, *, width: int = 0) -> Value:
        """Return ``a + b + carry_in`` with its carry, or cut to ``width`` bits."""
        size = width or max(len(a), len(b))
        pairs = zip(extended(a, size), extended(b, size), strict=True)
        return self.add([(x, y, 1, 0) for x, y in pairs], carry_in, carry_out=not width)

    def close(self) -> None:
        """Make the cells."""
        if len(self._halves) % 2:
            self._half(CUT, 0, 0, 1, 1)
        carry = Const(0, 1)
        for low, high in zip(self._halves[::2], self._halves[1::2], strict=True):
            carry_out = Signal(name="carry")
            ports = {
                f"{'o' if name == 'S' else 'i'}_{name}{number}": half[name]
                for number, half in enumerate((low, high))
                for name in "ABCDS"
            }
            self._m.submodules += Instance(
                "CCU2C",
                p_INIT0=Const(low["init"], 16),
                p_INIT1=Const(high["init"], 16),
                p_INJECT1_0="NO",
                p_INJECT1_1="NO",
                i_CIN=carry,
                o_COUT=carry_out,
                **ports,
            )
            carry = carry_out

    def _half(self, contents: int, *inputs) -> Signal:
        total = Signal(name="sum")
        ports = {
            n: Const(v, 1) if isinstance(v, int) else v for n, v in zip("ABCD", inputs, strict=True)
        }
        self._halves.append({"init": contents, **ports, "S": total})
        return total


class Ecp5Row(ArrayRow):
    """A row of 8 planes whose AND, XOR and additions are in the same look-up tables.

    The lanes are cut into chains of 16. Each cycle adds four lanes to the low 8 bits of a chain's
    sum, one half cell a bit; the carries, of weight 256, are counted on the side. Chain 0 runs
    a cycle behind the others and begins with the number of negative lanes: the correction
    ``-255 * n = n - 256 * n`` so costs nothing but its part in the count.
    """

    stages = STAGES

    def __init__(self, *, lanes: int, planes: int):
        assert planes == 8, "8 planes"
        self.correction_stage = STAGES - min(lanes, CHAIN) // GROUP
        self._groups = lane_groups(lanes)
        super().__init__(lanes=lanes, planes=planes)

    def stage_of(self, lane: int) -> int:
        return self._groups[lane // GROUP][0]

    def sum(self, m, lanes, correction):
        last = self.stages + 1  # the cycle in which the final sum is made
        assert last + 1 == LATENCY, "latency"
        high_bits = len(self.partial) - 8
        # By the cycle in which they can be read: numbers of carries (two bits), single carries.
        numbers = {cycle: [] for cycle in range(last + 1)}
        singles = {cycle: [] for cycle in range(last + 1)}
        lows = {0: correction}
        for group, (stage, chain) in enumerate(self._groups):
            mine = lanes[group * GROUP : (group + 1) * GROUP]
            low, carries = self._add_group(m, lows.get(chain), mine)
            name = f"group{group}"
            lows[chain] = register(m, low, name)
            numbers[stage + 2].append(register(m, count3(m, *carries[:3]), f"{name}_carries"))
            singles[stage + 2] += [register(m, carry, f"{name}_carry") for carry in carries[3:]]

        # The carries less the negative lanes, cycle by cycle.
        begin = self.correction_stage + 1
        high = None
        for cycle in range(begin, last):
            chain = CarryChain(m)
            number, *others = numbers[cycle] or [Const(0, 1)]
            waiting = singles[cycle]
            for other in others:
                number = chain.add_numbers(number, other, waiting.pop() if waiting else None)
            if high is None:
                pairs = zip(
                    extended(number, high_bits), extended(correction, high_bits), strict=True
                )
                high = chain.add([(a, b, 1, 1) for a, b in pairs], Const(1, 1), carry_out=False)
            else:
                carry = waiting.pop() if waiting else None
                high = chain.add_numbers(high, number, carry, width=high_bits)
            assert not waiting, "a carry is left"
            chain.close()
            high = register(m, high, f"high{cycle}")

        # All chains but the first.
        low, *others = [lows[chain] for chain in sorted(lows) if chain] or [Const(0, 8)]
        chain = CarryChain(m)
        for number, other in enumerate(others):
            total = chain.add_numbers(low, other)
            low = total[:8]
            singles[last].append(register(m, total[8], f"join{number}_carry"))
        chain.close()
        low = register(m, low, "join")

        # The last chain, and the carries that came late.
        (number,) = numbers[last]
        chain = CarryChain(m)
        rest = singles[last] + [Const(0, 1)] * (3 - len(singles[last]))
        late = chain.add_numbers(number, count3(m, *rest))
        width = len(self.partial)
        total = chain.add_numbers(Cat(low, high), Cat(lows[0], late), width=width)
        chain.close()
        return register(m, total, "total")

    def _add_group(self, m, low, lanes: list) -> tuple[Value, list[Value]]:
        """Return the low 8 bits of ``low`` plus the lanes, and the carries.

        Without ``low`` the first lane takes its place and has no carry.
        """
        lanes = [[(bit, mask, negative) for bit in x] for x, mask, negative in lanes]
        if low is None:
            low = Cat(look_up(m, TERM, *term) for term in lanes.pop(0))
        carries = []
        chain = CarryChain(m)
        for lane in lanes:
            pairs = zip(extended(low, 8), lane, strict=True)
            total = chain.add([(bit, *term) for bit, term in pairs])
            low = total[:8]
            carries.append(total[8])
        chain.close()
        return low, carries
