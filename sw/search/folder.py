# SPDX-License-Identifier: Apache-2.0
"""Folders of pictures, `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, decoded when they are needed.

Only the paths are kept in memory, so a data set may be of any size. Decoding runs in threads:
Pillow releases the interpreter's lock while it decodes and scales.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["Pictures", "list_pictures"]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_FOLDERS = {"train": "train", "test": "val"}
# A test picture is scaled so that its shorter side is this many times the crop in its middle: 256
# for 224, as is usual for ImageNet. Smaller pictures lose less, or nothing.
_MARGIN = 256 / 224
# Random crops: share of the picture's area, and aspect ratio, as is usual for ImageNet.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10

#: Left, upper, right and lower edge in pixels.
Box = tuple[float, float, float, float]


def list_pictures(
    data_dir: str | Path, split: str
) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """Paths, labels and class names (the folders' names, sorted) of the split "train" or "test".

    Raises `ValueError` when there are no folders of pictures.
    """
    if split not in _FOLDERS:
        raise ValueError(f"Split must be one of 'train', 'test', not {split!r}")
    root = Path(data_dir) / _FOLDERS[split]
    if not root.is_dir():
        raise ValueError(
            f"Pictures not found in {data_dir}: expected '{_FOLDERS[split]}/CLASS/*.png' or "
            "'*.jpg' there"
        )
    classes = sorted(entry.name for entry in os.scandir(root) if _is_class(entry))
    if len(classes) < 2:
        raise ValueError(
            f"{root} must hold a folder of pictures for each of 2 or more classes, not "
            f"{len(classes)} folders"
        )
    # As text: a Path takes three times the memory, and ImageNet has over a million of them.
    paths: list[str] = []
    counts = []
    for name in classes:
        found = sorted(
            entry.path
            for entry in os.scandir(root / name)
            if entry.name.lower().endswith(_SUFFIXES) and not entry.name.startswith(".")
        )
        if not found:
            raise ValueError(f"{root / name} must hold pictures ({', '.join(_SUFFIXES)}), not none")
        paths += found
        counts.append(len(found))
    return paths, np.repeat(np.arange(len(classes)), counts), tuple(classes)


def _is_class(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


@dataclass(frozen=True)
class Pictures:
    """Picture files that look like a tensor uint8 [N, 3, size, size] when indexed."""

    paths: Sequence[str]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all pictures as one tensor."""
        return len(self), 3, self.size, self.size

    def at_size(self, size: int) -> Pictures:
        """The same pictures at another size."""
        return replace(self, size=size)

    def part(self, numbers: Tensor) -> Pictures:
        """The pictures of these numbers."""
        return replace(self, paths=self._chosen(numbers))

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The pictures of a slice or of a tensor of numbers, scaled and cropped in the middle."""
        chosen = self._chosen(index)
        return self._decode(chosen, [self._middle] * len(chosen), [False] * len(chosen))

    def random_crops(
        self,
        index: slice | Tensor,
        generator: torch.Generator,
        flip: bool = False,
        part: slice = slice(None),
    ) -> Tensor:
        """Like indexing, with a random part of each picture scaled to the size.

        With `flip` about every second picture is mirrored. Random numbers are drawn for all of
        them; only those of `part` are decoded and returned.
        """
        chosen = self._chosen(index)
        draws = torch.rand(len(chosen), _ATTEMPTS, 4, generator=generator).tolist()
        mirror = torch.rand(len(chosen), generator=generator) < (0.5 if flip else 0.0)
        boxes = [_random_box(draw) for draw in draws]
        return self._decode(chosen[part], boxes[part], mirror.tolist()[part])

    def _chosen(self, index: slice | Tensor) -> list[str]:
        if isinstance(index, slice):
            return list(self.paths[index])
        return [self.paths[i] for i in index.tolist()]

    def _middle(self, width: int, height: int) -> Box:
        shorter = min(width, height)
        side = max(shorter / _MARGIN, min(shorter, self.size))
        left, upper = (width - side) / 2, (height - side) / 2
        return left, upper, left + side, upper + side

    def _decode(
        self, paths: list[str], boxes: list[Callable[[int, int], Box]], mirror: list[bool]
    ) -> Tensor:
        result = np.empty((len(paths), 3, self.size, self.size), np.uint8)

        def fill(number: int) -> None:
            pixels = _read(paths[number], self.size, boxes[number])
            result[number] = pixels[:, :: -1 if mirror[number] else 1].transpose(2, 0, 1)

        for _ in _pool().map(fill, range(len(paths))):
            pass
        return torch.from_numpy(result)


def _read(path: str, size: int, box: Callable[[int, int], Box]) -> NDArray[np.uint8]:
    """The part `box(width, height)` of a picture, scaled to uint8 [size, size, 3]."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            part = box(*picture.size)
            scaled = picture.convert("RGB").resize(
                (size, size), Image.Resampling.BILINEAR, box=part
            )
            return np.asarray(scaled)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {path} cannot be read: {error}") from error


def _random_box(draws: list[list[float]]) -> Callable[[int, int], Box]:
    """A part of random area and aspect ratio, from `_ATTEMPTS` draws of four numbers in 0 .. 1."""

    def box(width: int, height: int) -> Box:
        low, high = (math.log(ratio) for ratio in _RATIO)
        for area, ratio, across, down in draws:
            part = width * height * (_AREA[0] + (_AREA[1] - _AREA[0]) * area)
            aspect = math.exp(low + (high - low) * ratio)
            w, h = math.sqrt(part * aspect), math.sqrt(part / aspect)
            if w <= width and h <= height:
                left, upper = (width - w) * across, (height - h) * down
                return left, upper, left + w, upper + h
        return 0, 0, width, height

    return box


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """The threads that decode, made when they are first needed."""
    return ThreadPoolExecutor(os.cpu_count(), "pictures")
