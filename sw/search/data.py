# SPDX-License-Identifier: Apache-2.0
"""Labelled images as uint8 tensors, with vectorised augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hiddenfold.sw.search.cifar import CIFAR10, CIFAR100
from hiddenfold.sw.search.folder import Pictures, list_pictures
from hiddenfold.sw.search.settings import FOLDERS, SearchConfig

__all__ = [
    "Pixels",
    "Split",
    "augment",
    "hold_out",
    "load_data",
    "load_split",
    "resize",
    "to_float",
]

_CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
# A folder whose pictures need no more memory than this is decoded once.
_MEMORY = 2 << 30


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 3, H, W], labels int64 [N], and the classes' names where they are known.

    Images that do not fit into memory are `Pictures`, which decode what an index asks for.
    """

    images: Tensor | Pictures
    labels: Tensor
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Split:
        """The split on a device; pictures are decoded where they are."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device))

    def at_size(self, size: int) -> Split:
        """The same images at `size` x `size` pixels."""
        if isinstance(self.images, Tensor):
            return replace(self, images=resize(self.images, size))
        return replace(self, images=self.images.at_size(size))

    def part(self, numbers: Tensor) -> Split:
        """The images of these numbers."""
        if isinstance(self.images, Tensor):
            images: Tensor | Pictures = self.images[numbers]
        else:
            images = self.images.part(numbers)
        return replace(self, images=images, labels=self.labels[numbers])

    def sample(self, count: int) -> Tensor:
        """`count` images, or all if there are fewer, from everywhere in the split."""
        count = min(count, len(self))
        return self.images[torch.arange(count) * len(self) // count]

    def augmented(
        self,
        index: Tensor,
        generator: torch.Generator,
        *,
        padding: int,
        flip: bool,
        crop: str = "padded",
        part: slice = slice(None),
    ) -> Tensor:
        """The images of `index`, augmented: see `TrainConfig` for `crop`.

        Random numbers are drawn for all of them; only those of `part` are returned.
        """
        if crop == "resized":
            if isinstance(self.images, Tensor):
                raise ValueError("Images in memory have no resized crops")
            return self.images.random_crops(index, generator, flip, part)
        return augment(self.images[index], padding, flip, generator)[part]


class Pixels:
    """Some of a split's images as models take them: slices are arrays uint8 [n, H, W, 3]."""

    def __init__(self, images: Tensor | Pictures, chosen: slice = slice(None)) -> None:
        self._images = images
        self._numbers = range(len(images))[chosen]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: slice) -> NDArray[np.uint8]:
        numbers = self._numbers[index]
        part = self._images[numbers.start : numbers.stop : numbers.step]
        return np.ascontiguousarray(part.cpu().numpy().transpose(0, 2, 3, 1))


def load_data(config: SearchConfig, data_dir: str | Path) -> tuple[Split, Split]:
    """Training and test split for a search; `ValueError` when they do not fit the configuration.

    Images have the configuration's size and are in memory, unless they are `Pictures`.
    """
    training = load_split(config.dataset, data_dir, "train", config.image)
    test = load_split(config.dataset, data_dir, "test", config.image)
    if training.classes != test.classes:
        differ = sorted(set(training.classes) ^ set(test.classes))
        raise ValueError(
            f"{data_dir}: training and test split must have the same classes, but only one of "
            f"them has {', '.join(differ[:5])}"
        )
    if len(training.classes) != config.model.classes:
        raise ValueError(
            f"Key 'model.classes' must be {len(training.classes)} for the data in {data_dir}, "
            f"not {config.model.classes}"
        )
    if config.train.crop == "padded":
        training = _in_memory(training)
    return training, _in_memory(test)


def hold_out(training: Split, share: float) -> tuple[Split, Split]:
    """The split without a share of its images, taken from everywhere in it, and these images."""
    count = round(len(training) * share)
    held = torch.zeros(len(training), dtype=torch.bool)
    held[torch.arange(count) * len(training) // max(count, 1)] = True
    return training.part((~held).nonzero()[:, 0]), training.part(held.nonzero()[:, 0])


def load_split(dataset: str, data_dir: str | Path, split: str, size: int) -> Split:
    """The split "train" or "test" of a `dataset` (see `DATASETS`) at `size` x `size` pixels.

    `data_dir` holds the official files of CIFAR, or for ImageNet and other pictures the folders
    `train/CLASS` and `val/CLASS`. Raises `ValueError` when data are missing or damaged.
    """
    if dataset in _CIFAR:
        cifar = _CIFAR[dataset]
        images, labels = cifar.load(data_dir, split)
        names = cifar.class_names(data_dir)
        return Split(torch.from_numpy(images.copy()), torch.from_numpy(labels), names)
    if dataset in FOLDERS:
        paths, labels, names = list_pictures(data_dir, split)
        return Split(Pictures(paths, size), torch.from_numpy(labels), names)
    known = ", ".join(repr(name) for name in (*_CIFAR, *FOLDERS))
    raise ValueError(f"Dataset to read from {data_dir} must be one of {known}, not {dataset!r}")


def _in_memory(split: Split) -> Split:
    """The split with its pictures decoded, if they are not too many."""
    if isinstance(split.images, Tensor) or np.prod(split.images.shape) > _MEMORY:
        return split
    return replace(split, images=split.images[:])


def resize(images: Tensor, size: int, chunk: int = 5000) -> Tensor:
    """Resize uint8 [N, 3, H, W] to `size` x `size` with antialiasing; uint8 again."""
    if images.shape[-1] == size and images.shape[-2] == size:
        return images
    parts = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
        for part in images.split(chunk)
    ]
    return torch.cat(parts)


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels to x / 255, channels last, without mean subtraction."""
    return (images.float() / 255.0).to(dtype).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding, and random mirroring, of uint8 [N, 3, H, W]."""
    n, channels, height, width = images.shape
    device = images.device
    dy, dx = torch.randint(0, 2 * padding + 1, (2, n), generator=generator).to(device)
    mirror = torch.randint(0, 2, (n,), generator=generator).to(device) * int(flip)
    padded = F.pad(images, (padding,) * 4)
    rows = dy[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(mirror[:, None] == 1, width - 1 - columns, columns) + dx[:, None]
    index = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    index = index.reshape(n, 1, height * width).expand(n, channels, height * width)
    return padded.reshape(n, channels, -1).gather(2, index).reshape(images.shape)
