# SPDX-License-Identifier: Apache-2.0
"""Program files, instruction coding and disassembly."""

import json
import re
import struct
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest

from hiddenfold.hw import isa, lfsr
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.instructions import decode, disassemble, encode, instructions
from hiddenfold.sw.program import Program

CODE = b"".join(
    (
        encode(Opcode.BEGIN, seed=0x1234, offset=0x180),
        encode(Opcode.LOOP, count=3),
        encode(
            Opcode.CONV, kernel=3, stride=1, src=5, dst=7, res=7, residual=1, in_h=2, in_w=3, gap=1
        ),
        encode(Opcode.ENDLOOP),
        encode(Opcode.STORE, src=7, count=12),
        encode(Opcode.END, images=1),
    )
)

SHAPE = {"height": 2, "width": 3, "channels": 20, "lane_words": 2}
PROGRAM = Program(
    model="net",
    target="sim-tiny",
    target_id=0x1234,
    target_parameters={"rows": 2, "lanes": 16},
    classes=["cat", "dög", "emu"],
    image=(2, 3),
    batch=1,
    logits=4,
    output_bytes=2 * 3 * 2 * 16 + 16,
    macs=10,
    ideal_cycles=2.5,
    predicted_cycles=20,
    predicted_bytes_read=30,
    predicted_bytes_written=40,
    predicted_bytes_spilled=5,
    instructions=6,
    mask_bytes=0,
    affine_bytes=0,
    layers=[{"name": "a", "pcs": [64]}],
    trace=[{"name": "a", "iteration": 0, "image": 0, "images": 1, **SHAPE}],
    trace_order=None,
    scratch_bytes=128,
    memory=CODE,
)


def header_changed(change):
    """The file with another header, correct otherwise."""
    data = PROGRAM.to_bytes()
    (length,) = struct.unpack_from("<I", data, 4)
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return seal(b"HFP1" + struct.pack("<I", len(text)) + text + CODE)


def seal(body):
    return body + struct.pack("<I", zlib.crc32(body))


def test_a_file_comes_back(tmp_path):
    path = tmp_path / "net.hfp"
    path.write_bytes(b"old")
    PROGRAM.save(path)
    loaded = Program.load(path)
    for field in fields(Program):
        assert getattr(loaded, field.name) == getattr(PROGRAM, field.name)
    assert path.stat().st_size == PROGRAM.total_bytes
    assert list(tmp_path.iterdir()) == [path]


def test_layout_of_the_file():
    data = PROGRAM.to_bytes()
    (length,) = struct.unpack_from("<I", data, 4)
    assert data[:4] == b"HFP1"
    assert (8 + length) % 64 == 0
    assert data[8 + length : -4] == CODE
    header = json.loads(data[8 : 8 + length])
    assert header["format"] == 2
    assert header["image_bytes"] == len(CODE)
    assert data[-4:] == struct.pack("<I", zlib.crc32(data[:-4]))


def test_every_damaged_byte_is_found():
    data = PROGRAM.to_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        with pytest.raises(ValueError, match=r"^Program file"):
            Program.from_bytes(bytes(damaged))


def test_every_truncation_is_found():
    data = PROGRAM.to_bytes()
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"^Program file"):
            Program.from_bytes(data[:length])


