# SPDX-License-Identifier: Apache-2.0
"""Picture files of every kind come out as the R, G, B that people see."""

import warnings

import numpy as np
import pytest
from PIL import Image

from hiddenfold.sw.pictures import middle, open_picture, read_picture

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "I;16", "CMYK", "1"])
def test_modes(tmp_path, mode):
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    expected = np.where(GREY >= 100, 255, 0) if mode == "1" else GREY
    picture = Image.fromarray(expected.astype(np.uint8))
    if mode == "I;16":
        # Low bytes that are not 0: they are cut off.
        picture = Image.fromarray(GREY.astype(np.uint16) * 256 + 77)
    elif mode == "P":
        picture = picture.convert("P")
        picture.info["transparency"] = bytes([0] * 100 + [255] * 156)
    else:
        picture = picture.convert(mode)
    picture.save(path, **({"quality": 100} if mode == "CMYK" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.asarray(open_picture(path)).astype(int)
    assert found.shape == (2, 3, 3)
    # JPEG is the one that loses something.
    assert np.abs(found - expected[:, :, None]).max() <= (12 if mode == "CMYK" else 0)


def test_a_camera_that_was_turned(tmp_path):
    """EXIF orientation 6: the first row of the file is the right edge of the picture."""
    path = tmp_path / "turned.jpg"
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    found = read_picture(path, 32, 16)
    assert found[:, 12:].min() > 200 and found[:, :4].max() < 50


@pytest.mark.parametrize(
    "size, out, expected",
    [
        ((256, 512), (224, 224), (16, 144, 240, 368)),
        ((20, 24), (20, 20), (0, 2, 20, 22)),
        ((20, 16), (32, 32), (2, 0, 18, 16)),
        # Not square: only its shape is looked at.
        ((100, 50), (20, 10), None),
    ],
)
def test_middle(size, out, expected):
    found = middle(*size, *out)
    if out[0] == out[1]:
        assert found == pytest.approx(expected)
        return
    left, upper, right, lower = found
    assert (right - left) / (lower - upper) == pytest.approx(out[1] / out[0])
    assert left >= 0 and upper >= 0 and right <= size[0] and lower <= size[1]
    assert (left + right, upper + lower) == pytest.approx(size)


def test_fit(tmp_path):
    path = tmp_path / "big.png"
    Image.new("RGB", (50, 40), (10, 20, 30)).save(path)
    assert read_picture(path, 12, 10, fit=True).tolist() == [[[10, 20, 30]] * 10] * 12
    with pytest.raises(ValueError, match=r"must be 10x12 pixels, .*, not 50x40: --fit scales"):
        read_picture(path, 12, 10)
