# SPDX-License-Identifier: Apache-2.0
"""Folders of pictures, `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, decoded when they are needed.

Where there are only folders `CLASS/*.jpg`, about every fifth picture is a test picture: its path
decides, so that pictures which are added later move no other.

Only the paths are kept in memory, so a data set may be of any size. Decoding runs in threads:
Pillow releases the interpreter's lock while it decodes and scales.
"""

from __future__ import annotations

import functools
import math
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiddenfold.sw.pictures import SUFFIXES, Box, middle, open_picture, scaled

__all__ = ["Pictures", "list_pictures"]

_FOLDERS = {"train": "train", "test": "val"}
# One of this many pictures is a test picture where the folder does not say which.
_TEST_SHARE = 5
# Random crops: share of the picture's area, and aspect ratio, as is usual for ImageNet.
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def list_pictures(
    data_dir: str | Path, split: str
) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """Paths, labels and class names (the folders' names, sorted) of the split "train" or "test".

    Raises `ValueError` when there are no folders of pictures.
    """
    if split not in _FOLDERS:
        raise ValueError(f"Split must be one of 'train', 'test', not {split!r}")
    root = Path(data_dir) / _FOLDERS[split]
    divided = any(_is_split(Path(data_dir) / name) for name in _FOLDERS.values())
    if not divided:
        root = Path(data_dir)
    if not root.is_dir() or not (divided or _classes(root)):
        raise ValueError(
            f"Pictures not found in {data_dir}: expected 'train/CLASS/*.png' and "
            "'val/CLASS/*.png' there, or 'CLASS/*.png' ('*.jpg')"
        )
    classes = _classes(root)
    if not classes and _pictures(root):
        raise ValueError(
            f"{root} must hold a folder of pictures for each class, not the pictures themselves: "
            "their classes are not known; move each one into the folder of its class, with the "
            f"names of the folders in {_FOLDERS['train']}"
        )
    if len(classes) < 2:
        raise ValueError(
            f"{root} must hold a folder of pictures for each of 2 or more classes, not "
            f"{len(classes)} folders"
        )
    # As text: a Path takes three times the memory, and ImageNet has over a million of them.
    paths: list[str] = []
    counts = []
    for name in classes:
        found = _pictures(root / name)
        if not found:
            raise ValueError(f"{root / name} must hold pictures ({', '.join(SUFFIXES)}), not none")
        if not divided:
            found = _part(root / name, found, split)
        paths += found
        counts.append(len(found))
    return paths, np.repeat(np.arange(len(classes)), counts), tuple(classes)


def _pictures(folder: Path) -> list[str]:
    return sorted(
        entry.path
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    )


def _is_split(folder: Path) -> bool:
    """Whether a folder `train` or `val` is one of the two; it may be a class of vehicles."""
    return folder.is_dir() and not _pictures(folder)


def _classes(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if _is_class(entry))


def _part(folder: Path, paths: list[str], split: str) -> list[str]:
    """The pictures of a class that belong to a split, at least one in each."""
    if len(paths) < 2:
        raise ValueError(f"{folder} must hold 2 or more pictures, one of them for tests, not 1")
    draws = [zlib.crc32(os.fsencode(os.path.relpath(path, folder.parent))) for path in paths]
    chosen = {path for path, draw in zip(paths, draws, strict=True) if draw % _TEST_SHARE == 0}
    if len(chosen) in (0, len(paths)):
        chosen = {paths[draws.index(min(draws))]}
    return [path for path in paths if (path in chosen) == (split == "test")]


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
        return middle(width, height, self.size, self.size)

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
    picture = open_picture(path)
    return scaled(picture, size, size, box(*picture.size))


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
