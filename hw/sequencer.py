# SPDX-License-Identifier: Apache-2.0
"""Recurrent-block sequencer: fetches, checks, dispatches instructions (docs/spec.md section 7)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from hiddenfold.hw import isa
from hiddenfold.hw.axi import COMMAND
from hiddenfold.hw.gearbox import Splitter
from hiddenfold.hw.instruction import LAYOUT
from hiddenfold.hw.isa import TRANSFER_OPCODES, UNIT_OPCODES, Error, Opcode
from hiddenfold.hw.signature import Signature


class InstructionFetcher(wiring.Component):
    """Reads one instruction and checks its signature.

    Members
    -------
    start, program, offset
        Begin to fetch at ``program + offset``; a former instruction is forgotten. Only when idle or
        ``valid``.
    cmd, data
        Port of the read channel.
    valid, good, instruction
        The instruction is complete; its signature is right. Stable to the next ``start``.
    """

    def __init__(self, *, bus_bits: int):
        self._bus_bits = bus_bits
        super().__init__(
            {
                "start": In(1),
                "program": In(32),
                "offset": In(32),
                "cmd": Out(stream.Signature(COMMAND)),
                "data": In(stream.Signature(bus_bits)),
                "valid": Out(1),
                "good": Out(1),
                "instruction": Out(LAYOUT),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = Splitter(in_bits=self._bus_bits, out_bits=64)
        m.submodules.check = check = Signature()
        connect(m, flipped(self.data), words.i)
        bits = self.instruction.as_value()
        left = Signal(range(isa.WORDS + 1))
        # The sequencer finds the offset late in a cycle, so the sum is made in the next one.
        begin = Signal()
        offset = Signal.like(self.offset, reset_less=True)
        m.d.comb += [
            words.o.ready.eq(left != 0),
            check.clear.eq(self.start),
            check.data.eq(words.o.payload),
            check.en.eq(words.o.valid & (left > 1)),
            self.good.eq(check.value == self.instruction.signature),
            self.cmd.p.beats.eq(isa.BYTES * 8 // self._bus_bits),
        ]
        with m.If(self.start):
            m.d.sync += [
                begin.eq(1),
                offset.eq(self.offset),
                left.eq(isa.WORDS),
                self.valid.eq(0),
            ]
        with m.Else():
            with m.If(self.cmd.ready):
                m.d.sync += self.cmd.valid.eq(0)
            with m.If(begin):
                m.d.sync += [
                    begin.eq(0),
                    self.cmd.valid.eq(1),
                    self.cmd.p.address.eq(self.program + offset),
                ]
            with m.If(words.o.valid & words.o.ready):
                m.d.sync += [
                    bits.eq(Cat(bits[64:], words.o.payload)),
                    left.eq(left - 1),
                    self.valid.eq(left == 1),
                ]
        return m


class FieldCheck(wiring.Component):
    """Finds fields outside their domain, so that no unit can hang or write where it must not.

    Members
    -------
    instruction
        To be checked; stable for three cycles before the outputs are used.
    scratch_size
        Bytes of the window of LOAD and SAVE.
    field_error, window_error
        A field is outside its domain; an activation address or a transfer is outside its memory.
    """

    def __init__(
        self,
        *,
        planes: int,
        depth: int,
        act_words: int,
        image_width: int,
        stem_kernel: int,
        mask_cache: int,
        lanes: int,
        bus_bits: int,
    ):
        self._lanes = lanes
        self._bus_bits = bus_bits
        self._planes = planes
        self._depth = depth
        self._act_words = act_words
        self._image_width = image_width
        self._stem_kernel = stem_kernel
        self._mask_cache = mask_cache
        super().__init__(
            {
                "instruction": In(LAYOUT),
                "scratch_size": In(32),
                "field_error": Out(1),
                "window_error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i = self.instruction
        map_pixels = Signal(24)
        # A multiplier has 17 unsigned bits; with more, a map is too large alone.
        factor_bits = 17
        assert self._depth < 1 << factor_bits, "pixels of a tile"
        tile_pixels = Signal(factor_bits + len(i.tile_images))
        map_large = Signal()
        scratch_end = Signal(40)
        m.d.sync += [
            map_pixels.eq(i.tile_rows * i.out_w),
            tile_pixels.eq(map_pixels[:factor_bits] * i.tile_images),
            map_large.eq(map_pixels[factor_bits:] != 0),
            scratch_end.eq(i.offset + (i.count << exact_log2(self._lanes))),
        ]
        kernels = (1, 3, 5, 7)
        stem_kernels = [kernel for kernel in kernels if kernel <= self._stem_kernel]
        map_wrong = (
            (i.stride == 0)
            | (i.stride > 2)
            | (i.in_h == 0)
            | (i.in_w == 0)
            | (i.out_h == 0)
            | (i.out_w == 0)
            | (i.top > i.kernel >> 1)
        )
        src_wrong = i.src >= self._act_words
        dst_wrong = i.dst >= self._act_words
        wrong, outside = Signal(), Signal()
        with m.Switch(i.opcode):
            with m.Case(Opcode.CONV):
                m.d.comb += [
                    wrong.eq(
                        map_wrong
                        | ~_one_of(i.kernel, kernels)
                        | (i.passes == 0)
                        | (i.passes > 8 // self._planes)
                        | (~i.logits & ((i.out_bits == 0) | (i.out_bits > 8)))
                        | (i.logits & (i.residual | (i.kernel != 1) | (i.stride != 1)))
                        | (i.blocks == 0)
                        | (i.in_words == 0)
                        | (i.out_words == 0)
                        | (i.images == 0)
                        | (i.tile_rows == 0)
                        | (i.tile_images == 0)
                        | ((i.tile_images != 1) & (i.tile_rows != i.out_h))
                        | map_large
                        | (tile_pixels > self._depth)
                        | (i.count == 0)
                        | ((i.free != 0) & ~i.frozen)
                        | (i.cached & (self._mask_cache == 0))
                    ),
                    outside.eq(
                        src_wrong
                        | (~i.logits & dst_wrong)
                        | (i.residual & (i.res >= self._act_words))
                    ),
                ]
            with m.Case(Opcode.IMAGE):
                m.d.comb += [
                    wrong.eq(
                        map_wrong
                        | ~_one_of(i.kernel, stem_kernels)
                        | (i.in_w > self._image_width)
                        | (i.out_words == 0)
                    ),
                    outside.eq(dst_wrong),
                ]
            with m.Case(Opcode.POOL):
                m.d.comb += [
                    wrong.eq(map_wrong | ~_one_of(i.kernel, kernels) | (i.in_words == 0)),
                    outside.eq(src_wrong | dst_wrong),
                ]
            with m.Case(Opcode.STORE):
                m.d.comb += [wrong.eq(i.count == 0), outside.eq(src_wrong)]
            with m.Case(*TRANSFER_OPCODES):
                address = Mux(i.opcode == Opcode.LOAD, i.dst, i.src)
                # The read channel counts beats in 24 bits.
                most_words = 1 << 24 - exact_log2(8 * self._lanes // self._bus_bits)
                m.d.comb += [
                    wrong.eq(
                        (i.count == 0)
                        | (i.count >= most_words)
                        | (i.offset[: exact_log2(self._lanes)] != 0)
                    ),
                    outside.eq(
                        (address + i.count > self._act_words) | (scratch_end > self.scratch_size)
                    ),
                ]
            with m.Case(Opcode.END):
                m.d.comb += wrong.eq(i.images == 0)
        m.d.sync += [self.field_error.eq(wrong), self.window_error.eq(outside)]
        return m


def _one_of(value, choices):
    return Cat(*(value == choice for choice in choices)).any()


def _fence(limit, unfinished):
    """Whether as many transfers as ``limit`` or more are unfinished; 0 is no limit."""
    return (limit != 0) & (unfinished >= limit)


class Sequencer(wiring.Component):
    """Runs the program once per batch. The next instruction is fetched while one executes.

    Parameters
    ----------
    target_id
        Number that BEGIN must carry.
    rows, bus_bits
        For the length of affine records; width of the bus.
    check
        Keyword parameters of :class:`FieldCheck`.

    Members
    -------
    start
        Begin with ``images`` images; ``program`` and ``image`` are stable to the end.
    cmd, data
        Port of the read channel.
    repeated
        The instruction is in the second or a later iteration of a loop.
    instruction, unit_start, unit_done
        The instruction in execution, and a start and a done pulse per unit (``UNIT_OPCODES``).
    load_valid, load_ready, loads, save_valid, save_ready, saves
        A transfer in ``instruction`` is begun; how many of its kind are unfinished.
    transfer_stall
        The instruction waits for transfers, or as one of them for room.
    scratch_size
        Register SCRATCH_SIZE.
    upcoming, upcoming_valid, upcoming_pc
        While a unit works that leaves the bus free (not IMAGE): the next instruction, its offset;
        it is a CONV, complete and unharmed, but its fields have not been checked.
    affine_address, image_address
        Pointers of the affine stream and the image; ``next_image`` is the latter's value after
        an IMAGE with ``advance``.
    finished
        Pulse: the last image is done.
    images_done, pc
        Images done; offset of the instruction in execution.
    error, failed
        Error code, 0 while all is well; whether it is not 0. Nothing is dispatched after an error.
    """

    def __init__(self, *, target_id: int, rows: int, bus_bits: int, check: dict):
        self._target_id = target_id
        self._rows = rows
        self._bus_bits = bus_bits
        self._check = check
        super().__init__(
            {
                "start": In(1),
                "images": In(16),
                "program": In(32),
                "image": In(32),
                "cmd": Out(stream.Signature(COMMAND)),
                "data": In(stream.Signature(bus_bits)),
                "repeated": Out(1),
                "instruction": Out(LAYOUT),
                "upcoming": Out(LAYOUT),
                "upcoming_valid": Out(1),
                "upcoming_pc": Out(32),
                "unit_start": Out(len(UNIT_OPCODES)),
                "unit_done": In(len(UNIT_OPCODES)),
                "load_valid": Out(1),
                "load_ready": In(1),
                "loads": In(2),
                "save_valid": Out(1),
                "save_ready": In(1),
                "saves": In(2),
                "transfer_stall": Out(1),
                "scratch_size": In(32),
                "affine_address": Out(32),
                "image_address": Out(32),
                "next_image": In(32),
                "finished": Out(1),
                "images_done": Out(16),
                "pc": Out(32),
                "error": Out(Error),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetcher = fetcher = InstructionFetcher(bus_bits=self._bus_bits)
        m.submodules.check = check = FieldCheck(**self._check)
        connect(m, fetcher.cmd, flipped(self.cmd))
        connect(m, flipped(self.data), fetcher.data)
        i = self.instruction
        fetch_pc = Signal(32)  # of the instruction in the fetcher
        begun = Signal()
        waiting = Signal()  # for transfers
        loop_start = Signal(32)
        loop_left = Signal(8)
        record_bytes = 16 + (i.blocks << exact_log2(self._rows) + 3)
        m.d.comb += [
            check.instruction.eq(i),
            check.scratch_size.eq(self.scratch_size),
            waiting.eq(
                _fence(i.fence_loads, self.loads)
                | _fence(i.fence_saves, self.saves)
                | ((i.opcode == Opcode.END) & ((self.loads != 0) | (self.saves != 0)))
            ),
            self.upcoming.eq(fetcher.instruction),
            self.upcoming_pc.eq(fetch_pc),
            fetcher.program.eq(self.program),
        ]

        def fail(code):
            m.d.sync += [self.error.eq(code), self.failed.eq(1)]
            m.next = "FAILED"

        # All that can be told of the instruction before EXECUTE, in the cycles of its check.
        chosen = {opcode: Signal(name=opcode.name.lower()) for opcode in Opcode}
        # In EXECUTE what is chosen may be done, if the check found nothing and nothing is awaited.
        armed = {opcode: Signal(name=f"armed_{opcode.name.lower()}") for opcode in Opcode}
        goes_armed = Signal()
        may_go = Signal()
        goes = Signal(len(UNIT_OPCODES))  # the unit starts in the next cycle, wherever it is
        begun_wrong = Signal()
        wrong = Signal(Error)  # what is found when no transfers are waited for
        is_wrong = Signal()
        goes_on = Signal()  # the next instruction is fetched at once
        done = Signal(17)
        all_done = Signal()
        behind = Signal(32)  # offset of what lies behind the instruction
        next_pc = Signal(32)
        m.d.sync += [
            *(flag.eq(i.opcode == opcode) for opcode, flag in chosen.items()),
            begun_wrong.eq(begun != (i.opcode != Opcode.BEGIN)),
            done.eq(self.images_done + i.images),
            all_done.eq(done == self.images),
            behind.eq(self.pc + isa.BYTES),
            next_pc.eq(behind),
            is_wrong.eq(0),
            goes_on.eq(1),
        ]

        def found(code: Error):
            m.d.sync += [wrong.eq(code), is_wrong.eq(1)]

        with m.Switch(i.opcode):
            with m.Case(Opcode.BEGIN):
                with m.If(i.seed != self._target_id):
                    found(Error.TARGET)
            with m.Case(Opcode.END):
                m.d.sync += [next_pc.eq(0), goes_on.eq(done != self.images)]
                with m.If(loop_left != 0):
                    found(Error.LOOP)
                with m.Elif(done > self.images):
                    found(Error.FIELD)
            with m.Case(Opcode.LOOP):
                with m.If((loop_left != 0) | (i.count == 0) | (i.count > 255)):
                    found(Error.LOOP)
            with m.Case(Opcode.ENDLOOP):
                with m.If(loop_left == 0):
                    found(Error.LOOP)
                with m.If(loop_left != 1):
                    m.d.sync += next_pc.eq(loop_start)
            with m.Case(*UNIT_OPCODES):
                pass
            with m.Case(*TRANSFER_OPCODES):
                m.d.sync += goes_on.eq(0)
            with m.Default():
                found(Error.OPCODE)

        transfers = (
            (Opcode.LOAD, self.load_valid, self.load_ready),
            (Opcode.SAVE, self.save_valid, self.save_ready),
        )
        m.d.sync += [goes_armed.eq(0), *(flag.eq(0) for flag in armed.values())]
        m.d.comb += [
            may_go.eq(~(check.field_error | check.window_error | waiting)),
            *(goes[unit].eq(armed[opcode] & may_go) for unit, opcode in enumerate(UNIT_OPCODES)),
            *(valid.eq(armed[opcode] & may_go) for opcode, valid, _ in transfers),
            fetcher.start.eq(
                (goes_armed & may_go)
                | (self.load_valid & self.load_ready)
                | (self.save_valid & self.save_ready)
            ),
            fetcher.offset.eq(next_pc),
        ]
        m.d.sync += self.unit_start.eq(goes)
        with m.If(fetcher.start):
            m.d.sync += fetch_pc.eq(next_pc)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += next_pc.eq(0)
                with m.If(self.start):
                    m.d.comb += fetcher.start.eq(1)
                    m.d.sync += [
                        begun.eq(0),
                        loop_left.eq(0),
                        self.repeated.eq(0),
                        self.images_done.eq(0),
                        self.image_address.eq(self.image),
                    ]
                    m.next = "FETCH"
            with m.State("FETCH"):
                with m.If(fetcher.valid):
                    m.d.sync += [i.eq(fetcher.instruction), self.pc.eq(fetch_pc)]
                    m.next = "CHECK1"
                    with m.If(~fetcher.good):
                        fail(Error.INSTRUCTION_SIGNATURE)
            with m.State("CHECK1"):
                m.next = "CHECK2"
            with m.State("CHECK2"):
                m.next = "CHECK3"
            with m.State("CHECK3"):
                right = ~(begun_wrong | is_wrong)
                m.d.sync += [
                    *(flag.eq(chosen[opcode] & right) for opcode, flag in armed.items()),
                    goes_armed.eq(goes_on & right),
                ]
                m.next = "EXECUTE"
            with m.State("EXECUTE"):
                with m.If(begun_wrong):
                    fail(Error.OPCODE)
                with m.Elif(check.field_error):
                    fail(Error.FIELD)
                with m.Elif(check.window_error):
                    fail(Error.WINDOW)
                with m.Elif(waiting):
                    m.d.comb += self.transfer_stall.eq(1)
                    m.d.sync += [
                        *(flag.eq(flag) for flag in armed.values()),
                        goes_armed.eq(goes_armed),
                    ]
                with m.Elif(is_wrong):
                    fail(wrong)
                with m.Else():
                    m.next = "FETCH"
                    with m.If(armed[Opcode.BEGIN]):
                        m.d.sync += [begun.eq(1), self.affine_address.eq(self.program + i.offset)]
                    with m.If(armed[Opcode.END]):
                        m.d.sync += [begun.eq(0), self.images_done.eq(done)]
                        with m.If(all_done):
                            m.d.comb += self.finished.eq(1)
                            m.next = "IDLE"
                    with m.If(armed[Opcode.LOOP]):
                        m.d.sync += [loop_left.eq(i.count), loop_start.eq(behind)]
                    with m.If(armed[Opcode.ENDLOOP]):
                        m.d.sync += [loop_left.eq(loop_left - 1), self.repeated.eq(loop_left != 1)]
                    with m.If(goes.any()):
                        m.next = "UNIT"
                    for opcode, _, ready in transfers:
                        with m.If(armed[opcode] & ~ready):
                            m.d.comb += self.transfer_stall.eq(1)
                            m.d.sync += armed[opcode].eq(1)
                            m.next = "EXECUTE"
            with m.State("UNIT"):
                m.d.comb += self.upcoming_valid.eq(
                    fetcher.valid
                    & fetcher.good
                    & (fetcher.instruction.opcode == Opcode.CONV)
                    & (i.opcode != Opcode.IMAGE)
                )
                with m.If(self.unit_done.any()):
                    with m.If((i.opcode == Opcode.IMAGE) & i.advance):
                        m.d.sync += self.image_address.eq(self.next_image)
                    with m.If((i.opcode == Opcode.CONV) & ~i.logits):
                        m.d.sync += self.affine_address.eq(self.affine_address + record_bytes)
                    m.next = "FETCH"
            with m.State("FAILED"):
                pass
        return m
