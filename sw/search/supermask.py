# SPDX-License-Identifier: Apache-2.0
"""Edge-popup: weights that never change, scores that decide which of them are used.

The forward pass uses `scale * sign * mask`, where the mask selects the top-k share of the layer's
scores; the backward pass hands the gradient of the weight straight through the selection to the
score (Ramanujan et al., "What's hidden in a randomly weighted neural network?", CVPR 2020).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw import frozen, signs
from hiddenfold.sw.search import kernels, small_maps, winograd
from hiddenfold.sw.search.generators import weight_signs
from hiddenfold.sw.shapes import WeightShape

__all__ = ["MaskedConv2d", "kept_weights", "top_k_mask"]


def _channels_last(tensor: Tensor) -> Tensor:
    """The layout of the convolutions' operands: what has it needs no copy in any step."""
    return tensor.contiguous(memory_format=torch.channels_last)


def kept_weights(count: int, top_k: float) -> int:
    """Number of weights a layer of `count` weights keeps: round(count * top_k), at least 1."""
    return max(1, min(count, round(count * top_k)))


def top_k_mask(importance: Tensor, top_k: float) -> Tensor:
    """Mask (bool, the shape of `importance`) of exactly the `kept_weights` largest values.

    The threshold is found by selection, not by sorting. Among equal values at the threshold the
    first ones in memory order of the contiguous tensor win, so the count is always exact.
    """
    importance = importance.detach()
    keep = kept_weights(importance.numel(), top_k)
    threshold = _threshold(_in_memory_order(importance), keep)
    if importance.device.type != "cpu":
        flat = importance.reshape(-1)
        return _from_threshold(flat, threshold, keep).reshape(importance.shape)
    mask = importance >= threshold
    if surplus := int(mask.count_nonzero()) - keep:
        ties = (importance == threshold).nonzero()
        mask[ties[len(ties) - surplus :].unbind(1)] = False
    return mask


def _in_memory_order(tensor: Tensor) -> Tensor:
    """All values, without copying those of a contiguous or channels-last tensor."""
    if tensor.dim() == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)


def _from_threshold(flat: Tensor, threshold: Tensor, keep: int) -> Tensor:
    """The mask of `top_k_mask`, on a device without a number that the CPU would wait for."""
    above, ties = flat > threshold, flat == threshold
    return above | (ties & (ties.cumsum(0) <= keep - above.sum()))


def _threshold(flat: Tensor, keep: int) -> Tensor:
    """The value of rank `keep` from the top; exact."""
    rank = flat.numel() - keep  # from the bottom
    if flat.device.type == "cpu":
        # NumPy selects with vector instructions: 6 times faster than PyTorch.
        return torch.from_numpy(np.partition(flat.numpy(), rank)[rank : rank + 1])[0]
    return flat.kthvalue(rank + 1).values


def _masked(weights: Tensor, mask: Tensor) -> Tensor:
    """`weights` where `mask` is set, else 0: on their bits, which CPUs do with vectors."""
    bits = {2: torch.int16, 4: torch.int32}[weights.element_size()]
    return mask.to(bits).neg_().bitwise_and_(weights.view(bits)).view(weights.dtype)


class _StraightThrough(torch.autograd.Function):
    """`selected` (weights * mask) forward; the gradient times the weights backward."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, weights: Tensor, selected: Tensor, magnitude: bool
    ) -> Tensor:
        ctx.save_for_backward(scores if magnitude else None, weights)
        return selected

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        scores, weights = ctx.saved_tensors
        (grad,) = grads
        if grad.dtype == torch.bfloat16 and kernels.dense(grad, weights, scores):
            return kernels.score_gradient(grad, weights, scores), None, None, None
        grad = grad.float() * weights
        if scores is not None:
            grad.mul_(scores.sign())
        return grad, None, None, None


class _SoftStraightThrough(torch.autograd.Function):
    """weights * a mixture of clipped scores and mask; backward as in `_StraightThrough`."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        weights: Tensor,
        cast: Tensor,
        mask: Tensor | None,
        softness: float,
    ) -> Tensor:
        ctx.save_for_backward(weights)
        share = scores.clamp(0.0, 1.0)
        if mask is not None:
            share = share.mul_(softness).add_(mask, alpha=1.0 - softness)
        return share.to(cast.dtype).mul_(cast)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weights,) = ctx.saved_tensors
        return grads[0].float() * weights, None, None, None, None


