# SPDX-License-Identifier: Apache-2.0
"""Executes the memory image of a program as docs/spec.md sections 6, 7 and 9 say, byte by byte.

It shares nothing with the compiler but the tables of :mod:`hiddenfold.hw.isa` and the LFSR, so it
shows what a compiled program means without any hardware. It also checks what the hardware relies on
and cannot see: overlapping tensors, partial sums that do not fit, pixels that come too soon. Those
are `AssertionError`; faults that the hardware reports are a `Fault`. Transfers move their data at
once, but count as unfinished until a fence waits for them: what would notice that is an
`AssertionError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiddenfold.hw import isa, lfsr
from hiddenfold.hw.isa import Error, Opcode

__all__ = ["Fault", "Result", "run"]


class Fault(Exception):
    """What registers ERROR and ERROR_PC would hold."""

    def __init__(self, error: Error, pc: int) -> None:
        super().__init__(f"{error.name} at {pc:#x}")
        self.error = error
        self.pc = pc


class Result(NamedTuple):
    """Bytes at OUTPUT, how many bytes were read from external memory, how many saved to SCRATCH."""

    output: bytes
    bytes_read: int
    bytes_saved: int


class _Transfer(NamedTuple):
    """An unfinished LOAD or SAVE: words of the activation memory, bytes of SCRATCH."""

    inside: range
    outside: range


def run(
    memory: bytes,
    parameters: dict[str, int],
    target_id: int,
    images: bytes = b"",
    scratch_bytes: int = 0,
) -> Result:
    """Process all of `images`, packed as in spec section 6, on a target with these parameters.

    The memories start with arbitrary contents, the same in each call.
    """
    machine = _Machine(memory, parameters, target_id, images, scratch_bytes)
    while machine.image_position < len(images):
        machine.process()
    return Result(b"".join(machine.output), machine.bytes_read, machine.bytes_saved)


@dataclass
class _Machine:
    """State of the accelerator between instructions."""

    memory: bytes
    parameters: dict[str, int]
    target_id: int
    images: bytes
    scratch_bytes: int
    image_position: int = 0
    images_begun: int = 0
    affine_position: int = 0
    bytes_read: int = 0
    pc: int = 0
    repeated: bool = False  # in the second or a later iteration
    bytes_saved: int = 0
    output: list[bytes] = field(default_factory=list)
    loads: list[_Transfer] = field(default_factory=list)
    saves: list[_Transfer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self.parameters["rows"]
        self.lanes = self.parameters["lanes"]
        words = self.parameters["act_banks"] * self.parameters["act_bank_words"]
        rng = np.random.default_rng(0)
        self.act = rng.integers(0, 256, (words, self.lanes), dtype=np.uint8)
        self.scratch = rng.integers(0, 256, self.scratch_bytes, dtype=np.uint8)
        # The mask cache as words of 64 bits, before anything is in it.
        size = self.parameters["mask_cache"] // 8
        self.cache = np.random.default_rng(1).integers(0, 1 << 64, size, dtype=np.uint64)
        self._signs: dict[tuple[int, int], NDArray[np.int8]] = {}

    # Control.

    def process(self) -> None:
        """Execute the program once, that is process a batch of images."""
        self.pc = 0
        self.images_begun = 0
        loop: tuple[int, int] | None = None  # first instruction of the body, iterations left
        while True:
            fields = self._fetch()
            opcode = fields["opcode"]
            self._require(opcode in list(Opcode), Error.OPCODE)
            self._require((opcode == Opcode.BEGIN) == (self.pc == 0), Error.OPCODE)
            following = self.pc + isa.BYTES
            self._wait(fields)
            if opcode == Opcode.BEGIN:
                self._require(fields["seed"] == self.target_id, Error.TARGET)
                self.affine_position = fields["offset"]
            elif opcode == Opcode.END:
                self._require(fields["images"] > 0, Error.FIELD)
                self._require(loop is None, Error.LOOP)
                assert fields["images"] == self.images_begun, "END counts other images than IMAGE"
                self.loads.clear()
                self.saves.clear()
                return
            elif opcode == Opcode.LOOP:
                self._require(loop is None and 1 <= fields["count"] <= 255, Error.LOOP)
                loop = following, fields["count"]
                self.repeated = False
            elif opcode == Opcode.ENDLOOP:
                if loop is None:
                    raise Fault(Error.LOOP, self.pc)
                loop = loop[0], loop[1] - 1
                self.repeated = loop[1] > 0
                if loop[1]:
                    following = loop[0]
                else:
                    loop = None
            else:
                self._operate(fields)
            self.pc = following

    def _wait(self, fields: dict[str, int]) -> None:
        """The fences of an instruction."""
        for pending, fence in ((self.loads, "fence_loads"), (self.saves, "fence_saves")):
            if fields[fence]:
                del pending[: max(0, len(pending) - fields[fence] + 1)]

    def _operate(self, fields: dict[str, int]) -> None:
        """An instruction that works on tensors."""
        opcode = fields["opcode"]
        if opcode == Opcode.IMAGE:
            self._image(fields)
        elif opcode == Opcode.POOL:
            self._pool(fields)
        elif opcode == Opcode.STORE:
            self._require(fields["count"] > 0, Error.FIELD)
            place = self._place(fields["src"], fields["count"])
            self.output.append(self.act[place].tobytes())
        elif opcode in (Opcode.LOAD, Opcode.SAVE):
            self._transfer(fields)
        else:
            _Convolution(self, fields).execute()

    def _fetch(self) -> dict[str, int]:
        """Fields of the instruction at the program counter."""
        words = [int(word) for word in self.read(self.pc, isa.WORDS)]
        self._require(lfsr.signature(words[:-1]) == words[-1], Error.INSTRUCTION_SIGNATURE)
        return {
            name: words[place.word] >> place.lsb & (1 << place.width) - 1
            for name, place in isa.FIELDS.items()
        }

    def read(self, offset: int, words: int) -> NDArray[np.uint64]:
        """64-bit words of the memory image."""
        self._require(offset + 8 * words <= len(self.memory), Error.WINDOW)
        self.bytes_read += 8 * words
        return np.frombuffer(self.memory, "<u8", words, offset)

    def _require(self, condition: bool, error: Error) -> None:
        if not condition:
            raise Fault(error, self.pc)

    def _place(self, address: int, words: int, *, write: bool = False) -> slice:
        """Words of the activation memory that an instruction reads or writes."""
        self._require(address + words <= len(self.act), Error.WINDOW)
        place = range(address, address + words)
        for load in self.loads:
            assert not _overlap(load.inside, place), f"{self.pc:#x}: words of an unfinished LOAD"
        for save in self.saves:
            clash = write and _overlap(save.inside, place)
            assert not clash, f"{self.pc:#x}: writes words of an unfinished SAVE"
        return slice(address, address + words)

    def _transfer(self, fields: dict[str, int]) -> None:
        """LOAD and SAVE."""
        load = fields["opcode"] == Opcode.LOAD
        count, offset = fields["count"], fields["offset"]
        self._require(count > 0 and offset % self.lanes == 0, Error.FIELD)
        address = fields["dst" if load else "src"]
        end = offset + count * self.lanes
        self._require(address + count <= len(self.act), Error.WINDOW)
        self._require(end <= self.scratch_bytes, Error.WINDOW)
        transfer = _Transfer(range(address, address + count), range(offset, end))
        # Transfers of one kind are in order; those of two kinds run side by side.
        for other in self.saves if load else self.loads:
            inside = _overlap(other.inside, transfer.inside)
            clash = inside or _overlap(other.outside, transfer.outside)
            assert not clash, f"{self.pc:#x}: a transfer on what an unfinished one works on"
        place, outside = slice(address, address + count), self.scratch[offset:end]
        if load:
            self.act[place] = outside.reshape(count, self.lanes)
            self.bytes_read += len(outside)
            self.loads.append(transfer)
        else:
            outside[:] = self.act[place].reshape(-1)
            self.bytes_saved += len(outside)
            self.saves.append(transfer)

    def tensor(
        self, address: int, height: int, width: int, words: int, *, write: bool = False
    ) -> NDArray[np.uint8]:
        """A view of a tensor in the activation memory: [height, width, words * lanes]."""
        place = self._place(address, height * width * words, write=write)
        return self.act[place].reshape(height, width, words * self.lanes)

    def tensors(
        self, address: int, images: int, height: int, width: int, words: int, *, write: bool = False
    ) -> NDArray[np.uint8]:
        """A view of a tensor of a batch: [images, height, width, words * lanes]."""
        maps = self.tensor(address, images * height, width, words, write=write)
        return maps.reshape(images, height, width, words * self.lanes)

    def check_fields(self, fields: dict[str, int], *sizes: str) -> None:
        """Domains of the fields that IMAGE, CONV and POOL share, and of sizes."""
        self._require(fields["kernel"] in (1, 3, 5, 7), Error.FIELD)
        self._require(fields["stride"] in (1, 2), Error.FIELD)
        for name in ("in_h", "in_w", "out_h", "out_w", *sizes):
            self._require(fields[name] > 0, Error.FIELD)
        self._require(fields["top"] <= fields["kernel"] // 2, Error.FIELD)
        bottom = (fields["out_h"] - 1) * fields["stride"] + fields["top"]
        right = (fields["out_w"] - 1) * fields["stride"]
        inside = bottom < fields["in_h"] and right < fields["in_w"]
        assert inside, "the centre of an output pixel is not in the input"

    # Instructions without weights.

    def _image(self, fields: dict[str, int]) -> None:
        self.check_fields(fields, "out_words")
        height, width = fields["in_h"], fields["in_w"]
        self._require(width <= self.parameters["image_width"], Error.FIELD)
        self._require(fields["kernel"] <= self.parameters["stem_kernel"], Error.FIELD)
        pitch = (4 * width + 15) // 16 * 16
        start = self.image_position + fields["offset"]
        end = start + height * pitch
        self._require(end <= len(self.images), Error.WINDOW)
        data = np.frombuffer(self.images[start:end], np.uint8)
        if fields["advance"]:
            self.image_position = end
            self.images_begun += 1
        self.bytes_read += height * pitch
        image = data.reshape(height, pitch // 4, 4)[:, :width, :3]
        size = fields["out_h"], fields["out_w"], fields["out_words"]
        out = self.tensor(fields["dst"], *size, write=True)
        windows = _windows(image, fields).reshape(*out.shape[:2], -1)
        assert windows.shape[2] <= out.shape[2], "IMAGE has more channels than room for them"
        out[:, :, : windows.shape[2]] = windows

    def _pool(self, fields: dict[str, int]) -> None:
        self.check_fields(fields, "in_words")
        words = fields["in_words"]
        source = self.tensor(fields["src"], fields["in_h"], fields["in_w"], words)
        out = self.tensor(fields["dst"], fields["out_h"], fields["out_w"], words, write=True)
        assert not np.shares_memory(source, out), "POOL overwrites what it reads"
        out[:] = _windows(source, fields).max(axis=2)

    # Weights.

    def signs(self, state: int, words: int) -> NDArray[np.int8]:
        """Signs of one output channel: int8[words, 64] of +1 and -1."""
        if (state, words) not in self._signs:
            stream = []
            word = state
            for _ in range(words):
                stream.append(word)
                word = lfsr.leap(word)
            bits = np.unpackbits(np.array(stream, "<u8").view(np.uint8), bitorder="little")
            self._signs[state, words] = 1 - 2 * bits.reshape(words, 64).astype(np.int8)
        return self._signs[state, words]


def _overlap(a: range, b: range) -> bool:
    return a.start < b.stop and b.start < a.stop


def _windows(source: NDArray[np.uint8], fields: dict[str, int]) -> NDArray[np.uint8]:
    """Zero-padded windows: [out_h, out_w, kernel * kernel, channels]."""
    kernel, stride = fields["kernel"], fields["stride"]
    height, width = fields["out_h"], fields["out_w"]
    reach, top = (kernel - 1) // 2, fields["top"]
    # Beyond the padding as far as the output map of the instruction asks for it.
    bottom = max(0, (height - 1) * stride + top + kernel - reach - source.shape[0])
    right = max(0, (width - 1) * stride + kernel - reach - source.shape[1])
    padded = np.pad(source, ((reach, bottom), (reach, right), (0, 0)))
    taps = [
        padded[ky + top : ky + top + height * stride : stride, kx : kx + width * stride : stride]
        for ky in range(kernel)
        for kx in range(kernel)
    ]
    return np.stack([tap[:height, :width] for tap in taps], axis=2)


class _Convolution:
    """One CONV instruction."""

    def __init__(self, machine: _Machine, fields: dict[str, int]) -> None:
        self._machine = machine
        self._fields = fields
        self._rows, self._lanes = machine.rows, machine.lanes
        self._taps = self._tap_order()

    def execute(self) -> None:
        """Check, compute all blocks and pixel tiles, and write the results."""
        machine, f = self._machine, self._fields
        self._check()
        if not f["logits"]:
            self._read_constants()
        self._masks = [
            [self._block_masks(block, tile > 0) for tile in range(len(self._tiles()))]
            for block in range(f["blocks"])
        ]
        mask_words = np.concatenate([words for tiles in self._masks for words in tiles])
        if lfsr.signature(map(int, mask_words)) != f["mask_signature"]:
            raise Fault(Error.MASK_SIGNATURE, machine.pc)
        self._check_spacing()
        state = f["seed"]
        source = machine.tensors(f["src"], f["images"], f["in_h"], f["in_w"], f["in_words"])
        # A pass p works on bits p * planes and up; what no pass works on is not seen.
        seen = (1 << min(8, f["passes"] * machine.parameters["planes"])) - 1
        values = (source & seen).astype(np.float64)
        for block in range(f["blocks"]):
            states = [state]
            while len(states) <= self._rows:
                states.append(lfsr.jump(states[-1], lfsr.CHANNEL_JUMP))
            state = states.pop()
            weights = self._weights(block, states)
            total = np.zeros((f["images"], self._rows), dtype=np.int64)
            for image, images, first, rows in self._tiles():
                for n in range(image, image + images):
                    sums = self._accumulate(values[n], weights, first, rows)
                    if f["logits"]:
                        total[n] += sums.sum(axis=(0, 1))
                    else:
                        self._requantize(sums, block, n, first)
            if f["logits"]:
                assert np.abs(total).max() < 1 << 31, "a logit does not fit 32 bits"
                machine.output.append(total.astype("<i4").tobytes())

    def _check(self) -> None:
        machine, f = self._machine, self._fields
        sizes = "in_words out_words blocks images tile_images tile_rows passes count".split()
        machine.check_fields(f, *sizes)
        pixels = f["tile_images"] * f["tile_rows"] * f["out_w"]
        if (
            pixels > machine.parameters["psum_depth"]
            or f["passes"] * machine.parameters["planes"] > 8
            or (f["free"] and not f["frozen"])
            or (f["cached"] and not machine.parameters["mask_cache"])
            or (f["tile_images"] > 1 and f["tile_rows"] != f["out_h"])
            or not (f["logits"] or 1 <= f["out_bits"] <= 8)
        ):
            raise Fault(Error.FIELD, machine.pc)
        if f["logits"]:
            assert f["kernel"] == f["stride"] == 1 and not f["residual"]
            return
        source = machine.tensors(f["src"], f["images"], f["in_h"], f["in_w"], f["in_words"])
        size = f["images"], f["out_h"], f["out_w"], f["out_words"]
        out = machine.tensors(f["dst"], *size, write=True)
        assert not np.shares_memory(source, out), "CONV overwrites what it reads"
        if f["residual"] and f["res"] != f["dst"]:
            residual = machine.tensors(f["res"], *size)
            assert not np.shares_memory(residual, out), "CONV overwrites its residual elsewhere"
        assert f["blocks"] * self._rows <= f["out_words"] * self._lanes

    def _tap_order(self) -> list[tuple[int, int]]:
        """Offsets (dy, dx) of the taps: the centre, then the others row by row."""
        reach = (self._fields["kernel"] - 1) // 2
        offsets = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
        return sorted(offsets, key=lambda offset: offset != (0, 0))

    def _tiles(self) -> list[tuple[int, int, int, int]]:
        """First image and number of images, first row and number of rows of each pixel tile."""
        height, step = self._fields["out_h"], self._fields["tile_rows"]
        images, together = self._fields["images"], self._fields["tile_images"]
        return [
            (image, min(together, images - image), first, min(step, height - first))
            for image in range(0, images, together)
            for first in range(0, height, step)
        ]

    def _reach(self, tap: tuple[int, int], first: int, rows: int) -> tuple[list[int], list[int]]:
        """Output rows of a pixel tile, and columns, whose input of that tap is not padding."""
        f = self._fields
        dy = tap[0] + f["top"]
        ys = [y for y in range(first, first + rows) if 0 <= y * f["stride"] + dy < f["in_h"]]
        xs = [x for x in range(f["out_w"]) if 0 <= x * f["stride"] + tap[1] < f["in_w"]]
        return ys, xs

    def _check_spacing(self) -> None:
        """Without `gap`, give the array a pixel a cycle and see how soon pixels come back."""
        f = self._fields
        if f["gap"]:
            return
        for _, images, first, rows in self._tiles():
            last = np.full((images, rows, f["out_w"]), -isa.PIXEL_SPACING, dtype=np.int64)
            now = 0
            for tap in self._taps:
                ys, xs = self._reach(tap, first, rows)
                place = np.ix_(range(images), [y - first for y in ys], xs)
                for _ in range(f["in_words"] * f["passes"]):
                    count = images * len(ys) * len(xs)
                    times = now + np.arange(count).reshape(images, len(ys), len(xs))
                    soon = (times - last[place]).min(initial=isa.PIXEL_SPACING)
                    assert soon >= isa.PIXEL_SPACING, f"a pixel comes again after {soon} cycles"
                    last[place] = times
                    now += count

    def _block_masks(self, block: int, again: bool) -> NDArray[np.uint64]:
        """Masks of a block for a pixel tile, `again` for all but the first one."""
        machine, f = self._machine, self._fields
        start = 8 * f["cache"] + f["count"] * block
        assert not f["cached"] or start + f["count"] <= len(machine.cache), "beyond the mask cache"
        if f["cached"] and (machine.repeated or again):
            return machine.cache[start : start + f["count"]].copy()
        words = machine.read(f["offset"] + 8 * f["count"] * block, f["count"])
        if f["cached"]:
            machine.cache[start : start + f["count"]] = words
        return words

    def _weights(self, block: int, states: list[int]) -> NDArray[np.float64]:
        """Weights -1, 0, +1 of a block: [taps, in_words * lanes, rows]."""
        f = self._fields
        taps, lane_words = len(self._taps), f["in_words"]
        data = self._masks[block][0].astype("<u8")
        bits = np.unpackbits(data.view(np.uint8), bitorder="little")
        channels = lane_words * self._lanes
        stride = 1 + f["frozen"]
        positions = -(-channels // 64)
        signs = np.stack(
            [
                self._machine.signs(state, taps * positions * stride).reshape(taps, -1, stride, 64)
                for state in states
            ]
        )  # [rows, taps, positions, word of the position, bit]
        sign, freeze = (
            signs[:, :, :, word].reshape(self._rows, taps, -1)[:, :, :channels]
            for word in (0, stride - 1)
        )
        # Stored bits: [rows, taps, groups of 8 channels, bits of the group].
        m = 8 >> f["free"]
        expected = taps * lane_words * self._rows * self._lanes * m // 8
        assert bits.size == expected, f"{bits.size} mask bits a block, not {expected}"
        stored = bits.reshape(taps, lane_words, self._rows, self._lanes // 8, m)
        stored = stored.transpose(2, 0, 1, 3, 4).reshape(self._rows, taps, -1, m)
        masks = _expand(stored, sign < 0, freeze < 0).reshape(self._rows, taps, channels)
        return (masks * sign).transpose(1, 2, 0).astype(np.float64)

    def _accumulate(
        self, values: NDArray[np.float64], weights: NDArray[np.float64], first: int, rows: int
    ) -> NDArray[np.int64]:
        """Partial sums of a pixel tile: [rows of pixels, out_w, rows of the array]."""
        f = self._fields
        limit = (1 << (self._machine.parameters["acc_bits"] - 1)) - 1
        sums = np.zeros((rows, f["out_w"], self._rows))
        for tap, weight in zip(self._taps, weights, strict=True):
            ys, xs = self._reach(tap, first, rows)
            inputs = np.ix_(
                [y * f["stride"] + tap[0] + f["top"] for y in ys],
                [x * f["stride"] + tap[1] for x in xs],
            )
            # Exact: all numbers are integers far below 2^53.
            sums[np.ix_([y - first for y in ys], xs)] += values[inputs] @ weight
            assert np.abs(sums).max() <= limit, "a partial sum does not fit acc_bits"
        return sums.astype(np.int64)

    def _read_constants(self) -> None:
        """The affine record."""
        machine = self._machine
        words = machine.read(machine.affine_position, 2 + self._fields["blocks"] * self._rows)
        machine.affine_position += 8 * len(words)
        head, signature, *entries = (int(word) for word in words)
        if lfsr.signature([head, *entries]) != signature:
            raise Fault(Error.AFFINE_SIGNATURE, machine.pc)
        self._residual, self._shift = head & 0xFFFF, head >> 16 & 31
        self._multiplier = np.array([_signed(entry, 16) for entry in entries], dtype=np.int64)
        self._bias = np.array([_signed(entry >> 16, 24) for entry in entries], dtype=np.int64)

    def _requantize(self, sums: NDArray[np.int64], block: int, image: int, first: int) -> None:
        """Section 4.3 on one image of a pixel tile of a block."""
        machine, f = self._machine, self._fields
        size = f["images"], f["out_h"], f["out_w"], f["out_words"]
        channels = slice(block * self._rows, (block + 1) * self._rows)
        place = image, slice(first, first + len(sums)), slice(None), channels
        v = (sums * self._multiplier[channels] >> self._shift) + self._bias[channels]
        if f["residual"]:
            v += machine.tensors(f["res"], *size)[place].astype(np.int64) * self._residual
        machine.tensors(f["dst"], *size)[place] = np.clip(v >> 8, 0, (1 << f["out_bits"]) - 1)


def _expand(
    stored: NDArray[np.uint8], sign: NDArray[np.bool_], freeze: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Section 2.1: masks of groups of 8 channels, of which the last axis of `stored` has some."""
    size = *stored.shape[:-1], 8
    sign, masks = sign.reshape(size), freeze.reshape(size).astype(np.uint8)
    rotation = (sign ^ masks)[..., :3] @ np.array([1, 2, 4])
    if stored.shape[-1] == 8:
        rotation[:] = 0
    for j in range(stored.shape[-1]):
        place = (rotation + j)[..., None] % 8
        np.put_along_axis(masks, place, stored[..., j : j + 1], axis=-1)
    return masks


def _signed(value: int, bits: int) -> int:
    """The low `bits` of `value` as a two's-complement number."""
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)
