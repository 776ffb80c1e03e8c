# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100 as they are downloaded: pickles, in a folder or in its archive."""

from __future__ import annotations

import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CIFAR10", "CIFAR100", "Cifar"]

_SITE = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: where it lies and what its files hold.

    `archive` is the official download, which holds `folder`. `files` maps a split to its files (of
    as many images each as `images` says) and `meta` is the file with the class names; `labels` and
    `names` are their keys in the pickles.
    """

    title: str
    archive: str
    folder: str
    files: dict[str, tuple[str, ...]]
    meta: str
    labels: str
    names: str
    classes: int
    images: dict[str, int]

    def load(self, data_dir: str | Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images uint8 [N, 3, 32, 32] and labels int64 [N] of the split "train" or "test".

        `data_dir` is the extracted folder, the folder above it, or a folder holding the official
        archive. Raises `ValueError` when the data are missing or damaged.
        """
        if split not in self.files:
            raise ValueError(f"Split must be one of 'train', 'test', not {split!r}")
        parts = [self._load_file(Path(data_dir), name, split) for name in self.files[split]]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return pixels.reshape(-1, 3, 32, 32), labels

    def class_names(self, data_dir: str | Path) -> tuple[str, ...]:
        """The class names in the order of the labels; see `load` for `data_dir`."""
        names = self._read(Path(data_dir), self.meta).get(self.names)
        if not isinstance(names, list) or len(names) != self.classes:
            raise ValueError(
                f"{self._file(self.meta, data_dir)} must hold {self.classes} class names"
            )
        return tuple(str(name) for name in names)

    def _load_file(
        self, data_dir: Path, name: str, split: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        table = self._read(data_dir, name)
        subject = self._file(name, data_dir)
        count = self.images[split]
        try:
            pixels = np.asarray(table["data"])
            labels = np.asarray(table[self.labels], dtype=np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{subject} is damaged: {error!r}") from error
        if pixels.dtype != np.uint8 or pixels.shape != (count, 3072) or labels.shape != (count,):
            raise ValueError(
                f"{subject} must hold {count} images of 3072 bytes, "
                f"not {pixels.dtype} {pixels.shape} with {labels.shape} labels"
            )
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"{subject} has labels outside 0 to {self.classes - 1}")
        return pixels, labels

    def _file(self, name: str, data_dir: str | Path) -> str:
        return f"{self.title} file '{name}' in {data_dir}"

    def _read(self, data_dir: Path, name: str) -> dict[str, Any]:
        places = [data_dir / name, data_dir / self.folder / name]
        try:
            for place in places:
                if place.is_file():
                    with place.open("rb") as file:
                        return _table(file)
            archive = data_dir / self.archive
            if archive.is_file():
                with tarfile.open(archive) as tar:
                    member = tar.extractfile(f"{self.folder}/{name}")
                    assert member is not None
                    return _table(member)
        except OSError:
            raise
        except Exception as error:
            # A damaged file makes pickle and tarfile raise a dozen kinds of errors.
            raise ValueError(f"{self._file(name, data_dir)} is damaged: {error!r:.200}") from error
        raise ValueError(
            f"{self.title} not found in {data_dir}: expected '{self.folder}/{name}' or "
            f"'{self.archive}' there; the official download is {_SITE}/{self.archive}"
        )


CIFAR10 = Cifar(
    title="CIFAR-10",
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    labels="labels",
    names="label_names",
    classes=10,
    images={"train": 10_000, "test": 10_000},
)
CIFAR100 = Cifar(
    title="CIFAR-100",
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
    classes=100,
    images={"train": 50_000, "test": 10_000},
)


def _table(file: IO[bytes]) -> dict[str, Any]:
    table = _Unpickler(file, encoding="latin1").load()
    if not isinstance(table, dict):
        raise TypeError(f"it must hold a dictionary, not {type(table).__name__}")
    return table


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
