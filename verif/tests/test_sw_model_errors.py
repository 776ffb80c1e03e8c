# SPDX-License-Identifier: Apache-2.0
"""hiddenfold.sw.model: what is no legal model, and files that are damaged or hostile."""

import json
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from model_cases import sealed, small_model, with_header, with_op

from hiddenfold.sw.model import Classifier, Conv, DenseReference, Loop, MaxPool, Model, Unfold

CONV = {
    "name": "c",
    "input": "x",
    "output": "y",
    "kernel": 3,
    "stride": 1,
    "out_channels": 4,
    "bits": 4,
    "stream": 0,
}
POOL = {"name": "p", "input": "x", "output": "y", "kernel": 3, "stride": 1}


def exactly(text):
    return f"^{re.escape(text)}$"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 4}, "Operation 'c': kernel must be one of 1, 3, 5, 7, not 4"),
        ({"kernel": 9}, "Operation 'c': kernel must be one of 1, 3, 5, 7, not 9"),
        ({"kernel": True}, "Operation 'c': kernel must be one of 1, 3, 5, 7, not True"),
        ({"kernel": 3.0}, "Operation 'c': kernel must be one of 1, 3, 5, 7, not 3.0"),
        ({"stride": 0}, "Operation 'c': stride must be one of 1, 2, not 0"),
        ({"stride": 3}, "Operation 'c': stride must be one of 1, 2, not 3"),
        ({"stride": None}, "Operation 'c': stride must be one of 1, 2, not None"),
        (
            {"out_channels": 0},
            "Operation 'c': out_channels must be an integer in 1..4096, not 0",
        ),
        (
            {"out_channels": 4097},
            "Operation 'c': out_channels must be an integer in 1..4096, not 4097",
        ),
        (
            {"out_channels": "7"},
            "Operation 'c': out_channels must be an integer in 1..4096, not '7'",
        ),
        ({"bits": 0}, "Operation 'c': bits must be an integer in 1..8, not 0"),
        ({"bits": 9}, "Operation 'c': bits must be an integer in 1..8, not 9"),
        ({"stream": -1}, "Operation 'c': stream must be an integer in 0..255, not -1"),
        ({"stream": 256}, "Operation 'c': stream must be an integer in 0..255, not 256"),
        ({"name": ""}, "Operation: name must be a string of 1..100 characters, not ''"),
        ({"name": 3}, "Operation: name must be a string of 1..100 characters, not 3"),
        ({"input": ""}, "Operation 'c': in must be a string of 1..100 characters, not ''"),
        ({"output": None}, "Operation 'c': out must be a string of 1..100 characters, not None"),
        ({"residual": 0}, "Operation 'c': residual must be a string of 1..100 characters, not 0"),
    ],
)
def test_fields_of_a_conv(changes, message):
    with pytest.raises(ValueError, match=exactly(message)):
        Conv(**CONV | changes)


@pytest.mark.parametrize("kind", (Unfold, MaxPool))
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 2}, "Operation 'p': kernel must be one of 1, 3, 5, 7, not 2"),
        ({"stride": 4}, "Operation 'p': stride must be one of 1, 2, not 4"),
        ({"name": None}, "Operation: name must be a string of 1..100 characters, not None"),
        ({"input": 5}, "Operation 'p': in must be a string of 1..100 characters, not 5"),
        ({"output": ""}, "Operation 'p': out must be a string of 1..100 characters, not ''"),
    ],
)
def test_fields_of_windows(kind, changes, message):
    with pytest.raises(ValueError, match=exactly(message)):
        kind(**POOL | changes)


def test_fields_of_a_classifier():
    with pytest.raises(
        ValueError, match=exactly("Operation 'c': stream must be an integer in 0..255, not 256")
    ):
        Classifier(name="c", input="x", stream=256)


@pytest.mark.parametrize(
    ("count", "body", "message"),
    [
        (0, (Conv(**CONV),), "Loop: count must be an integer in 1..255, not 0"),
        (256, (Conv(**CONV),), "Loop: count must be an integer in 1..255, not 256"),
        (1, (), "Loop: body must be a tuple of at least 1 conv, not ()"),
        (1, [], "Loop: body must be a tuple of at least 1 conv, not []"),
        (
            1,
            (MaxPool(**POOL),),
            "Loop: body must hold conv operations only, not Operation 'p'",
        ),
        (
            1,
            (Loop(count=1, body=(Conv(**CONV),)),),
            "Loop: body must hold conv operations only, not Loop",
        ),
    ],
)
def test_fields_of_a_loop(count, body, message):
    with pytest.raises(ValueError, match=exactly(message)):
        Loop(count=count, body=body)


