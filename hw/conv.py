# SPDX-License-Identifier: Apache-2.0
"""Convolution engine: executes CONV (docs/spec.md sections 4.2, 4.3, 4.5, 6)."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2

from hiddenfold.hw.actmem import READ_LATENCY
from hiddenfold.hw.affine import AffineLoader
from hiddenfold.hw.array import MaskedArray, partial_bits
from hiddenfold.hw.axi import COMMAND
from hiddenfold.hw.drain import Drain, psum_parts
from hiddenfold.hw.gearbox import Joiner, Splitter
from hiddenfold.hw.instruction import LAYOUT
from hiddenfold.hw.loops import LOOP_BOUNDS, TileCounter
from hiddenfold.hw.mask_cache import MaskCache
from hiddenfold.hw.pixels import PixelStreamer
from hiddenfold.hw.psum import PartialSums
from hiddenfold.hw.rectangle import TapWalker
from hiddenfold.hw.weights import TileLoader

#: Cycle of a slot in which its activation word reaches the array, its pixel's sum is fetched, and
#: its sum is stored.
DATA_STAGE = READ_LATENCY
SUM_STAGE = DATA_STAGE + MaskedArray.LATENCY - PartialSums.PARTIAL_DELAY
STORE_STAGE = SUM_STAGE + PartialSums.STORE_DELAY


class MaskFetcher(wiring.Component):
    """Asks for the mask stream of a layer: each block's part once per pixel tile.

    What :class:`MaskCache` has kept is not asked for again.

    Members
    -------
    start
        Begin a layer. ``address`` is that of its mask stream, ``count`` the 64-bit words a block.
    cached, repeated
        See ``MaskCache``.
    cmd
        Read commands.
    """

    def __init__(self, *, bus_bits: int):
        self._share = exact_log2(bus_bits // 64)
        super().__init__(
            {
                **LOOP_BOUNDS,
                "start": In(1),
                "address": In(32),
                "count": In(32),
                "cached": In(1),
                "repeated": In(1),
                "cmd": Out(stream.Signature(COMMAND)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.tiles = tiles = TileCounter()
        tiles.connect_bounds(m, self)
        pointer = Signal(32)
        running = Signal()
        kept = Signal()
        m.d.comb += [
            kept.eq(self.cached & (self.repeated | tiles.again)),
            tiles.start.eq(self.start),
            self.cmd.p.address.eq(pointer),
            self.cmd.p.beats.eq(self.count >> self._share),
            self.cmd.valid.eq(running & ~kept),
            tiles.step.eq(running & (kept | self.cmd.ready)),
        ]
        with m.If(self.start):
            m.d.sync += [pointer.eq(self.address), running.eq(1)]
        with m.Elif(tiles.step):
            with m.If(tiles.last_tile):
                m.d.sync += pointer.eq(pointer + (self.count << 3))
            with m.If(tiles.last):
                m.d.sync += running.eq(0)
        return m


class ConvEngine(wiring.Component):
    """Weights, array, partial sums and requantization of one layer, overlapped.

    Members
    -------
    instruction, start, done
        ``start`` begins the CONV in ``instruction``, which is stable to ``done`` (a pulse).
    repeated
        The instruction is in the second or a later iteration of a loop.
    upcoming, upcoming_valid
        The CONV that follows what is in execution: its first masks are asked for as soon as the
        last ones of the CONV before have been taken.
    ahead
        Masks are those of ``upcoming``.
    program, affine_address
        Address of the memory image and of the layer's affine record.
    mask_cmd, mask_data, affine_cmd, affine_data
        Ports of the read channel.
    a_en, a_addr, a_data, b_en, b_addr, b_part, b_ready, b_data, w_en, w_addr, w_data
        Ports of the activation memory, see ``Drain``.
    o
        Beats of logits.
    mask_error, affine_error, overflow
        Faults; stay until reset.
    array_cycle, tile_stall, drain_stall
        High in the cycles that the counters of docs/spec.md section 8 count.
    """

    def __init__(
        self,
        *,
        rows: int,
        drain_rows: int,
        lanes: int,
        planes: int,
        depth: int,
        acc_bits: int,
        bus_bits: int,
        address_bits: int,
        load_rows: int,
        mask_cache: int,
    ):
        self._rows = rows
        self._drain_rows = drain_rows
        self._lanes = lanes
        self._planes = planes
        self._depth = depth
        self._acc_bits = acc_bits
        self._bus_bits = bus_bits
        self._address_bits = address_bits
        self._load_rows = load_rows
        self._mask_cache = mask_cache
        super().__init__(
            {
                "instruction": In(LAYOUT),
                "start": In(1),
                "done": Out(1),
                "upcoming": In(LAYOUT),
                "upcoming_valid": In(1),
                "ahead": Out(1),
                "repeated": In(1),
                "program": In(32),
                "affine_address": In(32),
                "mask_cmd": Out(stream.Signature(COMMAND)),
                "mask_data": In(stream.Signature(bus_bits)),
                "affine_cmd": Out(stream.Signature(COMMAND)),
                "affine_data": In(stream.Signature(bus_bits)),
                "a_en": Out(1),
                "a_addr": Out(address_bits),
                "a_data": In(lanes * 8),
                "b_en": Out(1),
                "b_addr": Out(address_bits),
                "b_part": Out(range(lanes // drain_rows)),
                "b_ready": In(1),
                "b_data": In(drain_rows * 8),
                "w_en": Out(lanes // drain_rows),
                "w_addr": Out(address_bits),
                "w_data": Out(drain_rows * 8),
                "o": Out(stream.Signature(bus_bits)),
                "mask_error": Out(1),
                "affine_error": Out(1),
                "overflow": Out(1),
                "array_cycle": Out(1),
                "tile_stall": Out(1),
                "drain_stall": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        shape = {"rows": self._rows, "lanes": self._lanes}
        index_bits = ceil_log2(self._depth)
        m.submodules.fetcher = fetcher = MaskFetcher(bus_bits=self._bus_bits)
        mask_bits = max(self._bus_bits, self._load_rows * self._lanes)
        m.submodules.mask_words = mask_words = Joiner(in_bits=self._bus_bits, out_bits=mask_bits)
        m.submodules.loader = loader = TileLoader(
            **shape, load_rows=self._load_rows, mask_bits=mask_bits
        )
        m.submodules.taps = taps = TapWalker(address_bits=self._address_bits, index_bits=index_bits)
        m.submodules.pixels = pixels = PixelStreamer(
            address_bits=self._address_bits, index_bits=index_bits
        )
        m.submodules.array = array = MaskedArray(
            **shape, planes=self._planes, load_rows=self._load_rows
        )
        m.submodules.sums = sums = PartialSums(
            rows=self._rows,
            depth=self._depth,
            acc_bits=self._acc_bits,
            partial_bits=partial_bits(self._lanes),
            parts=psum_parts(self._rows, self._drain_rows, self._bus_bits),
        )
        m.submodules.affine = affine = AffineLoader(rows=self._rows, drain_rows=self._drain_rows)
        m.submodules.affine_words = affine_words = Splitter(in_bits=self._bus_bits, out_bits=64)
        m.submodules.drain = drain = Drain(
            **shape,
            drain_rows=self._drain_rows,
            depth=self._depth,
            acc_bits=self._acc_bits,
            bus_bits=self._bus_bits,
            address_bits=self._address_bits,
        )
        units = [loader, taps, pixels, drain]
        connect(m, flipped(self.mask_data), mask_words.i)
        if self._mask_cache:
            m.submodules.cache = cache = MaskCache(mask_bits=mask_bits, size=self._mask_cache)
            units.append(cache)
            m.d.comb += cache.repeated.eq(self.repeated)
            connect(m, mask_words.o, cache.i)
            connect(m, cache.o, loader.i)
        else:
            connect(m, mask_words.o, loader.i)
        self._connect_fields(m, (*units, affine), self.instruction)
        for unit in units:
            m.d.comb += unit.start.eq(self.start)
        m.d.comb += affine.start.eq(self.start & ~self.instruction.logits)

        # Masks are asked for ahead, so that they are here when their layer begins.
        launched = Signal()
        masks_of = Signal(LAYOUT)
        with m.If(self.start):
            m.d.sync += self.ahead.eq(0)
        with m.Elif(self.upcoming_valid & loader.done):
            m.d.sync += self.ahead.eq(1)
        m.d.sync += launched.eq(self.ahead)
        m.d.comb += [
            masks_of.eq(Mux(self.ahead, self.upcoming.as_value(), self.instruction.as_value())),
            fetcher.start.eq(Mux(self.ahead, ~launched, self.start)),
        ]
        self._connect_fields(m, (fetcher,), masks_of)

        # Masks and signs to the array's shadow tile.
        connect(m, fetcher.cmd, flipped(self.mask_cmd))
        m.d.comb += [
            fetcher.repeated.eq(self.repeated),
            fetcher.address.eq(self.program + masks_of.offset),
            loader.release.eq(pixels.release),
            array.load.eq(loader.load),
            array.group.eq(loader.group),
            array.mask.eq(loader.mask),
            array.negative.eq(loader.negative),
            pixels.shadow_full.eq(loader.full),
        ]

        # Pixels past the array into the sums.
        connect(m, taps.o, pixels.i)
        m.d.comb += [
            pixels.image_words.eq(taps.image_words),
            self.a_en.eq(pixels.valid),
            self.a_addr.eq(pixels.address),
            array.data.eq(self.a_data),
            array.swap.eq(_delay(m, pixels.swap, DATA_STAGE, "swap")),
            array.pass_.eq(_delay(m, pixels.pass_, DATA_STAGE, "pass")),
            sums.valid.eq(_delay(m, pixels.valid, SUM_STAGE, "valid")),
            sums.index.eq(_delay(m, pixels.index, SUM_STAGE, "index")),
            sums.bank.eq(_delay(m, pixels.bank, SUM_STAGE, "bank")),
            sums.overwrite.eq(_delay(m, pixels.overwrite, SUM_STAGE, "overwrite")),
            sums.partial.eq(array.partial),
            drain.complete.eq(_delay(m, pixels.end, STORE_STAGE, "end")),
            pixels.drained.eq(drain.drained),
        ]

        # Constants and the way out.
        connect(m, flipped(self.affine_data), affine_words.i)
        connect(m, affine_words.o, affine.i)
        record = 2 + (self.instruction.blocks << exact_log2(self._rows))
        m.d.comb += [
            self.affine_cmd.p.address.eq(self.affine_address),
            self.affine_cmd.p.beats.eq(record >> exact_log2(self._bus_bits // 64)),
            affine.take.eq(drain.affine_take),
            affine.part.eq(drain.affine_part),
            drain.affine_full.eq(affine.full),
            drain.multiplier.eq(affine.multiplier),
            drain.bias.eq(affine.bias),
            drain.shift.eq(affine.shift),
            drain.residual.eq(affine.residual),
            sums.drain_index.eq(drain.psum_index),
            sums.drain_bank.eq(drain.psum_bank),
            sums.drain_parts.eq(drain.psum_parts),
            drain.psum_data.eq(sums.drain_data),
            self.b_en.eq(drain.res_en),
            self.b_addr.eq(drain.res_addr),
            self.b_part.eq(drain.res_part),
            drain.res_ready.eq(self.b_ready),
            drain.res_data.eq(self.b_data),
            self.w_en.eq(drain.w_en),
            self.w_addr.eq(drain.w_addr),
            self.w_data.eq(drain.w_data),
        ]
        with m.If(self.start & ~self.instruction.logits):
            m.d.sync += self.affine_cmd.valid.eq(1)
        with m.Elif(self.affine_cmd.ready):
            m.d.sync += self.affine_cmd.valid.eq(0)
        connect(m, drain.o, flipped(self.o))

        # The end, faults and counters.
        running = Signal()
        mask_wrong = Signal()
        m.d.sync += mask_wrong.eq(loader.check_value != self.instruction.mask_signature)
        m.d.comb += [
            self.done.eq(running & drain.done & loader.done),
            self.affine_error.eq(affine.error),
            self.array_cycle.eq(pixels.valid),
            self.tile_stall.eq(pixels.tile_stall),
            self.drain_stall.eq(pixels.drain_stall),
        ]
        m.d.sync += self.overflow.eq(self.overflow | pixels.overflow | drain.overflow)
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(self.done):
            m.d.sync += [running.eq(0), self.mask_error.eq(self.mask_error | mask_wrong)]
        return m

    def _connect_fields(self, m: Module, units, instruction) -> None:
        """Give each unit the instruction fields that it has members for."""
        names = {"add_residual": "residual"}
        fields = (
            "seed frozen free kernel stride passes gap top in_words in_h in_w blocks images "
            "tile_images out_h out_w out_words out_bits tile_rows src dst res count logits "
            "add_residual cached cache"
        ).split()
        for unit in units:
            for field in fields:
                if field in unit.signature.members:
                    source = getattr(instruction, names.get(field, field))
                    m.d.comb += getattr(unit, field).eq(source)


def _delay(m: Module, value: Value, cycles: int, name: str) -> Value:
    for age in range(1, cycles + 1):
        stage = Signal.like(value, name=f"{name}{age}")
        m.d.sync += stage.eq(value)
        value = stage
    return value
