# SPDX-License-Identifier: Apache-2.0
"""AXI4 master for linear reads by several requesters."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw.axi import (
    COMMAND,
    address_constants,
    axi4_read_ports,
    burst_limit,
    check_channel,
)
from hiddenfold.hw.fifo import ShortQueue, StreamFifo


class BurstSplitter(wiring.Component):
    """Splits linear read commands into AXI bursts and checks their window.

    Four cycles lie between a command or a burst that was taken and the next burst offered.

    Parameters
    ----------
    data_bits, max_burst, depth
        Width of the bus, longest burst in beats, depth of the port's FIFO.
    count_bits
        Width of the beats of a command.

    Members
    -------
    cmd
        Commands (:data:`COMMAND`); one of no beats does nothing.
    base, limit
        A burst must lie in [base, limit) and below 2^32.
    room
        Free beats of the port's FIFO; may fall only by the burst that was taken.
    o
        Next burst; ``valid`` implies that it fits into ``room`` and into the window.
    error
        A burst lay outside the window. It is not offered, and nothing after it.
    """

    def __init__(self, *, data_bits: int, max_burst: int, depth: int, count_bits: int = 24):
        self._count_bits = count_bits
        self._beat_bits = exact_log2(data_bits // 8)
        self._max_burst = max_burst
        super().__init__(
            {
                "cmd": In(stream.Signature(COMMAND)),
                "base": In(33),
                "limit": In(33),
                "room": In(range(depth + 1)),
                "o": Out(
                    stream.Signature(
                        data.StructLayout({"address": 32, "beats": range(max_burst + 1)})
                    )
                ),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # One bit more than an address, so that 2^32 is above every limit instead of 0.
        address = Signal(33)
        end = Signal(33)
        left = Signal(self._count_bits)
        beats = Signal(range(self._max_burst + 1))
        offer = Signal()
        longest = burst_limit(m, address, self._max_burst, self._beat_bits)
        m.d.comb += [
            self.o.payload.address.eq(address),
            self.o.payload.beats.eq(beats),
        ]
        # A cycle late, but room only grows while a burst waits.
        m.d.comb += self.o.valid.eq(offer)
        m.d.sync += offer.eq(0)
        fits = beats <= self.room
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.cmd.ready.eq(1)
                m.d.sync += [
                    address.eq(self.cmd.payload.address),
                    left.eq(self.cmd.payload.beats),
                ]
                with m.If(self.cmd.valid & (self.cmd.payload.beats != 0)):
                    m.next = "LENGTH"
            with m.State("LENGTH"):
                m.d.sync += beats.eq(Mux(left < longest, left, longest))
                m.next = "END"
            with m.State("END"):
                m.d.sync += end.eq(address + (beats << self._beat_bits))
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If((address < self.base) | (end > self.limit) | address[32]):
                    m.d.sync += self.error.eq(1)
                    m.next = "FAULT"
                with m.Else():
                    m.d.sync += offer.eq(fits)
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.sync += offer.eq(fits & ~(offer & self.o.ready))
                with m.If(offer & self.o.ready):
                    m.d.sync += [address.eq(end), left.eq(left - beats)]
                    with m.If(left == beats):
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "LENGTH"
            with m.State("FAULT"):
                pass
        return m


class ReadChannel(wiring.Component):
    """AXI4 read master for several requesters ("ports"), port 0 with the highest priority.

    A burst is asked for only if its port's FIFO has room for all of it, so the bus never waits for
    a consumer (``m_axi_rready`` is constantly 1) and no port can block another. Long fetches run at
    one beat per cycle if the port's depth is at least the beats in flight during the memory's
    latency plus about two bursts. After ``stop`` or an error no burst begins; data of those begun
    still arrive in the FIFOs.

    Parameters
    ----------
    ports, depths
        Number of ports and the FIFO depth of each, powers of two.
    count_bits
        For each port the width of the beats of a command, at most 24, which is what it is without.
    data_bits
        Width of the bus.
    max_burst
        Longest burst in beats, a power of two up to 256; a port's depth bounds it, too.
    outstanding
        Bursts in flight.

    Members
    -------
    cmd{i}
        Commands of port i (:data:`COMMAND`), served in order. The next one is taken as soon as all
        bursts of the one before have begun.
    data{i}
        Beats of port i.
    base{i}, limit{i}
        Window of port i: each burst must lie in [base, limit), else ``error_window``.
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
        max_burst: int = 32,
        outstanding: int = 8,
    ):
        check_channel(data_bits=data_bits, max_burst=max_burst, outstanding=outstanding)
        if ports < 1 or len(depths) != ports:
            raise ValueError(f"{ports!r} ports need as many FIFO depths, not {depths!r}")
        self._depths = tuple(depths)
        self._count_bits = count_bits or (24,) * ports
        self._data_bits = data_bits
        self._max_burst = max_burst
        self._outstanding = outstanding
        members = {}
        for i in range(ports):
            members |= {
                f"cmd{i}": In(stream.Signature(COMMAND)),
                f"data{i}": Out(stream.Signature(data_bits)),
                f"base{i}": In(33),
                f"limit{i}": In(33),
            }
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
        may_begin = Signal()
        beat = Signal()
        r_valid = Signal(len(ports))
        r_data = Signal(self._data_bits)
        m.d.comb += [
            *address_constants(self, "ar", self._data_bits),
            may_begin.eq(
                (~self.m_axi_arvalid | self.m_axi_arready)
                & owners.i.ready
                & ~(self.stop | self.error_bus | self.error_window)
            ),
            self.m_axi_rready.eq(1),
            beat.eq(self.m_axi_rvalid & owners.o.valid),
            owners.o.ready.eq(beat & self.m_axi_rlast),
            self.idle.eq(~owners.o.valid & ~self.beat),
        ]
        m.d.sync += [
            r_data.eq(self.m_axi_rdata),
            self.beat.eq(beat),
            self.waiting.eq(owners.o.valid & ~beat),
        ]
        bus_errors = Signal(len(ports))
        with m.If(beat & self.m_axi_rresp[1]):
            m.d.sync += [
                self.error_bus.eq(1),
                bus_errors.eq(bus_errors | (1 << owners.o.payload)),
            ]
        with m.If(self.m_axi_arready):
            m.d.sync += self.m_axi_arvalid.eq(0)

        # Whose burst is next is known before ``may_begin``, which comes late.
        offers = Signal(len(ports))
        m.d.comb += owners.i.valid.eq(may_begin & offers.any())
        with m.If(owners.i.valid & owners.i.ready):
            m.d.sync += self.m_axi_arvalid.eq(1)
        splitters = []
        for i in ports:
            depth = self._depths[i]
            splitter = BurstSplitter(
                data_bits=self._data_bits,
                max_burst=min(self._max_burst, depth),
                depth=depth,
                count_bits=self._count_bits[i],
            )
            fifo = StreamFifo(shape=self._data_bits, depth=depth)
            m.submodules[f"splitter{i}"] = splitter
            m.submodules[f"fifo{i}"] = fifo
            output = getattr(self, f"data{i}")
            room = Signal(range(depth + 1), init=depth, name=f"room{i}")
            begin = Signal(name=f"begin{i}")
            wiring.connect(m, wiring.flipped(getattr(self, f"cmd{i}")), splitter.cmd)
            wiring.connect(m, fifo.o, wiring.flipped(output))
            m.d.comb += [
                splitter.base.eq(getattr(self, f"base{i}")),
                splitter.limit.eq(getattr(self, f"limit{i}")),
                splitter.room.eq(room),
                offers[i].eq(splitter.o.valid),
                splitter.o.ready.eq(may_begin & ~offers[:i].any()),
                begin.eq(splitter.o.valid & splitter.o.ready),
                fifo.i.valid.eq(r_valid[i]),
                fifo.i.payload.eq(r_data),
            ]
            m.d.sync += [
                r_valid[i].eq(beat & (owners.o.payload == i)),
                room.eq(
                    room + (output.valid & output.ready) - Mux(begin, splitter.o.payload.beats, 0)
                ),
            ]
            splitters.append(splitter)
        address, beats, owner = 0, 0, 0
        for i, splitter in enumerate(splitters):
            first = Signal(name=f"first{i}")
            m.d.comb += first.eq(offers[i] & ~offers[:i].any())
            address |= Mux(first, splitter.o.payload.address, 0)
            beats |= Mux(first, splitter.o.payload.beats, 0)
            owner |= Mux(first, i, 0)
        m.d.comb += owners.i.payload.eq(owner)
        with m.If(may_begin):
            m.d.sync += [self.m_axi_araddr.eq(address), self.m_axi_arlen.eq(beats - 1)]
        errors = Cat(splitter.error for splitter in splitters)
        m.d.comb += [
            self.error_window.eq(errors.any()),
            self.error_ports.eq(bus_errors | errors),
        ]
        return m
