# SPDX-License-Identifier: Apache-2.0
"""hiddenfold.sw.model: models that are legal."""

import json
import os
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from golden_naive import sign_words, weights
from model_cases import small_model, with_op

from hiddenfold.sw.model import Classifier, Conv, DenseReference, Model, Unfold
from hiddenfold.sw.shapes import Shape, WeightShape

FIELDS = ("name", "dataset", "classes", "image", "seed", "top_k", "act_bits", "folded_stages")


def assert_same(model, other):
    for field in (*FIELDS, "ops", "accuracy", "provenance", "dense_reference"):
        assert getattr(model, field) == getattr(other, field), field
    assert list(model.masks) == list(other.masks)
    for stream, mask in model.masks.items():
        assert mask.dtype == other.masks[stream].dtype == np.uint64
        np.testing.assert_array_equal(mask, other.masks[stream])
    for affine, found in zip(model.affine, other.affine, strict=True):
        assert (affine.shift, affine.residual) == (found.shift, found.residual)
        assert (found.multiplier.dtype, found.bias.dtype) == (np.int16, np.int32)
        np.testing.assert_array_equal(affine.multiplier, found.multiplier)
        np.testing.assert_array_equal(affine.bias, found.bias)


def test_round_trip(tmp_path):
    model = small_model()
    model.save(tmp_path / "m.hfn")
    found = Model.load(tmp_path / "m.hfn")
    assert_same(model, found)
    assert found.to_bytes() == (tmp_path / "m.hfn").read_bytes()


def test_round_trip_of_extremes():
    model = small_model(
        accuracy={}, provenance={}, classes=("ä'{}\\", ""), top_k=1, seed=(1 << 64) - 1
    )
    for affine in model.affine:
        affine.multiplier[:2] = -(1 << 15), (1 << 15) - 1
        affine.bias[:5] = -(1 << 23), (1 << 23) - 1, -1, 0, 1
    affine = [replace(a, residual=0, shift=0) for a in model.affine[:3]]
    affine += [replace(a, residual=65535, shift=28) for a in model.affine[3:]]
    model = replace(model, affine=affine)
    assert_same(model, Model.from_bytes(model.to_bytes()))


def test_bytes_are_those_of_the_specification():
    """Section 5, read with struct alone."""
    model = small_model()
    data = model.to_bytes()
    magic, length = struct.unpack_from("<4sI", data)
    assert magic == b"HFN1" and (8 + length) % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert header["format"] == 1
    assert header["seed"] == "0123456789abcdef"
    assert header["ops"][0] == {
        "op": "unfold",
        "name": "unfold",
        "in": "image",
        "out": "u",
        "kernel": 3,
        "stride": 1,
    }
    assert header["ops"][2]["body"][1] == {
        "op": "conv",
        "name": "b",
        "in": "t",
        "out": "x",
        "kernel": 1,
        "stride": 1,
        "out_channels": 70,
        "bits": 4,
        "stream": 2,
        "residual": "x",
    }
    assert header["ops"][4] == {"op": "classifier", "name": "classifier", "in": "p", "stream": 3}
    position = 8 + length
    # Streams 0..3: 70 x 27 in 1 tap, 5 x 70 in 9 taps of 2 words, 70 x 5, 2 x 70.
    for stream, words in enumerate((70, 5 * 9 * 2, 70, 2 * 2)):
        expected = struct.unpack_from(f"<{words}Q", data, position)
        assert model.masks[stream].flatten().tolist() == list(expected)
        position += 8 * words
    for affine, channels in zip(model.affine, (70, 5, 70, 5, 70, 5, 70), strict=True):
        assert struct.unpack_from("<BH", data, position) == (affine.shift, affine.residual)
        position += 3
        multiplier = struct.unpack_from(f"<{channels}h", data, position)
        assert affine.multiplier.tolist() == list(multiplier)
        position += 2 * channels
        for bias in affine.bias.tolist():
            assert int.from_bytes(data[position : position + 3], "little", signed=True) == bias
            position += 3
    assert position == len(data) - 4
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])


