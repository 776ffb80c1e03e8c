# SPDX-License-Identifier: Apache-2.0
"""Folders of pictures for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def write_folder(root: Path, count: int = 5, size: tuple[int, int] = (24, 20)) -> Path:
    """A folder of pictures in three colours, `count` of each for training and 2 for tests."""
    rng = np.random.default_rng(1)
    for split, pictures in (("train", count), ("val", 2)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            (folder / ".hidden.png").write_bytes(b"not a picture")
            (folder / "notes.txt").write_text("not a picture")
            for number in range(pictures):
                noise = rng.integers(-40, 5, (*size[::-1], 3)) + np.array(colour)
                picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
                picture.save(folder / f"{number}.{('png', 'jpg', 'JPEG')[number % 3]}")
    return root
