# SPDX-License-Identifier: Apache-2.0
"""Picture files of all kinds as R, G, B; the search and ``hiddenfold run`` see the same pixels."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Box",
    "middle",
    "open_picture",
    "read_picture",
    "scaled",
]

# What Pillow warns of (Exif data cut short, mostly) changes nothing here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

FORMATS = ("PNG", "JPEG")
#: A file of a few bytes can claim as many pixels as it likes; this many take 256 MB.
MAX_PIXELS = 1 << 26
SUFFIXES = (".png", ".jpg", ".jpeg")
#: Left, upper, right and lower edge in pixels.
Box = tuple[float, float, float, float]

# A picture is scaled so that it is this many times what is then cut out of its middle: 256 for 224,
# as is usual for ImageNet. Smaller pictures lose less, or nothing.
_MARGIN = 256 / 224


def open_picture(path: str | Path) -> Image.Image:
    """Read a PNG or JPEG file, upright and of mode RGB.

    Raises ``ValueError`` with the path when it is none or damaged, ``OSError`` when there is no
    such file.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(
                    f"it must have at most {MAX_PIXELS} pixels, "
                    f"not {picture.width}x{picture.height}"
                )
            # Cameras write pixels as the sensor lies and say how to turn them.
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):
                # 16 bits a pixel, which `convert` would clip at 255.
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            elif "transparency" in upright.info:
                # What is transparent keeps its colour, with or without a palette.
                upright = upright.convert("RGBA")
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(
            f"image {path} must be a {' or '.join(FORMATS)} file; its content is neither"
        ) from error
    except (Image.DecompressionBombError, SyntaxError, EOFError, ValueError, struct.error) as error:
        raise ValueError(f"image {path} is damaged: {error}") from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"image {path} is damaged: {error}") from error


def read_picture(
    path: str | Path, height: int, width: int, *, fit: bool = False
) -> NDArray[np.uint8]:
    """Read a picture as uint8 [height, width, 3].

    With ``fit`` its middle is scaled to the size, as for the test pictures of a search; without,
    ``ValueError`` says that it has another size, since scaling changes what the network sees.
    """
    picture = open_picture(path)
    if not fit and picture.size != (width, height):
        raise ValueError(
            f"image {path} must be {width}x{height} pixels, the size of the model's images, not "
            f"{picture.width}x{picture.height}: --fit scales its middle to that"
        )
    return scaled(picture, height, width, middle(*picture.size, height, width))


def scaled(picture: Image.Image, height: int, width: int, box: Box) -> NDArray[np.uint8]:
    """The part ``box`` of a picture, scaled to uint8 [height, width, 3]."""
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))


def middle(width: int, height: int, out_height: int, out_width: int) -> Box:
    """The part in the middle of a picture of ``width`` x ``height`` that becomes the image."""
    scale = min(width / out_width, height / out_height)
    factor = max(scale / _MARGIN, min(scale, 1.0))
    across, down = out_width * factor, out_height * factor
    left, upper = (width - across) / 2, (height - down) / 2
    return left, upper, left + across, upper + down
