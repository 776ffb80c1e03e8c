# SPDX-License-Identifier: Apache-2.0
"""Requantization of a pixel's accumulators to activations (docs/spec.md section 4.3)."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Width of the shifted product. One that is wider becomes one of the same sign and of at least half
#: the largest magnitude, 2^25: the output is clamped anyway, for the residual term is below 2^24
#: and the bias below 2^23 in magnitude.
SHIFTED_BITS = 27


class RequantizeChannel(wiring.Component):
    """One channel of :class:`Requantize`; ``limit`` is the largest output, 2^A - 1."""

    def __init__(self, *, acc_bits: int):
        super().__init__(
            {
                "acc": In(signed(acc_bits)),
                "res": In(8),
                "multiplier": In(signed(16)),
                "bias": In(signed(24)),
                "shift": In(5),
                "residual": In(16),
                "limit": In(8),
                "y": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Cycle 0: products.
        product = Signal(signed(len(self.acc) + 16), reset_less=True)
        skip = Signal(24, reset_less=True)
        m.d.sync += [product.eq(self.acc * self.multiplier), skip.eq(self.res * self.residual)]
        # Cycle 1: shift and saturate; residual plus bias.
        scaled = product
        for bit in (4, 3, 2):
            scaled = Mux(self.shift[bit], scaled >> (1 << bit), scaled)
        sign = product[-1]
        low, high = scaled[: SHIFTED_BITS - 1], scaled[SHIFTED_BITS - 1 :]
        shifted = Signal(signed(SHIFTED_BITS), reset_less=True)
        offset = Signal(signed(26), reset_less=True)
        m.d.sync += [shifted.eq(Cat(low, sign)), offset.eq(skip + self.bias)]
        with m.If(high != sign.replicate(len(high))):
            m.d.sync += shifted[-2].eq(~sign)
        # Cycle 2: sum without its 8 fraction bits.
        value = Signal(signed(20), reset_less=True)
        m.d.sync += value.eq((shifted + offset) >> 8)
        # Cycle 3: clamp; the limit is all ones from bit 0 to its highest.
        above = (value[8:-1] != 0) | ((value[:8] & ~self.limit) != 0)
        y = Signal(8, reset_less=True)
        m.d.sync += y.eq((value[:8] | above.replicate(8)) & self.limit & ~value[-1].replicate(8))
        m.d.comb += self.y.eq(y)
        return m


class Requantize(wiring.Component):
    """``y = clamp((((acc * M) >> S) + res * R + B) >> 8, 0, 2^A - 1)`` for ``rows`` channels.

    A new pixel every cycle; ``y`` is valid ``LATENCY`` cycles after ``acc`` and ``res``. M, B, S, R
    and A must be stable from ``acc`` to ``y``. There is no flow control.

    Members
    -------
    acc, res
        ``rows`` signed accumulators of ``acc_bits``; ``rows`` unsigned residuals of 8 bits.
    multiplier, bias
        ``rows`` signed numbers of 16 and 24 bits.
    shift, residual, out_bits
        S (a multiple of 4, 0..28), R (0 without a residual), A.
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
                "y": Out(rows * 8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        limit = Signal(8, reset_less=True)
        m.d.sync += limit.eq((1 << self.out_bits) - 1)
        for number in range(self._rows):
            channel = RequantizeChannel(acc_bits=self._acc_bits)
            m.submodules[f"channel{number}"] = channel
            m.d.comb += [
                channel.acc.eq(self.acc.word_select(number, self._acc_bits)),
                channel.res.eq(self.res.word_select(number, 8)),
                channel.multiplier.eq(self.multiplier.word_select(number, 16)),
                channel.bias.eq(self.bias.word_select(number, 24)),
                channel.shift.eq(self.shift),
                channel.residual.eq(self.residual),
                channel.limit.eq(limit),
                self.y.word_select(number, 8).eq(channel.y),
            ]
        return m
