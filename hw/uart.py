# SPDX-License-Identifier: Apache-2.0
"""UART, 8 data bits, no parity, one stop bit, least significant bit first."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

_FRAME_BITS = 10


class UartReceiver(wiring.Component):
    """Bytes of a serial line.

    A byte is offered half a bit before the end of its stop bit; one that is not taken before the
    next has come is lost. A frame without a stop bit is dropped.

    Parameters
    ----------
    bit_cycles
        Clock cycles per bit, at least 4.

    Members
    -------
    rx
        The line; need not be synchronous to the clock.
    o
        Bytes.
    """

    def __init__(self, *, bit_cycles: int):
        self._bit_cycles = _checked(bit_cycles)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.line = FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(2 * self._bit_cycles))
        bits = Signal(range(_FRAME_BITS))
        byte = Signal(8)
        armed = Signal()  # the line has been idle: what comes is a start bit
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(bits == 0):
            with m.If(line):
                m.d.sync += armed.eq(1)
            with m.Elif(armed):
                m.d.sync += armed.eq(0)
                # The middle of the first data bit.
                m.d.sync += [timer.eq(self._bit_cycles * 3 // 2 - 1), bits.eq(_FRAME_BITS - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._bit_cycles - 1), bits.eq(bits - 1)]
            with m.If(bits == 1):
                with m.If(line):
                    m.d.sync += [self.o.payload.eq(byte), self.o.valid.eq(1), armed.eq(1)]
            with m.Else():
                m.d.sync += byte.eq(Cat(byte[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Sends bytes over a serial line.

    Parameters
    ----------
    bit_cycles
        Clock cycles per bit, at least 4.

    Members
    -------
    i
        Bytes.
    tx
        The line, from a register.
    """

    def __init__(self, *, bit_cycles: int):
        self._bit_cycles = _checked(bit_cycles)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        timer = Signal(range(self._bit_cycles))
        bits = Signal(range(_FRAME_BITS + 1))
        frame = Signal(_FRAME_BITS)
        m.d.comb += self.i.ready.eq(bits == 0)
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(bits != 0):
            m.d.sync += [
                self.tx.eq(frame[0]),
                frame.eq(frame[1:]),
                bits.eq(bits - 1),
                timer.eq(self._bit_cycles - 1),
            ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [frame.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))), bits.eq(10)]
        return m


def _checked(bit_cycles: int) -> int:
    if bit_cycles < 4:
        raise ValueError(f"a bit must take at least 4 clock cycles, not {bit_cycles!r}")
    return bit_cycles
