# SPDX-License-Identifier: Apache-2.0
"""AXI4 master channels: linear reads for several requesters, and an appending writer.

Both are in order with a single ID, use INCR bursts of whole bus beats that never cross 4 KiB, and
stop by themselves at the first error (docs/spec.md section 9): no burst begins after it, and those
begun are finished.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw.fifo import ShortQueue, StreamFifo

#: Payload of a read command: ``beats`` bus beats from a beat-aligned byte address.
COMMAND = data.StructLayout({"address": 32, "beats": 24})

_BOUNDARY = 4096
_MAX_BURST = 256
_DATA_BITS = (32, 64, 128, 256, 512, 1024)


def axi4_read_ports(prefix: str, *, data_bits: int, addr_bits: int = 32) -> dict:
    """Return the AR and R members of an AXI4 master with a 1-bit ID."""
    return {
        f"{prefix}_arid": Out(1),
        **_address_ports(f"{prefix}_ar", addr_bits),
        f"{prefix}_rid": In(1),
        f"{prefix}_rdata": In(data_bits),
        f"{prefix}_rresp": In(2),
        f"{prefix}_rlast": In(1),
        f"{prefix}_rvalid": In(1),
        f"{prefix}_rready": Out(1),
    }


def axi4_write_ports(prefix: str, *, data_bits: int, addr_bits: int = 32) -> dict:
    """Return the AW, W and B members of an AXI4 master with a 1-bit ID."""
    return {
        f"{prefix}_awid": Out(1),
        **_address_ports(f"{prefix}_aw", addr_bits),
        f"{prefix}_wdata": Out(data_bits),
        f"{prefix}_wstrb": Out(data_bits // 8),
        f"{prefix}_wlast": Out(1),
        f"{prefix}_wvalid": Out(1),
        f"{prefix}_wready": In(1),
        f"{prefix}_bid": In(1),
        f"{prefix}_bresp": In(2),
        f"{prefix}_bvalid": In(1),
        f"{prefix}_bready": Out(1),
    }


def axi4_ports(prefix: str, *, data_bits: int, addr_bits: int = 32) -> dict:
    """Return all members of an AXI4 master with a 1-bit ID (always 0)."""
    return {
        **axi4_read_ports(prefix, data_bits=data_bits, addr_bits=addr_bits),
        **axi4_write_ports(prefix, data_bits=data_bits, addr_bits=addr_bits),
    }


def axi4_lite_ports(prefix: str, *, addr_bits: int = 12) -> dict:
    """Return all members of an AXI4-Lite slave with 32 data bits."""
    return {
        f"{prefix}_awaddr": In(addr_bits),
        f"{prefix}_awprot": In(3),
        f"{prefix}_awvalid": In(1),
        f"{prefix}_awready": Out(1),
        f"{prefix}_wdata": In(32),
        f"{prefix}_wstrb": In(4),
        f"{prefix}_wvalid": In(1),
        f"{prefix}_wready": Out(1),
        f"{prefix}_bresp": Out(2),
        f"{prefix}_bvalid": Out(1),
        f"{prefix}_bready": In(1),
        f"{prefix}_araddr": In(addr_bits),
        f"{prefix}_arprot": In(3),
        f"{prefix}_arvalid": In(1),
        f"{prefix}_arready": Out(1),
        f"{prefix}_rdata": Out(32),
        f"{prefix}_rresp": Out(2),
        f"{prefix}_rvalid": Out(1),
        f"{prefix}_rready": In(1),
    }


def _address_ports(prefix: str, addr_bits: int) -> dict:
    return {
        f"{prefix}addr": Out(addr_bits),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}lock": Out(1),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}qos": Out(4),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


def _check(data_bits: int, max_burst: int) -> None:
    if data_bits not in _DATA_BITS:
        raise ValueError(f"AXI data bits must be one of {_DATA_BITS}, not {data_bits!r}")
    if not 1 <= max_burst <= _MAX_BURST or max_burst & (max_burst - 1):
        raise ValueError(
            f"longest burst must be a power of two in 1..{_MAX_BURST}, not {max_burst!r}"
        )


def _constants(component, channel: str, data_bits: int) -> list:
    """Return the assignments of the address channel's signals that never change."""
    return [
        getattr(component, f"m_axi_{channel}size").eq(exact_log2(data_bits // 8)),
        getattr(component, f"m_axi_{channel}burst").eq(0b01),  # INCR
        getattr(component, f"m_axi_{channel}cache").eq(0b0011),  # normal, not cached, bufferable
    ]


def _burst_limit(m: Module, address, max_burst: int, beat_bits: int) -> Signal:
    """Return the longest burst that may start at ``address``: up to 4 KiB, at most max_burst."""
    boundary_beats = _BOUNDARY >> beat_bits
    until_boundary = Signal(range(boundary_beats + 1))
    longest = Signal(range(max_burst + 1))
    m.d.comb += [
        until_boundary.eq(boundary_beats - address[beat_bits : exact_log2(_BOUNDARY)]),
        longest.eq(Mux(until_boundary < max_burst, until_boundary, max_burst)),
    ]
    return longest


class BurstSplitter(wiring.Component):
    """Splits linear read commands into AXI bursts and checks their window.

    Four cycles lie between a command or a burst that was taken and the next burst offered.

    Parameters
    ----------
    data_bits, max_burst, depth
        Width of the bus, longest burst in beats, depth of the port's FIFO.

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

    def __init__(self, *, data_bits: int, max_burst: int, depth: int):
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
        left = Signal(24)
        beats = Signal(range(self._max_burst + 1))
        fits = Signal()
        longest = _burst_limit(m, address, self._max_burst, self._beat_bits)
        m.d.comb += [
            self.o.payload.address.eq(address),
            self.o.payload.beats.eq(beats),
        ]
        # A cycle late, but room only grows while a burst waits.
        m.d.sync += fits.eq(beats <= self.room)
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
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(fits)
                with m.If(self.o.valid & self.o.ready):
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
        max_burst: int = 32,
        outstanding: int = 8,
    ):
        _check(data_bits, max_burst)
        if ports < 1 or len(depths) != ports:
            raise ValueError(f"{ports!r} ports need as many FIFO depths, not {depths!r}")
        if outstanding < 1:
            raise ValueError(f"bursts in flight must be at least 1, not {outstanding!r}")
        self._depths = tuple(depths)
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
            *_constants(self, "ar", self._data_bits),
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
        with m.If(beat & self.m_axi_rresp[1]):
            m.d.sync += self.error_bus.eq(1)
        with m.If(self.m_axi_arready):
            m.d.sync += self.m_axi_arvalid.eq(0)

        taken = Signal()  # by a port of higher priority
        errors = []
        for i in ports:
            depth = self._depths[i]
            splitter = BurstSplitter(
                data_bits=self._data_bits, max_burst=min(self._max_burst, depth), depth=depth
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
                splitter.o.ready.eq(may_begin & ~taken),
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
            with m.If(begin):
                m.d.comb += [owners.i.valid.eq(1), owners.i.payload.eq(i)]
                m.d.sync += [
                    self.m_axi_arvalid.eq(1),
                    self.m_axi_araddr.eq(splitter.o.payload.address),
                    self.m_axi_arlen.eq(splitter.o.payload.beats - 1),
                ]
            taken_next = Signal(name=f"taken{i}")
            m.d.comb += taken_next.eq(taken | splitter.o.valid)
            taken = taken_next
            errors.append(splitter.error)
        m.d.comb += self.error_window.eq(Cat(*errors).any())
        return m


class WriteChannel(wiring.Component):
    """AXI4 write master that appends beats to memory from a pointer.

    A burst begins when it is complete in the FIFO, so that the bus never waits for the producer.
    After ``stop`` or an error no burst begins; what is in the FIFO then stays there until reset.

    Parameters
    ----------
    data_bits
        Width of the bus.
    max_burst
        Longest burst in beats, a power of two up to 256.
    outstanding
        Bursts without their response.

    Members
    -------
    start, address, limit
        ``start`` sets the pointer and the end of the window. Only while ``idle``, and before the
        first beat.
    i
        Beats to append.
    flush
        Send what is in the FIFO even if it is less than a burst.
    stop
        Begin no burst.
    idle
        No burst begun lacks its response, ``beat`` is 0, and the FIFO is empty or will not be sent.
    error_bus, error_window
        SLVERR or DECERR was seen; a burst that ends above ``limit`` was wanted. Stay until reset.
    beat
        A beat was transferred in the cycle before.
    m_axi_aw*, m_axi_w*, m_axi_b*
        AXI4 master, see :func:`axi4_write_ports`.
    """

    def __init__(self, *, data_bits: int, max_burst: int = 16, outstanding: int = 8):
        _check(data_bits, max_burst)
        if outstanding < 1:
            raise ValueError(f"bursts in flight must be at least 1, not {outstanding!r}")
        self._data_bits = data_bits
        self._max_burst = max_burst
        self._outstanding = outstanding
        super().__init__(
            {
                "start": In(1),
                "address": In(32),
                "limit": In(33),
                "i": In(stream.Signature(data_bits)),
                "flush": In(1),
                "stop": In(1),
                "idle": Out(1),
                "error_bus": Out(1),
                "error_window": Out(1),
                "beat": Out(1),
                **axi4_write_ports("m_axi", data_bits=data_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = 2 * self._max_burst
        beat_bits = exact_log2(self._data_bits // 8)
        m.submodules.fifo = fifo = StreamFifo(shape=self._data_bits, depth=depth)
        # As in BurstSplitter, 2^32 is above every limit.
        pointer = Signal(33)
        end = Signal(33)
        limit = Signal(33)
        longest = Signal(range(self._max_burst + 1))
        beats = Signal.like(longest)
        # Beats taken and not yet given to a burst: FIFO memory, read stage, output register.
        level = Signal(range(depth + 3))
        w_left = Signal.like(longest)
        unanswered = Signal(range(self._outstanding + 1))
        halted = Signal()
        sender_free = Signal()
        begin = Signal()
        beat = Signal()
        wiring.connect(m, wiring.flipped(self.i), fifo.i)
        m.d.comb += [
            *_constants(self, "aw", self._data_bits),
            halted.eq(self.stop | self.error_bus | self.error_window),
            sender_free.eq(~self.m_axi_awvalid & (w_left == 0)),
            self.idle.eq(((level == 0) | halted) & sender_free & (unanswered == 0) & ~self.beat),
            self.m_axi_wdata.eq(fifo.o.payload),
            self.m_axi_wstrb.eq(-1),
            self.m_axi_wlast.eq(w_left == 1),
            self.m_axi_wvalid.eq(fifo.o.valid & (w_left != 0)),
            fifo.o.ready.eq(self.m_axi_wready & (w_left != 0)),
            beat.eq(self.m_axi_wvalid & self.m_axi_wready),
            self.m_axi_bready.eq(1),
        ]
        m.d.sync += [
            longest.eq(_burst_limit(m, pointer, self._max_burst, beat_bits)),
            level.eq(level + (self.i.valid & self.i.ready) - Mux(begin, beats, 0)),
            unanswered.eq(unanswered + begin - (self.m_axi_bvalid & (unanswered != 0))),
            self.beat.eq(beat),
        ]
        with m.If(self.m_axi_bvalid & self.m_axi_bresp[1]):
            m.d.sync += self.error_bus.eq(1)
        with m.If(self.m_axi_awready):
            m.d.sync += self.m_axi_awvalid.eq(0)
        with m.If(beat):
            m.d.sync += w_left.eq(w_left - 1)
        with m.FSM():
            with m.State("LENGTH"):  # ``longest`` follows ``pointer`` by a cycle
                m.next = "GATHER"
            with m.State("GATHER"):
                with m.If(level >= longest):
                    m.d.sync += beats.eq(longest)
                    m.next = "END"
                with m.Elif(self.flush & (level != 0)):
                    m.d.sync += beats.eq(level)
                    m.next = "END"
            with m.State("END"):
                m.d.sync += end.eq(pointer + (beats << beat_bits))
                m.next = "CHECK"
            with m.State("CHECK"):
                with m.If((end > limit) | pointer[32]):
                    m.d.sync += self.error_window.eq(1)
                m.next = "SEND"
            with m.State("SEND"):
                with m.If(sender_free & (unanswered != self._outstanding) & ~halted):
                    m.d.comb += begin.eq(1)
                    m.d.sync += [
                        self.m_axi_awvalid.eq(1),
                        self.m_axi_awaddr.eq(pointer),
                        self.m_axi_awlen.eq(beats - 1),
                        w_left.eq(beats),
                        pointer.eq(end),
                    ]
                    m.next = "LENGTH"
        with m.If(self.start):
            m.d.sync += [pointer.eq(self.address), limit.eq(self.limit)]
        return m
