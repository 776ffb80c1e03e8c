# SPDX-License-Identifier: Apache-2.0
"""3x3 convolutions in bfloat16 of small maps on a CPU, as products of matrices.

The library's own kernels take most of a training step's time there. The gradient of the weights
is a product of [Cout, pixels] and [pixels, 9 Cin]; here it is made for as many pixels at a time as
keep both factors in the processor's cache, and the parts are added up in float32. With weights that
do not fit into the cache the other two directions gain as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

__all__ = ["convolve", "pays"]

# Measured with AMX: pixels of a part; the largest map (of outputs) that gains; and for the other
# directions the largest map, and the least number of weights.
_PIXELS = 1024
_LARGEST_MAP = 64
_LARGEST_TINY_MAP = 16
_LARGE_WEIGHT = 9 * 256 * 512


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
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        if _multiplies(x, weight, stride):
            return _product(x, weight.permute(2, 3, 1, 0), stride)
        return F.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            if ctx.stride == 1 and _multiplies(x, weight, 1):
                grad_x = _product(grad, weight.flip(2, 3).permute(2, 3, 0, 1), 1)
            else:
                grad_x = conv2d_input(x.shape, weight, grad, ctx.stride, 1)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, grad, ctx.stride)
        return grad_x, grad_weight, None


def _multiplies(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the other directions are products of matrices too."""
    tiny = x.shape[2] * x.shape[3] <= _LARGEST_TINY_MAP * stride**2
    return tiny and weight.numel() >= _LARGE_WEIGHT


def _product(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """The convolution of `x` by `kernel` [3, 3, Cin, Cout]."""
    patches = _patches(x, stride)
    count, height, width = patches.shape[:3]
    flat = patches.reshape(count * height * width, -1) @ kernel.reshape(-1, kernel.shape[3])
    return flat.reshape(count, height, width, -1).permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, grad: Tensor, stride: int) -> Tensor:
    """Gradient of the weights, float32 [Cout, Cin, 3, 3]."""
    count, cout, height, width = grad.shape
    cin = x.shape[1]
    patches = _patches(x, stride)
    pixels = grad.permute(0, 2, 3, 1).reshape(count, height * width, cout)
    total = grad.new_zeros((cout, 9 * cin), dtype=torch.float32)
    step = max(1, _PIXELS // (height * width))
    for first in range(0, count, step):
        part = slice(first, first + step)
        total += pixels[part].flatten(0, 1).t() @ patches[part].reshape(-1, 9 * cin)
    return total.reshape(cout, 3, 3, cin).permute(0, 3, 1, 2)


def _patches(x: Tensor, stride: int) -> Tensor:
    """The inputs of every output, [N, height, width, 3, 3, Cin]: a view of the padded `x`."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    view = padded.unfold(1, 3, stride).unfold(2, 3, stride)
    return view.permute(0, 1, 2, 4, 5, 3)
