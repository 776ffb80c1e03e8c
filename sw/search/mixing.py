# SPDX-License-Identifier: Apache-2.0
"""Batches whose images are mixed with their neighbours, and their labels by the same shares.

The neighbour of the first image is the second, and the other way round, and so on in pairs. So a
process of several mixes what one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hiddenfold.sw.search.settings import TrainConfig

__all__ = ["Mix", "draw", "neighbours"]


@dataclass(frozen=True)
class Mix:
    """What a step does to its batch: `share` of every image is its own, the rest its neighbour's.

    With a `box` (rows, columns) the neighbour's share is those pixels; without, all are blended.
    """

    share: float = 1.0
    box: tuple[slice, slice] | None = None

    def images(self, images: Tensor) -> Tensor:
        """The mixed `images` [N, C, H, W]."""
        if self.share == 1.0:
            return images
        if self.box is None:
            return torch.lerp(neighbours(images), images, self.share)
        mixed = images.clone()
        mixed[:, :, *self.box] = neighbours(images[:, :, *self.box])
        return mixed


def draw(settings: TrainConfig, size: int, seed: int) -> Mix:
    """What the step of the random `seed` does to its images of `size` x `size` pixels.

    With probability `cutmix` a box is cut out, whose area is that of a uniform share, at a uniform
    place, which may be partly outside; the other batches are blended by a share from the beta
    distribution of the parameter `mixup`, unless that is 0.
    """
    random = np.random.default_rng(seed)
    if settings.cutmix > 0.0 and random.random() < settings.cutmix:
        side = size * np.sqrt(random.random())
        centre = random.integers(0, size, 2)
        first = np.clip(np.rint(centre - side / 2), 0, size).astype(int)
        last = np.clip(np.rint(centre + side / 2), 0, size).astype(int)
        rows, columns = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return Mix(1.0 - area / size**2, (rows, columns))
    if settings.mixup > 0.0:
        return Mix(float(random.beta(settings.mixup, settings.mixup)))
    return Mix()


def neighbours(items: Tensor) -> Tensor:
    """Each pair of items the other way round; without a partner, the last of an odd number."""
    order = torch.arange(len(items), device=items.device) ^ 1
    return items[order.clamp(max=len(items) - 1)]
