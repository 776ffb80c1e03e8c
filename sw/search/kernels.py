# SPDX-License-Identifier: Apache-2.0
"""A step's passes over memory in bfloat16 on a CPU, compiled from kernels.cpp when first used.

Next to fast convolutions, PyTorch's batch norms, activations and what is done with scores take most
of the time: each operation reads and writes all of its tensors. Here a batch norm, the addition of
a residual and the relu are one operation, which goes through memory twice in each direction.
Without a C++ compiler the search runs without; it says nothing, and is slower.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hiddenfold.gen.tools import ToolError, find_compiler, run_tool
from hiddenfold.sw.driver.cache import cached, digest
from hiddenfold.sw.driver.simulator import processor

__all__ = ["dense", "library", "normalize", "normalizes", "score_gradient", "select", "threshold"]

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions of kernels.cpp; None where they cannot be made."""
    if platform.system() != "Linux":
        return None
    try:
        compiler = find_compiler()
        text = _SOURCE.read_text(encoding="utf-8")
        key = digest(text, repr(_FLAGS), f"{compiler.path} {compiler.version}", processor())

        def make(folder: Path) -> None:
            run_tool([compiler.path, *_FLAGS, str(_SOURCE), "-o", str(folder / "kernels.so")])

        found = ctypes.CDLL(str(cached(f"kernels-{key}", make) / "kernels.so"))
    except (ToolError, OSError):
        return None
    found.hf_select.restype = ctypes.c_long
    found.hf_threshold.restype = ctypes.c_float
    return found


def dense(*tensors: Tensor | None) -> bool:
    """Whether functions can walk through these (None aside): channels last, on the CPU."""
    return library() is not None and all(
        t.device.type == "cpu" and t.is_contiguous(memory_format=torch.channels_last)
        for t in tensors
        if t is not None
    )


def normalizes(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether `normalize` can take the place of `norm` for images `x`: in training, in bfloat16."""
    plain = type(norm) is nn.BatchNorm2d and norm.training and norm.momentum is not None
    wanted = plain and x.dtype == torch.bfloat16 and torch.is_grad_enabled()
    return wanted and dense(x)


def normalize(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """`norm` of `x` [N, C, H, W], plus `residual` of the same shape, at least 0 with `relu`.

    The running statistics of `norm` are brought up to date.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    result = _Normalize.apply(x, norm.weight, norm.bias, residual, relu, norm.eps)
    y, mean, variance = result
    count = x.numel() // x.shape[1]
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    return y


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor | None,
        shift: Tensor | None,
        residual: Tensor | None,
        relu: bool,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        mean, variance, inverse = torch.empty(3, x.shape[1]).unbind()
        _call(
            "hf_norm_forward",
            *(x, residual, y, *_size(x), gain, shift, ctypes.c_double(eps), int(relu)),
            *(mean, variance, inverse),
        )
        added = residual is not None
        ctx.save_for_backward(x, y if added else None, gain, shift, mean, inverse)
        ctx.relu = relu
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gain, shift, mean, inverse = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        grad_x = torch.empty_like(x)
        grad_residual = None if y is None else torch.empty_like(x)
        grad_gain, grad_shift = torch.empty(2, x.shape[1]).unbind()
        _call(
            "hf_norm_backward",
            *(grad, x, y, grad_x, grad_residual, *_size(x), gain, shift, int(ctx.relu)),
            *(mean, inverse, grad_gain, grad_shift),
        )
        learned = gain is not None
        return (
            grad_x,
            grad_gain if learned else None,
            grad_shift if learned else None,
            grad_residual,
            None,
            None,
        )


def threshold(scores: Tensor, rank: int, magnitude: bool) -> float:
    """The score, or with `magnitude` its size, of rank `rank` (1 is the first) from the top."""
    return _call("hf_threshold", scores, _count(scores), ctypes.c_long(rank), int(magnitude))


def select(
    scores: Tensor, weights: Tensor, threshold: float, magnitude: bool
) -> tuple[Tensor, int]:
    """`weights` (bfloat16) whose score, or its `magnitude`, is at least `threshold`, else 0.

    Both have the same shape and memory. Also how many are kept.
    """
    out = torch.empty_like(weights)
    limit = ctypes.c_float(threshold)
    kept = _call("hf_select", scores, weights, out, _count(scores), limit, int(magnitude))
    return out, kept


def score_gradient(grad: Tensor, weights: Tensor, scores: Tensor | None) -> Tensor:
    """float32 gradient of scores from the bfloat16 one of the `weights` they select.

    `weights` and `scores`, which are given where their magnitude selects, are float32.
    """
    out = torch.empty_like(weights)
    _call("hf_score_gradient", grad, weights, scores, out, _count(out))
    return out


def _call(name: str, *arguments: Any) -> Any:
    """Call a function of the library; tensors are passed as their addresses, None as null."""
    converted = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
    return getattr(library(), name)(*converted, torch.get_num_threads())


def _size(x: Tensor) -> tuple[ctypes.c_long, ctypes.c_long]:
    """Rows (pixels of all images) and channels."""
    return ctypes.c_long(x.numel() // x.shape[1]), ctypes.c_long(x.shape[1])


def _count(tensor: Tensor) -> ctypes.c_long:
    return ctypes.c_long(tensor.numel())