def illegal_ops():
    """Name, operations from the legal ones, message."""
    unfold, stem, loop, pool, classifier = small_model().ops
    first, second = loop.body
    yield "empty", (), "First operation must be an unfold, not NoneType"
    yield "no unfold", (stem, classifier), "First operation must be an unfold, not Operation 'stem'"
    yield "no classifier", (unfold,), "Last operation must be a classifier, not Operation 'unfold'"
    yield (
        "loop last",
        (unfold, stem, loop),
        "Last operation must be a classifier, not Loop",
    )
    yield (
        "two unfolds",
        (unfold, replace(unfold, name="again"), stem, classifier),
        "Operation 'again' must be the first operation, not number 2",
    )
    yield (
        "two classifiers",
        (unfold, replace(classifier, name="early", input="u"), classifier),
        "Operation 'early' must be the last operation, not number 2",
    )
    yield (
        "name twice",
        (unfold, stem, replace(pool, name="stem", input="x"), classifier),
        "Operation 'stem': name must be unique, not used twice",
    )
    yield (
        "unknown input",
        (unfold, replace(stem, input="w"), classifier),
        "Operation 'stem' must read one of 'image', 'u', not 'w'",
    )
    yield (
        "unknown residual",
        (unfold, replace(stem, residual="x"), classifier),
        "Operation 'stem' must read one of 'image', 'u', not 'x'",
    )
    yield (
        "unfold of another tensor",
        (replace(unfold, input="x"), stem, classifier),
        "Operation 'unfold' must read one of 'image', not 'x'",
    )
    yield (
        "conv of the image",
        (unfold, replace(stem, input="image"), classifier),
        "Operation 'stem': input must be a tensor other than 'image', not 'image'",
    )
    yield (
        "pool of the image",
        (unfold, replace(pool, input="image"), classifier),
        "Operation 'pool': input must be a tensor other than 'image', not 'image'",
    )
    yield (
        "classifier of the image",
        (unfold, replace(classifier, input="image")),
        "Operation 'classifier': input must be a tensor other than 'image', not 'image'",
    )
    yield (
        "image assigned",
        (unfold, replace(stem, output="image"), classifier),
        "Operation 'stem': output must be a tensor other than 'image'",
    )
    yield (
        "residual of another shape",
        (unfold, replace(stem, residual="u"), classifier),
        "Operation 'stem': residual must have the output's shape 5x6x70, not 5x6x27 as 'u' has",
    )
    yield (
        "residual is the image",
        (unfold, replace(stem, out_channels=3, residual="image"), classifier),
        "Operation 'stem': residual must have the output's shape 5x6x3, not 5x6x3 as 'image' has",
    )
    yield (
        "residual before the stride",
        (unfold, stem, replace(second, input="x", stride=2, stream=1), classifier),
        "Operation 'b': residual must have the output's shape 3x3x70, not 5x6x70 as 'x' has",
    )
    yield (
        "stream left out",
        (unfold, replace(stem, stream=1), classifier),
        "Operation 'stem': stream must be 0, the first one not in use, or one in use, not 1",
    )
    yield (
        "stream of another shape",
        (unfold, stem, replace(first, stream=0), replace(classifier, input="x", stream=1)),
        "Operation 'a': weights of stream 0 must be 27 to 70 channels with kernel 1, "
        "not 70 to 5 channels with kernel 3",
    )
    yield (
        "loop changes channels",
        (unfold, stem, Loop(count=2, body=(replace(first, output="x"),)), classifier),
        "Operation 'a': tensor 'x' must end the loop body as it entered it, "
        "5x6x70 of 4 bits, not 5x6x5 of 2 bits",
    )
    yield (
        "loop changes bits",
        (unfold, stem, Loop(count=2, body=(first, replace(second, bits=5))), classifier),
        "Operation 'a': tensor 'x' must end the loop body as it entered it, "
        "5x6x70 of 4 bits, not 5x6x70 of 5 bits",
    )
    yield (
        "loop changes its residual's size",
        (
            unfold,
            stem,
            Loop(
                count=1,
                body=(
                    replace(first, out_channels=70, output="x", input="u", residual="x"),
                    replace(second, input="x", stride=2, residual=None),
                ),
            ),
            classifier,
        ),
        "Operation 'a': tensor 'x' must end the loop body as it entered it, "
        "5x6x70 of 4 bits, not 3x3x70 of 4 bits",
    )
    yield (
        "loop reads what it makes later",
        (unfold, stem, Loop(count=2, body=(replace(first, input="t", output="t"),)), classifier),
        "Operation 'a' must read one of 'image', 'u', 'x', not 't'",
    )


