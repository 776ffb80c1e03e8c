# SPDX-License-Identifier: Apache-2.0
"""Instruction POOL: max pooling (docs/spec.md 4.4)."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import isa
from hiddenfold.hw.actmem import READ_LATENCY


class Pool(wiring.Component):
    """Writes the maximum over each window, lane word by lane word.

    Order: output pixel, lane word, part of it, tap. One cycle per tap, also for taps outside the
    tensor, so an instruction takes ``out_h * out_w * in_words * parts * kernel**2`` cycles, and
    about 25 to begin and end. The product ``in_w * in_words`` (words between rows) is made by
    shifting and adding.

    Parameters
    ----------
    lanes, act_addr_bits
        Shape of activation words and memory.
    part_lanes
        Lanes that are compared at once: a word has ``lanes // part_lanes`` parts, a power of two.

    Members
    -------
    start
        Begin; the fields of the instruction must be valid from this cycle until ``done``.
    done
        Pulse, not before the last write.
    act_r_en, act_r_addr, act_r_data
        Reads; data come ``READ_LATENCY`` cycles after the address and are 0 in other cycles.
    act_w_en, act_w_addr, act_w_data
        Writes; bit ``i`` of ``act_w_en`` writes part ``i``. Data are 0 in other cycles, in which a
        LOAD may write.
    """

    def __init__(self, *, lanes: int, part_lanes: int, act_addr_bits: int):
        self._part_lanes = part_lanes
        self._parts = lanes // part_lanes
        self._addr_bits = act_addr_bits
        super().__init__(
            {
                "start": In(1),
                "kernel": In(4),
                "stride": In(4),
                "in_h": In(isa.MAP_BITS),
                "in_w": In(isa.MAP_BITS),
                "out_h": In(isa.MAP_BITS),
                "out_w": In(isa.MAP_BITS),
                "top": In(4),
                "in_words": In(isa.WORD_BITS),
                "src": In(act_addr_bits),
                "dst": In(act_addr_bits),
                "done": Out(1),
                "act_r_en": Out(1),
                "act_r_addr": Out(act_addr_bits),
                "act_r_data": In(lanes * 8),
                "act_w_en": Out(lanes // part_lanes),
                "act_w_addr": Out(act_addr_bits),
                "act_w_data": Out(part_lanes * 8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        pad = Signal(2)
        m.d.comb += pad.eq(self.kernel >> 1)

        # Addresses are modulo the memory's size: those of taps outside are never used.
        pitch = Signal(self._addr_bits)  # words between rows
        window_y = Signal(self._addr_bits)  # first tap: of the first window in the row,
        window_x = Signal(self._addr_bits)  # of the window's first lane word,
        window = Signal(self._addr_bits)  # of the window's current lane word
        tap_y = Signal(self._addr_bits)  # first tap of the current row of taps
        tap = Signal(self._addr_bits)
        # Rows and columns of the first tap of the window and of the tap, from -3 on.
        upper = Signal(isa.MAP_BITS + 2)
        left = Signal(isa.MAP_BITS + 2)
        tap_row = Signal(isa.MAP_BITS + 2)
        tap_col = Signal(isa.MAP_BITS + 2)
        # Windows, rows of them and words after this one, minus one: the sign tells the last.
        windows, rows = (Signal(signed(isa.MAP_BITS + 1), name=n) for n in ("windows", "rows"))
        words = Signal(signed(isa.WORD_BITS + 1))
        part = Signal(range(self._parts))
        ky, kx = Signal(4), Signal(4)

        most_taps = Signal.like(self.kernel, reset_less=True)  # long before it is needed
        m.d.sync += most_taps.eq(self.kernel - 1)

        reading = Signal()
        inside = Signal()
        last_kx, last_ky = Signal(), Signal()
        last_part, last_word, last_x, last_y = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            inside.eq((tap_row < self.in_h) & (tap_col < self.in_w)),  # negative is large
            self.act_r_en.eq(reading & inside),
            self.act_r_addr.eq(tap),
            last_kx.eq(kx == most_taps),
            last_ky.eq(ky == most_taps),
            last_part.eq(part == self._parts - 1),
            last_word.eq(words[-1]),
            last_x.eq(windows[-1]),
            last_y.eq(rows[-1]),
        ]

        factor = Signal(isa.MAP_BITS)
        addend = Signal(self._addr_bits)
        pad_left = Signal(2)
        pipeline = Signal(READ_LATENCY + 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    pitch.eq(0),
                    factor.eq(self.in_w),
                    addend.eq(self.in_words),
                    pad_left.eq(pad),
                    window_y.eq(self.src),
                    upper.eq(self.top - pad),
                    rows.eq(self.out_h - 2),
                ]
                with m.If(self.start):
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [factor.eq(factor >> 1), addend.eq(addend << 1)]
                with m.If(factor[0]):
                    m.d.sync += pitch.eq(pitch + addend)
                with m.If(factor == 0):
                    m.next = "CORNER"
            with m.State("CORNER"):  # go pad - top rows up and pad columns left
                m.d.sync += [
                    pad_left.eq(pad_left - 1),
                    window_y.eq(window_y - Mux(pad_left > self.top, pitch, 0) - self.in_words),
                ]
                with m.If(pad_left == 0):
                    m.d.sync += window_y.eq(window_y)
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.sync += [
                    windows.eq(self.out_w - 2),
                    left.eq(-pad),
                    window_x.eq(window_y),
                    window.eq(window_y),
                    words.eq(self.in_words - 2),
                    tap_y.eq(window_y),
                    tap.eq(window_y),
                    tap_row.eq(upper),
                    tap_col.eq(-pad),
                    ky.eq(0),
                    kx.eq(0),
                ]
                m.next = "TAPS"
            with m.State("TAPS"):
                m.d.comb += reading.eq(1)
                m.d.sync += [
                    kx.eq(kx + 1),
                    tap.eq(tap + self.in_words),
                    tap_col.eq(tap_col + 1),
                ]
                with m.If(last_kx):
                    m.d.sync += [
                        kx.eq(0),
                        ky.eq(ky + 1),
                        tap_y.eq(tap_y + pitch),
                        tap.eq(tap_y + pitch),
                        tap_col.eq(left),
                        tap_row.eq(tap_row + 1),
                    ]
                with m.If(last_kx & last_ky):
                    following = Signal.like(window)
                    m.d.sync += [
                        part.eq(part + 1),
                        window.eq(following),
                        ky.eq(0),
                        tap_y.eq(following),
                        tap.eq(following),
                        tap_row.eq(upper),
                    ]
                    m.d.comb += following.eq(window + last_part)
                    with m.If(last_part):
                        m.d.sync += [part.eq(0), words.eq(words - 1)]
                    with m.If(last_part & last_word):
                        next_left = Signal.like(left)
                        m.d.comb += [
                            next_left.eq(left + self.stride),
                            # Stride 1 or 2.
                            following.eq(window_x + (self.in_words << self.stride[1])),
                        ]
                        m.d.sync += [
                            windows.eq(windows - 1),
                            words.eq(self.in_words - 2),
                            window_x.eq(following),
                            left.eq(next_left),
                            tap_col.eq(next_left),
                        ]
                        with m.If(last_x):
                            m.d.sync += [
                                rows.eq(rows - 1),
                                upper.eq(upper + self.stride),
                                window_y.eq(window_y + (pitch << self.stride[1])),
                            ]
                            m.next = "ROW"
                            with m.If(last_y):
                                m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(pipeline == 0):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"

        # Flags and part travel with the read. A tap outside the tensor is no read and brings 0.
        first, last = reading & (kx == 0) & (ky == 0), last_kx & last_ky & reading
        for stage in range(READ_LATENCY):
            before = first, last, part
            first, last = (Signal(name=f"{name}_{stage}") for name in ("first", "last"))
            part = Signal.like(part, name=f"part_{stage}", reset_less=True)
            m.d.sync += [a.eq(b) for a, b in zip((first, last, part), before, strict=True)]
            m.d.comb += pipeline[stage].eq(last)
        complete = Signal()
        made = Signal.like(part, name="part_made", reset_less=True)
        bits = self._part_lanes * 8
        result = Signal(bits, reset_less=True)
        values = self.act_r_data.word_select(part, bits)
        m.d.sync += [complete.eq(last), made.eq(part), result.eq(0)]
        for lane in range(self._part_lanes):
            best = Signal(8, name=f"best{lane}", reset_less=True)
            value = values.word_select(lane, 8)
            with m.If(complete):
                m.d.sync += result.word_select(lane, 8).eq(best)
            with m.If(first | (value > best)):
                m.d.sync += best.eq(value)
        address = Signal(self._addr_bits)
        m.d.comb += [
            pipeline[-1].eq(complete),
            self.act_w_data.eq(result),
        ]
        m.d.sync += [self.act_w_en.eq(complete << made), self.act_w_addr.eq(address)]
        with m.If(complete & (made == self._parts - 1)):
            m.d.sync += address.eq(address + 1)
        with m.If(self.start):
            m.d.sync += address.eq(self.dst)
        return m