class _Subsample(torch.autograd.Function):
    """Every `stride`-th pixel of images, channels last.

    The library's convolutions by 1x1 with a stride take several times as long as those without.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        return _channels_last(x[:, :, ::stride, ::stride])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        count, channels, height, width = ctx.shape
        whole = grad.new_zeros(count, height, width, channels).permute(0, 3, 1, 2)
        whole[:, :, :: ctx.stride, :: ctx.stride] = grad
        return whole, None


class MaskedConv2d(nn.Module):
    """Convolution with LFSR signs and a learned mask; no bias.

    `scores` (float32 [Cout, Cin, K, K]) is the only parameter. `weights` is a constant of the
    same shape and type: `sign * scale`, with the signed constant scale
    sqrt(2 / (fan_in * top_k)). `magnitude` ranks by |score| (as published), else by the score.

    With `free_eighths` below 8 the mask is partly frozen (docs/spec.md section 2.1): the seed says
    which weights are free, and of those as many are kept as make the layer's share `top_k`. Scores
    of frozen weights say nothing.

    `generator` and `first_weight` are those of `weight_signs`.

    With a `softness` above 0, which the search sets, a weight takes part by a share of 0 to 1: its
    score, clipped, mixed (below softness 1) with the mask. `recentre` keeps scores in that range.

    `chosen`, when it is not None, is a mask from outside, in place of the layer's own selection.

    With `trained` it is an ordinary convolution: the scores are the weights, and none is masked.
    """

    weights: Tensor
    frozen_mask: Tensor | None
    free_places: Tensor | None

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
        free_eighths: int = 8,
        generator: str = "lfsr",
        first_weight: int = 0,
        trained: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel = kernel
        self.stride = stride
        self.padding = (kernel - 1) // 2
        self.stream = stream
        self.top_k = top_k
        self.magnitude = magnitude
        self.trained = trained
        self.scale = math.sqrt(2.0 / (in_channels * kernel * kernel * top_k))
        self.free_eighths = free_eighths
        self.softness = 0.0
        self.chosen: Tensor | None = None
        weights = torch.empty(0)
        if not trained:
            sign = weight_signs(
                generator,
                seed_state,
                stream,
                first_weight,
                (out_channels, in_channels, kernel),
                frozen.word_stride(free_eighths),
            )
            weights = _channels_last(torch.from_numpy(sign).float() * self.scale)
        self.register_buffer("weights", weights, persistent=False)
        # `weights` in another type, and which they were: they are constants.
        self._cast, self._cast_from = weights, weights
        mask, places = self._frozen(seed_state)
        self.register_buffer("frozen_mask", mask, persistent=False)
        self.register_buffer("free_places", places, persistent=False)
        # What the free weights keep, so that the whole layer keeps `top_k`.
        self.free_share = top_k
        if mask is not None and places is not None:
            kept = kept_weights(mask.numel(), top_k) - int(mask.sum())
            self.free_share = kept / len(places)
        shape = (out_channels, in_channels, kernel, kernel)
        self.scores = nn.Parameter(_channels_last(torch.empty(shape)))
        self.reset_scores()

    def _frozen(self, seed_state: int) -> tuple[Tensor | None, Tensor | None]:
        """Frozen weights that are kept, bool [Cout, Cin, K, K], and flat places of free ones."""
        if self.free_eighths == 8:
            return None, None
        shape = WeightShape(self.out_channels, self.in_channels, self.kernel)
        made = frozen.pattern(seed_state, self.stream, shape, self.free_eighths)
        kept, free = (
            signs.unpack(words.reshape(self.out_channels, -1), self.in_channels, self.kernel)
            for words in (made.kept, made.free)
        )
        return torch.from_numpy(kept), torch.from_numpy(np.flatnonzero(free))

    def reset_scores(self) -> None:
        """Draw new scores, Kaiming-uniform, from the global generator; weights are normal."""
        # In the order of a contiguous tensor, whatever the memory of the scores.
        drawn = torch.empty(self.scores.shape, device=self.scores.device)
        if self.trained:
            nn.init.kaiming_normal_(drawn, nonlinearity="relu")
        else:
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5.0))
        self.scores.data.copy_(drawn)

    @torch.no_grad()
    def start_soft(self) -> None:
        """Draw new scores for soft masks, uniform in 0 .. 1, from the global generator."""
        self.scores.copy_(torch.rand(self.scores.shape, device=self.scores.device))

    @torch.no_grad()
    def recentre(self) -> None:
        """Move all scores so that the share `top_k` is at 1/2 or above; clip them to 0 .. 1."""
        flat = _in_memory_order(self.scores)
        threshold = _threshold(flat, kept_weights(flat.numel(), self.top_k))
        self.scores.add_(0.5 - threshold).clamp_(0.0, 1.0)

    def importance(self) -> Tensor:
        """What weights are ranked by, of the shape of the scores."""
        return self.scores.abs() if self.magnitude else self.scores

    def mask(self) -> Tensor:
        """The current mask, bool [Cout, Cin, K, K]."""
        if self.chosen is not None:
            return self.chosen
        with torch.no_grad():
            importance = self.importance()
            if self.frozen_mask is None or self.free_places is None:
                return top_k_mask(importance, self.top_k)
            mask = self.frozen_mask.clone()
            chosen = importance.reshape(-1)[self.free_places]
            mask.view(-1)[self.free_places] = top_k_mask(chosen, self.free_share)
            return mask

    def _weights(self, dtype: torch.dtype) -> Tensor:
        """`weights` in a type, kept from one step to the next."""
        if self._cast.dtype != dtype or self._cast_from is not self.weights:
            self._cast, self._cast_from = self.weights.to(dtype), self.weights
        return self._cast

    @torch.no_grad()
    def _selected(self, dtype: torch.dtype) -> Tensor:
        """`weights` where the mask is set, else 0."""
        weights = self._weights(dtype)
        whole = self.chosen is None and self.frozen_mask is None
        if whole and dtype == torch.bfloat16 and kernels.dense(weights, self.scores):
            keep = kept_weights(weights.numel(), self.top_k)
            threshold = kernels.threshold(self.scores, keep, self.magnitude)
            selected, kept = kernels.select(self.scores, weights, threshold, self.magnitude)
            # More are kept if some scores are equal.
            if kept == keep:
                return selected
        return _masked(weights, self.mask())

    def effective_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """`scale * sign * mask`, differentiable towards the scores, or the trained weights."""
        if self.trained:
            weight = self.scores.to(dtype)
        elif self.softness > 0.0:
            mask = self.mask() if self.softness < 1.0 else None
            weight = _SoftStraightThrough.apply(
                self.scores, self.weights, self._weights(dtype), mask, self.softness
            )
        else:
            weight = _StraightThrough.apply(
                self.scores, self.weights, self._selected(dtype), self.magnitude
            )
        return weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Convolve `x`; `weight` (from `effective_weight`) saves selecting the mask again."""
        if weight is None:
            weight = self.effective_weight(x.dtype)
        if self.padding == 1 and winograd.pays(x, weight, self.stride):
            return winograd.convolve(x, weight)
        if self.padding == 1 and small_maps.pays(x, weight, self.stride):
            return small_maps.convolve(x, weight, self.stride)
        if self.kernel == 1 and self.stride > 1 and x.dtype == torch.bfloat16:
            return F.conv2d(_Subsample.apply(x, self.stride), weight)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)
