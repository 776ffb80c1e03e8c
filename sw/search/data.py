# SPDX-License-Identifier: Apache-2.0
"""CIFAR-100 as uint8 tensors, with vectorised augmentation."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Split",
    "augment",
    "batches",
    "load_cifar100",
    "load_class_names",
    "load_split",
    "resize",
    "to_float",
]

_FOLDER = "cifar-100-python"
_ARCHIVE = "cifar-100-python.tar.gz"
_IMAGES = {"train": 50_000, "test": 10_000}
_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 3, H, W] and labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load_split(dataset: str, data_dir: str | Path, split: str) -> Split:
    """Load the "train" or "test" split of a configuration's `dataset`."""
    _check_readable(dataset, data_dir)
    return load_cifar100(data_dir, split)


def load_class_names(dataset: str, data_dir: str | Path) -> tuple[str, ...]:
    """The class names of a configuration's `dataset`, in the order of the labels."""
    _check_readable(dataset, data_dir)
    return _cifar100_class_names(data_dir)


def _check_readable(dataset: str, data_dir: str | Path) -> None:
    if dataset != "cifar100":
        raise ValueError(f"Dataset to read from {data_dir} must be 'cifar100', not {dataset!r}")


def load_cifar100(data_dir: str | Path, split: str) -> Split:
    """Load the "train" or "test" split.

    `data_dir` is the extracted folder (with the files `train`, `test` and `meta`), the folder above
    it, or a folder holding the official archive `cifar-100-python.tar.gz`. Raises `ValueError`
    when the data are missing or damaged.
    """
    if split not in _IMAGES:
        raise ValueError(f"Split must be one of 'train', 'test', not {split!r}")
    table = _read(Path(data_dir), split)
    count = _IMAGES[split]
    try:
        pixels = np.asarray(table["data"])
        labels = np.asarray(table["fine_labels"], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"CIFAR-100 file '{split}' in {data_dir} is damaged: {error!r}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (count, 3072) or labels.shape != (count,):
        raise ValueError(
            f"CIFAR-100 file '{split}' in {data_dir} must hold {count} images of 3072 bytes, "
            f"not {pixels.dtype} {pixels.shape} with {labels.shape} labels"
        )
    if labels.min() < 0 or labels.max() > 99:
        raise ValueError(f"CIFAR-100 file '{split}' in {data_dir} has labels outside 0 to 99")
    return Split(
        torch.from_numpy(pixels.reshape(count, 3, 32, 32).copy()), torch.from_numpy(labels)
    )


def _cifar100_class_names(data_dir: str | Path) -> tuple[str, ...]:
    """The 100 class names, in the order of the labels; see `load_cifar100` for `data_dir`."""
    names = _read(Path(data_dir), "meta").get("fine_label_names")
    if not isinstance(names, list) or len(names) != 100:
        raise ValueError(f"CIFAR-100 file 'meta' in {data_dir} must hold 100 class names")
    return tuple(str(name) for name in names)


def _read(data_dir: Path, name: str) -> Any:
    places = [data_dir / name, data_dir / _FOLDER / name]
    try:
        for place in places:
            if place.is_file():
                with place.open("rb") as file:
                    return _Unpickler(file, encoding="latin1").load()
        archive = data_dir / _ARCHIVE
        if archive.is_file():
            with tarfile.open(archive) as tar:
                member = tar.extractfile(f"{_FOLDER}/{name}")
                assert member is not None
                return _Unpickler(member, encoding="latin1").load()
    except (pickle.UnpicklingError, tarfile.TarError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"CIFAR-100 file '{name}' in {data_dir} is damaged: {error}") from error
    raise ValueError(
        f"CIFAR-100 not found in {data_dir}: expected '{_FOLDER}/{name}' or '{_ARCHIVE}' there; "
        f"the official download is {_SOURCE}"
    )


class _Unpickler(pickle.Unpickler):
    """Accepts what the CIFAR pickles need (a numpy array in dicts and lists), nothing else."""

    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if module.startswith("numpy.core"):
            module = module.replace("numpy.core", "numpy._core")
        return super().find_class(module, name)


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


def batches(
    split: Split, batch: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled full batches of one epoch; the images left over are dropped."""
    order = torch.randperm(len(split), generator=generator).to(split.images.device)
    for index in order.split(batch):
        if len(index) == batch:
            yield split.images[index], split.labels[index]