def test_save_replaces_the_file_at_once(tmp_path, monkeypatch):
    path = tmp_path / "m.hfn"
    path.write_bytes(b"before")

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="^disk$"):
        small_model().save(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_save_gives_ordinary_permissions(tmp_path):
    (tmp_path / "other").touch()
    small_model().save(tmp_path / "m.hfn")
    assert (tmp_path / "m.hfn").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_save_refuses_an_illegal_model(tmp_path):
    with pytest.raises(ValueError, match=r"^Model: act_bits must be an integer in 1\.\.8, not 9$"):
        small_model(act_bits=9).save(tmp_path / "m.hfn")
    assert list(tmp_path.iterdir()) == []


def test_executions_unroll_loops():
    executions = small_model().executions()
    assert [(e.name, e.kind, e.iteration, e.affine) for e in executions] == [
        ("unfold", "unfold", 0, None),
        ("stem", "conv", 0, 0),
        ("a", "conv", 0, 1),
        ("b", "conv", 0, 2),
        ("a", "conv", 1, 3),
        ("b", "conv", 1, 4),
        ("a", "conv", 2, 5),
        ("b", "conv", 2, 6),
        ("pool", "maxpool", 0, None),
        ("classifier", "classifier", 0, None),
    ]
    shapes = [(*e.in_shape, e.in_bits, *e.out_shape, e.out_bits, e.macs) for e in executions]
    assert shapes[0] == (5, 6, 3, 8, 5, 6, 27, 8, 0)
    assert shapes[1] == (5, 6, 27, 8, 5, 6, 70, 4, 5 * 6 * 27 * 70)
    assert shapes[2] == shapes[4] == shapes[6] == (5, 6, 70, 4, 5, 6, 5, 2, 5 * 6 * 9 * 70 * 5)
    assert shapes[3] == (5, 6, 5, 2, 5, 6, 70, 4, 5 * 6 * 5 * 70)
    assert shapes[8] == (5, 6, 70, 4, 3, 3, 70, 4, 0)
    assert shapes[9] == (3, 3, 70, 4, 1, 1, 2, 32, 140)
    assert executions[2].weight_shape == WeightShape(5, 70, 3)
    assert executions[8].weight_shape is None


@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("size", (1, 2, 3, 4, 7))
def test_output_size(size, stride):
    model = small_model(image=(size, 1))
    model = with_op(model, "unfold", stride=stride)
    out = model.executions()[0].out_shape
    # As many as there are multiples of the stride below the size.
    assert out == Shape(len(range(0, size, stride)), 1, 27)


def test_weights_follow_signs_and_masks():
    model = small_model()
    for stream, (out_channels, in_channels, kernel) in model.weight_shapes().items():
        mask = model.masks[stream].tolist()
        words = len(mask[0]) * len(mask[0][0])
        signs = sign_words(model.seed, stream, out_channels, words)
        expected = np.array(weights(mask, signs, in_channels, kernel))
        np.testing.assert_array_equal(model.weights(stream), expected)
        plus, minus = model.kept(stream)
        assert plus.tolist() == (expected == 1).sum((1, 2, 3)).tolist()
        assert minus.tolist() == (expected == -1).sum((1, 2, 3)).tolist()
        assert model.accumulator_peak(stream, 4) == 15 * max(plus.max(), minus.max())


def test_streams_may_be_shared():
    model = small_model()
    again = Conv(name="again", input="x", output="y", kernel=3, out_channels=5, bits=8, stream=1)
    model = replace(model, ops=(*model.ops[:3], again, *model.ops[3:]))
    model = replace(model, affine=[*model.affine, model.affine[1]])
    assert_same(model, Model.from_bytes(model.to_bytes()))
    assert len(model.masks) == 4
    assert model.summary()["mask_bits"] == small_model().summary()["mask_bits"]


def test_summary():
    model = small_model()
    summary = model.summary()
    layers = summary.pop("layers")
    weights = 70 * 27 + 5 * 70 * 9 + 70 * 5 + 2 * 70
    unfolded = 70 * 27 + 3 * (5 * 70 * 9 + 70 * 5) + 2 * 70
    total = len(model.to_bytes())
    mask_bytes = 8 * (70 + 5 * 9 * 2 + 70 + 2 * 2)
    affine_bytes = 7 * 3 + 5 * (70 + 3 * 75)
    dense = 4 * (unfolded + 2 * (70 + 3 * 75))
    paper = -(-(32 + weights + 64 * 3 * 75) // 8)
    assert summary == {
        "name": "small",
        "dataset": "none",
        "classes": 2,
        "top_k": 0.3,
        "act_bits": 4,
        "folded_stages": [2],
        "mask_bits": weights,
        "total_bytes": total,
        "mask_bytes": mask_bytes,
        "affine_bytes": affine_bytes,
        "other_bytes": total - mask_bytes - affine_bytes,
        "dense_fp32_bytes": dense,
        "compression": dense / total,
        "paper_bytes": paper,
        "paper_compression": dense / paper,
        "top1_float": 71.5,
        "top1_golden": None,
    }
    assert [layer["name"] for layer in layers] == ["unfold", "stem", "a", "b", "pool", "classifier"]
    assert layers[2] == {
        "name": "a",
        "op": "conv",
        "shape": [5, 6, 5],
        "kernel": 3,
        "stride": 1,
        "iterations": 3,
        "weights": 5 * 70 * 9,
        "macs": 3 * 5 * 6 * 5 * 70 * 9,
    }
    assert layers[4] == {
        "name": "pool",
        "op": "maxpool",
        "shape": [3, 3, 70],
        "kernel": 3,
        "stride": 2,
        "iterations": 1,
        "weights": 0,
        "macs": 0,
    }
    assert layers[5]["macs"] == layers[5]["weights"] == 140
    json.dumps(summary)


def test_summary_compares_with_the_dense_reference():
    """The optional header key survives the file and replaces the unfolded network."""
    model = small_model(dense_reference=DenseReference("big", 1000))
    summary = Model.from_bytes(model.to_bytes()).summary()
    assert summary["dense_fp32_bytes"] == 4000
    assert summary["total_bytes"] == len(model.to_bytes())
    assert summary["paper_compression"] == 4000 / summary["paper_bytes"]


def test_smallest_model():
    ops = (
        Unfold(name="u", output="u", kernel=1),
        Classifier(name="c", input="u", stream=0),
    )
    masks = {0: np.zeros((1, 1, 1), np.uint64)}
    model = small_model(ops=ops, masks=masks, affine=[], classes=("only",), image=(1, 1))
    assert_same(model, Model.from_bytes(model.to_bytes()))
