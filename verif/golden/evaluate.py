# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the golden model."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from hiddenfold.sw.images import Images
from hiddenfold.sw.model import Model
from hiddenfold.sw.ranking import ranking
from hiddenfold.verif.golden.model import Golden

__all__ = ["evaluate"]


def evaluate(model: Model, images: Images, labels: ArrayLike, batch: int = 100) -> dict[str, Any]:
    """Classify images uint8 [N, H, W, 3] and compare with labels [N].

    Returns `backend` ("golden"), `images` (N), `top1` and `top5` in percent, `seconds` of the
    classification alone, and `images_per_second`. Progress goes to stderr.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(images),):
        raise ValueError(f"Labels must have the shape {(len(images),)}, not {labels.shape}")
    if batch < 1:
        raise ValueError(f"Batch must be at least 1, not {batch}")
    golden = Golden(model)
    best = []
    start = time.perf_counter()
    with tqdm(total=len(images), unit="image", file=sys.stderr) as progress:
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            best.append(ranking(golden.run(part, batch)))
            progress.update(len(part))
    seconds = time.perf_counter() - start
    hits = np.concatenate(best) == labels[:, None]
    return {
        "backend": "golden",
        "images": len(images),
        "top1": 100 * float(hits[:, 0].mean()),
        "top5": 100 * float(hits.any(axis=1).mean()),
        "seconds": seconds,
        "images_per_second": len(images) / seconds,
    }
