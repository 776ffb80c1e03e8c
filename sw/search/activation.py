# SPDX-License-Identifier: Apache-2.0
"""Activations with the values that the exported integer network gives them.

A quantized tensor holds `step * (q - zero)` with q in 0 .. 2**bits - 1, rounded half up and clipped
as docs/spec.md section 4.3 says. The step of every tensor, and with it the value at which it is
clipped, is learned together with the scores: gradients go straight through the rounding, and a
step's gradient is that of LSQ (Esser et al., "Learned step size quantization", ICLR 2020).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw.search.quantize import FRACTION, MAX_RESIDUAL, Scale, choose_scale

__all__ = ["Activation", "Quantizer", "activation", "calibrate"]

# Values that a step is chosen from when quantization starts.
_SAMPLES = 1 << 15


class Activation(nn.Module):
    """A relu, or with `signed` nothing, in real numbers."""

    def __init__(self, signed: bool = False) -> None:
        super().__init__()
        self.signed = signed

    def forward(self, x: Tensor, added: Activation | None = None) -> Tensor:
        """`x` is overwritten. `added` made the tensor that was added to it."""
        return x if self.signed else F.relu(x, inplace=True)

    @property
    def scale(self) -> Scale | None:
        """The scale of the output as of the last forward pass; None for real numbers."""
        return None


class Quantizer(Activation):
    """An activation of `bits` bits, in real numbers until `calibrate` has given it a step.

    `signed` tensors have a zero point, which is fixed from then on.
    """

    def __init__(self, bits: int, signed: bool = False) -> None:
        super().__init__(signed)
        self.top = (1 << bits) - 1
        self.bits = bits
        # Its logarithm makes the step positive, and a learning rate relative.
        self.log_step = nn.Parameter(torch.zeros(()))
        self.zero = 0
        self.ready = False
        self.calibrating = False
        self._current = torch.zeros(())

    def forward(self, x: Tensor, added: Activation | None = None) -> Tensor:
        """Round and clip `x`.

        With an `added` tensor the step is one that makes the integer network's residual multiplier
        exact (the nearest such to the learned one).
        """
        if self.calibrating and not self.ready:
            self._choose(x)
        if not self.ready:
            return super().forward(x)
        step = self.log_step.exp()
        if isinstance(added, Quantizer):
            whole = FRACTION * added._current
            exact = whole / (whole / step.detach()).round().clamp(1, MAX_RESIDUAL)
            step = step + (exact - step.detach())
        self._current = step.detach()
        return _Quantize.apply(x, step, self.zero, self.top)

    @property
    def scale(self) -> Scale | None:
        """The scale of the output as of the last forward pass; None before calibration."""
        return Scale(float(self._current), self.zero) if self.ready else None

    @torch.no_grad()
    def _choose(self, x: Tensor) -> None:
        """Start with the step that has the least mean square error on `x`."""
        flat = x.detach().float().flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLES)].cpu().numpy()
        scale = choose_scale(sample, self.bits, self.signed)
        self.log_step.fill_(scale.step).log_()
        self.zero, self.ready = scale.zero, True

    def get_extra_state(self) -> dict[str, Any]:
        """What is not a tensor of the state."""
        return {"zero": self.zero, "ready": self.ready}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_extra_state`."""
        self.zero, self.ready = state["zero"], state["ready"]


class _Quantize(torch.autograd.Function):
    """step * (clip(floor(x / step + zero + 1/2)) - zero)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: int, top: int) -> Tensor:
        steps = x.float() / step
        ctx.save_for_backward(steps)
        ctx.zero, ctx.top, ctx.dtype = zero, top, x.dtype
        return _codes(steps, zero, top).mul_(step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (steps,) = ctx.saved_tensors
        grad = grads[0].float()
        inside = (steps > -ctx.zero) & (steps < ctx.top - ctx.zero)
        # d output / d step: what rounding adds inside the range, the end of the range outside.
        slope = _codes(steps, ctx.zero, ctx.top).sub_(steps * inside)
        # By the values of one image, so that the part of a batch makes no difference.
        share = (steps[0].numel() * ctx.top) ** -0.5
        return (grad * inside).to(ctx.dtype), slope.mul_(grad).sum() * share, None, None


def _codes(steps: Tensor, zero: int, top: int) -> Tensor:
    """Integers q - zero of values given in steps."""
    return steps.add(zero + 0.5).floor_().clamp_(0, top).sub_(zero)


def activation(bits: int, signed: bool = False) -> Activation:
    """An activation of `bits` bits; 0 stands for real numbers."""
    return Quantizer(bits, signed) if bits else Activation(signed)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> list[str]:
    """Choose the first steps of the quantizers that have none, one after the other, on `images`.

    Returns their names.
    """
    modules = model.named_modules()
    waiting = {name: m for name, m in modules if isinstance(m, Quantizer) and not m.ready}
    if not waiting:
        return []
    was_training = model.training
    model.train()
    for quantizer in waiting.values():
        quantizer.calibrating = True
    model(images)
    for quantizer in waiting.values():
        quantizer.calibrating = False
    model.train(was_training)
    return list(waiting)