WRONG = {
    "missing": (lambda h: h.pop("macs"), "header keys missing or unknown: macs"),
    "unknown": (lambda h: h.update(extra=1), "header keys missing or unknown: extra"),
    "format": (lambda h: h.update(format=1), "format must be 2, not 1"),
    "negative": (lambda h: h.update(macs=-1), "macs must be an integer in 0..2^63-1, not -1"),
    "truth": (lambda h: h.update(batch=True), "batch must be an integer in 0..2^63-1, not True"),
    "batch": (lambda h: h.update(batch=256), "batch must be in 1..255, not 256"),
    "text": (lambda h: h.update(model=3), "model must be a string, not 3"),
    "number": (lambda h: h.update(ideal_cycles="1"), "ideal_cycles must be a number in 0..2^63-1"),
    "image": (lambda h: h.update(image=[1]), "image must be [height, width], not [1]"),
    "list": (lambda h: h.update(layers={}), "layers must be a list, not {}"),
    "layers": (lambda h: h.update(layers=[{"name": "a"}]), "layers must have name and pcs, not {"),
    "trace": (lambda h: h.update(trace=[{}]), "trace must have name, iteration, image, images, "),
    "lanes": (lambda h: h.update(target_parameters={}), "target_parameters must have the numbe"),
    "large": (lambda h: h.update(ideal_cycles=10**400), "ideal_cycles must be a number in 0..2^6"),
    "labels": (lambda h: h.update(classes=[]), "classes must be strings, at least one"),
    "output": (lambda h: h.update(output_bytes=1), "output_bytes must be 208 as logits and trace "),
    "logits": (
        lambda h: h.update(logits=2, output_bytes=200),
        "logits must be at least the 3 classes, not 2",
    ),
    "rows": (
        lambda h: h["target_parameters"].update(rows=3),
        "logits must be a multiple of 3 rows, not 4",
    ),
    "images": (
        lambda h: h["trace"][0].update(images=2),
        "images of a trace must be below the batch of 1, not 1",
    ),
    "fraction": (
        lambda h: h["trace"][0].update(image=0.0),
        "trace must have name, iteration, image, images, height, width, channels, lane_words, ",
    ),
    "no iteration": (
        lambda h: h["trace"][0].pop("iteration"),
        "trace must have name, iteration, image, images, height, width, channels, lane_words, ",
    ),
    "name": (
        lambda h: h["layers"][0].update(name="\a"),
        "names must have printable characters and spaces only, not '\\x07'",
    ),
    "missing image": (
        lambda h: h.update(batch=2),
        "trace must have as many bytes of each image",
    ),
    "channels": (
        lambda h: h["trace"][0].update(channels=33),
        "channels of a trace must be at most 32, not 33",
    ),
    "size": (lambda h: h.update(image_bytes=64), "memory image must be the header's image_bytes, "),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_refuses_wrong_headers(change, message):
    with pytest.raises(ValueError, match=rf"^Program file: {re.escape(message)}"):
        Program.from_bytes(header_changed(change))


def test_refuses_what_is_not_json():
    for text in (b"[]" + b" " * 54, b"{" + b" " * 55, b"\xff" * 56):
        with pytest.raises(ValueError, match=r"^Program file: header must be a JSON object"):
            Program.from_bytes(seal(b"HFP1" + struct.pack("<I", len(text)) + text + CODE))


def test_refuses_a_memory_image_that_is_not_whole():
    with pytest.raises(ValueError, match=r"^Program: memory image must be a positive multiple of "):
        replace(PROGRAM, memory=CODE[:-1]).to_bytes()


def test_names_the_file(tmp_path):
    path = tmp_path / "net.hfp"
    path.write_bytes(b"HFN1")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: Program file must start with"):
        Program.load(path)


def test_images_are_packed_with_a_pitch():
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    data = PROGRAM.pack_images(images)
    assert PROGRAM.pitch == 16
    assert len(data) == 2 * 2 * 16
    for image, y, x in np.ndindex(2, 2, 3):
        start = (image * 2 + y) * 16 + 4 * x
        assert data[start : start + 4] == bytes([*images[image, y, x], 0])


@pytest.mark.parametrize("shape", [(2, 3, 3), (1, 3, 2, 3), (1, 2, 3, 4)])
def test_refuses_images_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"^Images must be uint8\[n, 2, 3, 3\], not uint8\["):
        PROGRAM.pack_images(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"^Images must be uint8\[n, 2, 3, 3\], not int64\["):
        PROGRAM.pack_images(np.zeros((1, 2, 3, 3), dtype=np.int64))


def test_output_is_taken_apart():
    data = np.random.default_rng(0).integers(0, 256, 2 * PROGRAM.output_bytes, dtype=np.uint8)
    outputs = PROGRAM.unpack_output(data.tobytes(), 2)
    for number, output in enumerate(outputs):
        part = data[number * PROGRAM.output_bytes :][: PROGRAM.output_bytes]
        assert np.array_equal(output.trace[0], part[:192].reshape(2, 3, 32)[:, :, :20])
        assert output.logits.dtype == np.int32
        assert output.logits.tolist() == list(struct.unpack("<3i", part[192:204].tobytes()))
    with pytest.raises(ValueError, match=r"^Output of 2 images must be 416 bytes, not 415$"):
        PROGRAM.unpack_output(data.tobytes()[:-1], 2)


