# SPDX-License-Identifier: Apache-2.0
"""3x3 convolutions in bfloat16 of small maps on a CPU, with many images side by side.

The library's kernels work on rows of pixels, and take most of a training step's time where rows are
short. So images are laid next to each other, with columns of zeros between that are the padding of
both neighbours: a few images, as high as before and very wide.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolve", "pays"]

# Measured with AMX: the largest map (of outputs) that gains, and the number of wide images that a
# batch becomes.
_LARGEST_MAP = 64
_GROUPS = 8


def pays(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether `convolve` is faster than the library for these operands."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and weight.requires_grad
        and weight.shape[2:] == (3, 3)
        and x.shape[2] * x.shape[3] <= _LARGEST_MAP * stride**2
    )


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """`x` [N, Cin, H, W] by `weight` [Cout, Cin, 3, 3], padded by 1, in channels-last memory."""
    return _Convolution.apply(x, weight, stride)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        count, _, _, width = x.shape
        # Columns from one image to the next, of outputs and of inputs.
        ctx.pitch = width // stride + 1
        ctx.stride, ctx.width = stride, width
        wide = _wide(x, ctx.pitch * stride)
        ctx.save_for_backward(wide, weight)
        y = F.conv2d(wide, weight, stride=stride, padding=1)
        return _narrow(y, count, ctx.pitch, -(-width // stride))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        wide, weight = ctx.saved_tensors
        stride = [ctx.stride] * 2
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            _wide(grads[0], ctx.pitch),
            wide,
            weight,
            None,
            stride,
            [1, 1],
            [1, 1],
            False,
            [0, 0],
            1,
            [*ctx.needs_input_grad[:2], False],
        )
        if grad_x is not None:
            grad_x = _narrow(grad_x, len(grads[0]), ctx.pitch * ctx.stride, ctx.width)
        return grad_x, grad_weight, None


def _wide(x: Tensor, pitch: int) -> Tensor:
    """Images [N, C, H, W] side by side, one every `pitch` columns: [groups, C, H, columns]."""
    count, channels, height, width = x.shape
    groups = math.gcd(count, _GROUPS)
    wide = x.new_empty(groups, height, count // groups, pitch, channels)
    wide[:, :, :, width:].zero_()
    images = x.permute(0, 2, 3, 1).unflatten(0, (groups, -1))
    wide[:, :, :, :width] = images.transpose(1, 2)
    return wide.flatten(2, 3).permute(0, 3, 1, 2)


def _narrow(wide: Tensor, count: int, pitch: int, width: int) -> Tensor:
    """The `count` images of `wide`, [N, C, H, width]."""
    rows = wide.permute(0, 2, 3, 1).unflatten(2, (-1, pitch))[:, :, :, :width]
    return rows.transpose(1, 2).reshape(count, *rows.shape[1:2], width, -1).permute(0, 3, 1, 2)
