# SPDX-License-Identifier: Apache-2.0
"""Short constants: hiddenfold.sw.affine and model files that have them."""

import re
import struct

import numpy as np
import pytest
from model_cases import sealed, small_model

from hiddenfold.sw.affine import SHORT, Affine
from hiddenfold.sw.model import Model


def constants(seed: int, channels: int = 200) -> Affine:
    rng = np.random.default_rng(seed)
    # All magnitudes alike.
    multiplier = rng.choice([-1, 1], channels) * 2 ** rng.uniform(0, 15, channels)
    bias = rng.choice([-1, 1], channels) * 2 ** rng.uniform(0, 2 + 3 * seed, channels)
    return Affine(8, 77, np.trunc(multiplier).astype(np.int16), np.trunc(bias).astype(np.int32))


def decode(data: bytes) -> tuple[int, int, list[int], list[int]]:
    """Section 5 in plain integers."""
    shift, residual, f = struct.unpack_from("<BHB", data)
    multiplier, bias = [], []
    for start in range(4, len(data), 3):
        word = int.from_bytes(data[start : start + 3], "little")
        b, m, e = word & 0xFFF, word >> 12 & 0x1FF, word >> 21
        bias.append((b - 4096 if b >= 2048 else b) << f)
        multiplier.append((m - 512 if m >= 256 else m) << e)
    return shift, residual, multiplier, bias


@pytest.mark.parametrize("seed", range(8))
def test_nearest_short_constants(seed):
    full = constants(seed)
    short = full.shortened()
    # Nine bits of each multiplier and twelve of the largest bias, a sign among them.
    wide, found = full.multiplier.astype(int), short.multiplier.astype(int)
    assert (np.abs(found - wide) * 255 <= np.abs(wide)).all()
    assert (found[np.abs(wide) < 256] == wide[np.abs(wide) < 256]).all()
    assert np.abs(short.bias - full.bias).max() * 2047 <= np.abs(full.bias).max()
    again = short.shortened()
    assert (again.multiplier == short.multiplier).all() and (again.bias == short.bias).all()
    data = short.to_bytes(SHORT)
    assert len(data) == Affine.size(200, SHORT) == 4 + 3 * 200
    expected = 8, 77, found.tolist(), short.bias.tolist()
    assert decode(data) == expected
    loaded = Affine.from_bytes(data, SHORT)
    assert (loaded.shift, loaded.residual) == expected[:2]
    assert (loaded.multiplier.tolist(), loaded.bias.tolist()) == expected[2:]
    assert (loaded.multiplier.dtype, loaded.bias.dtype) == (np.int16, np.int32)


@pytest.mark.parametrize("f", (0, 1, 7, 12))
def test_everything_that_can_be_stored_is_legal(f):
    words = np.random.default_rng(f).integers(0, 256, 3 * 500, dtype=np.uint8).tobytes()
    # The ends of all fields, too.
    words += bytes.fromhex("00f8ff ff07f0 000010 ffffef 0008f0")
    data = struct.pack("<BHB", 28, 65535, f) + words
    found = Affine.from_bytes(data, SHORT)
    assert decode(data) == (28, 65535, found.multiplier.tolist(), found.bias.tolist())
    found.validate("a", 505, SHORT)
    assert decode(found.to_bytes(SHORT)) == decode(data)


def test_extremes():
    full = Affine(
        0, 0, np.array([-32768, 32767, 0], np.int16), np.array([-(1 << 23), (1 << 23) - 1, 0])
    )
    short = full.shortened()
    assert short.multiplier.tolist() == [-32768, 255 << 7, 0]
    assert short.bias.tolist() == [-(1 << 23), 2047 << 12, 0]


def test_model_files():
    model = small_model()
    affine = [constants.shortened() for constants in model.affine]
    full, short = (small_model(affine=affine, constants=form) for form in ("full", "short"))
    data = short.to_bytes()
    loaded = Model.from_bytes(data)
    assert loaded.constants == "short" and loaded.to_bytes() == data
    for a, b in zip(loaded.affine, affine, strict=True):
        assert (a.multiplier == b.multiplier).all() and (a.bias == b.bias).all()
    channels = 70 + 3 * 75
    assert short.summary()["affine_bytes"] == 7 * 4 + 3 * channels
    assert full.summary()["affine_bytes"] == 7 * 3 + 5 * channels
    assert short.summary()["total_bytes"] == len(data)
    damaged = bytearray(data[:-4])
    first = len(data) - 4 - (7 * 4 + 3 * channels)
    damaged[first + 3] = 13
    message = r"^Shift of short biases must be an integer in 0\.\.12, not 13$"
    with pytest.raises(ValueError, match=message):
        Model.from_bytes(sealed(bytes(damaged)))


def test_constants_without_a_short_form_are_refused():
    for field, value, near in (("multiplier", 0x1235, 0x1240), ("bias", 0x7FFFF1, 0x7FF000)):
        model = small_model()
        model = small_model(
            affine=[constants.shortened() for constants in model.affine], constants="short"
        )
        getattr(model.affine[1], field)[2] = value
        message = (
            f"Operation 'a': {field} of channel 2 must have a short form such as {near}, "
            f"not be {value}"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.to_bytes()
