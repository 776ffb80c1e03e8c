# SPDX-License-Identifier: Apache-2.0
"""Partly frozen masks: hiddenfold.sw.frozen, and models and networks that have them."""

import math
import struct
from dataclasses import replace

import golden_naive
import numpy as np
import pytest
from model_cases import sealed, small_model

from hiddenfold.gen.plan import stored_eighths
from hiddenfold.gen.target import Target
from hiddenfold.sw import frozen
from hiddenfold.sw.model import Model
from hiddenfold.sw.shapes import WeightShape
from hiddenfold.verif.golden.compare import Layer, first_mismatch
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

FREE = (8, 4, 2, 1)
SEED = 0x0123456789ABCDEF


def payload(data: bytes) -> int:
    """Where the masks of a model file start."""
    return 8 + struct.unpack_from("<I", data, 4)[0]


def test_file_holds_the_stored_form():
    """Masks of 70x27 in 1 tap, 5x70 in 9, 70x5, 2x70 with 8, 4, 2, 1 stored bits of 8."""
    model = small_model(free=FREE)
    data = model.to_bytes()
    position = payload(data)
    sizes = (70, 5 * 9 * 2 // 2, math.ceil(70 / 4), 1)
    for stream, (m, words) in enumerate(zip(FREE, sizes, strict=True)):
        stored = list(struct.unpack_from(f"<{words}Q", data, position))
        mask = model.masks[stream].tolist()
        if m == 8:
            assert stored == model.masks[stream].flatten().tolist()
        else:
            shape = model.weight_shapes()[stream]
            assert golden_naive.frozen_mask(model.seed, stream, shape, m, stored) == mask
        position += 8 * words
    summary = model.summary()
    assert summary["mask_bytes"] == 8 * sum(sizes)
    assert summary["paper_bytes"] == small_model().summary()["paper_bytes"]
    # Channels beyond the last one are not counted, though they take up room in the file.
    assert 70 * 27 < summary["mask_bits"] < 8 * summary["mask_bytes"]
    other = Model.from_bytes(data)
    assert other.free == FREE and other.to_bytes() == data
    for stream, mask in model.masks.items():
        np.testing.assert_array_equal(other.masks[stream], mask)


def test_files_without_frozen_masks_are_as_before():
    assert small_model(free=(8,) * 4).to_bytes() == small_model().to_bytes()
    assert b'"free"' not in small_model().to_bytes()


@pytest.mark.parametrize("m", (4, 2, 1))
@pytest.mark.parametrize("in_channels", (1, 8, 63, 64, 65, 200))
def test_round_trip(m, in_channels):
    shape = WeightShape(7, in_channels, 3)
    made = frozen.pattern(SEED, 3, shape, m)
    words = np.random.default_rng(m).integers(0, 1 << 64, shape.words, dtype=np.uint64)
    mask = words & made.free | made.kept
    stored = frozen.compress(mask, made)
    assert len(stored) == frozen.stored_bytes(shape, m)
    np.testing.assert_array_equal(frozen.expand(stored, made), mask)


@pytest.mark.parametrize("m", (4, 2, 1))
def test_shares(m):
    """Every group has m free channels; of the frozen weights about half are kept."""
    shape = WeightShape(64, 256, 3)
    made = frozen.pattern(SEED, 0, shape, m)
    groups = made.free.astype("<u8").view(np.uint8)
    assert (np.bitwise_count(groups) == m).all()
    frozen_weights = shape.weights * (8 - m) / 8
    kept = int(np.bitwise_count(made.kept).sum())
    assert kept / frozen_weights == pytest.approx(0.5, abs=0.01)
    # Each rotation, and each weight, is as likely to be free as any other.
    counts = np.bincount(made.rotation.flatten(), minlength=8)
    assert counts / counts.sum() == pytest.approx(np.full(8, 1 / 8), abs=0.01)


def test_bits_that_hold_nothing_must_be_0():
    model = small_model(free=FREE)
    data = bytearray(model.to_bytes()[:-4])
    last = payload(data) + 8 * (70 + 45 + 18) + 4
    data[last] = 1
    message = r"^Mask of stream 3: stored bits from 32 on must be 0, not 1$"
    with pytest.raises(ValueError, match=message):
        Model.from_bytes(sealed(bytes(data)))
    data[last] = 0
    # Stream 2 has 5 input channels: with all bits set some belong to channels 5..63.
    data[payload(data) + 8 * (70 + 45)] = 255
    message = (
        r"^Mask of stream 2: stored bits of input channels that do not exist must be 0, not 1$"
    )
    with pytest.raises(ValueError, match=message):
        Model.from_bytes(sealed(bytes(data)))


def test_frozen_bits_are_those_of_the_seed():
    model = small_model(free=FREE)
    made = model.pattern(1)
    fixed = ~made.free[4, 7, 0]
    bit = np.uint64(int(fixed) & -int(fixed))
    model.masks[1][4, 7, 0] ^= bit
    message = (
        r"^Mask of stream 1: frozen bits must be those of the seed, "
        r"not others as in output channel 4, tap 7$"
    )
    with pytest.raises(ValueError, match=message):
        model.to_bytes()
    with pytest.raises(
        ValueError, match="^Model: free must have 4 numbers, one per stream, not 2$"
    ):
        replace(small_model(), free=(8, 8)).validate()


@pytest.mark.parametrize("seed", range(6))
def test_golden_model_against_plain_code(seed):
    limits = Limits(max_macs=20_000, max_channels=70, max_side=6, frozen=True)
    model = random_model(seed, limits)
    assert set(model.free) <= {8, 4, 2, 1} and set(model.free) != {8}
    image = random_image(np.random.default_rng(seed), *model.image)
    naive = golden_naive.run(model, image.tolist())
    trace = [Layer(name, iteration, np.array([values])) for name, iteration, values in naive]
    assert first_mismatch(trace, Golden(model).trace(image[None])) is None
    without = random_model(seed, replace(limits, frozen=False))
    assert (without.ops, without.seed) == (model.ops, model.seed)


@pytest.mark.parametrize(
    ("shape", "m", "stored"),
    [
        (WeightShape(64, 64, 3), 4, 4),
        (WeightShape(64, 64, 1), 8, 8),
        (WeightShape(64, 64, 1), 1, 8),  # half a mask word a block
        (WeightShape(64, 128, 1), 1, 1),
        (WeightShape(64, 72, 3), 4, 8),  # lanes without a channel
        (WeightShape(66, 64, 3), 4, 8),  # rows without a channel
    ],
)
def test_what_a_program_stores(shape, m, stored):
    assert stored_eighths(shape, m, Target.load("sim-tiny")) == stored
