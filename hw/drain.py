# SPDX-License-Identifier: Apache-2.0
"""Drains finished pixel tiles: requantized to activation memory, or summed up to logits."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hiddenfold.hw import actmem, isa
from hiddenfold.hw.affine import BIAS_BITS, MULTIPLIER_BITS
from hiddenfold.hw.loops import LOOP_BOUNDS, TileCounter
from hiddenfold.hw.psum import PartialSums
from hiddenfold.hw.requant import Requantize


def psum_parts(rows: int, drain_rows: int, bus_bits: int) -> int:
    """Return the parts of a pixel's sums that :class:`Drain` reads apart."""
    return max(rows // drain_rows, isa.logit_parts(rows, bus_bits))


def _any_of(value: Signal, parts: int) -> Value:
    """Return the one of some equal parts that is not 0."""
    size = len(value) // parts
    return reduce(or_, (value[n * size : (n + 1) * size] for n in range(parts)))


class Drain(wiring.Component):
    """Reads a partial-sum bank pixel by pixel once its pixel tile is complete.

    With ``logits`` low, each pixel's ``rows`` channels go through :class:`Requantize`,
    ``drain_rows`` a cycle, with the residual read at ``res``, to their place in the word at
    ``dst``. With ``logits`` high the pixels of each image of a block are added up, which is the
    global average pooling of docs/spec.md section 4.5, and sent as 32-bit numbers; a pixel then
    takes :func:`hiddenfold.hw.isa.logit_parts` cycles.

    Members
    -------
    start
        Begin a layer; the fields are stable from this cycle to ``done``.
    complete
        A pixel tile is complete in the partial-sum banks, which are used in turn.
    drained
        Its last pixel has been read; the bank is free.
    psum_index, psum_bank, psum_parts, psum_data
        Read port of the partial sums.
    affine_full, affine_take, affine_part, multiplier, bias, shift, residual
        Constants of a block, see ``AffineLoader``.
    res_en, res_addr, res_part, res_ready, res_data
        Reads of ``drain_rows`` channels of the activation memory, may be refused.
    w_en, w_addr, w_data
        Writes to the activation memory: bit ``i`` of ``w_en`` writes segment ``i``, of
        ``drain_rows`` channels. Data are 0 in other cycles.
    o
        Beats of logits.
    done
        High from the end of the layer to the next ``start``.
    overflow
        An address lies outside the memory.
    """

    def __init__(
        self,
        *,
        rows: int,
        drain_rows: int,
        lanes: int,
        depth: int,
        acc_bits: int,
        bus_bits: int,
        address_bits: int,
    ):
        self._rows = rows
        self._drain_rows = drain_rows
        self._lanes = lanes
        self._acc_bits = acc_bits
        self._address_bits = address_bits
        self._logit_parts = isa.logit_parts(rows, bus_bits)
        super().__init__(
            {
                **LOOP_BOUNDS,
                "start": In(1),
                "out_w": In(isa.MAP_BITS),
                "out_words": In(isa.WORD_BITS),
                "out_bits": In(4),
                "add_residual": In(1),
                "logits": In(1),
                "dst": In(32),
                "res": In(32),
                "complete": In(1),
                "drained": Out(1),
                "psum_index": Out(range(depth)),
                "psum_bank": Out(1),
                "psum_parts": Out(psum_parts(rows, drain_rows, bus_bits)),
                "psum_data": In(rows * acc_bits),
                "affine_full": In(1),
                "affine_take": Out(1),
                "affine_part": Out(range(rows // drain_rows)),
                "multiplier": In(drain_rows * MULTIPLIER_BITS),
                "bias": In(drain_rows * BIAS_BITS),
                "shift": In(5),
                "residual": In(16),
                "res_en": Out(1),
                "res_addr": Out(address_bits),
                "res_part": Out(range(lanes // drain_rows)),
                "res_ready": In(1),
                "res_data": In(drain_rows * 8),
                "w_en": Out(lanes // drain_rows),
                "w_addr": Out(address_bits),
                "w_data": Out(drain_rows * 8),
                "o": Out(stream.Signature(bus_bits)),
                "done": Out(1, init=1),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rows, drain_rows, lanes = self._rows, self._drain_rows, self._lanes
        parts, logit_parts = rows // drain_rows, self._logit_parts
        m.submodules.tiles = tiles = TileCounter()
        tiles.connect_bounds(m, self)
        m.submodules.requantize = requantize = Requantize(rows=drain_rows, acc_bits=self._acc_bits)
        segments = exact_log2(lanes // rows)
        read_latency = PartialSums.READ_LATENCY
        assert read_latency == actmem.READ_LATENCY, "sum and residual must arrive together"
        latency = read_latency + Requantize.LATENCY

        # Pixel tiles that are complete and not yet drained.
        waiting = Signal(range(3))
        m.d.sync += waiting.eq(waiting + self.complete - self.drained)

        # Walk over the pixels of a tile.
        issue = Signal()
        part = Signal(range(max(parts, logit_parts)))  # of the rows
        next_pixel = Signal()
        # Columns, lines and maps after this one, minus one: the sign tells the last. Those of a new
        # tile come a cycle late, in which no pixel is taken.
        columns, lines = (Signal(signed(isa.MAP_BITS + 1), name=n) for n in ("columns", "lines"))
        maps = Signal(signed(9))
        width_after, height_after = Signal.like(columns), Signal.like(lines)
        settled = Signal()
        m.d.sync += [
            width_after.eq(self.out_w - 2),
            height_after.eq(tiles.rows - 2),
            settled.eq(~self.drained),
        ]
        last_pixel = Signal()  # of an image in the tile
        last_map = Signal()
        width = self._address_bits + 1
        write_address, res_address = Signal(width), Signal(width)
        segment = Signal(segments)  # of the block whose pixels are in flight
        m.d.comb += [
            tiles.start.eq(self.start),
            last_pixel.eq(columns[-1] & lines[-1]),
            last_map.eq(maps[-1]),
            self.res_addr.eq(res_address),
            self.overflow.eq(
                issue & ~self.logits & (write_address[-1] | (self.add_residual & res_address[-1]))
            ),
            self.drained.eq(next_pixel & last_pixel & last_map),
            tiles.step.eq(self.drained),
            next_pixel.eq(issue & (part == Mux(self.logits, logit_parts, parts) - 1)),
        ]
        for number, wanted in enumerate(self.psum_parts):
            of = [number * n // len(self.psum_parts) for n in (logit_parts, parts)]
            m.d.comb += wanted.eq(part == Mux(self.logits, *of))
        with m.If(issue):
            m.d.sync += part.eq(part + 1)
        with m.If(next_pixel):
            m.d.sync += [
                part.eq(0),
                self.psum_index.eq(self.psum_index + 1),
                write_address.eq(write_address + self.out_words),
                res_address.eq(res_address + self.out_words),
                columns.eq(columns - 1),
            ]
            with m.If(columns[-1]):
                m.d.sync += [columns.eq(width_after), lines.eq(lines - 1)]
            with m.If(last_pixel):
                m.d.sync += [lines.eq(height_after), maps.eq(maps - 1)]
            with m.If(last_pixel & last_map):
                m.d.sync += [self.psum_index.eq(0), self.psum_bank.eq(~self.psum_bank)]

        # What follows a part of a pixel down the pipeline.
        part_bits = exact_log2(parts)
        place = Cat(part[:part_bits], segment)
        stages = [(issue, place, write_address[: self._address_bits])]
        for age in range(1, latency + 1):
            stage = tuple(
                Signal(len(s), name=f"{name}{age}", reset_less=name != "live")
                for s, name in zip(stages[-1], ("live", "place", "address"), strict=True)
            )
            m.d.sync += [new.eq(old) for new, old in zip(stage, stages[-1], strict=True)]
            stages.append(stage)
        live, places, address = zip(*stages, strict=True)
        in_flight = Signal()
        m.d.comb += in_flight.eq(Cat(*live[1:]).any())

        # The parts that are not wanted of the sums are 0.
        accs = _any_of(self.psum_data, parts)
        store = live[latency] & ~self.logits
        m.d.comb += [
            self.affine_part.eq(places[read_latency - 1][:part_bits]),
            self.res_part.eq(place),
            requantize.acc.eq(accs),
            requantize.res.eq(self.res_data),
            requantize.multiplier.eq(self.multiplier),
            requantize.bias.eq(self.bias),
            requantize.shift.eq(self.shift),
            requantize.residual.eq(Mux(self.add_residual, self.residual, 0)),
            requantize.out_bits.eq(self.out_bits),
            requantize.keep.eq(live[latency - 1] & ~self.logits),
            self.w_en.eq(store << places[latency]),
            self.w_addr.eq(address[latency]),
            self.w_data.eq(requantize.y),
        ]

        # Logits: a 32-bit sum a row. The sums move in a circle, a part of the rows at a time, past
        # the adders, and in the end past the output, which leaves zeros.
        bus_bits = len(self.o.payload)
        totals = Signal(rows * 32)
        part_rows = rows // logit_parts
        first_part = totals[: part_rows * 32]
        accs = _any_of(self.psum_data, logit_parts)
        sums = [
            first_part.word_select(row, 32) + accs.word_select(row, self._acc_bits).as_signed()
            for row in range(part_rows)
        ]
        part_sent = Signal()
        with m.If(live[read_latency] & self.logits):
            m.d.sync += totals.eq(Cat(totals[len(first_part) :], *(total[:32] for total in sums)))
        with m.If(part_sent):
            m.d.sync += totals.eq(totals >> len(first_part))
        beats = rows * 32 // bus_bits
        beat = Signal(range(beats))
        beat_of_part = beat[: exact_log2(beats // logit_parts)]
        m.d.comb += self.o.payload.eq(first_part.word_select(beat_of_part, bus_bits))

        last_block = Signal()
        block_done = Signal()
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [
                        self.done.eq(0),
                        waiting.eq(0),
                        self.psum_bank.eq(0),
                        self.psum_index.eq(0),
                    ]
                    m.next = "BLOCK"
            with m.State("BLOCK"):
                # The constants may change only when no pixel of the last block is in flight.
                m.d.sync += [
                    write_address.eq(self.dst + (tiles.block >> segments)),
                    res_address.eq(self.res + (tiles.block >> segments)),
                    segment.eq(tiles.block),
                    last_block.eq(tiles.block == self.blocks - 1),
                    columns.eq(self.out_w - 2),
                ]
                with m.If(~in_flight & (self.affine_full | self.logits)):
                    m.d.comb += self.affine_take.eq(~self.logits)
                    m.next = "PIXELS"
            with m.State("PIXELS"):
                ready = (waiting != 0) & settled
                m.d.comb += [
                    self.res_en.eq(self.add_residual & ready),
                    issue.eq(ready & (~self.add_residual | self.res_ready)),
                ]
                m.d.sync += block_done.eq(self.drained & tiles.last_tile)
                with m.If(self.drained & tiles.last_tile):
                    m.next = "FLUSH"
                with m.If(self.logits & next_pixel & last_pixel & tiles.last_rows):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                with m.If(~in_flight):
                    with m.If(self.logits):
                        m.next = "SEND"
                    with m.Elif(last_block):
                        m.d.sync += self.done.eq(1)
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "BLOCK"
            with m.State("SEND"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += beat.eq(beat + 1)
                    m.d.comb += part_sent.eq(beat_of_part == beats // logit_parts - 1)
                    with m.If(beat == beats - 1):
                        m.d.sync += beat.eq(0)
                        m.next = "PIXELS"
                        with m.If(block_done):
                            m.next = "BLOCK"
                        with m.If(block_done & last_block):
                            m.d.sync += self.done.eq(1)
                            m.next = "IDLE"
        with m.If(fsm.ongoing("BLOCK") | ~settled):
            m.d.sync += [lines.eq(tiles.rows - 2), maps.eq(tiles.maps - 2)]
        return m
