# SPDX-License-Identifier: Apache-2.0
"""Requantization of a pixel's accumulators to activations (docs/spec.md section 4.3)."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.array_ecp5 import PICK, CarryChain

#: Width of the shifted product. One that is wider becomes one of the same sign and of at least half
#: the largest magnitude, 2^25: the output is clamped anyway, for the residual term is below 2^24
#: and the bias below 2^23 in magnitude.
SHIFTED_BITS = 27
#: A shift is 8 times the number of a copy of the product, 0..3, and perhaps 4 more.
COPIES = 4
#: Unsigned bits of one operand of an ECP5 multiplier, which has 18 signed ones.
_FACTOR_BITS = 17


class RequantizeChannel(wiring.Component):
    """One channel of :class:`Requantize`.

    ``copy`` has bit ``S // 8`` set and ``half`` is bit 2 of S; ``limit`` is the largest output,
    2^A - 1; ``keep`` as there. A multiplexer of copies that are zero but for one is an OR: that is
    half the look-up tables of a shifter.
    """

    def __init__(self, *, acc_bits: int):
        super().__init__(
            {
                "acc": In(signed(acc_bits)),
                "res": In(8),
                "multiplier": In(signed(16)),
                "bias": In(signed(24)),
                "copy": In(COPIES),
                "half": In(1),
                "residual": In(16),
                "limit": In(8),
                "keep": In(1),
                "y": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ecp5 = getattr(platform, "family", "sim") == "ecp5"
        # Cycle 0: products.
        product = self._product(m, ecp5)
        skip = Signal(24, reset_less=True)
        m.d.sync += skip.eq(self.res * self.residual)

        # Cycle 1: copies of the product, shifted by 0, 8, 16, 24; residual plus bias.
        bits = SHIFTED_BITS + 4
        width = max(len(product), 8 * (COPIES - 1) + bits)
        wide = Signal(signed(width))
        sign = Signal(reset_less=True)
        above = Signal(width - bits, reset_less=True)  # of the first copy
        offset = Signal(signed(26), reset_less=True)
        m.d.comb += wide.eq(product)
        m.d.sync += [
            sign.eq(product[-1]),
            above.eq(wide[bits:]),
            offset.eq(skip + self.bias),
        ]
        copies = [Signal(bits, name=f"copy{k}", reset_less=True) for k in range(COPIES)]
        for k, copy in enumerate(copies):
            with m.If(self.copy[k]):
                m.d.sync += copy.eq(wide[8 * k :])
            with m.Else():
                m.d.sync += copy.eq(0)

        # Cycle 2: sum without its 8 fraction bits. ``chosen`` is to be shifted by 4 more, or not.
        chosen = Signal(bits)
        saturate = Signal()
        top = SHIFTED_BITS - 1
        m.d.comb += [
            chosen.eq(reduce(or_, copies)),
            saturate.eq(
                (self.copy[0] & (above != sign.replicate(len(above))))
                | (chosen[-1] != sign)
                | (~self.half & (chosen[top:-1] != sign.replicate(bits - SHIFTED_BITS)))
            ),
        ]
        low, high = chosen[: top - 1], chosen[4 : top + 3]
        ends = Cat(Mux(saturate, ~sign, Mux(self.half, chosen[top + 3], chosen[top - 1])), sign)
        value = Signal(signed(20), reset_less=True)
        if ecp5:
            chain = CarryChain(m)
            offsets = [*offset, *[offset[-1]] * 2]
            rest = [*ends, ends[-1]]
            terms = [(a, self.half, c, d) for a, c, d in zip(offsets, high, low, strict=False)]
            terms += [(a, 0, 0, d) for a, d in zip(offsets[len(terms) :], rest, strict=True)]
            total = chain.add(terms, contents=PICK, carry_out=False)
            chain.close()
        else:
            total = Cat(Mux(self.half, high, low), ends).as_signed() + offset
        m.d.sync += value.eq(total[8:])

        # Cycle 3: clamp; the limit is all ones from bit 0 to its highest.
        beyond = (value[8:-1] != 0) | ((value[:8] & ~self.limit) != 0)
        y = Signal(8, reset_less=True)
        m.d.sync += y.eq(0)
        with m.If(self.keep & ~value[-1]):
            m.d.sync += y.eq((value[:8] | beyond.replicate(8)) & self.limit)
        m.d.comb += self.y.eq(y)
        return m

    def _product(self, m: Module, ecp5: bool):
        """Return ``acc * multiplier`` in cycle 1."""
        if not ecp5 or len(self.acc) <= _FACTOR_BITS + 1:
            product = Signal(signed(len(self.acc) + 16), reset_less=True)
            m.d.sync += product.eq(self.acc * self.multiplier)
            return product
        # The parts of a product that takes two multipliers are added a cycle later.
        low_acc, high_acc = self.acc[:_FACTOR_BITS], self.acc[_FACTOR_BITS:].as_signed()
        low = Signal(signed(_FACTOR_BITS + 16), reset_less=True)
        high = Signal(signed(len(high_acc) + 16), reset_less=True)
        m.d.sync += [low.eq(low_acc * self.multiplier), high.eq(high_acc * self.multiplier)]
        upper = (low[_FACTOR_BITS:].as_signed() + high)[: len(high)]
        return Cat(low[:_FACTOR_BITS], upper).as_signed()


class Requantize(wiring.Component):
    """``y = clamp((((acc * M) >> S) + res * R + B) >> 8, 0, 2^A - 1)`` for ``rows`` channels.

    New accumulators every cycle; ``y`` is valid ``LATENCY`` cycles after ``acc``. S, R and A must
    be stable from ``acc`` to ``y``. There is no flow control.

    Members
    -------
    acc, res
        ``rows`` signed accumulators of ``acc_bits``; ``rows`` unsigned residuals of 8 bits.
    multiplier, bias
        ``rows`` signed numbers of 16 and 24 bits: M in the cycle of ``acc``, B in the next one.
    shift, residual, out_bits
        S (a multiple of 4, 0..28), R (0 without a residual), A.
    keep
        ``y`` is wanted in the next cycle; without it, it is 0.
    y
        ``rows`` activations of 8 bits.
    """

    LATENCY = 4

    def __init__(self, *, rows: int, acc_bits: int):
        self._rows = rows
        self._acc_bits = acc_bits
        super().__init__(
            {
                "acc": In(rows * acc_bits),
                "res": In(rows * 8),
                "multiplier": In(rows * 16),
                "bias": In(rows * 24),
                "shift": In(5),
                "residual": In(16),
                "out_bits": In(4),
                "keep": In(1),
                "y": Out(rows * 8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        limit = Signal(8, reset_less=True)
        copy = Signal(COPIES, reset_less=True)
        half = Signal(reset_less=True)
        m.d.sync += [
            limit.eq((1 << self.out_bits) - 1),
            copy.eq(1 << self.shift[3:]),
            half.eq(self.shift[2]),
        ]
        for number in range(self._rows):
            channel = RequantizeChannel(acc_bits=self._acc_bits)
            m.submodules[f"channel{number}"] = channel
            m.d.comb += [
                channel.acc.eq(self.acc.word_select(number, self._acc_bits)),
                channel.res.eq(self.res.word_select(number, 8)),
                channel.multiplier.eq(self.multiplier.word_select(number, 16)),
                channel.bias.eq(self.bias.word_select(number, 24)),
                channel.copy.eq(copy),
                channel.half.eq(half),
                channel.residual.eq(self.residual),
                channel.limit.eq(limit),
                channel.keep.eq(self.keep),
                self.y.word_select(number, 8).eq(channel.y),
            ]
        return m