@pytest.mark.parametrize(
    ("ops", "message"), [pytest.param(*case[1:], id=case[0]) for case in illegal_ops()]
)
def test_operations_that_do_not_fit_together(ops, message):
    with pytest.raises(ValueError, match=exactly(message)):
        replace(small_model(), ops=ops).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 1}, "Model: name must be a string, not 1"),
        ({"dataset": None}, "Model: dataset must be a string, not None"),
        ({"classes": ("a", 1)}, "Model: classes must be strings, not ('a', 1)"),
        ({"classes": ["a"]}, "Model: classes must be strings, not ['a']"),
        ({"classes": ()}, "Model: number of classes must be an integer in 1..4096, not 0"),
        (
            {"classes": ("a",) * 4097},
            "Model: number of classes must be an integer in 1..4096, not 4097",
        ),
        ({"image": (5,)}, "Model: image must be (height, width), not (5,)"),
        ({"image": (0, 5)}, "Model: image height must be an integer in 1..1024, not 0"),
        ({"image": (5, 1025)}, "Model: image width must be an integer in 1..1024, not 1025"),
        (
            {"seed": 0},
            f"Model: seed must be an integer in 1..{2**64 - 1}, not 0",
        ),
        (
            {"seed": 1 << 64},
            f"Model: seed must be an integer in 1..{2**64 - 1}, not {2**64}",
        ),
        ({"top_k": 0}, "Model: top_k must be a number above 0, at most 1, not 0"),
        ({"top_k": 1.1}, "Model: top_k must be a number above 0, at most 1, not 1.1"),
        ({"top_k": "1"}, "Model: top_k must be a number above 0, at most 1, not '1'"),
        (
            {"top_k": float("nan")},
            "Model: top_k must be a number above 0, at most 1, not nan",
        ),
        ({"act_bits": 0}, "Model: act_bits must be an integer in 1..8, not 0"),
        ({"folded_stages": [1]}, "Model: folded_stages must be stage numbers, not [1]"),
        (
            {"folded_stages": (1, 256)},
            "Model: folded_stages must be an integer in 0..255, not 256",
        ),
        (
            {"accuracy": {"fp": 1}},
            "Model: accuracy must have the keys 'float', 'golden', not {'fp': 1}",
        ),
        (
            {"accuracy": {"float": 101}},
            "Model: accuracy 'float' must be a percentage or null, not 101",
        ),
        (
            {"accuracy": {"golden": "70"}},
            "Model: accuracy 'golden' must be a percentage or null, not '70'",
        ),
        (
            {"provenance": {"config": 1}},
            "Model: provenance must map strings to strings, not {'config': 1}",
        ),
        (
            {"dense_reference": DenseReference(7, 1)},
            "Model: dense_reference name must be a string, not 7",
        ),
        (
            {"dense_reference": DenseReference("big", 0)},
            "Model: dense_reference parameters must be an integer in 1..9007199254740991, not 0",
        ),
        ({"masks": {}}, "Masks must be those of streams 0, 1, 2, 3 in this order, not none"),
        ({"affine": []}, "Affine tables must be 7, one per execution of a conv, not 0"),
    ],
)
def test_fields_of_a_model(changes, message):
    with pytest.raises(ValueError, match=exactly(message)):
        small_model(**changes).validate()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((70, 1, 2), np.uint64), "uint64[70, 1, 2]"),
        (np.zeros((70, 2, 1), np.uint64), "uint64[70, 2, 1]"),
        (np.zeros((69, 1, 1), np.uint64), "uint64[69, 1, 1]"),
        (np.zeros((70, 1, 1), np.int64), "int64[70, 1, 1]"),
        ([0], "[0]"),
    ],
)
def test_arrays_of_masks(mask, message):
    model = small_model()
    message = f"Mask of stream 0 must be an array uint64[70, 1, 1], not {message}"
    with pytest.raises(ValueError, match=exactly(message)):
        replace(model, masks=model.masks | {0: mask}).validate()


