# SPDX-License-Identifier: Apache-2.0
"""Integer golden model: every bit of docs/spec.md section 4, at the speed of a float network.

Activations and weights are small integers held in floating point, where sums of them are exact:

* An accumulator is a sum of integers whose partial sums, in any order, stay within
  (2^A - 1) * max(number of +1 weights, number of -1 weights). Up to 2^24 float32 is exact, and
  above it float64 is taken. (Direct convolution only adds products. Winograd and FFT algorithms
  would round; PyTorch does not use them on a CPU, so that is where this model runs.)
* Requantization is y = clamp(((acc * M >> S) + res * R + B) >> 8). Floors nest, so that is
  clamp(floor(acc * M / 2^(S+8) + res * R / 2^8 + B / 2^8)). In units of 2^-(S+8) each term is an
  integer: |acc * M| < 2^26 * 2^15, and |res * R + B| * 2^S < (2^24 + 2^23) * 2^28; the sum of all
  is below 2^53, so float64 is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hiddenfold.sw.model import Classifier, Conv, Execution, MaxPool, Model, Unfold
from hiddenfold.verif.golden.compare import Layer

__all__ = ["Golden", "requantize", "unfold"]

FLOAT32_EXACT = 1 << 24
# Elements that are requantized at a time, few enough that they stay in a core's cache.
CHUNK = 1 << 14


class Golden:
    """Golden model of one `Model`, which is validated first.

    Weights and constants are prepared once. It runs on the CPU.
    """

    def __init__(self, model: Model) -> None:
        model.validate()
        self.model = model
        self._executions = model.executions()
        self._dead = _dead_after(self._executions)
        self._weights = {
            stream: torch.from_numpy(model.weights(stream)) for stream in model.weight_shapes()
        }
        self._exact: dict[tuple[int, int], Tensor] = {}
        self._constants = [
            (
                torch.from_numpy(affine.multiplier.astype(np.float64) / 2 ** (affine.shift + 8)),
                torch.from_numpy(affine.bias.astype(np.float64) / 256),
                affine.residual / 256,
            )
            for affine in model.affine
        ]

    def run(self, images: ArrayLike, batch: int = 100) -> NDArray[np.int64]:
        """Logits int64 [N, classes] of images uint8 [N, H, W, 3], `batch` at a time."""
        pixels = self._check(images)
        parts = [self._forward(part) for part in pixels.split(batch)]
        return np.concatenate(parts)

    def trace(self, images: ArrayLike) -> list[Layer]:
        """Output of each execution of each operation, in execution order.

        `values` are uint8 [N, H, W, C] and, in the last layer, the logits int64 [N, classes].
        """
        layers: list[Layer] = []

        def observe(execution: Execution, tensor: Tensor) -> None:
            values = tensor.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
            layers.append(Layer(execution.name, execution.iteration, values))

        logits = self._forward(self._check(images), observe)
        return [*layers, Layer(self._executions[-1].name, 0, logits)]

    def _check(self, images: ArrayLike) -> Tensor:
        array = np.asarray(images)
        expected = (*self.model.image, 3)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != expected:
            raise ValueError(
                f"Images must be uint8 [N, {', '.join(map(str, expected))}], "
                f"not {array.dtype} {list(array.shape)}"
            )
        if not len(array):
            raise ValueError("Images must be at least 1, not 0")
        return torch.from_numpy(np.ascontiguousarray(array))

    def _forward(
        self, pixels: Tensor, observe: Callable[[Execution, Tensor], None] | None = None
    ) -> NDArray[np.int64]:
        image = pixels.to(torch.float32).permute(0, 3, 1, 2)
        tensors = {"image": image}
        with torch.inference_mode():
            for execution, dead in zip(self._executions, self._dead, strict=True):
                op = execution.op
                source = tensors[op.input]
                if isinstance(op, Classifier):
                    return self._classify(op, source)
                if isinstance(op, Unfold):
                    result = unfold(source, op.kernel, op.stride)
                elif isinstance(op, MaxPool):
                    # Padding with 0 and with minus infinity are the same: no activation is below 0.
                    result = F.max_pool2d(source, op.kernel, op.stride, (op.kernel - 1) // 2)
                else:
                    residual = None if op.residual is None else tensors[op.residual]
                    result = self._convolve(execution, source, residual)
                tensors[op.output] = result
                for name in dead:
                    del tensors[name]
                if observe is not None:
                    observe(execution, result)
        raise AssertionError("a valid model ends in a classifier")

    def _convolve(self, execution: Execution, source: Tensor, residual: Tensor | None) -> Tensor:
        op = execution.op
        assert isinstance(op, Conv) and execution.affine is not None
        weight = self._exact_weight(op.stream, execution.in_bits)
        acc = F.conv2d(
            source.to(weight.dtype), weight, stride=op.stride, padding=(op.kernel - 1) // 2
        )
        return requantize(acc, *self._constants[execution.affine], residual, op.bits)

    def _exact_weight(self, stream: int, in_bits: int) -> Tensor:
        """Weights in a type whose sums are exact for these activations."""
        key = stream, in_bits
        if key not in self._exact:
            peak = self.model.accumulator_peak(stream, in_bits)
            dtype = torch.float32 if peak <= FLOAT32_EXACT else torch.float64
            weight = self._weights[stream].to(dtype)
            self._exact[key] = weight.contiguous(memory_format=torch.channels_last)
        return self._exact[key]

    def _classify(self, op: Classifier, source: Tensor) -> NDArray[np.int64]:
        # `Model.validate` bounds logits, and so all sums, by 2^31.
        sums = source.sum((2, 3), dtype=torch.float64)
        weight = self._weights[op.stream].to(torch.float64).flatten(1)
        return (sums @ weight.T).to(torch.int64).numpy()


def unfold(image: Tensor, kernel: int, stride: int) -> Tensor:
    """Windows of an image [N, 3, H, W] as channels (docs/spec.md section 4.1), channels last."""
    height, width = image.shape[2:]
    pad = (kernel - 1) // 2
    padded = F.pad(image, (pad,) * 4).permute(0, 2, 3, 1)
    windows = [
        padded[:, ky : ky + height : stride, kx : kx + width : stride]
        for ky in range(kernel)
        for kx in range(kernel)
    ]
    return torch.cat(windows, dim=3).permute(0, 3, 1, 2)


def requantize(
    acc: Tensor,
    multiplier: Tensor,
    bias: Tensor,
    residual_multiplier: float,
    residual: Tensor | None,
    bits: int,
) -> Tensor:
    """Requantize accumulators [N, C, H, W] to float32 of the same shape.

    `multiplier` is M / 2^(S+8) and `bias` B / 2^8, float64 [C]; `residual_multiplier` is R / 2^8.
    All are exact. The work is done in pieces that fit into the cache.
    """
    acc = acc.contiguous(memory_format=torch.channels_last)
    n, channels, height, width = acc.shape
    result = torch.empty(n, height, width, channels, dtype=torch.float32)
    rows = acc.permute(0, 2, 3, 1).reshape(-1, channels)
    result_rows = result.view(-1, channels)
    if residual is not None:
        residual = residual.permute(0, 2, 3, 1).reshape(-1, channels)
    step = max(1, CHUNK // channels)
    buffer = torch.empty(min(step, len(rows)), channels, dtype=torch.float64)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        v = buffer[: len(rows) - start]
        v.copy_(rows[part])
        torch.addcmul(bias, v, multiplier, out=v)
        if residual is not None:
            v.add_(residual[part], alpha=residual_multiplier)
        v.floor_().clamp_(0, (1 << bits) - 1)
        result_rows[part] = v
    return result.permute(0, 3, 1, 2)


def _dead_after(executions: list[Execution]) -> list[set[str]]:
    """Tensors that no later execution reads, for each execution that last reads or makes them."""
    result: list[set[str]] = []
    alive: set[str] = set()
    for execution in reversed(executions):
        written = set() if execution.writes is None else {execution.writes}
        result.append((execution.reads | written) - alive)
        alive = (alive - written) | execution.reads
    return result[::-1]
