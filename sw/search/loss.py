# SPDX-License-Identifier: Apache-2.0
"""What a search minimizes: the error on the labels, and the difference to a teacher's answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw.search.mixing import neighbours
from hiddenfold.sw.search.settings import TrainConfig

__all__ = ["Loss"]


class Loss:
    """Cross entropy with smoothed labels, mixed with distillation when there is a `teacher`.

    Distillation is that of Hinton et al., "Distilling the knowledge in a neural network" (2015):
    the divergence of both networks' answers at temperature T, times T squared. The teacher sees
    the same augmented images, in evaluation mode.
    """

    def __init__(self, settings: TrainConfig, teacher: nn.Module | None = None) -> None:
        self._settings = settings
        self._teacher = None if teacher is None else teacher.eval()

    def __call__(
        self, images: Tensor, logits: Tensor, labels: Tensor, share: float = 1.0
    ) -> Tensor:
        """The loss of a batch, a number; `share` is that of a `Mix`."""
        settings = self._settings
        loss = self._error(logits, labels)
        if share < 1.0:
            loss = torch.lerp(self._error(logits, neighbours(labels)), loss, share)
        if self._teacher is None:
            return loss
        with torch.no_grad():
            wanted = F.log_softmax(self._teacher(images) / settings.temperature, 1)
        found = F.log_softmax(logits / settings.temperature, 1)
        apart = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
        return torch.lerp(loss, apart * settings.temperature**2, settings.distill)

    def _error(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self._settings.label_smoothing
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