def test_mask_of_a_channel_that_does_not_exist():
    model = small_model()
    # Stream 1 has 70 input channels: bits 6 and up of its second words are beyond.
    model.masks[1][3, 7, 1] |= np.uint64(1 << 6)
    message = (
        "Mask of stream 1: bits of input channels from 70 on must be 0, "
        "not 1 as in output channel 3, tap 7"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        model.validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": 3}, "shift must be one of 0, 4, 8, 12, 16, 20, 24, 28, not 3"),
        ({"shift": 32}, "shift must be one of 0, 4, 8, 12, 16, 20, 24, 28, not 32"),
        ({"residual": -1}, "residual multiplier must be an integer in 0..65535, not -1"),
        ({"residual": 65536}, "residual multiplier must be an integer in 0..65535, not 65536"),
        (
            {"multiplier": np.zeros(4, np.int16)},
            "multiplier must be an array int16[5], not int16[4]",
        ),
        (
            {"multiplier": np.zeros(5, np.int32)},
            "multiplier must be an array int16[5], not int32[5]",
        ),
        ({"bias": np.zeros(5, np.int64)}, "bias must be an array int32[5], not int64[5]"),
        (
            {"bias": np.array([0, 1 << 23, 0, 0, 0], np.int32)},
            "bias must be an integer in -8388608..8388607, not 8388608",
        ),
        (
            {"bias": np.array([0, 0, -(1 << 23) - 1, 7, 0], np.int32)},
            "bias must be an integer in -8388608..8388607, not -8388609",
        ),
        (
            {"bias": np.array([0, 0, -(1 << 31), 7, 0], np.int32)},
            "bias must be an integer in -8388608..8388607, not -2147483648",
        ),
    ],
)
def test_constants(changes, message):
    model = small_model()
    affine = list(model.affine)
    affine[3] = replace(affine[3], **changes)
    with pytest.raises(ValueError, match=exactly(f"Operation 'a': {message}")):
        replace(model, affine=affine).validate()


def test_logits_beyond_32_bits():
    ops = (Unfold(name="u", output="u", kernel=7), Classifier(name="c", input="u", stream=0))
    masks = {0: np.full((1, 1, 3), (1 << 64) - 1, np.uint64)}
    masks[0][0, 0, 2] = (1 << 19) - 1
    model = small_model(
        ops=ops, masks=masks, affine=[], image=(1024, 1024), classes=("all",), seed=5
    )
    kept = max(int(n[0]) for n in model.kept(0))
    assert 147 // 3 < kept < 147
    message = f"Operation 'c': logits must stay within 2147483647, not reach {kept * 255 << 20}"
    with pytest.raises(ValueError, match=exactly(message)):
        model.validate()
    # One weight of 255 reaches 255 * 2^20, still less than 2^31.
    replace(model, masks={0: np.array([[[1, 0, 0]]], np.uint64)}).validate()


# Files.


def test_wrong_magic():
    with pytest.raises(
        ValueError, match=exactly("Model file must start with b'HFN1', not b'HFP1'")
    ):
        Model.from_bytes(b"HFP1" + small_model().to_bytes()[4:])


def test_load_names_the_file(tmp_path):
    path = tmp_path / "m.hfn"
    path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=exactly(f"{path}: Model file must start with b'HFN1', not b''")
    ):
        Model.load(path)


def test_every_truncation_is_refused():
    data = small_model().to_bytes()
    (length,) = struct.unpack_from("<I", data, 4)
    for size in [*range(0, 40), *range(40, len(data), 97), *range(len(data) - 8, len(data))]:
        if size < 4:
            message = f"Model file must start with b'HFN1', not {data[:size]!r}"
        elif size < 12:
            message = f"Model file must be at least 12 bytes, not {size}"
        elif size < 12 + length:
            message = (
                f"Model file is truncated: its header of {length} bytes needs at least "
                f"{12 + length} bytes, found {size}"
            )
        else:
            message = (
                f"Model file is truncated: by its header it must be {len(data)} bytes, not {size}"
            )
        with pytest.raises(ValueError, match=exactly(message)):
            Model.from_bytes(data[:size])


def test_surplus_bytes_are_refused():
    data = small_model().to_bytes()
    message = f"Model file is too long: by its header it must be {len(data)} bytes, "
    with pytest.raises(ValueError, match=exactly(message + f"not {len(data) + 1}")):
        Model.from_bytes(data + b"\0")


def test_every_flipped_bit_is_refused():
    data = small_model().to_bytes()
    rng = np.random.default_rng(3)
    places = {*range(0, 8 * 64, 5), *rng.integers(0, 8 * len(data), 400).tolist()}
    places |= set(range(8 * len(data) - 32, 8 * len(data)))
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="^Model file"):
            Model.from_bytes(bytes(damaged))


