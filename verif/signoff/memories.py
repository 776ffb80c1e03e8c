# SPDX-License-Identifier: Apache-2.0
"""Scenarios that move programs, tensors, masks and transfers through all of the memories."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import BYTES, Error, Opcode
from hiddenfold.sw.instructions import instructions
from hiddenfold.verif.signoff.device import ProbeDevice
from hiddenfold.verif.signoff.faults import small_window, window_step
from hiddenfold.verif.signoff.layout import signed
from hiddenfold.verif.signoff.rig import Case, Failure, Rig

#: Fields that are addresses of the activation memory, besides `res`.
_PLACES = {
    Opcode.IMAGE: ("dst",),
    Opcode.CONV: ("src", "dst"),
    Opcode.POOL: ("src", "dst"),
    Opcode.STORE: ("src",),
    Opcode.LOAD: ("dst",),
    Opcode.SAVE: ("src",),
}
#: Bytes of a memory with room for regions in places that move every address bit.
_FAR = (1 << 32) - 0x1000_0000
_OFFSETS = (0x0555_5540, 0x2AAA_AA80)
#: Instructions whose `offset` is that of something in a region.
_WITH_OFFSET = (Opcode.BEGIN, Opcode.CONV, Opcode.IMAGE, Opcode.LOAD, Opcode.SAVE)
#: Places for SCRATCH: each address bit has both values. The last one ends at the last address.
_SCRATCHES = (0x2AAA_A800, 0x5555_5400, 0x9999_9980, 0xE666_6660, 0xFFFC_0000)
#: Distances of the regions: begin in the middle of a page and close to its end.
_SPREADS = (0x2AAA_B000, 0x2AAA_AFC0, 0x1555_4F00, 0x0FFF_FAC0, 0x0000_3E40, 0x0123_4540)


def expect(name: str, found: int, wanted: int) -> None:
    """Raise :class:`.Failure` unless the register ``name`` has the value ``wanted``."""
    if found != wanted:
        raise Failure(f"{name} must be {wanted:#x}, not {found:#x}")


def exact_run(rig: Rig) -> None:
    """Exact runs, with and without pauses and late answers, of the bytes that were predicted."""
    program, images = rig.case.program, len(rig.case.images)
    rig.fill()
    for stall, answer in ((0.0, 4), (0.5, 4), (0.0, 400)):
        rig.device.configure(stall=stall, read_latency=5, seed=3)
        rig.device.answer_writes_after(answer)
        rig.expect_good()
        expect("READ_BYTES", rig.read("READ_BYTES"), program.predicted_bytes_read * images)
        expect("WRITE_BYTES", rig.read("WRITE_BYTES"), program.predicted_bytes_written * images)
        if not rig.read("ARRAY_CYCLES") < rig.read("CYCLES"):
            raise Failure("ARRAY_CYCLES is not below CYCLES")
    rig.device.answer_writes_after(4)
    rig.device.write_strobed(regmap.REGISTERS["STATUS"].offset, 0xFFFF_FFFF, 0b1110)
    expect("STATUS", rig.read("STATUS"), regmap.STATUS_DONE)
    rig.write("STATUS", regmap.STATUS_DONE)
    expect("STATUS", rig.read("STATUS"), 0)


def relocated(rig: Rig) -> None:
    """The same program with its tensors and masks elsewhere in the chip's memories."""
    memory, target = rig.case.program.memory, rig.case.target
    words, cache = target.act_words, target.mask_cache // 64
    cached = [fields for _, fields in instructions(memory) if fields["cached"]]
    used = max((f["cache"] + -(-f["blocks"] * f["count"] // 8) for f in cached), default=0)
    for number in range(1, 8):
        changed = memory
        for offset, fields in instructions(memory):
            opcode = Opcode(fields["opcode"])
            names = set(_PLACES.get(opcode, ()))
            if opcode == Opcode.CONV and fields["logits"]:
                names.remove("dst")
            if opcode == Opcode.CONV and fields["residual"]:
                names.add("res")
            moved = {name: (fields[name] + number * words // 8) % words for name in names}
            if fields["cached"]:
                moved["cache"] = fields["cache"] + number * (cache - used) // 7
            if moved:
                piece = signed(memory, offset, **moved)
                changed = changed[:offset] + piece + changed[offset + BYTES :]
        rig.device.write_memory(rig.places["PROGRAM"][0], changed)
        rig.expect_good()
    rig.fill()


def places(open_device: Callable[..., ProbeDevice], case: Case) -> None:
    """Exact runs with regions in different places, and with parts far from their beginnings."""
    device = open_device(_FAR)
    for number, spread in enumerate(_SPREADS):
        rig = Rig(device, case, spread=spread)
        for name in ("IMAGE", "OUTPUT"):
            at, size = rig.places[name]
            rig.places[name] = at + 16 * number, size
        exact_run(rig)
    rig = Rig(device, case, spread=_SPREADS[0])
    memory, sizes = case.program.memory, {name: size for name, (_, size) in rig.places.items()}
    for far in _OFFSETS:
        changed, advanced = memory, False
        for offset, fields in instructions(memory):
            # The image pointer moves on from the place that an offset has led to.
            image = fields["opcode"] == Opcode.IMAGE
            if fields["opcode"] in _WITH_OFFSET and not (image and advanced):
                piece = signed(memory, offset, offset=fields["offset"] + far)
                changed = changed[:offset] + piece + changed[offset + BYTES :]
            advanced |= image and bool(fields["advance"])
        rig.device.write_memory(rig.places["PROGRAM"][0], changed)
        rig.device.write_memory(rig.places["PROGRAM"][0] + far, memory)
        rig.device.write_memory(rig.places["IMAGE"][0] + far, rig.packed)
        names = ("PROGRAM", "IMAGE", "SCRATCH")
        rig.expect_good(**{f"{name}_SIZE": sizes[name] + far for name in names})


def windows(rig: Rig) -> None:
    """Each region too small, by little and by all of it."""
    rig.device.configure(read_latency=3)
    for name, (_, size) in rig.places.items():
        step = window_step(rig, name)
        exact = (1, 2, 4) if name in ("OUTPUT", "SCRATCH") else ()
        short = {max(0, size - few) for few in (step, 2 * step, 3 * step, *exact)}
        for allowed in {*short, size // 2 // step * step, 0} if size else ():
            rig.fill()
            small_window(rig, name, allowed)
    rig.fill()
    rig.expect_good()


def beyond(open_device: Callable[..., ProbeDevice], case: Case) -> None:
    """Each region in turn reaches past the last address, by little, or ends there."""
    device = open_device(_FAR)
    rig = Rig(device, case)
    device.configure(read_latency=3)
    for name, (at, size) in rig.places.items():
        rig.fill()
        inside = (size - 1) // BYTES * BYTES
        if inside > 0:
            place = (1 << 32) - inside
            device.write_memory(place, device.read_memory(at, inside))
            rig.expect_error(Error.WINDOW, **{name: place})
            rig.expect_good()
        if name in ("PROGRAM", "IMAGE") and not size % 16:
            last = (1 << 32) - size
            device.write_memory(last, device.read_memory(at, size))
            rig.expect_good(**{name: last})
            rig.expect_good()
    begin, *_, end = (fields for _, fields in instructions(case.program.memory))
    _write_program(rig, [begin, {"opcode": Opcode.LOAD, "count": 10}, end])
    lanes = case.target.lanes
    rig.expect_error(Error.WINDOW, SCRATCH=(1 << 32) - 9 * lanes, SCRATCH_SIZE=10 * lanes)
    _write_program(rig, [begin, {"opcode": Opcode.LOAD, "count": 1, "offset": 9 * lanes}, end])
    rig.expect_error(Error.WINDOW, SCRATCH=(1 << 32) - 9 * lanes, SCRATCH_SIZE=10 * lanes)
    shortest = b"".join(signed(bytes(BYTES), 0, **fields) for fields in (begin, end))
    for place in ((1 << 32) - len(shortest), rig.places["PROGRAM"][0]):
        device.write_memory(place, shortest)
        rig.start(PROGRAM=place, PROGRAM_SIZE=len(shortest))
        ending = rig.finish()
        if ending.code:
            raise Failure(f"a program of two instructions at {place:#x} ends in {ending}")
    rig.fill()
    rig.expect_good()


def transfers(open_device: Callable[..., ProbeDevice], case: Case) -> None:
    """All words of the activation memory, and some, through LOAD and SAVE to another place."""
    words, lanes = case.target.act_words, case.target.lanes
    rig = Rig(open_device(_FAR), case)
    data = np.random.default_rng(8).integers(0, 256, words * lanes, dtype=np.uint8)
    third = words // 3
    moves = [
        # First word on chip, number of words, first word outside; several wait for each other.
        [(0, words, 0)],
        [(0, third, 0), (third, third + 1, third), (2 * third + 1, third - 1, 2 * third + 1)],
        [(third, words // 2 + 1, 7)],
        [(words - 1, 1, words - 1), (0, 1, 0), (5, 2, 99)],
        # More than there is room for.
        [(220 * n, 200, 256 * n) for n in range(6)],
        *_triples(words),
        # Begin close to the end of a page.
        *([(n, 40 + n, 4096 // lanes - n)] for n in range(1, 18)),
    ]
    for number, pieces in enumerate(moves):
        rig.device.configure(stall=0.3 * (number % 2), read_latency=9, seed=number)
        rig.device.answer_writes_after(4 if number % 3 else 400)
        listing = [fields for _, fields in instructions(rig.case.program.memory)]
        transfer = [
            {"opcode": opcode, place: at, "count": count, "offset": (first + shift) * lanes}
            for opcode, place, shift in ((Opcode.LOAD, "dst", 0), (Opcode.SAVE, "src", words))
            for at, count, first in pieces
        ]
        transfer[len(pieces)]["fence_loads"] = 1
        scratch = _SCRATCHES[number % len(_SCRATCHES)]
        rig.device.write_memory(scratch, data)
        _run_transfers(rig, [listing[0], *transfer, listing[-1]], 2 * words, scratch)
        for _, count, first in pieces:
            _expect_words(rig, data[first * lanes :][: count * lanes], scratch, words + first)


def _triples(words: int) -> Iterator[list[tuple[int, int, int]]]:
    """Three transfers each, of words that do not overlap, in all places; some are large."""
    rng = np.random.default_rng(6)
    for number in range(32):
        room = 2048 if number % 8 == 7 else 64
        chip, outside = (rng.permutation(words // room)[:3] * room for _ in range(2))
        sizes = rng.integers(1, room + 1, 3)
        chip += rng.integers(0, room - sizes + 1)
        outside += rng.integers(0, room - sizes + 1)
        yield list(zip(chip.tolist(), sizes.tolist(), outside.tolist(), strict=True))


def writes(open_device: Callable[..., ProbeDevice], case: Case) -> None:
    """A STORE and a SAVE at the same time, with as many bursts unanswered as there may be."""
    lanes, count = case.target.lanes, 1000
    rig = Rig(open_device(_FAR), case)
    data = np.random.default_rng(7).integers(0, 256, count * lanes, dtype=np.uint8)
    begin, *_, end = (fields for _, fields in instructions(case.program.memory))
    parts = [
        {"opcode": Opcode.LOAD, "dst": 0, "count": count},
        {"opcode": Opcode.SAVE, "src": 0, "count": count, "offset": len(data)},
        {"opcode": Opcode.STORE, "src": 0, "count": count},
    ]
    for part in parts[1:]:
        part["fence_loads"] = 1
    for number, (stall, answer) in enumerate(((0.0, 4), (0.0, 1500), (0.5, 1500))):
        rig.device.configure(read_latency=9, stall=stall, seed=number)
        rig.device.answer_writes_after(answer)
        scratch, output = _SCRATCHES[number], _SCRATCHES[number + 1]
        rig.device.write_memory(scratch, data)
        output_window = {"OUTPUT": output, "OUTPUT_SIZE": len(data)}
        _run_transfers(rig, [begin, *parts, end], 2 * count, scratch, **output_window)
        _expect_words(rig, data, scratch, count)
        _expect_words(rig, data, output, 0)


def beside(open_device: Callable[..., ProbeDevice], case: Case, at: int = 200) -> None:
    """A LOAD of many words, to ``at``, beside each instruction of a program that does not spill."""
    rig, far = Rig(open_device(), case, spread=0x1_0000), 0x8000
    rig.fill()
    rig.device.write_memory(rig.places["PROGRAM"][0] + far, case.program.memory)
    count = 1700
    data = np.random.default_rng(9).integers(0, 256, count * case.target.lanes, dtype=np.uint8)
    scratch = rig.device.memory_base + rig.device.memory_size // 2
    rig.device.write_memory(scratch, data)
    load = {"opcode": Opcode.LOAD, "dst": at, "count": count}
    save = {"opcode": Opcode.SAVE, "src": at, "count": count, "fence_loads": 1}
    save["offset"] = count * case.target.lanes
    listing = [
        fields | {"offset": fields["offset"] + far}
        if fields["opcode"] in (Opcode.BEGIN, Opcode.CONV)
        else fields
        for _, fields in instructions(case.program.memory)
    ]
    size = rig.places["PROGRAM"][1] + far
    for number in range(1, len(listing)):
        rig.device.configure(stall=0.2 * (number % 2), read_latency=number, seed=number)
        rig.poison()
        program = [*listing[:number], load, *listing[number:-1], save, listing[-1]]
        _run_transfers(rig, program, 2 * count, scratch, PROGRAM_SIZE=size)
        rig.compare()
        _expect_words(rig, data, scratch, count)


def _run_transfers(
    rig: Rig, program: list[dict], words: int, scratch: int, **registers: int
) -> None:
    """A good run of instructions with so many words of SCRATCH at address ``scratch``."""
    _write_program(rig, program)
    rig.start(SCRATCH=scratch, SCRATCH_SIZE=words * rig.case.target.lanes, **registers)
    ending = rig.finish(limit=rig.limit + 40 * words)
    if ending.code:
        raise Failure(f"transfers end in {ending}")


def _write_program(rig: Rig, program: list[dict]) -> None:
    code = b"".join(signed(bytes(BYTES), 0, **fields) for fields in program)
    rig.device.write_memory(rig.places["PROGRAM"][0], code)


def _expect_words(rig: Rig, data: NDArray[np.uint8], address: int, first: int) -> None:
    """The words at ``address`` from number ``first`` on must be ``data``; they become zeros."""
    at = address + first * rig.case.target.lanes
    found = rig.device.read_memory(at, len(data))
    if not np.array_equal(found, data):
        (wrong,) = np.nonzero(found != data)
        raise Failure(f"byte {wrong[0]} of transferred words has changed on its way")
    rig.device.write_memory(at, np.zeros(len(data), np.uint8))
