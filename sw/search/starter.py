# SPDX-License-Identifier: Apache-2.0
"""A first configuration for a folder of pictures, after a look at each of them."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hiddenfold.sw.pictures import SUFFIXES, open_picture
from hiddenfold.sw.search.folder import list_pictures
from hiddenfold.sw.search.settings import SIZES

__all__ = ["Survey", "configuration", "survey"]

#: Larger pictures are scaled down to this by default: what a CPU trains in minutes.
LARGEST_DEFAULT = 64
#: Steps that a small network needs to learn something, and limits of what that makes.
_STEPS = 600
_EPOCHS = (8, 200)
_BATCH = (8, 64)
#: Stages halve the map until it is not larger than this.
_SMALLEST_MAP = 8

_TEMPLATE = """\
# Made by `hiddenfold init` from {folder}: {total} pictures, {tests} of them for tests.
#
#   hiddenfold train {name}.toml --data {folder}

dataset = "folder"
image = {image:<12} # pixels; the middle of each picture is scaled to this, 16 to 224

[model]
name = "{name}"
classes = {classes:<10} # {names}
top_k = 0.5          # share of the weights that every layer keeps
affine = "all"       # every batch norm has a learned scale and shift
stem = {{ channels = 16, kernel = {kernel}, stride = {stride}, pool = {pool} }}
stages = [           # `folded`: all blocks but the first are one recurrent block
{stages}
]

[train]
phases = [{{ epochs = {epochs}, size = {image} }}]
batch = {batch}
optimizer = "adam"
lr = 0.05            # in units of the mean |score| of each layer
norm_lr = 0.01
weight_decay = 0.0
warmup = 1.0
crop_padding = {padding:<5} # random shifts, in pixels
flip = true          # false where left and right differ, as in letters
"""


@dataclass(frozen=True)
class Survey:
    """What is in a folder: pictures of each split, class names, sizes (width, height)."""

    training: int
    test: int
    classes: tuple[str, ...]
    sizes: Counter[tuple[int, int]]
    unused: int

    @property
    def image(self) -> int:
        """An image size that suits: the usual shorter side, a multiple of 4."""
        shorter = statistics.median(min(size) for size in self.sizes.elements())
        return max(SIZES[0], min(LARGEST_DEFAULT, int(shorter) // 4 * 4))


def survey(folder: Path, tick: Callable[[int], object] = lambda _: None) -> Survey:
    """Decode every picture of a folder; ``tick`` is called for each.

    Raises ``ValueError`` when pictures are missing or damaged, with the first of their names.
    """
    training, _, classes = list_pictures(folder, "train")
    test, _, others = list_pictures(folder, "test")
    if classes != others:
        differ = sorted(set(classes) ^ set(others))
        raise ValueError(f"{folder}: only one of train and val has {', '.join(differ[:5])}")
    sizes: Counter[tuple[int, int]] = Counter()
    broken = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, found in zip(training + test, pool.map(_look, training + test), strict=True):
            if isinstance(found, str):
                broken.append((path, found))
            else:
                sizes[found] += 1
            tick(1)
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(training) + len(test)} pictures in {folder} cannot be used: "
            f"remove or mend {', '.join(path for path, _ in broken[:5])}"
            f"{', ...' if len(broken) > 5 else ''} ({broken[0][1]})"
        )
    unused = sum(
        not name.lower().endswith(SUFFIXES)
        for _, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    return Survey(len(training), len(test), classes, sizes, unused)


def _look(path: str) -> tuple[int, int] | str:
    try:
        return open_picture(path).size
    except (ValueError, OSError) as error:
        return str(error)


def configuration(name: str, folder: Path, found: Survey, image: int) -> str:
    """The text of a configuration: a small folded network that trains on a CPU."""
    batch = min(max(_BATCH[0], min(_BATCH[1], found.training // 16)), found.training)
    epochs = -(-_STEPS * batch // found.training)
    # As in the published networks, large images lose resolution at once.
    large = image > LARGEST_DEFAULT
    stages, channels, size = [], 32, image // 4 if large else image
    while True:
        size = -(-size // 2)
        last = size <= _SMALLEST_MAP
        blocks = "blocks = 4, folded = true" if last else "blocks = 1"
        stages.append(f"    {{ channels = {channels}, stride = 2, {blocks} }},")
        channels = min(2 * channels, 128)
        if last:
            break
    names = ", ".join(found.classes)
    return _TEMPLATE.format(
        name=name,
        folder=folder,
        total=found.training + found.test,
        tests=found.test,
        image=image,
        classes=len(found.classes),
        names=names if len(names) < 60 else f"{names[:56]} ...",
        kernel=7 if large else 3,
        stride=2 if large else 1,
        pool=str(large).lower(),
        stages="\n".join(stages),
        epochs=max(_EPOCHS[0], min(_EPOCHS[1], epochs)),
        batch=batch,
        padding=max(1, image // 16),
    )