def test_damaged_payload():
    data = bytearray(small_model().to_bytes())
    data[2000] ^= 1
    with pytest.raises(
        ValueError,
        match=r"^Model file is corrupted: its CRC-32 must be [0-9a-f]{8}, not [0-9a-f]{8}$",
    ):
        Model.from_bytes(bytes(data))


@pytest.mark.parametrize("length", (1, 12, (1 << 20) + 8, 0xFFFFFFF8))
def test_header_lengths_that_cannot_be(length):
    data = small_model().to_bytes()
    message = f"Model file: header length must be a multiple of 8 up to 1048576, not {length}"
    with pytest.raises(ValueError, match=exactly(message)):
        Model.from_bytes(data[:4] + struct.pack("<I", length) + data[8:])


def edit(**changes):
    """An edit of the header object."""
    return lambda header: header.update(changes)


def edit_op(index, **changes):
    """An edit of an operation of the header object."""
    return lambda header: header["ops"][index].update(changes)


CONV_KEYS = "bits, in, kernel, name, op, out, out_channels, residual, stream, stride"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: "[]", "Model file: header must be a JSON object, not []"),
        (lambda h: "3", "Model file: header must be a JSON object, not 3"),
        (lambda h: h.pop("seed") and None, "Model file: header must have the keys 'seed'"),
        (
            edit(extra=1),
            "Model file: header keys must be 'accuracy', 'act_bits', 'classes', 'constants', "
            "'dataset', 'dense_reference', 'folded_stages', 'format', 'free', 'image', 'name', "
            "'ops', 'provenance', 'seed', 'top_k', not 'extra'",
        ),
        (
            edit(dense_reference={"name": "big"}),
            "Model file: dense_reference must have the keys 'name', 'parameters', "
            "not {'name': 'big'}",
        ),
        (edit(format=2), "Model file: format must be 1, not 2"),
        (edit(format=True), "Model file: format must be 1, not True"),
        (edit(classes="ab"), "Model file: classes must be a list, not 'ab'"),
        (edit(ops={}), "Model file: ops must be a list, not {}"),
        (edit(image=3), "Model file: image must be a list, not 3"),
        (edit(image=[3]), "Model file: image must be [height, width], not [3]"),
        (
            edit(image=[3, 10**9]),
            "Model file: image height and width must be an integer in 1..1024, not 1000000000",
        ),
        (
            edit(classes=[]),
            "Model file: number of classes must be an integer in 1..4096, not 0",
        ),
        (edit(seed=5), "Model file: seed must be 16 hexadecimal digits, not 5"),
        (edit(seed="5"), "Model file: seed must be 16 hexadecimal digits, not '5'"),
        (
            edit(seed="0x23456789abcdef"),
            "Model file: seed must be 16 hexadecimal digits, not '0x23456789abcdef'",
        ),
        (
            edit(seed="0" * 16),
            f"Model: seed must be an integer in 1..{2**64 - 1}, not 0",
        ),
        (edit(constants="long"), "Model: constants must be one of 'full', 'short', not 'long'"),
        (edit(constants=[1]), "Model: constants must be one of 'full', 'short', not [1]"),
        (edit(free=8), "Model file: free must be a list, not 8"),
        (edit(free=[8, 4]), "Model: free must have 4 numbers, one per stream, not 2"),
        (edit(free=[8, 4, 3, 1]), "Model: free must hold 8, 4, 2 or 1, not 3"),
        (edit(free=[8, 4.0, 2, 1]), "Model: free must hold 8, 4, 2 or 1, not 4.0"),
        (edit(free=[8, [4], 2, 1]), "Model: free must hold 8, 4, 2 or 1, not [4]"),
        (edit(top_k=2), "Model: top_k must be a number above 0, at most 1, not 2"),
        (
            edit(ops=[7]),
            "Operation must be an object whose 'op' is one of unfold, conv, maxpool, loop, "
            "classifier, not 7",
        ),
        (
            edit_op(3, op="avgpool"),
            "Operation must be an object whose 'op' is one of unfold, conv, maxpool, loop, "
            "classifier, not {'in': 'x', 'kernel': 3, 'name': 'pool', 'op': 'avgpool', ...}",
        ),
        (
            edit_op(1, groups=2),
            f"Operation 'stem': keys must be {CONV_KEYS}, not bits, groups, in, kernel, name, op, "
            "out, out_channels, residual, stream, stride",
        ),
        (
            lambda h: h["ops"][1].pop("bits") and None,
            f"Operation 'stem': keys must be {CONV_KEYS}, not in, kernel, name, op, out, "
            "out_channels, residual, stream, stride",
        ),
        (edit_op(1, kernel=[3]), "Operation 'stem': kernel must be one of 1, 3, 5, 7, not [3]"),
        (
            edit_op(2, body=[{"op": "loop"}]),
            "Loop: body must hold conv operations only, not {'op': 'loop'}",
        ),
        (edit_op(2, body=5), "Loop: body must be a list of objects, not 5"),
        (edit_op(2, count=0), "Loop: count must be an integer in 1..255, not 0"),
        (edit(accuracy=5), "Model: accuracy must have the keys 'float', 'golden', not 5"),
        (
            lambda h: json.dumps(h).replace("71.5", "NaN"),
            "Model file: header must be a JSON object in UTF-8: numbers must be finite, not NaN",
        ),
    ],
)
def test_headers(change, message):
    with pytest.raises(ValueError, match=exactly(message)):
        Model.from_bytes(with_header(small_model().to_bytes(), change))


