# SPDX-License-Identifier: Apache-2.0
"""Start, end, counters and errors of a run (docs/spec.md sections 8 and 9)."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw.counters import Counters
from hiddenfold.hw.isa import Error


class RunControl(wiring.Component):
    """Starts, counts and ends runs; brings every error to a readable, restartable state.

    Members
    -------
    start, abort, watchdog
        From the registers.
    rest, engine_start, flush, stop
        To the engine: reset in the next cycle; start; see :class:`Engine`.
    finished, idle, error, failed, pc
        From the engine.
    images
        Images that the engine has done.
    busy, done, fail, code, fail_pc, images_done
        To the registers. ``fail`` comes at once with the first error, ``done`` and the end of
        ``busy`` when the bus is quiet and the counters have settled. ``images_done`` is kept while
        the engine rests.
    read_beat, write_beat, array_cycle, tile_stall, drain_stall, bus_stall, transfer_stall
        Events of a cycle.
    counter, counter_read, counter_value
        One of ``COUNTERS``, which a start clears; see :class:`hiddenfold.hw.counters.Counters`.
    """

    COUNTERS = (
        "cycles",
        "read_bytes",
        "write_bytes",
        "array_cycles",
        "tile_stalls",
        "drain_stalls",
        "bus_stalls",
        "transfer_stalls",
    )

    def __init__(self, *, bus_bits: int):
        self._bus_bytes = bus_bits // 8
        super().__init__(
            {
                "start": In(1),
                "abort": In(1),
                "watchdog": In(32),
                "rest": Out(1),
                "engine_start": Out(1),
                "flush": Out(1),
                "stop": Out(1),
                "finished": In(1),
                "idle": In(1),
                "error": In(Error),
                "failed": In(1),
                "pc": In(32),
                "images": In(16),
                "busy": Out(1),
                "done": Out(1),
                "fail": Out(1),
                "code": Out(8),
                "fail_pc": Out(32),
                "images_done": Out(16),
                "read_beat": In(1),
                "write_beat": In(1),
                "array_cycle": In(1),
                "tile_stall": In(1),
                "drain_stall": In(1),
                "bus_stall": In(1),
                "transfer_stall": In(1),
                "counter": In(range(len(self.COUNTERS))),
                "counter_read": In(1),
                "counter_value": Out(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        active = Signal()
        clock_left = Signal(signed(33))  # minus one
        watching = Signal()
        late = Signal()
        clear = Signal()  # of watchdog and counters
        m.d.comb += late.eq(watching & clock_left[-1])
        with m.If(clear):
            m.d.sync += [clock_left.eq(self.watchdog - 1), watching.eq(self.watchdog != 0)]
        with m.Elif(active & ~clock_left[-1]):
            m.d.sync += clock_left.eq(clock_left - 1)
        well = Signal()  # the run has ended without an error
        settle = Signal(range(Counters.SETTLE))

        def end_on_error():
            """Leave for HALT on the first of error, watchdog, abort."""
            with m.If(self.failed | late | self.abort):
                m.d.comb += self.fail.eq(1)
                m.next = "HALT"

        m.d.comb += self.code.eq(
            Mux(self.failed, self.error, Mux(late, Error.WATCHDOG, Error.ABORTED))
        )

        m.d.comb += self.fail_pc.eq(self.pc)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += [self.stop.eq(1), self.rest.eq(~self.start)]
                with m.If(self.start):
                    m.d.comb += clear.eq(1)
                    m.next = "START"
            with m.State("START"):
                m.d.comb += self.engine_start.eq(1)
                m.next = "RUN"
            with m.State("RUN"):
                with m.If(self.finished):
                    m.next = "FLUSH"
                end_on_error()
            with m.State("FLUSH"):
                m.d.comb += self.flush.eq(1)
                m.d.sync += well.eq(1)
                with m.If(self.idle):
                    m.next = "SETTLE"
                end_on_error()
            with m.State("HALT"):
                m.d.comb += self.stop.eq(1)
                m.d.sync += well.eq(0)
                with m.If(self.idle):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                # What an abort has left in the engine is gone before the next start.
                m.d.comb += [self.stop.eq(1), self.rest.eq(1)]
                m.d.sync += settle.eq(settle + 1)
                with m.If(settle == Counters.SETTLE - 1):
                    m.d.comb += self.done.eq(well)
                    m.next = "IDLE"
            m.d.comb += [
                self.busy.eq(~fsm.ongoing("IDLE")),
                active.eq(self.busy & ~fsm.ongoing("SETTLE")),
            ]

        with m.If(active):
            m.d.sync += self.images_done.eq(self.images)

        byte_shift = exact_log2(self._bus_bytes)
        events = {
            "cycles": (1, 0),
            "read_bytes": (self.read_beat, byte_shift),
            "write_bytes": (self.write_beat, byte_shift),
            "array_cycles": (self.array_cycle, 0),
            "tile_stalls": (self.tile_stall, 0),
            "drain_stalls": (self.drain_stall, 0),
            "bus_stalls": (self.bus_stall, 0),
            "transfer_stalls": (self.transfer_stall, 0),
        }
        shifts = tuple(events[name][1] for name in self.COUNTERS)
        m.submodules.counters = counters = Counters(shifts=shifts)
        m.d.comb += [
            counters.clear.eq(clear),
            counters.number.eq(self.counter),
            counters.read.eq(self.counter_read),
            self.counter_value.eq(counters.value),
            *(
                counters.events[k].eq(active & events[name][0])
                for k, name in enumerate(self.COUNTERS)
            ),
        ]
        return m
