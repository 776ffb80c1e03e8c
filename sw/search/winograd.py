# SPDX-License-Identifier: Apache-2.0
"""3x3 convolutions in float32 on a CPU with a quarter of the multiplications.

Winograd's algorithm F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016): tiles of 4x4 outputs are computed from 6x6 inputs by 36 multiplications per
pair of channels where the direct way needs 144. Images of 2x2 pixels are one tile of F(2x2, 3x3):
16 multiplications instead of 36. It is exact in real numbers; in float32 the result differs from
that of the direct way by about 1e-5 of the largest value.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolve", "pays"]

# By the size of a tile (outputs along each side; its patch of inputs has 2 more), the transforms of
# one side: of the kernel, of the input, and of the products to outputs.
_SIDES = {
    2: (
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    3: (
        (
            (1 / 2, 0, 0),
            (-1 / 2, -1 / 2, -1 / 2),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 6, 1 / 3, 2 / 3),
            (0, 0, 1),
        ),
        (
            (2, -1, -2, 1, 0),
            (0, -2, -1, 1, 0),
            (0, 2, -3, 1, 0),
            (0, -1, 0, 1, 0),
            (0, 2, -1, -2, 1),
        ),
        ((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 1)),
    ),
    4: (
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        (
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        (
            (1, 1, 1, 1, 1, 0),
            (0, 1, -1, 2, -2, 0),
            (0, 1, 1, 4, 4, 0),
            (0, 1, -1, 8, -8, 1),
        ),
    ),
}

# Measured: below this many channels the transforms cost more than the multiplications saved.
_LEAST_CHANNELS = 128


def pays(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether `convolve` is faster than the direct way, for input `x` and kernel `weight`."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or stride != 1 or weight.shape[2] != 3:
        return False
    height, width = x.shape[2:]
    tile = _tile(height, width)
    used = height * width / (_tiles(height, tile) * _tiles(width, tile) * tile**2)
    return used * min(weight.shape[:2]) >= _LEAST_CHANNELS


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of `x` [N, Cin, H, W] by `weight` [Cout, Cin, 3, 3], stride 1, padding 1."""
    result: Tensor = _Convolution.apply(x, weight)
    return result


class _Convolution(torch.autograd.Function):
    """Every tensor is channels last: images [N, H, W, C], tiles [places, N, rows, columns, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        tile = _tile(*x.shape[2:])
        patch = tile + 2
        kernel, inputs, outputs = _transforms(x.dtype, tile)
        out_channels, channels = weight.shape[:2]
        n, _, height, width = x.shape
        rows, columns = _tiles(height, tile), _tiles(width, tile)
        below, right = tile * rows - height + 1, tile * columns - width + 1
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))
        patches = x.new_empty(patch**2, n, rows, columns, channels)
        for place, part in zip(patches, _windows(padded, rows, columns, tile), strict=True):
            place.copy_(part)
        v = (inputs @ patches.view(patch**2, -1)).view(patch**2, -1, channels)
        u = kernel @ weight.permute(2, 3, 0, 1).reshape(9, -1)
        u = u.view(patch**2, out_channels, channels)
        products = torch.bmm(v, u.transpose(1, 2))
        y = (outputs @ products.view(patch**2, -1)).view(tile, tile, n, rows, columns, -1)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(n, tile * rows, tile * columns, -1)
        ctx.save_for_backward(u, v)
        ctx.size = tile, height, width
        y = y[:, :height, :width].permute(0, 3, 1, 2)
        return y.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        u, v = ctx.saved_tensors
        tile, height, width = ctx.size
        patch = tile + 2
        kernel, inputs, outputs = _transforms(u.dtype, tile)
        out_channels, channels = u.shape[1:]
        rows, columns = _tiles(height, tile), _tiles(width, tile)
        grad = grads[0].permute(0, 2, 3, 1)
        n = len(grad)
        grad = F.pad(grad, (0, 0, 0, tile * columns - width, 0, tile * rows - height))
        tiles = grad.reshape(n, rows, tile, columns, tile, -1).permute(2, 4, 0, 1, 3, 5)
        products = (outputs.T @ tiles.reshape(tile**2, -1)).view(patch**2, -1, out_channels)
        weight = kernel.T @ torch.bmm(products.transpose(1, 2), v).view(patch**2, -1)
        weight = weight.view(3, 3, out_channels, channels).permute(2, 3, 0, 1)
        patches = inputs.T @ torch.bmm(products, u).view(patch**2, -1)
        patches = patches.view(patch**2, n, rows, columns, channels)
        padded = u.new_zeros(n, tile * rows + 2, tile * columns + 2, channels)
        for place, part in zip(patches, _windows(padded, rows, columns, tile), strict=True):
            part.add_(place)
        return padded[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2), weight


def _tile(height: int, width: int) -> int:
    """The size with the fewest multiplications; of equals the largest, which has fewer patches."""
    return min(
        (4, 3, 2), key=lambda tile: _tiles(height, tile) * _tiles(width, tile) * (tile + 2) ** 2
    )


def _tiles(size: int, tile: int) -> int:
    return -(-size // tile)


def _windows(padded: Tensor, rows: int, columns: int, tile: int) -> list[Tensor]:
    """Views [N, rows, columns, C] of `padded`: the first pixel of every patch, and so on."""
    last_row, last_column = tile * (rows - 1) + 1, tile * (columns - 1) + 1
    return [
        padded[:, y : y + last_row : tile, x : x + last_column : tile]
        for y in range(tile + 2)
        for x in range(tile + 2)
    ]


@cache
def _transforms(dtype: torch.dtype, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of kernel [P*P, 9], input [P*P, P*P] and output [T*T, P*P], both sides in one; P = T + 2."""
    kernel, inputs, outputs = (torch.tensor(side, dtype=torch.float64) for side in _SIDES[tile])
    one, two, three = (torch.kron(side, side).to(dtype) for side in (kernel, inputs, outputs))
    return one, two, three
