# SPDX-License-Identifier: Apache-2.0
"""hiddenfold.verif.golden.random_networks."""

import collections

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.operations import Conv, Loop
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

SMALL = Limits(max_macs=200_000)


@pytest.fixture(scope="module")
def models():
    return [random_model(seed, SMALL) for seed in range(150)]


def test_same_seed_same_model(models):
    for seed in (0, 7, 70):
        assert random_model(seed, SMALL).to_bytes() == models[seed].to_bytes()
    assert len({model.to_bytes() for model in models}) == len(models)


def test_everything_occurs(models):
    """What docs/spec.md section 4 allows, somewhere in these networks."""
    seen = collections.defaultdict(set)
    for model in models:
        seen["classes"].add(len(model.classes))
        seen["top_k"].add(model.top_k)
        seen["square"].add(model.image[0] == model.image[1])
        for op in model.ops:
            if isinstance(op, Loop):
                seen["count"].add(op.count)
                seen["body"].add(len(op.body))
                seen["residual in a loop"].add(any(conv.residual for conv in op.body))
        streams = collections.Counter(op.stream for op in model.ops if isinstance(op, Conv))
        seen["shared stream"].add(
            any(
                conv.stream in streams
                for op in model.ops
                if isinstance(op, Loop)
                for conv in op.body
            )
        )
        for execution in model.executions():
            op = execution.op
            kind = execution.kind
            seen[kind, "in bits"].add(execution.in_bits)
            seen[kind, "in channels"].add(execution.in_shape.channels)
            seen[kind, "height"].add(execution.in_shape.height)
            seen[kind, "width"].add(execution.in_shape.width)
            if kind != "classifier":
                seen[kind, "window"].add((op.kernel, op.stride))
            if kind == "conv":
                affine = model.affine[execution.affine]
                seen["bits"].add(op.bits)
                seen["shift"].add(affine.shift)
                seen["residual"].add((op.residual is not None, affine.residual > 0))
                seen["in place"].add(op.output == op.residual)
                seen["same input"].add(op.input == op.residual)
                seen["over its input"].add(op.output == op.input)
                seen["multiplier"] |= {
                    key
                    for key, at in (("low", -(1 << 15)), ("high", (1 << 15) - 1), ("zero", 0))
                    if at in affine.multiplier
                }
                seen["bias"] |= {
                    key
                    for key, at in (("low", -(1 << 23)), ("high", (1 << 23) - 1))
                    if at in affine.bias
                }
                seen["factor"].add(affine.residual == (1 << 16) - 1)
    windows = {(kernel, stride) for kernel in (1, 3, 5, 7) for stride in (1, 2)}
    both = {False, True}
    assert seen["unfold", "window"] == seen["maxpool", "window"] == windows
    assert seen["conv", "window"] == windows
    assert seen["bits"] == seen["classifier", "in bits"] == set(range(1, 9))
    assert seen["conv", "in bits"] == set(range(1, 9))
    assert seen["shift"] == set(range(0, 32, 4))
    assert seen["count"] == set(range(1, 9))
    assert seen["body"] == {1, 2, 3}
    assert seen["residual"] == {(a, b) for a in both for b in both}
    for key in ("square", "in place", "same input", "over its input", "factor", "shared stream"):
        assert seen[key] == both, key
    assert seen["residual in a loop"] == both
    assert seen["multiplier"] == {"low", "high", "zero"}
    assert seen["bias"] == {"low", "high"}
    assert {0.01, 1.0} < seen["top_k"]
    assert 1 in seen["classes"] and max(seen["classes"]) > 30
    for kind in ("conv", "classifier"):
        assert {1, 63, 64, 65} < seen[kind, "in channels"]
        assert max(seen[kind, "in channels"]) > 128
        for side in ("height", "width"):
            assert min(seen[kind, side]) == 1 and max(seen[kind, side]) > 20


def test_activations_are_alive(models):
    """Few layers are constant, and few values are at an end of their range."""
    constant = total = 0
    inside = []
    for model in models[:60]:
        rng = np.random.default_rng(1)
        images = np.stack([random_image(rng, *model.image) for _ in range(2)])
        bits = [e.out_bits for e in model.executions()]
        for (_, _, values), width in list(zip(Golden(model).trace(images), bits, strict=True))[
            1:-1
        ]:
            total += 1
            constant += int(np.ptp(values)) == 0
            if width > 1:
                inside.append(np.mean((values > 0) & (values < (1 << width) - 1)))
    assert constant < total / 10
    assert np.mean(inside) > 0.4


@pytest.mark.parametrize("target", ("sim-tiny", "peer-64"))
def test_limits_of_a_target_are_kept(target):
    """The compiler accepts what is made for a target."""
    target = Target.load(target)
    limits = Limits.of(target, max_macs=500_000, max_side=100)
    assert limits.lanes == target.lanes and limits.rows == target.rows
    for seed in range(12):
        compile_model(random_model(seed, limits), target, trace=True)


def test_limits_are_kept():
    limits = Limits(
        max_macs=5_000,
        max_channels=6,
        max_classes=3,
        max_side=9,
        max_iterations=2,
        max_segments=3,
        act_words=600,
        psum_depth=5,
        acc_bits=14,
        image_width=7,
        stem_kernel=3,
    )
    for seed in range(60):
        model = random_model(seed, limits)
        assert model.image[0] <= 9 and model.image[1] <= 7
        assert len(model.classes) <= 3
        executions = model.executions()
        assert sum(e.macs for e in executions) <= 5_000
        assert executions[0].op.kernel <= 3
        for execution in executions:
            assert execution.iteration < 2
            assert execution.out_shape.width <= 5
            assert 2 * np.prod(execution.out_shape) <= 600
            if execution.kind == "conv":
                assert execution.op.out_channels <= 6
            if execution.weight_shape:
                peak = model.accumulator_peak(execution.op.stream, execution.in_bits)
                assert peak < 1 << 13


def test_the_tightest_limits():
    limits = Limits(
        max_macs=24, max_channels=1, max_classes=1, max_side=1, max_segments=0, stem_kernel=1
    )
    for seed in range(5):
        model = random_model(seed, limits)
        assert model.image == (1, 1)
        assert [e.kind for e in model.executions()] == ["unfold", "conv", "classifier"]


def test_padded_work_is_counted():
    """With whole words of lanes and rows, as hardware does it."""
    limits = Limits(max_macs=100_000, rows=16, lanes=64)
    for seed in range(20):
        work = 0
        for execution in random_model(seed, limits).executions():
            if (shape := execution.weight_shape) is not None:
                pixels = (
                    execution.in_shape if execution.kind == "classifier" else execution.out_shape
                )
                blocks, words = -(-shape.out_channels // 16), -(-shape.in_channels // 64)
                work += pixels.height * pixels.width * shape.kernel**2 * blocks * words * 1024
        assert work <= 100_000


def test_random_images():
    rng = np.random.default_rng(0)
    images = [random_image(rng, 9, 7) for _ in range(40)]
    assert all(image.shape == (9, 7, 3) and image.dtype == np.uint8 for image in images)
    assert any(set(np.unique(image)) == {0, 255} for image in images)
    assert any((image == 0).mean() > 0.8 for image in images)
    assert random_image(rng, 1, 1).shape == (1, 1, 3)
