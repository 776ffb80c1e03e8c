# SPDX-License-Identifier: Apache-2.0
"""Edge-popup: weights that never change, scores that decide which of them are used.

The forward pass uses `scale * sign * mask`, where the mask selects the top-k share of the layer's
scores; the backward pass hands the gradient of the weight straight through the selection to the
score (Ramanujan et al., "What's hidden in a randomly weighted neural network?", CVPR 2020).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw import signs

__all__ = ["MaskedConv2d", "kept_weights", "top_k_mask"]


def kept_weights(count: int, top_k: float) -> int:
    """Number of weights a layer of `count` weights keeps: round(count * top_k), at least 1."""
    return max(1, min(count, round(count * top_k)))


def top_k_mask(importance: Tensor, top_k: float) -> Tensor:
    """Mask (bool, the shape of `importance`) of exactly the `kept_weights` largest values.

    The threshold is found by selection, not by sorting. Among equal values at the threshold the
    first ones in memory order of the contiguous tensor win, so the count is always exact.
    """
    flat = importance.detach().reshape(-1)
    keep = kept_weights(flat.numel(), top_k)
    threshold = torch.kthvalue(flat, flat.numel() - keep + 1).values
    mask = flat >= threshold
    surplus = int(mask.sum()) - keep
    if surplus:
        ties = (flat == threshold).nonzero().reshape(-1)
        mask[ties[len(ties) - surplus :]] = False
    return mask.reshape(importance.shape)


class _StraightThrough(torch.autograd.Function):
    """weights * mask(scores) forward; the gradient times the weights backward."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weights: Tensor, top_k: float, magnitude: bool) -> Tensor:
        mask = top_k_mask(scores.abs() if magnitude else scores, top_k)
        ctx.save_for_backward(scores if magnitude else scores.new_empty(0), weights)
        ctx.magnitude = magnitude
        return weights * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        scores, weights = ctx.saved_tensors
        grad = grads[0].float() * weights.float()
        if ctx.magnitude:
            grad = grad * scores.sign()
        return grad, None, None, None


class MaskedConv2d(nn.Module):
    """Convolution with LFSR signs and a learned mask; no bias.

    `scores` (float32 [Cout, Cin, K, K]) is the only parameter. `weights` is a constant of the
    same shape and of the computing type: `sign * scale`, with the signed constant scale
    sqrt(2 / (fan_in * top_k)). `magnitude` ranks by |score| (as published), else by the score.
    """

    weights: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        *,
        seed_state: int,
        stream: int,
        top_k: float,
        magnitude: bool = True,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel = kernel
        self.stride = stride
        self.padding = (kernel - 1) // 2 if padding is None else padding
        self.stream = stream
        self.top_k = top_k
        self.magnitude = magnitude
        self.scale = math.sqrt(2.0 / (in_channels * kernel * kernel * top_k))
        self.register_buffer("weights", self._constant_weights(seed_state), persistent=False)
        self.scores = nn.Parameter(torch.empty(self.weights.shape))
        self.reset_scores()

    def _constant_weights(self, seed_state: int) -> Tensor:
        sign = signs.sign_tensor(
            seed_state, self.stream, self.out_channels, self.in_channels, self.kernel
        )
        return torch.from_numpy(sign).float() * self.scale

    def reset_scores(self) -> None:
        """Draw new scores, Kaiming-uniform, from the global generator."""
        nn.init.kaiming_uniform_(self.scores, a=math.sqrt(5.0))

    def mask(self) -> Tensor:
        """The current mask, bool [Cout, Cin, K, K]."""
        with torch.no_grad():
            importance = self.scores.abs() if self.magnitude else self.scores
            return top_k_mask(importance, self.top_k)

    def effective_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """`scale * sign * mask`, differentiable towards the scores."""
        weight = _StraightThrough.apply(
            self.scores, self.weights.to(dtype), self.top_k, self.magnitude
        )
        return weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Convolve `x`; `weight` (from `effective_weight`) saves selecting the mask again."""
        if weight is None:
            weight = self.effective_weight(x.dtype)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)
