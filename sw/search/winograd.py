# SPDX-License-Identifier: Apache-2.0
"""3x3 convolutions in float32 on a CPU with a quarter of the multiplications.

Winograd's algorithm F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016): tiles of 4x4 outputs are computed from 6x6 inputs by 36 multiplications per
pair of channels where the direct way needs 144. It is exact in real numbers; in float32 the result
differs from that of the direct way by about 1e-5 of the largest value.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolve", "pays"]

TILE = 4  # outputs, along each side
PATCH = TILE + 2  # inputs

# Transforms of one side: of the kernel, of the input, and of the products to outputs.
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)

# Measured: below this many channels the transforms cost more than the multiplications saved.
_LEAST_CHANNELS = 128


def pays(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether `convolve` is faster than the direct way, for input `x` and kernel `weight`."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or stride != 1 or weight.shape[2] != 3:
        return False
    height, width = x.shape[2:]
    used = height * width / (_tiles(height) * _tiles(width) * TILE**2)
    return used * min(weight.shape[:2]) >= _LEAST_CHANNELS


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of `x` [N, Cin, H, W] by `weight` [Cout, Cin, 3, 3], stride 1, padding 1."""
    result: Tensor = _Convolution.apply(x, weight)
    return result


class _Convolution(torch.autograd.Function):
    """Every tensor is channels last: images [N, H, W, C], tiles [places, N, rows, columns, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        kernel, inputs, outputs = _transforms(x.dtype)
        out_channels, channels = weight.shape[:2]
        n, _, height, width = x.shape
        rows, columns = _tiles(height), _tiles(width)
        below, right = TILE * rows - height + 1, TILE * columns - width + 1
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))
        patches = x.new_empty(PATCH**2, n, rows, columns, channels)
        for place, part in zip(patches, _windows(padded, rows, columns), strict=True):
            place.copy_(part)
        v = (inputs @ patches.view(PATCH**2, -1)).view(PATCH**2, -1, channels)
        u = kernel @ weight.permute(2, 3, 0, 1).reshape(9, -1)
        u = u.view(PATCH**2, out_channels, channels)
        products = torch.bmm(v, u.transpose(1, 2))
        y = (outputs @ products.view(PATCH**2, -1)).view(TILE, TILE, n, rows, columns, -1)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(n, TILE * rows, TILE * columns, -1)
        ctx.save_for_backward(u, v)
        ctx.size = height, width
        y = y[:, :height, :width].permute(0, 3, 1, 2)
        return y.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        u, v = ctx.saved_tensors
        kernel, inputs, outputs = _transforms(u.dtype)
        out_channels, channels = u.shape[1:]
        height, width = ctx.size
        rows, columns = _tiles(height), _tiles(width)
        grad = grads[0].permute(0, 2, 3, 1)
        n = len(grad)
        grad = F.pad(grad, (0, 0, 0, TILE * columns - width, 0, TILE * rows - height))
        tiles = grad.reshape(n, rows, TILE, columns, TILE, -1).permute(2, 4, 0, 1, 3, 5)
        products = (outputs.T @ tiles.reshape(TILE**2, -1)).view(PATCH**2, -1, out_channels)
        weight = kernel.T @ torch.bmm(products.transpose(1, 2), v).view(PATCH**2, -1)
        weight = weight.view(3, 3, out_channels, channels).permute(2, 3, 0, 1)
        patches = inputs.T @ torch.bmm(products, u).view(PATCH**2, -1)
        patches = patches.view(PATCH**2, n, rows, columns, channels)
        padded = u.new_zeros(n, TILE * rows + 2, TILE * columns + 2, channels)
        for place, part in zip(patches, _windows(padded, rows, columns), strict=True):
            part.add_(place)
        return padded[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2), weight


def _tiles(size: int) -> int:
    return -(-size // TILE)


def _windows(padded: Tensor, rows: int, columns: int) -> list[Tensor]:
    """Views [N, rows, columns, C] of `padded`: the first pixel of every patch, and so on."""
    return [
        padded[:, y : y + TILE * rows - 3 : TILE, x : x + TILE * columns - 3 : TILE]
        for y in range(PATCH)
        for x in range(PATCH)
    ]


@cache
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of kernel [36, 9], input [36, 36] and output [16, 36], both sides in one."""
    kernel, inputs, outputs = (
        torch.tensor(side, dtype=torch.float64) for side in (_KERNEL, _INPUT, _OUTPUT)
    )
    one, two, three = (torch.kron(side, side).to(dtype) for side in (kernel, inputs, outputs))
    return one, two, three
