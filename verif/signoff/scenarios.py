# SPDX-License-Identifier: Apache-2.0
"""A short bench of everything the specification promises, for telling designs from mutants.

Scenarios go from quick to slow. Each raises if the hardware breaks a promise; only the last
scenario of all compares with the design's own cycle counts, which are no promise.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hiddenfold.gen.target import Target
from hiddenfold.hw import regmap
from hiddenfold.hw.isa import BYTES, Error, Opcode
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.instructions import instructions
from hiddenfold.sw.model import Model
from hiddenfold.sw.verify import check_model, network_limits
from hiddenfold.verif.golden.random_networks import random_image, random_model
from hiddenfold.verif.signoff import campaign
from hiddenfold.verif.signoff.device import ProbeDevice
from hiddenfold.verif.signoff.directed import directed, wide_image_model
from hiddenfold.verif.signoff.layout import signed
from hiddenfold.verif.signoff.memories import (
    beside,
    beyond,
    exact_run,
    expect,
    places,
    relocated,
    transfers,
    windows,
    writes,
)
from hiddenfold.verif.signoff.rig import SETTLE, Case, Failure, Rig

#: Random networks, small ones and then as large as those of ``hiddenfold verify``, and faults.
NETWORKS = 10
LARGE = 6
FAULTS = 20
_FAULT_SEED = 7
#: Bytes for large networks.
_MEMORY = 1 << 24
_COUNTERS = ("CYCLES", "ARRAY_CYCLES", "TILE_STALLS", "DRAIN_STALLS", "BUS_STALLS")
_PATTERNS = (0x5A5A_5A5A, 0xA5A5_A5A5, 0x0123_4567, 0xFFFF_FFFF, 0)


@dataclass
class Bench:
    """What does not depend on the device: programs, networks, and the design's cycle counts."""

    target: Target
    cases: list[Case]
    networks: list[tuple[int, Model]]
    large: list[tuple[int, Model]]
    wide_image: Case
    directed: list[Case]
    faults: int
    counters: dict[tuple[int, str], int] = field(default_factory=dict)

    @classmethod
    def make(cls, networks: int = NETWORKS, large: int = LARGE, faults: int = FAULTS) -> "Bench":
        """Compile the programs and make the networks."""
        target = Target.load(campaign.TARGET)
        limits = network_limits(target)
        small = replace(limits, max_macs=limits.max_macs // 10)
        rng = np.random.default_rng(9)

        def case(model: Model, images: int = 1, **options: Any) -> Case:
            pictures = [random_image(rng, *model.image) for _ in range(images)]
            return Case(model, target, np.stack(pictures), trace=False, **options)

        return cls(
            target,
            campaign.cases(),
            [(seed, random_model(seed, small)) for seed in range(networks)],
            [(seed, random_model(seed, limits)) for seed in range(networks, networks + large)],
            case(wide_image_model()),
            [case(one.model, one.count, **one.options) for one in directed()],
            faults,
        )

    def scenarios(
        self, open_device: Callable[..., ProbeDevice]
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """Name and function of each scenario, to be run in this order."""
        rigs = [Rig(open_device(), case) for case in self.cases]
        for rig in rigs:
            rig.limit = 3 * rig.case.program.predicted_cycles * len(rig.case.images) + 5000
        yield "registers", lambda: registers(rigs[0])
        for number in range(len(rigs)):
            yield f"program {number}", partial(exact_run, rigs[number])
        yield "watchdogs", lambda: watchdogs(rigs[0])
        for number in range(len(rigs)):
            yield f"memories {number}", partial(relocated, rigs[number])
        for number, case in enumerate(self.cases):
            yield f"places {number}", partial(places, open_device, case)
        for number, rig in enumerate(rigs):
            yield f"windows {number}", partial(windows, rig)
        for number, case in enumerate(self.cases):
            yield f"beyond {number}", partial(beyond, open_device, case)
        yield "transfers", lambda: transfers(open_device, self.cases[0])
        yield "writes", lambda: writes(open_device, self.cases[0])
        for number, case in enumerate(self.cases[:2]):
            yield f"transfers beside program {number}", partial(beside, open_device, case)
        top = self.target.act_words // 2
        yield "transfers beside a wide image", lambda: beside(open_device, self.wide_image, top)
        yield "long program", lambda: long_program(open_device, self.cases[0])
        yield "many images", lambda: many_images(rigs[0])
        yield "illegal programs", lambda: illegal_programs(rigs[0])
        yield "illegal transfers", lambda: illegal_transfers(rigs[2])
        accelerator = Accelerator(open_device())
        for seed, model in self.networks:
            yield f"network {seed}", partial(self._network, accelerator, seed, model)
        for first in range(0, self.faults, 10):
            yield f"faults {first}", partial(faults, rigs, first)
        accelerator = Accelerator(open_device(_MEMORY))
        for seed, model in self.large:
            yield f"large network {seed}", partial(self._network, accelerator, seed, model)
        for case in self.directed:
            yield case.program.model, partial(long_run, Rig(open_device(_MEMORY), case))
        yield "cycle counts", lambda: self._cycle_counts(rigs)

    def _network(self, accelerator: Accelerator, seed: int, model: Model) -> None:
        comparison = check_model(accelerator, model, self.target, seed)
        if comparison.mismatches:
            raise Failure(comparison.first)

    def _cycle_counts(self, rigs: list[Rig]) -> None:
        for number, rig in enumerate(rigs):
            rig.device.configure()
            rig.fill()
            rig.expect_good()
            for name in _COUNTERS:
                value = rig.read(name)
                if self.counters.setdefault((number, name), value) != value:
                    raise Failure(f"{name} of program {number} is {value}")


def open_devices(library: Path, mutant: int) -> Callable[..., ProbeDevice]:
    """A function that opens a device with a mutant switched on from the start."""

    def open_device(memory: int = 1 << 20) -> ProbeDevice:
        device = ProbeDevice(library, memory_size=memory)
        device.select_mutant(mutant)
        device.reset()
        return device

    return open_device


def registers(rig: Rig) -> None:
    """Constants, reset values, every bit of every register, strobes, reserved offsets."""
    parameters = rig.case.program.target_parameters
    shape = [parameters[name] for name in ("rows", "lanes", "planes")]
    shape.append(parameters["bus_bits"] // 8)
    for name, value in (
        ("ID", regmap.ID_VALUE),
        ("VERSION", regmap.VERSION_VALUE),
        ("TARGET", rig.case.program.target_id),
        ("SHAPE", int.from_bytes(bytes(shape), "little")),
    ):
        expect(name, rig.read(name), value)
    writable = [name for name, register in regmap.REGISTERS.items() if register.access == "RW"]
    for name in writable:
        expect(name, rig.read(name), 0)
    for pattern in _PATTERNS:
        for shift, name in enumerate(writable):
            rig.write(name, pattern ^ shift)
        for shift, name in enumerate(writable):
            mask = 0xFFFF if name == "IMAGES" else 0xFFFF_FFFF
            expect(name, rig.read(name), (pattern ^ shift) & mask)
        before, after = pattern, pattern ^ 0xFFFF_FFFF
        for strobe, name in itertools.product(range(16), writable):
            chosen = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
            rig.write(name, before)
            rig.device.write_strobed(regmap.REGISTERS[name].offset, after, strobe)
            mask = 0xFFFF if name == "IMAGES" else 0xFFFF_FFFF
            expect(name, rig.read(name), (before & ~chosen | after & chosen) & mask)
    for strobe in (0b0000, 0b1100):
        everything = regmap.CONTROL_START | regmap.CONTROL_ABORT | regmap.CONTROL_IRQ_ENABLE
        rig.device.write_strobed(regmap.REGISTERS["CONTROL"].offset, everything, strobe)
        expect("CONTROL", rig.read("CONTROL"), 0)
        expect("STATUS", rig.read("STATUS"), 0)
    for offset in (0x44, 0x88, 0x100, 0x200, 0x400, 0x820, 0xFFC):
        rig.device.write32(offset, 0xFFFF_FFFF)
        expect(f"reserved offset {offset:#x}", rig.device.read32(offset), 0)
    two = [regmap.REGISTERS[name].offset for name in ("IMAGE", "OUTPUT")]
    for number, delays in enumerate(itertools.product((0, 1, 3), repeat=3)):
        address, data, answer = delays
        values = [pattern ^ number for pattern in _PATTERNS[:2]]
        rig.device.access_together(two, values, address=address, data=data, answer=answer)
        for offsets, wanted in ((two, values), (two[::-1], values[::-1])):
            found = rig.device.access_together(offsets, address=address, answer=answer)
            if found != wanted:
                raise Failure(f"registers read with delays {delays} must be {wanted}, not {found}")
    rig.write("CONTROL", regmap.CONTROL_ABORT | regmap.CONTROL_IRQ_ENABLE)
    expect("CONTROL", rig.read("CONTROL"), regmap.CONTROL_IRQ_ENABLE)
    expect("STATUS", rig.read("STATUS"), 0)


def long_run(rig: Rig) -> None:
    """A long exact run."""
    rig.device.configure(read_latency=20)
    rig.fill()
    rig.expect_good()


def long_program(open_device: Callable[..., ProbeDevice], case: Case) -> None:
    """Thousands of copies of an instruction, and an illegal one behind them, once after a loop."""
    rig = Rig(open_device(_MEMORY), case, spread=_MEMORY // 8)
    begin, *_ = listing = [fields for _, fields in instructions(rig.case.program.memory)]
    pool = next(fields for fields in listing if fields["opcode"] == Opcode.POOL)
    one = dict.fromkeys(("kernel", "stride", "in_h", "in_w", "out_h", "out_w", "in_words"), 1)
    end = {"opcode": Opcode.ENDLOOP}
    parts = (begin, {**pool, **one, "top": 0}, {"opcode": Opcode.LOOP, "count": 2}, end)
    first, copy, loop, last = (signed(bytes(BYTES), 0, **fields) for fields in parts)
    rig.device.configure(read_latency=0)
    for copies, behind in ((4200, b""), (4020, loop + copy + last), (0, b"")):
        program = first + copies * copy + behind + last
        rig.device.write_memory(rig.places["PROGRAM"][0], program)
        rig.limit = 100 * (copies + 10)
        rig.expect_error(Error.LOOP, len(program) - BYTES, PROGRAM_SIZE=len(program))


def many_images(rig: Rig) -> None:
    """As many images as can be counted, without anything to do for them."""
    begin, *_, end = (fields for _, fields in instructions(rig.case.program.memory))
    batch = 255
    parts = signed(bytes(BYTES), 0, **begin), signed(bytes(BYTES), 0, **end | {"images": batch})
    rig.device.configure(read_latency=0)
    rig.device.write_memory(rig.places["PROGRAM"][0], b"".join(parts))
    limit, rig.limit = rig.limit, 1_000_000
    for images in (0xFFFF // batch * batch, 2 * batch):
        rig.start(IMAGES=images, PROGRAM_SIZE=2 * BYTES)
        ending = rig.finish()
        if ending.code or rig.read("IMAGES_DONE") != images:
            raise Failure(f"{images} images end in {ending}, {rig.read('IMAGES_DONE')} done")
    rig.limit = limit
    rig.fill()
    rig.expect_good()


def watchdogs(rig: Rig) -> None:
    """A little above each power of two that a run does not reach, and below the run's length."""
    rig.device.configure(read_latency=0)
    rig.fill()
    rig.expect_good()
    cycles = rig.read("CYCLES")
    for bit in range(cycles.bit_length(), 32):
        rig.expect_good(WATCHDOG=(1 << bit) + cycles // 2)
    for limit in (1, cycles // 3, cycles // 2):
        rig.start(WATCHDOG=limit)
        ending = rig.finish()
        if ending.code != Error.WATCHDOG or not limit <= ending.cycles < limit + SETTLE:
            raise Failure(f"WATCHDOG {limit} ends in {ending}")


def _errors(rig: Rig, wrong: list[tuple[Error, int, dict[str, int]]]) -> None:
    """Each changed instruction (error, offset, fields), signed again, must give its error."""
    rig.device.configure(read_latency=0)
    for error, offset, fields in wrong:
        rig.fill()
        changed = signed(rig.case.program.memory, offset, **fields)
        rig.device.write_memory(rig.places["PROGRAM"][0] + offset, changed)
        try:
            rig.expect_error(error, offset)
        except Failure as failure:
            raise Failure(f"{fields} at {offset:#x}: {failure}") from failure
    rig.fill()
    rig.expect_good()


def illegal_programs(rig: Rig) -> None:
    """Signed instructions that make no sense are refused with their own codes."""
    memory = rig.case.program.memory
    listing = list(instructions(memory))
    at = {fields["opcode"]: (offset, fields) for offset, fields in reversed(listing)}
    conv_at, conv = at[Opcode.CONV]
    image_at, image = at[Opcode.IMAGE]
    pool_at, _ = at[Opcode.POOL]
    logits_at, _ = next(item for item in reversed(listing) if item[1]["opcode"] == Opcode.CONV)
    loop_at, _ = at[Opcode.LOOP]
    end_at, _ = at[Opcode.END]
    words = rig.case.target.act_words
    last, outside = words - 1, 1 << 23
    field, window = Error.FIELD, Error.WINDOW

    def far(size: int) -> list[int]:
        """Offsets from the end of a region on."""
        return [-(-size // BYTES) * BYTES, *(1 << bit for bit in range(size.bit_length(), 32))]

    _errors(
        rig,
        [
            *((Error.TARGET, 0, {"seed": rig.case.program.target_id ^ 1 << bit})
              for bit in (0, 17, 31, 32, 63)),
            (Error.OPCODE, 0, {"opcode": Opcode.END}),
            *((Error.OPCODE, BYTES, {"opcode": opcode}) for opcode in (0, 1, 3, 0x16, 0x7F, 0x90)),
            (Error.LOOP, BYTES, {"opcode": Opcode.ENDLOOP}),
            *((Error.LOOP, loop_at, {"count": n}) for n in (0, 256, 1 << 20, 1 << 31)),
            (Error.LOOP, loop_at + BYTES, {"opcode": Opcode.LOOP, "count": 2}),
            (Error.LOOP, loop_at + BYTES, {"opcode": Opcode.END, "images": 1}),
            *((field, image_at, {"kernel": n}) for n in (0, 2, 4, 9, 11, 15)),
            *((field, image_at, {"stride": n}) for n in (0, 3, 4, 8)),
            *((field, image_at, {name: 0}) for name in
              ("in_h", "in_w", "out_h", "out_w", "out_words")),
            (field, image_at, {"top": image["kernel"] // 2 + 1}),
            *((field, image_at, {"in_w": n}) for n in (65, 128, 1024)),
            *((field, conv_at, {"kernel": n}) for n in (0, 2, 6, 8, 9)),
            *((field, conv_at, {"stride": n}) for n in (0, 3, 5)),
            *((field, conv_at, {"passes": n}) for n in (0, 5, 8)),
            *((field, conv_at, {"out_bits": n}) for n in (0, 9, 15)),
            *((field, conv_at, {name: 0}) for name in
              ("in_h", "in_w", "out_h", "out_w", "blocks", "in_words", "out_words", "images",
               "tile_rows", "tile_images", "count")),
            (field, conv_at, {"tile_rows": 0xFFF}),
            (field, conv_at, {"tile_rows": conv["tile_rows"] + 1, "tile_images": 2, "images": 2}),
            (field, conv_at, {"images": 255, "tile_images": 255, "tile_rows": conv["out_h"]}),
            (field, conv_at, {"top": conv["kernel"] // 2 + 1}),
            *((field, conv_at, {"free": n, "frozen": 0}) for n in (1, 2, 3)),
            *((field, logits_at, fields) for fields in
              ({"residual": 1}, {"kernel": 3}, {"stride": 2})),
            *((field, pool_at, {name: 0}) for name in
              ("kernel", "stride", "in_h", "in_w", "out_h", "out_w", "in_words")),
            (field, pool_at, {"kernel": 2}),
            (field, pool_at, {"top": 2}),
            *((field, end_at, {"images": n}) for n in (0, 2, 255)),
            *((window, image_at, {"dst": n}) for n in (last, words, outside)),
            *((window, conv_at, {name: n}) for name in ("src", "dst") for n in
              (last, words, outside)),
            *((window, pool_at, {name: n}) for name in ("src", "dst") for n in
              (last, words, outside)),
            *((window, conv_at, {"residual": 1, "res": n}) for n in (last, words, outside)),
            *((window, conv_at, {"offset": n}) for n in far(len(memory))),
            *((window, image_at, {"offset": n}) for n in far(len(rig.packed))),
        ],
    )  # fmt: skip
    # Constants are asked for at once, and missed by the first convolution.
    for offset in far(len(memory)):
        rig.device.write_memory(rig.places["PROGRAM"][0], signed(memory, 0, offset=offset))
        rig.expect_error(window, conv_at)
    rig.fill()


def illegal_transfers(rig: Rig) -> None:
    """LOAD and SAVE outside their windows or with senseless fields; stores of nothing."""
    listing = list(instructions(rig.case.program.memory))
    last, scratch = rig.case.target.act_words - 1, rig.case.program.scratch_bytes
    wrong: list[tuple[Error, int, dict[str, int]]] = []
    for opcode, place in ((Opcode.LOAD, "dst"), (Opcode.SAVE, "src")):
        offset, fields = next(item for item in listing if item[1]["opcode"] == opcode)
        wrong += [
            (Error.FIELD, offset, {"count": 0}),
            (Error.FIELD, offset, {"count": 1 << 31}),
            *((Error.FIELD, offset, {"offset": fields["offset"] + n}) for n in (1, 2, 4, 8)),
            *((Error.WINDOW, offset, {"offset": n}) for n in
              (scratch, (1 << 32) - rig.case.target.lanes,
               *(1 << bit for bit in range(scratch.bit_length(), 32)))),
            (Error.WINDOW, offset, {place: last, "count": 2}),
            (Error.WINDOW, offset, {place: last + 1}),
        ]  # fmt: skip
    store, _ = next(item for item in listing if item[1]["opcode"] == Opcode.STORE)
    wrong += [
        (Error.FIELD, store, {"count": 0}),
        (Error.WINDOW, store, {"src": last + 1}),
        (Error.WINDOW, store, {"src": last, "count": 2}),
    ]
    _errors(rig, wrong)


def faults(rigs: list[Rig], first: int) -> None:
    """Ten faults of the campaign."""
    outcome = campaign.run_campaign(rigs, seed=_FAULT_SEED, first=first, count=10)
    if outcome.failures:
        raise Failure(outcome.failures[0])
