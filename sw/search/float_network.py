# SPDX-License-Identifier: Apache-2.0
"""The trained network in real numbers, rebuilt from a model file and its float constants.

Signs, masks and the graph come from the model (`.hfn`). What the model holds only in quantized
form, the batch norms, lies in a small file beside it: `M.float.npz` for `M.hfn`, written by the
export. For each execution of a convolution it has the constants of

    y = scale[oc] * acc + shift[oc] (+ residual), then relu unless the output is signed

with acc the convolution with weights -1, 0, +1 on real activations, and the image as 0 .. 255.
Where the search was one with quantized activations, y is then rounded and clipped as it was there.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.model import Classifier, Conv, Execution, MaxPool, Model, Unfold
from hiddenfold.sw.search.folder import Pictures
from hiddenfold.sw.search.quantize import Scale

__all__ = [
    "FloatConstants",
    "FloatNetwork",
    "constants_path",
    "float_logits",
    "load_constants",
    "save_constants",
]

# Called with an execution, its normalized accumulators, and its output.
Observer = Callable[[Execution, Tensor, Tensor], None]
# Called with the index of constants and the accumulators they are for, returns those to use.
Chooser = Callable[[int, Tensor], "FloatConstants"]


@dataclass(frozen=True, eq=False)
class FloatConstants:
    """Constants of one execution of a convolution: float32[Cout] each, and whether relu follows.

    `output` is the scale that the search has learned for the output, None for real numbers.
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    relu: bool
    output: Scale | None = None


def constants_path(model_path: str | Path) -> Path:
    """Where the float constants of the model file `model_path` lie."""
    return Path(model_path).with_suffix(".float.npz")


def save_constants(model_path: str | Path, constants: list[FloatConstants]) -> Path:
    """Write the constants beside a model file and return where."""
    path = constants_path(model_path)
    arrays: dict[str, NDArray] = {"relu": np.array([c.relu for c in constants])}
    for index, c in enumerate(constants):
        arrays[f"scale{index}"] = c.scale.astype(np.float32)
        arrays[f"shift{index}"] = c.shift.astype(np.float32)
        if c.output is not None:
            arrays[f"output{index}"] = np.array([c.output.step, c.output.zero])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())
    return path


def load_constants(model_path: str | Path, model: Model) -> list[FloatConstants]:
    """Read the constants beside a model file.

    Raises `ValueError` when the file is missing or does not belong to `model`.
    """
    path = constants_path(model_path)
    if not path.is_file():
        raise ValueError(
            f"{path} not found: it holds the batch norms of {model_path} in floating point, and "
            "only the export writes it; the golden model needs the model file alone"
        )
    widths = [e.out_shape.channels for e in model.executions() if e.affine is not None]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            relu = arrays["relu"]
            result = [
                FloatConstants(
                    _array(arrays, f"scale{i}"),
                    _array(arrays, f"shift{i}"),
                    bool(relu[i]),
                    _scale(arrays[f"output{i}"]) if f"output{i}" in arrays else None,
                )
                for i in range(len(relu))
            ]
    except Exception as error:
        # A damaged archive makes zipfile, zlib and numpy raise a dozen kinds of errors.
        raise ValueError(f"{path} is not a file of float constants: {error!r:.200}") from error
    arrays_found = [array for c in result for array in (c.scale, c.shift)]
    shapes = [array.shape for array in arrays_found]
    if shapes != [(width,) for width in widths for _ in range(2)]:
        raise ValueError(
            f"{path} does not belong to {model_path}: channels must be {widths}, "
            f"not {[list(shape) for shape in shapes[::2]]}"
        )
    if any(array.dtype.kind != "f" for array in arrays_found):
        raise ValueError(f"{path} must hold floating-point numbers, not others")
    return result


def _array(arrays: Any, key: str) -> NDArray:
    """A member of an archive, which numpy gives as bytes when it is none of its files."""
    if not isinstance(arrays[key], np.ndarray):
        raise ValueError(f"{key} is not an array")
    return arrays[key]


