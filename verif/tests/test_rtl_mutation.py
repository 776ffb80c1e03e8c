# SPDX-License-Identifier: Apache-2.0
"""The comparison with the golden model finds deliberate mistakes, in programs and in hardware.

Programs are changed and signed again, so that only the comparison can notice; generators of
hardware are changed in one bit.
"""

from dataclasses import replace

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.emit import verilog
from hiddenfold.gen.target import Target
from hiddenfold.hw import lfsr, weights
from hiddenfold.hw.isa import BYTES, FIELDS, Opcode
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.rtl import RtlDevice
from hiddenfold.sw.driver.simulator import simulator_library
from hiddenfold.sw.instructions import decode, instructions
from hiddenfold.sw.program import Program
from hiddenfold.sw.verify import Comparison, compare_run
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image

TARGET = Target.load("sim-tiny")
MODEL = small_model()


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_model(MODEL, TARGET, trace=True)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return random_image(np.random.default_rng(3), HEIGHT, WIDTH)[None]


@pytest.fixture(scope="module")
def golden(images):
    return Golden(MODEL).trace(images)


@pytest.fixture(scope="module")
def accelerator():
    with Accelerator.open("rtl:sim-tiny") as opened:
        yield opened


def words(memory: bytes, offset: int, count: int) -> list[int]:
    return np.frombuffer(memory, "<u8", count, offset).tolist()


def put(memory: bytearray, offset: int, values: list[int]) -> None:
    memory[offset : offset + 8 * len(values)] = np.array(values, "<u8").tobytes()


def with_fields(memory: bytearray, offset: int, **fields: int) -> None:
    """Change fields of an instruction and sign it again."""
    changed = decode(bytes(memory[offset : offset + BYTES])) | fields
    result = [0] * 7
    for name, value in changed.items():
        field = FIELDS[name]
        if name != "signature":
            result[field.word] |= value << field.lsb
    put(memory, offset, [*result, lfsr.signature(result)])


def mask_bit(memory: bytearray, at: int, conv: dict[str, int], begin: dict[str, int]) -> None:
    count = conv["count"] * conv["blocks"]
    masks = words(memory, conv["offset"], count)
    masks[0] ^= masks[0] & -masks[0]
    put(memory, conv["offset"], masks[:1])
    tiles = -(-conv["out_h"] // conv["tile_rows"])
    read = []
    for block in range(conv["blocks"]):
        read += masks[block * conv["count"] : (block + 1) * conv["count"]] * tiles
    with_fields(memory, at, mask_signature=lfsr.signature(read))


def seed_bit(memory: bytearray, at: int, conv: dict[str, int], begin: dict[str, int]) -> None:
    with_fields(memory, at, seed=conv["seed"] ^ 1)


def out_bits(memory: bytearray, at: int, conv: dict[str, int], begin: dict[str, int]) -> None:
    with_fields(memory, at, out_bits=conv["out_bits"] - 1)


def requant(memory: bytearray, begin: dict[str, int], conv: dict[str, int], entry, change) -> None:
    """Change word ``entry`` of the first affine record (-2 is its word 0)."""
    offset = begin["offset"]
    record = words(memory, offset, 2 + conv["blocks"] * TARGET.rows)
    record[2 + entry] = change(record[2 + entry])
    record[1] = lfsr.signature([record[0], *record[2:]])
    put(memory, offset, record)


def bias(memory: bytearray, at: int, conv: dict[str, int], begin: dict[str, int]) -> None:
    # 256 is one step of the output.
    requant(memory, begin, conv, 0, lambda word: word ^ 1 << 16 + 8)


def multiplier(memory: bytearray, at: int, conv: dict[str, int], begin: dict[str, int]) -> None:
    requant(memory, begin, conv, 1, lambda word: word ^ 0xFFFF)


def shift(memory: bytearray, at: int, conv: dict[str, int], begin: dict[str, int]) -> None:
    requant(memory, begin, conv, -2, lambda word: word ^ 4 << 16)


@pytest.mark.parametrize("mutate", [mask_bit, seed_bit, out_bits, bias, multiplier, shift])
def test_changed_program_is_found(accelerator, program, images, golden, mutate):
    memory = bytearray(program.memory)
    listing = list(instructions(program.memory))
    begin = listing[0][1]
    at, conv = next(item for item in listing if item[1]["opcode"] == Opcode.CONV)
    mutate(memory, at, conv, begin)
    assert memory != program.memory
    result = Comparison()
    # No signature is wrong, so this is no AcceleratorError.
    compare_run(accelerator, replace(program, memory=bytes(memory)), images, golden, result)
    assert result.mismatches == 1
    assert "layer 'stem', iteration 0, image 0" in result.first


def test_unchanged_program_is_good(accelerator, program, images, golden):
    result = Comparison()
    compare_run(accelerator, program, images, golden, result)
    assert result.mismatches == 0, result.first


def wrong_leap(patch: pytest.MonkeyPatch) -> None:
    """One tap of one bit of the generator's leap is missing."""
    right = weights.leap

    def leap(state):
        bits = right(state)
        return bits ^ (state[4] << 20)

    patch.setattr(weights, "leap", leap)


def wrong_jump(patch: pytest.MonkeyPatch) -> None:
    """One tap of one bit of the jump to the next row is wrong."""
    right = lfsr.jump_matrix

    def jump_matrix(exponent):
        rows = right(exponent)
        return [row ^ (number == 33) << 7 for number, row in enumerate(rows)]

    patch.setattr(lfsr, "jump_matrix", jump_matrix)


@pytest.mark.parametrize("mutate", [wrong_leap, wrong_jump])
def test_changed_generator_is_found(tmp_path, program, images, golden, mutate):
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch)
        text = verilog(TARGET)
    file = tmp_path / "hiddenfold.v"
    file.write_text(text, encoding="utf-8")
    # Runs for a moment only: compile fast.
    library = simulator_library(
        file, bus_bits=TARGET.bus_bits, trace=False, log=print, flags=("-O0",)
    )
    result = Comparison()
    with Accelerator(RtlDevice(library)) as accelerator:
        compare_run(accelerator, program, images, golden, result)
    assert result.mismatches == 1
    assert "layer '" in result.first