@pytest.mark.parametrize(
    "text", (b"\xff", b"", b"{", b'{"a": 1,}', b"[" * 100_000, b"1" * 5000), ids=range(6)
)
def test_headers_that_are_no_json(text):
    with pytest.raises(ValueError, match="^Model file: header must be a JSON object"):
        Model.from_bytes(with_header(small_model().to_bytes(), lambda _: text))


def test_a_small_file_cannot_ask_for_much_memory():
    """Sizes are compared before anything is made."""
    ops = [
        {"op": "unfold", "name": "u", "in": "image", "out": "x", "kernel": 7, "stride": 1},
        *(
            {
                "op": "loop",
                "count": 255,
                "body": [
                    {
                        "op": "conv",
                        "name": f"c{loop}-{i}",
                        "in": "x" if i == 0 else "y",
                        "out": "y",
                        "kernel": 7,
                        "stride": 1,
                        "out_channels": 4096,
                        "bits": 8,
                        "stream": min(loop + i, 1),
                        "residual": None,
                    }
                    for i in range(25)
                ],
            }
            for loop in range(40)
        ),
        {"op": "classifier", "name": "last", "in": "y", "stream": 2},
    ]

    def change(header):
        header.update(image=[1024, 1024], ops=ops)
        for op in ops[2:-1]:
            op["body"][0]["in"] = "y"

    data = with_header(small_model().to_bytes(), change)
    with pytest.raises(
        ValueError,
        match=r"^Model file is truncated: by its header it must be \d{10} bytes, not \d{6}$",
    ):
        Model.from_bytes(data)


def test_too_long_files_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("hiddenfold.sw.model_file.MAX_FILE_BYTES", 1000)
    path = tmp_path / "m.hfn"
    path.write_bytes(sealed(b"HFN1" + bytes(2000)))
    message = f"{path}: Model file must be at most 1000 bytes, not more"
    with pytest.raises(ValueError, match=exactly(message)):
        Model.load(path)
    with pytest.raises(ValueError, match=r"^Model file must be at most 1000 bytes, not \d{4}$"):
        small_model().save(path)


def test_too_long_headers_are_refused(monkeypatch):
    monkeypatch.setattr("hiddenfold.sw.model_file.MAX_HEADER_BYTES", 100)
    with pytest.raises(ValueError, match=r"^Model file: header must be at most 100, not \d{3}$"):
        small_model().to_bytes()


def test_names_are_short():
    message = r"^Operation 'pool': in must be a string of 1\.\.100 characters, not '[^']{,40}'$"
    with pytest.raises(ValueError, match=message):
        with_op(small_model(), "pool", input="y" * 101)
    assert with_op(small_model(), "pool", input="y" * 100).ops[3].input == "y" * 100


def test_many_names_are_not_all_listed():
    unfold, stem, loop, pool, classifier = small_model().ops
    chain = [
        replace(pool, name=f"pool{i}", input=f"t{i}", output=f"t{i + 1}", stride=1)
        for i in range(9)
    ]
    chain[0] = replace(chain[0], input="x")
    ops = (unfold, stem, *chain, replace(classifier, input="z"))
    message = "Operation 'classifier' must read one of 'image', 'u', ..., 't7', 't8', 't9', not 'z'"
    with pytest.raises(ValueError, match=exactly(message)):
        replace(small_model(), ops=ops).validate()