def test_the_output_of_a_batch_is_taken_apart():
    """A tensor image by image, one of all images, and the logits block by block."""
    one, two = SHAPE | {"lane_words": 1, "channels": 7}, SHAPE | {"height": 1}
    entries = [
        {"name": "a", "iteration": 0, "image": 0, "images": 1, **one},
        {"name": "a", "iteration": 0, "image": 1, "images": 1, **one},
        {"name": "b", "iteration": 0, "image": 0, "images": 2, **two},
    ]
    program = replace(PROGRAM, batch=2, trace=entries, output_bytes=96 + 96 + 16)
    assert Program.from_bytes(program.to_bytes()).trace == entries
    assert program.image_trace == [entries[0], entries[2]]
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (2, 2, 2, 3, 16), dtype=np.uint8)
    second = rng.integers(0, 256, (2, 2, 1, 3, 32), dtype=np.uint8)
    logits = rng.integers(-9, 9, (2, 2, 4)).astype("<i4")
    data = b""
    for batch in range(2):
        data += first[batch, 0].tobytes() + first[batch, 1].tobytes() + second[batch].tobytes()
        for block in range(2):
            for image in range(2):
                data += logits[batch, image, 2 * block : 2 * block + 2].tobytes()
    outputs = program.unpack_output(data, 4)
    for number, output in enumerate(outputs):
        batch, image = divmod(number, 2)
        assert np.array_equal(output.trace[0], first[batch, image][:, :, :7])
        assert np.array_equal(output.trace[1], second[batch, image][:, :, :20])
        assert np.array_equal(output.logits, logits[batch, image, :3])
    with pytest.raises(ValueError, match=r"^Images must be a multiple of the program's batch of 2"):
        program.unpack_output(data, 3)


# Instructions.


@pytest.mark.parametrize("name", [n for n in isa.FIELDS if n not in ("opcode", "signature")])
def test_every_field_is_where_the_table_says(name):
    word, lsb, width = isa.FIELDS[name]
    ones = (1 << width) - 1
    data = encode(Opcode.CONV, **{name: ones})
    words = struct.unpack("<8Q", data)
    rest = list(words[:-1])
    rest[word] ^= ones << lsb
    rest[0] ^= Opcode.CONV
    assert not any(rest)
    assert words[-1] == lfsr.signature(words[:-1])
    assert decode(data)[name] == ones
    with pytest.raises(ValueError, match=rf"^CONV: {name} must be in 0\.\.2\^{width}-1, not "):
        encode(Opcode.CONV, **{name: ones + 1})


def test_refuses_unknown_fields():
    for name in ("size", "signature"):
        with pytest.raises(
            ValueError, match=rf"^END: field must be one of kernel, .*, not '{name}'$"
        ):
            encode(Opcode.END, **{name: 1})


def test_refuses_parts_of_an_instruction():
    with pytest.raises(ValueError, match=r"^Instruction must be 64 bytes, not 63$"):
        decode(bytes(63))


def test_disassembly():
    assert disassemble(CODE, {0x80: "layer a"}).splitlines() == [
        "000000  BEGIN   seed=0x1234 offset=0x180",
        "000040  LOOP    count=3",
        "000080    CONV    dst=7 src=5 res=7 in=2x3 out=0x0 in_words=0 out_words=0 kernel=3 "
        "stride=1 passes=0 out_bits=0 blocks=0 images=0 tile_images=0 tile_rows=0 "
        "gap offset=0x0 count=0 seed=0x0  "
        "; layer a",
        "0000c0  ENDLOOP",
        "000100  STORE   src=7 count=12",
        "000140  END     images=1",
    ]
    assert PROGRAM.disassemble().splitlines()[1] == "000040  LOOP    count=3"


def test_disassembly_shows_damage():
    damaged = bytearray(CODE)
    damaged[4 * 64 + 20] ^= 1
    damaged[5 * 64] = 0x77
    lines = disassemble(bytes(damaged)).splitlines()
    assert lines[4].endswith("  ! signature")
    assert lines[5] == "000140  opcode 0x77  ! signature"


def test_instructions_end_with_end():
    found = [fields["opcode"] for _, fields in instructions(CODE + bytes(640))]
    assert found == [0x01, 0x20, 0x10, 0x21, 0x13, 0x02]
