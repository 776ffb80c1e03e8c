# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a network in training, and fresh statistics of its batch norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiddenfold.sw.search.data import Split, augment, to_float
from hiddenfold.sw.search.distributed import ALONE, Ranks
from hiddenfold.sw.search.settings import TrainConfig

__all__ = ["REFRESH_IMAGES", "accuracy", "batches", "refresh_batch_norms"]

# Training images for `refresh_batch_norms`.
REFRESH_IMAGES = 5120


def accuracy(
    model: nn.Module,
    split: Split,
    batch: int = 500,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy, in percent, in evaluation mode; processes share the work."""
    was_training = model.training
    model.eval()
    hits = torch.zeros(2, device=split.labels.device)
    with torch.no_grad():
        for start in range(ranks.rank * batch, len(split), ranks.count * batch):
            chosen = slice(start, start + batch)
            logits = model(to_float(split.images[chosen].to(split.labels.device), dtype))
            best = logits.topk(min(5, logits.shape[1])).indices
            match = best.eq(split.labels[chosen, None])
            hits += torch.stack([match[:, 0].sum(), match.sum()])
    model.train(was_training)
    top1, top5 = (100.0 * ranks.count * ranks.mean(hits) / len(split)).tolist()
    return top1, top5


def refresh_batch_norms(
    model: nn.Module,
    images: Tensor,
    padding: int,
    settings: TrainConfig,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Measure the statistics of all batch norms anew on uint8 `images`, averaged over batches.

    The running averages of the search lag behind while masks still change: before the learning
    rate has come down they cost several points of accuracy. The images are augmented as in
    training, with `padding` pixels around the crop; with statistics of plain training images the
    network of configs/cifar100-hfn16-demo.toml is 4 points worse on the (plain) test images.
    (Where training sees resized crops these are crops of `images` as well, which are as in tests.)
    """
    generator = torch.Generator().manual_seed(settings.seed)
    images = augment(images, padding, settings.flip, generator)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average of all batches
    with torch.no_grad():
        for part in batches(images, settings.batch):
            model(to_float(part, dtype))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


def batches(images: Tensor, batch: int) -> tuple[Tensor, ...]:
    """The full batches of `images`, or one that is not full: each of them counts the same."""
    return images[: max(len(images) // batch * batch, min(len(images), batch))].split(batch)
