# SPDX-License-Identifier: Apache-2.0
"""hiddenfold.verif.golden.model against nested loops over plain integers."""

import random
import re
from dataclasses import replace

import golden_naive
import numpy as np
import pytest
import torch
from model_cases import small_model

from hiddenfold.sw import signs
from hiddenfold.sw.model import Affine, Classifier, Conv, Loop, MaxPool, Unfold
from hiddenfold.verif.golden.compare import Layer, first_mismatch
from hiddenfold.verif.golden.model import Golden, requantize, unfold
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

# What nested loops do in a fraction of a second.
SMALL = Limits(max_macs=25_000, max_side=14, max_channels=70, max_iterations=4)


def random_images(model, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([random_image(rng, *model.image) for _ in range(count)])


def naive_trace(model, images):
    """The trace of several images from nested loops."""
    traces = [golden_naive.run(model, image.tolist()) for image in images]
    return [
        Layer(layer[0][0], layer[0][1], np.array([values for *_, values in layer]))
        for layer in zip(*traces, strict=True)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed):
    model = random_model(seed, SMALL)
    images = random_images(model, 2, seed)
    assert first_mismatch(naive_trace(model, images), Golden(model).trace(images)) is None


@pytest.mark.parametrize("kernel", (1, 3, 5, 7))
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("size", ((1, 1), (1, 5), (2, 2), (6, 3), (9, 8)))
def test_windows(kernel, stride, size):
    """Each kind of window on maps below and above its size."""
    ops = (
        Unfold(name="unfold", output="u", kernel=kernel, stride=1),
        Conv(name="stem", input="u", output="x", kernel=1, out_channels=5, bits=8, stream=0),
        Conv(
            name="conv",
            input="x",
            output="y",
            kernel=kernel,
            stride=stride,
            out_channels=3,
            bits=8,
            stream=1,
        ),
        MaxPool(name="pool", input="x", output="z", kernel=kernel, stride=stride),
        Conv(
            name="sum",
            input="z",
            output="x",
            kernel=1,
            out_channels=3,
            bits=8,
            stream=2,
            residual="y",
        ),
        Classifier(name="classifier", input="x", stream=3),
    )
    model = small_model(ops=ops, image=size, masks={}, affine=[])
    rng = np.random.default_rng(kernel)
    masks = {
        stream: signs.pack(rng.random((*shape, shape.kernel)) < 0.7).reshape(shape.words)
        for stream, shape in model.weight_shapes().items()
    }
    affine = [
        Affine(4, 100, np.full(n, 900, np.int16), np.full(n, 20000, np.int32)) for n in (5, 3, 3)
    ]
    model = replace(model, masks=masks, affine=affine)
    images = random_images(model, 3)
    assert first_mismatch(naive_trace(model, images), Golden(model).trace(images)) is None


def test_small_model_has_each_operation():
    model = small_model()
    images = random_images(model, 2)
    trace = Golden(model).trace(images)
    assert first_mismatch(naive_trace(model, images), trace) is None
    assert [(layer.name, layer.iteration, layer.values.shape) for layer in trace] == [
        ("unfold", 0, (2, 5, 6, 27)),
        ("stem", 0, (2, 5, 6, 70)),
        ("a", 0, (2, 5, 6, 5)),
        ("b", 0, (2, 5, 6, 70)),
        ("a", 1, (2, 5, 6, 5)),
        ("b", 1, (2, 5, 6, 70)),
        ("a", 2, (2, 5, 6, 5)),
        ("b", 2, (2, 5, 6, 70)),
        ("pool", 0, (2, 3, 3, 70)),
        ("classifier", 0, (2, 2)),
    ]
    assert {layer.values.dtype for layer in trace[:-1]} == {np.dtype(np.uint8)}
    assert trace[-1].values.dtype == np.int64


@pytest.mark.parametrize("seed", range(8))
def test_run_gives_the_logits_of_the_trace(seed):
    """In batches of any size, with what `run` throws away between layers."""
    model = random_model(seed, SMALL)
    images = random_images(model, 5)
    golden = Golden(model)
    expected = golden.trace(images)[-1].values
    for batch in (1, 2, 5, 100):
        logits = golden.run(images, batch)
        assert logits.dtype == np.int64
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("chunk", (1, 100, 1000))
def test_results_do_not_depend_on_chunks(chunk, monkeypatch):
    """Requantization in pieces of one row and more, the last piece shorter."""
    model = small_model()
    images = random_images(model, 3)
    expected = naive_trace(model, images)
    monkeypatch.setattr("hiddenfold.verif.golden.model.CHUNK", chunk)
    assert first_mismatch(expected, Golden(model).trace(images)) is None


def test_a_loop_is_its_body_written_out():
    """Folding shares weights: streams that are read again, other constants."""
    model = small_model()
    unfold_op, stem, loop, *rest = model.ops
    written = [
        replace(conv, name=f"{conv.name}{iteration}")
        for iteration in range(loop.count)
        for conv in loop.body
    ]
    unrolled = replace(model, ops=(unfold_op, stem, *written, *rest))
    images = random_images(model, 3)
    expected = [layer.values for layer in Golden(model).trace(images)]
    found = [layer.values for layer in Golden(unrolled).trace(images)]
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unfold_order():
    image = torch.arange(3 * 4 * 5, dtype=torch.float32).reshape(1, 3, 4, 5)
    out = unfold(image, 3, 2)
    assert out.shape == (1, 27, 2, 3)
    # Channel (ky * 3 + kx) * 3 + c of output (1, 2) is the image at (2 + ky - 1, 4 + kx - 1).
    assert out[0, (0 * 3 + 1) * 3 + 2, 1, 2] == image[0, 2, 1, 4]
    assert out[0, (2 * 3 + 0) * 3 + 1, 1, 2] == image[0, 1, 3, 3]
    assert out[0, (1 * 3 + 2) * 3 + 0, 1, 2] == 0


@pytest.mark.parametrize("last", (45, 44))
def test_sums_beyond_float32_are_exact(last):
    """A sum of 19660800 = 300 * 2^16 is 7 after requantization, one less is 6."""
    ops = (
        Unfold(name="unfold", output="u", kernel=1),
        Conv(name="wide", input="u", output="x", kernel=1, out_channels=4096, bits=8, stream=0),
        Conv(name="sum", input="x", output="y", kernel=7, out_channels=1, bits=8, stream=1),
        Classifier(name="classifier", input="y", stream=2),
    )
    model = small_model(ops=ops, image=(7, 7), masks={}, affine=[], classes=("one",))
    sign = signs.sign_tensor(model.seed, 1, 1, 4096, 7)[0].reshape(4096, 49)
    kept = np.zeros((4096, 49), bool)
    kept[0, np.flatnonzero(sign[0] > 0)[0]] = True
    others = np.flatnonzero(sign[1:].flatten() > 0)[:77101]
    kept[1:].reshape(-1)[others] = True
    masks = {
        0: np.zeros((4096, 1, 1), np.uint64),
        1: signs.pack(kept.reshape(1, 4096, 7, 7)).reshape(1, 49, 64),
        2: np.ones((1, 1, 1), np.uint64),
    }
    bias = np.full(4096, 255 * 256, np.int32)
    bias[0] = last * 256
    affine = [
        Affine(0, 0, np.zeros(4096, np.int16), bias),
        Affine(8, 0, np.ones(1, np.int16), np.full(1, 7 * 256 - 300 * 256, np.int32)),
    ]
    model = replace(model, masks=masks, affine=affine)
    assert model.accumulator_peak(1, 8) > 1 << 24
    trace = Golden(model).trace(np.zeros((1, 7, 7, 3), np.uint8))
    # 255 * 77101 + 45 = 300 * 2^16 where the whole window is inside, which is in the centre.
    assert trace[2].values[0, 3, 3, 0] == (7 if last == 45 else 6)


def test_requantize_is_exact_for_all_legal_values():
    """Random and extreme accumulators up to the largest there are, against Python integers."""
    rng = random.Random(7)
    peak = 255 * 4096 * 49
    for shift in range(0, 32, 4):
        for bits in (1, 5, 8):
            factor = rng.choice((0, 1, 255, 65535))
            acc = [rng.choice((peak, -peak, 0, rng.randint(-peak, peak), rng.randint(-300, 300)))]
            acc += [rng.randint(-(1 << (shift + 2)), 1 << (shift + 2)) for _ in range(200)]
            acc += [rng.randint(-peak, peak) for _ in range(199)]
            multiplier = [rng.choice((-32768, 32767, rng.randint(-99, 99))) for _ in range(20)]
            bias = [
                rng.choice((-(1 << 23), (1 << 23) - 1, rng.randint(-99, 70000))) for _ in range(20)
            ]
            residual = [rng.choice((0, 255, rng.randint(0, 255))) for _ in range(400)]
            expected = [
                golden_naive.clamp(
                    ((a * multiplier[i // 20]) >> shift) + r * factor + bias[i // 20], bits
                )
                for i, (a, r) in enumerate(zip(acc, residual, strict=True))
            ]
            found = requantize(
                torch.tensor(acc, dtype=torch.float64).reshape(1, 20, 4, 5),
                torch.tensor(multiplier, dtype=torch.float64) / 2 ** (shift + 8),
                torch.tensor(bias, dtype=torch.float64) / 256,
                factor / 256,
                torch.tensor(residual, dtype=torch.float32).reshape(1, 20, 4, 5),
                bits,
            )
            assert found.flatten().tolist() == expected


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 5, 6, 3)), "not float64 [1, 5, 6, 3]"),
        (np.zeros((1, 3, 5, 6), np.uint8), "not uint8 [1, 3, 5, 6]"),
        (np.zeros((5, 6, 3), np.uint8), "not uint8 [5, 6, 3]"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(
        ValueError, match=re.escape(f"Images must be uint8 [N, 5, 6, 3], {message}")
    ):
        Golden(small_model()).run(images)


def test_no_images():
    with pytest.raises(ValueError, match="^Images must be at least 1, not 0$"):
        Golden(small_model()).trace(np.zeros((0, 5, 6, 3), np.uint8))


def test_illegal_models_are_refused():
    with pytest.raises(ValueError, match="^Affine tables must be 7, one per execution of a conv"):
        Golden(small_model(affine=[]))


# A wrong bit anywhere must be noticed, and at the right place.


def ops_of(model):
    for op in model.ops:
        yield from op.body if isinstance(op, Loop) else [op]


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_mask_bit_is_found(seed):
    model = random_model(seed, SMALL)
    images = random_images(model, 4, seed)
    expected = Golden(model).trace(images)
    rng = np.random.default_rng(seed)
    names = {
        stream: [op.name for op in ops_of(model) if getattr(op, "stream", None) == stream]
        for stream in model.masks
    }
    noticed = 0
    for stream, shape in model.weight_shapes().items():
        for _ in range(12):
            channel, tap = rng.integers(0, shape.out_channels), rng.integers(0, shape.kernel**2)
            word, bit = divmod(int(rng.integers(0, shape.in_channels)), 64)
            mask = model.masks[stream].copy()
            mask[channel, tap, word] ^= np.uint64(1 << bit)
            changed = replace(model, masks=model.masks | {stream: mask})
            mismatch = first_mismatch(expected, Golden(changed).trace(images))
            # Some bits meet nothing but zeros or saturated outputs, at first or at all.
            if mismatch is not None:
                assert mismatch.layer in names[stream]
                assert mismatch.channel == channel
                noticed += 1
                break
    assert noticed >= len(model.masks) // 2


@pytest.mark.parametrize("seed", range(6))
def test_a_changed_constant_is_found(seed):
    model = random_model(seed, SMALL)
    images = random_images(model, 4, seed)
    expected = Golden(model).trace(images)
    rng = np.random.default_rng(seed)
    noticed = 0
    for execution in model.executions():
        if execution.affine is None:
            continue
        old = model.affine[execution.affine]
        channel = int(rng.integers(0, len(old.bias)))
        bias = old.bias.copy()
        bias[channel] = -(1 << 23) if bias[channel] > 0 else (1 << 23) - 1
        affine = list(model.affine)
        affine[execution.affine] = replace(old, bias=bias)
        mismatch = first_mismatch(expected, Golden(replace(model, affine=affine)).trace(images))
        if mismatch is not None:
            found = mismatch.layer, mismatch.iteration, mismatch.channel
            assert found == (execution.name, execution.iteration, channel)
            noticed += 1
    assert noticed >= len(model.affine) // 2


def test_another_seed_is_found():
    model = small_model()
    images = random_images(model, 2)
    expected = Golden(model).trace(images)
    mismatch = first_mismatch(expected, Golden(replace(model, seed=model.seed ^ 1)).trace(images))
    assert mismatch.layer == "stem"
