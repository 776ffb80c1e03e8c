# SPDX-License-Identifier: Apache-2.0
"""AXI4 master for linear reads by several requesters."""

from collections.abc import Iterable
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from hiddenfold.hw.axi import (
    COMMAND,
    add,
    address_constants,
    axi4_read_ports,
    burst_limit,
    check_channel,
)
from hiddenfold.hw.fifo import ShortQueue, StreamFifo


def one_of(choices: Iterable[tuple[Value, Value]]) -> Value:
    """Return the value whose bit is set, 0 if none is."""
    return reduce(or_, (value & bit.replicate(len(value)) for bit, value in choices))


class BurstMaker(wiring.Component):
    """Makes AXI bursts of the linear commands of several ports and checks their windows.

    Port 0 has the highest priority. The ports share all logic: what is left of their commands lies
    in a distributed memory, and the bursts are made one at a time. A burst begins three cycles
    after its command, or its room, has come, and four after the burst before at the earliest.

    Parameters
    ----------
    count_bits
        For each port the width of the beats of a command.
    windows
        For each port the number of its window.
    data_bits, max_burst
        Width of the bus, longest burst in beats, a power of two.

    Members
    -------
    cmd{i}
        Commands of port i (:data:`COMMAND`), taken with their first burst; one of no beats does
        nothing.
    base{w}, limit{w}
        A burst in window w must lie in [base, limit) and below 2^32.
    room
        A bit for each port: there is room for any of its bursts. Only a burst may take it away.
    may_begin
        A burst may begin; the next one is chosen, too. Low after an error.
    take_room, begin, port, minus_beats
        A burst of ``port`` takes its room; it begins, unless it lies outside the window, and is
        offered from the next cycle on; its beats, negated.
    o
        Address channel: byte address, beats less 1.
    errors
        A bit for each port: a burst lay outside its window. It does not begin.
    """

    def __init__(
        self,
        *,
        count_bits: tuple[int, ...],
        windows: tuple[int, ...],
        data_bits: int,
        max_burst: int,
    ):
        self._count_bits = count_bits
        self._windows = windows
        self._beat_bits = exact_log2(data_bits // 8)
        self._max_burst = max_burst
        ports = len(count_bits)
        members = {f"cmd{i}": In(stream.Signature(COMMAND)) for i in range(ports)}
        for w in range(1 + max(windows)):
            members |= {f"base{w}": In(33), f"limit{w}": In(33)}
        members |= {
            "room": In(ports),
            "may_begin": In(1),
            "take_room": Out(1),
            "begin": Out(1),
            "port": Out(range(ports)),
            "minus_beats": Out(signed(exact_log2(max_burst) + 1)),
            "o": Out(stream.Signature(data.StructLayout({"address": 32, "length": 8}))),
            "errors": Out(ports),
        }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        beat_bits = self._beat_bits
        commands = [getattr(self, f"cmd{i}") for i in range(len(self._windows))]
        # In beats, with a bit more than an address: 2^32 is above every limit instead of 0.
        address = Signal(33 - beat_bits)
        reach = Signal.like(address)  # the address, and then the end of the burst
        left = Signal(max(self._count_bits))
        left_after = Signal.like(left)
        # In half beats: a base within a beat is above its address.
        bound = Signal(1 + len(address))
        reached = Signal()  # not below the bound
        below = Signal()
        pending = Signal(len(commands))  # ports of which something is left
        m.submodules.rest = rest = memory.Memory(
            shape=len(address) + len(left), depth=1 << ceil_log2(len(commands)), init=[]
        )
        write = rest.write_port()
        read = rest.read_port(domain="comb")
        longest = burst_limit(address, self._max_burst, beat_bits)
        low = left[: len(longest)]
        length = Mux(left[len(longest) :].any() | (low > longest), longest, low - 1)
        wanted = Signal(len(commands))
        resume = Signal()
        fresh = Signal(len(commands))
        m.d.comb += [
            wanted.eq(self.room & (pending | Cat(cmd.valid for cmd in commands))),
            self.minus_beats.eq(~Cat(self.o.p.length, Const(0, 1))),
            reached.eq(Cat(Const(0, 1), reach) >= bound),
            left_after.eq(left + self.minus_beats),
            read.addr.eq(self.port),
            write.addr.eq(self.port),
            write.data.eq(Cat(reach, left_after)),
            write.en.eq(self.begin),
        ]
        words = [(resume, read.data)]
        for i, cmd in enumerate(commands):
            beats = cmd.p.beats[: self._count_bits[i]]
            m.d.comb += cmd.ready.eq(fresh[i])
            words.append((fresh[i], Cat(cmd.p.address[beat_bits:], Const(0, 1), beats)))
        windows = range(1 + max(self._windows))
        base_of, limit_of = Signal(len(windows)), Signal(len(windows))
        bounds = []
        for w in windows:
            base, limit = getattr(self, f"base{w}"), getattr(self, f"limit{w}")
            bounds += [
                (base_of[w], Cat(base[:beat_bits].any(), base[beat_bits:])),
                (limit_of[w], Cat(Const(1, 1), limit[beat_bits:])),
            ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM() as fsm:
            at_end = fsm.ongoing("CHECK")
            m.d.comb += reach.eq(address - Mux(at_end, self.minus_beats, 0))
            with m.State("CHOOSE"):
                for i in reversed(range(len(commands))):
                    with m.If(wanted[i]):
                        m.d.sync += self.port.eq(i)
                # Not sooner, so that a burst that has to wait is the most urgent one.
                with m.If(wanted.any() & self.may_begin):
                    m.next = "TAKE"
            with m.State("TAKE"):
                for i, window in enumerate(self._windows):
                    with m.If(self.port == i):
                        m.d.comb += [
                            resume.eq(pending[i]),
                            fresh[i].eq(~pending[i]),
                            base_of[window].eq(1),
                        ]
                m.d.sync += [Cat(address, left).eq(one_of(words)), bound.eq(one_of(bounds))]
                m.next = "LENGTH"
            with m.State("LENGTH"):
                for i, window in enumerate(self._windows):
                    with m.If(self.port == i):
                        m.d.comb += limit_of[window].eq(1)
                with m.If(left == 0):
                    m.next = "CHOOSE"
                with m.Elif(~self.o.valid | self.o.ready):
                    m.d.sync += [
                        self.o.p.address.eq(address << beat_bits),
                        self.o.p.length.eq(length),
                        below.eq(~reached | address[-1]),
                        bound.eq(one_of(bounds)),
                    ]
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += self.take_room.eq(self.may_begin)
                with m.If(self.may_begin):
                    with m.If(below | reached):
                        m.d.sync += self.errors.eq(1 << self.port)
                    with m.Else():
                        m.d.comb += self.begin.eq(1)
                        m.d.sync += [
                            self.o.valid.eq(1),
                            pending.bit_select(self.port, 1).eq(left_after != 0),
                        ]
                        m.next = "CHOOSE"
        return m


class ReadChannel(wiring.Component):
    """AXI4 read master for several requesters ("ports"), port 0 with the highest priority.

    A burst is asked for only if its port's FIFO has room for the longest one, so the bus never
    waits for a consumer (``m_axi_rready`` is constantly 1) and no port can block another. Long
    fetches run at one beat per cycle if the port's depth is at least the beats in flight during the
    memory's latency plus about two bursts. After ``stop`` or an error no burst begins; data of
    those begun still arrive in the FIFOs.

    Parameters
    ----------
    ports, depths
        Number of ports and the FIFO depth of each, powers of two. A depth of 0 is no FIFO: the port
        must take each beat in the cycle in which it is offered.
    count_bits
        For each port the width of the beats of a command, at most 24, which is what it is without.
    windows
        For each port the number of its window; without, each has its own.
    data_bits
        Width of the bus.
    max_burst
        Longest burst in beats, a power of two up to 256; the depth of each port that has longer
        commands bounds it, too.
    outstanding
        Bursts in flight.

    Members
    -------
    cmd{i}
        Commands of port i (:data:`COMMAND`), served in order, each taken with its first burst.
    data{i}
        Beats of port i.
    base{w}, limit{w}
        Window w: each burst of its ports must lie in [base, limit), else ``error_window``.
    stop
        Begin no burst.
    idle
        No burst begun is unfinished, and ``beat`` is 0.
    error_bus, error_window
        SLVERR or DECERR was seen; a burst outside its window was wanted. Stay until reset.
    error_ports
        A bit for each port that an error was about.
    beat, waiting
        In the cycle before, a beat was transferred; a burst was unfinished and no beat transferred.
    m_axi_ar*, m_axi_r*
        AXI4 master, see :func:`axi4_read_ports`.
    """

    def __init__(
        self,
        *,
        ports: int,
        data_bits: int,
        depths: tuple[int, ...],
        count_bits: tuple[int, ...] = (),
        windows: tuple[int, ...] = (),
        max_burst: int = 32,
        outstanding: int = 8,
    ):
        check_channel(data_bits=data_bits, max_burst=max_burst, outstanding=outstanding)
        if ports < 1 or len(depths) != ports:
            raise ValueError(f"{ports!r} ports need as many FIFO depths, not {depths!r}")
        self._depths = tuple(depths)
        self._count_bits = tuple(count_bits) or (24,) * ports
        self._windows = tuple(windows) or tuple(range(ports))
        self._data_bits = data_bits
        bounding = (
            depth
            for depth, bits in zip(self._depths, self._count_bits, strict=True)
            if depth and 1 << bits > depth
        )
        self._max_burst = min(max_burst, *bounding)
        self._outstanding = outstanding
        members = {}
        for i in range(ports):
            members |= {
                f"cmd{i}": In(stream.Signature(COMMAND)),
                f"data{i}": Out(stream.Signature(data_bits)),
            }
        for w in range(1 + max(self._windows)):
            members |= {f"base{w}": In(33), f"limit{w}": In(33)}
        members |= {
            "stop": In(1),
            "idle": Out(1),
            "error_bus": Out(1),
            "error_window": Out(1),
            "error_ports": Out(len(depths)),
            "beat": Out(1),
            "waiting": Out(1),
            **axi4_read_ports("m_axi", data_bits=data_bits),
        }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        ports = range(len(self._depths))
        # Ports of the bursts in flight, oldest first.
        m.submodules.owners = owners = ShortQueue(shape=range(len(ports)), depth=self._outstanding)
        m.submodules.maker = maker = BurstMaker(
            count_bits=self._count_bits,
            windows=self._windows,
            data_bits=self._data_bits,
            max_burst=self._max_burst,
        )
        beat = Signal()
        r_valid = Signal(len(ports))
        r_data = Signal(self._data_bits)
        bus_errors = Signal(len(ports))
        m.d.comb += [
            *address_constants(self, "ar", self._data_bits),
            self.m_axi_arvalid.eq(maker.o.valid),
            self.m_axi_araddr.eq(maker.o.p.address),
            self.m_axi_arlen.eq(maker.o.p.length),
            maker.o.ready.eq(self.m_axi_arready),
            maker.may_begin.eq(owners.i.ready & ~(self.stop | self.error_bus | self.error_window)),
            owners.i.valid.eq(maker.begin),
            owners.i.payload.eq(maker.port),
            self.m_axi_rready.eq(1),
            beat.eq(self.m_axi_rvalid & owners.o.valid),
            owners.o.ready.eq(beat & self.m_axi_rlast),
            self.idle.eq(~owners.o.valid & ~self.beat),
            self.error_window.eq(maker.errors.any()),
            self.error_ports.eq(bus_errors | maker.errors),
        ]
        m.d.sync += [
            r_data.eq(self.m_axi_rdata),
            self.beat.eq(beat),
            self.waiting.eq(owners.o.valid & ~beat),
        ]
        with m.If(beat & self.m_axi_rresp[1]):
            m.d.sync += [
                self.error_bus.eq(1),
                bus_errors.eq(bus_errors | (1 << owners.o.payload)),
            ]
        for w in range(1 + max(self._windows)):
            m.d.comb += [
                getattr(maker, f"base{w}").eq(getattr(self, f"base{w}")),
                getattr(maker, f"limit{w}").eq(getattr(self, f"limit{w}")),
            ]
        for i in ports:
            output = getattr(self, f"data{i}")
            wiring.connect(m, wiring.flipped(getattr(self, f"cmd{i}")), getattr(maker, f"cmd{i}"))
            m.d.sync += r_valid[i].eq(beat & (owners.o.payload == i))
            depth = self._depths[i]
            if not depth:
                m.d.comb += [
                    maker.room[i].eq(1),
                    output.valid.eq(r_valid[i]),
                    output.payload.eq(r_data),
                ]
                continue
            m.submodules[f"fifo{i}"] = fifo = StreamFifo(shape=self._data_bits, depth=depth)
            wiring.connect(m, fifo.o, wiring.flipped(output))
            room = Signal(range(depth + 1), init=depth, name=f"room{i}")
            most = min(self._max_burst, 1 << self._count_bits[i])
            change = Signal(signed(len(maker.minus_beats)), name=f"change{i}")
            given = Signal(name=f"given{i}")
            m.d.comb += [
                maker.room[i].eq(room[exact_log2(most) :].any()),
                fifo.i.valid.eq(r_valid[i]),
                fifo.i.payload.eq(r_data),
                given.eq(output.valid & output.ready),
                change.eq(Mux(maker.take_room & (maker.port == i), maker.minus_beats, 0)),
            ]
            m.d.sync += room.eq(add(room, change, given))
        return m
