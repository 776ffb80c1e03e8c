# SPDX-License-Identifier: Apache-2.0
"""The optimizer of scores and batch norms, and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from hiddenfold.sw.search.activation import Quantizer
from hiddenfold.sw.search.settings import TrainConfig
from hiddenfold.sw.search.supermask import MaskedConv2d

__all__ = ["learning_rate_factor", "make_optimizer", "set_rate"]


def learning_rate_factor(config: TrainConfig, progress: float) -> float:
    """Factor on the learning rate after `progress` epochs: linear warm-up, then a cosine to 0."""
    if progress < config.warmup:
        return progress / config.warmup
    span = max(config.epochs - config.warmup, 1e-9)
    return 0.5 + 0.5 * math.cos(math.pi * min((progress - config.warmup) / span, 1.0))


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """One group per layer's scores, one for batch norms, one for quantizers' steps.

    "base" is the peak rate.
    """
    scores = [m.scores for m in model.modules() if isinstance(m, MaskedConv2d)]
    steps = [m.log_step for m in model.modules() if isinstance(m, Quantizer)]
    norms = [p for name, p in model.named_parameters() if not name.endswith(("scores", "log_step"))]
    adam = settings.optimizer == "adam"
    groups: list[dict[str, Any]] = []
    for tensor in scores:
        unit = float(tensor.detach().abs().mean()) if adam else 1.0
        groups.append(
            {
                "params": [tensor],
                "base": settings.lr * unit,
                "weight_decay": settings.weight_decay,
            }
        )
    if norms:
        decay = settings.weight_decay if settings.decay_norms else 0.0
        groups.append({"params": norms, "base": settings.norm_lr, "weight_decay": decay})
    if steps:
        groups.append({"params": steps, "base": settings.norm_lr, "weight_decay": 0.0})
    if adam:
        return torch.optim.Adam(groups, lr=0.0, betas=(settings.momentum, 0.99), fused=True)
    nesterov = settings.nesterov and settings.momentum > 0.0
    return torch.optim.SGD(
        groups, lr=0.0, momentum=settings.momentum, nesterov=nesterov, fused=True
    )


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set all groups to `factor` of their peak rate; returns the rate of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * factor
    return float(optimizer.param_groups[0]["lr"])
