# SPDX-License-Identifier: Apache-2.0
"""Counters of events, 64 bits wide, in one small memory instead of a register and adder each."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

_BITS = 64
#: Of the part of a counter beside the memory: more events than come between two visits.
_PENDING_BITS = 5


class Counters(wiring.Component):
    """Counts each event in a few bits and adds these to the memory, one counter a cycle in turn.

    Parameters
    ----------
    shifts
        For each counter: an event counts ``2 ** shift``.

    Members
    -------
    clear
        Set all counters to 0. Events of this cycle are not counted.
    events
        A bit for each counter.
    number, read, value
        ``value`` is counter ``number`` in a cycle with ``read``. Such a cycle holds up the visits,
        so the next one must not be one, too. Events are in ``value`` after ``SETTLE`` cycles.
    """

    SETTLE = 32

    def __init__(self, *, shifts: tuple[int, ...]):
        self._shifts = shifts
        super().__init__(
            {
                "clear": In(1),
                "events": In(len(shifts)),
                "number": In(range(len(shifts))),
                "read": In(1),
                "value": Out(_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        count = len(self._shifts)
        m.submodules.totals = totals = memory.Memory(shape=_BITS, depth=count, init=[])
        port = totals.read_port(domain="comb")
        write = totals.write_port()
        fresh = Signal(count, init=-1)  # what the memory holds is of an earlier run

        # One visit: first the events that came since the last one, then the sum.
        turn = Signal.like(self.number)
        number = Signal.like(self.number)
        pending = [Signal(_PENDING_BITS, name=f"pending{k}") for k in range(count)]
        amounts = [value << shift for value, shift in zip(pending, self._shifts, strict=True)]
        amount = Signal(max(map(len, amounts)))
        step = Signal()
        address = Mux(self.read, self.number, number)
        m.d.comb += [
            step.eq(~self.read),
            port.addr.eq(address),
            self.value.eq(Mux(fresh.bit_select(address, 1), 0, port.data)),
            write.addr.eq(number),
            write.data.eq(self.value + amount),
            write.en.eq(step),
        ]
        with m.If(step):
            m.d.sync += [
                fresh.bit_select(number, 1).eq(0),
                turn.eq(Mux(turn == count - 1, 0, turn + 1)),
                number.eq(turn),
                amount.eq(Array(amounts)[turn]),
            ]
        for k, value in enumerate(pending):
            taken = step & (turn == k)
            m.d.sync += value.eq(Mux(taken, 0, value) + self.events[k])
        with m.If(self.clear):
            m.d.sync += [fresh.eq(-1), amount.eq(0), Cat(pending).eq(0)]
        return m