def _scale(values: NDArray) -> Scale:
    return Scale(float(values[0]), int(values[1]))


def float_logits(
    model_path: str | Path, model: Model, images: NDArray[np.uint8], batch: int = 250
) -> NDArray[np.float32]:
    """Logits float32 [N, classes] of images uint8 [N, H, W, 3] in the network as it was trained.

    `model` is what `model_path` holds; the constants beside it are needed, see `load_constants`.
    """
    network = FloatNetwork(model, load_constants(model_path, model))
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return network.logits(pixels, batch).numpy()


class FloatNetwork:
    """Runs a model in float32 on images uint8 [N, 3, H, W].

    `model` needs neither affine tables nor quantization; its bits matter only where `constants`,
    one entry per execution of a convolution in execution order, have an output scale.
    """

    def __init__(self, model: Model, constants: list[FloatConstants], device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._executions = model.executions()
        self._weights = {
            stream: self._tensor(model.weights(stream)).contiguous(
                memory_format=torch.channels_last
            )
            for stream in model.weight_shapes()
        }
        self._constants = [
            (
                self._tensor(c.scale)[:, None, None],
                self._tensor(c.shift)[:, None, None],
                c.relu,
                c.output,
            )
            for c in constants
        ]

    def _tensor(self, array: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self._device)

    def logits(self, images: Tensor | Pictures, batch: int = 250) -> Tensor:
        """Logits float32 [N, classes] on the CPU, computed `batch` images at a time."""
        starts = range(0, len(images), batch)
        return torch.cat([self.forward(images[i : i + batch]).cpu() for i in starts])

    @torch.no_grad()
    def forward(
        self, images: Tensor, observe: Observer | None = None, choose: Chooser | None = None
    ) -> Tensor:
        """Logits of one batch; `observe` sees each execution of a convolution.

        `choose` replaces scale and shift of each execution by those it returns.
        """
        image = images.to(self._device).float().contiguous(memory_format=torch.channels_last)
        tensors: dict[str, Tensor] = {}
        unfolding: Unfold | None = None
        for execution in self._executions:
            op = execution.op
            if isinstance(op, Unfold):
                # The convolution that reads the unfolded image runs on the image itself.
                unfolding = op
                tensors[op.output] = image
            elif isinstance(op, Conv):
                weight = self._weights[op.stream]
                kernel, stride = op.kernel, op.stride
                if unfolding is not None and op.input == unfolding.output:
                    kernel, stride = unfolding.kernel, unfolding.stride
                    weight = weight.reshape(len(weight), kernel, kernel, 3).permute(0, 3, 1, 2)
                y = F.conv2d(tensors[op.input], weight, stride=stride, padding=(kernel - 1) // 2)
                assert execution.affine is not None
                scale, shift, relu, output = self._constants[execution.affine]
                if choose is not None:
                    chosen = choose(execution.affine, y)
                    scale = self._tensor(chosen.scale)[:, None, None]
                    shift = self._tensor(chosen.shift)[:, None, None]
                normalized = y.mul_(scale).add_(shift)
                y = normalized if observe is None else normalized.clone()
                if op.residual is not None:
                    y.add_(tensors[op.residual])
                if relu:
                    y.relu_()
                if output is not None:
                    top = (1 << op.bits) - 1
                    y.div_(output.step).add_(output.zero + 0.5).floor_().clamp_(0, top)
                    y.sub_(output.zero).mul_(output.step)
                if observe is not None:
                    observe(execution, normalized, y)
                tensors[op.output] = y
            elif isinstance(op, MaxPool):
                pool = F.max_pool2d(tensors[op.input], op.kernel, op.stride, (op.kernel - 1) // 2)
                tensors[op.output] = pool
            elif isinstance(op, Classifier):
                features = tensors[op.input].sum((2, 3))
                return F.linear(features, self._weights[op.stream].flatten(1))
        raise AssertionError("a legal model ends with a classifier")
