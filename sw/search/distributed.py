# SPDX-License-Identifier: Apache-2.0
"""One search in several processes, started by `torchrun`, each with a part of every batch.

Every process draws the same random numbers for the whole batch and keeps its own part of the
images; batch norms use the statistics of the whole batch, and gradients are averaged. So the result
is that of one process with the same batch, but for the order of floating-point sums.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["ALONE", "Ranks", "finish", "start", "synchronize"]


@dataclass(frozen=True)
class Ranks:
    """Number `rank` of `count` processes."""

    rank: int = 0
    count: int = 1

    def part(self, batch: int) -> slice:
        """This process's part of a batch."""
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values, in each of them."""
        if self.count == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.count

    def agreed(self, answer: bool, device: torch.device) -> bool:
        """Whether any process says so."""
        if self.count == 1:
            return answer
        return bool(self.mean(torch.tensor(float(answer), device=device)) > 0.0)

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Make every gradient the mean of all processes' gradients."""
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.count > 1 and grads:
            mean = self.mean(torch.cat([grad.flatten() for grad in grads]))
            for grad, part in zip(grads, mean.split([g.numel() for g in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            dist.barrier()


ALONE = Ranks()


def start(device: str) -> tuple[Ranks, str]:
    """Join the other processes, if `torchrun` started this one; also the device to use."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device must be 'cpu', for PyTorch finds no GPU here, not {device!r}")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE, device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Ranks(dist.get_rank(), count), device


def finish() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def synchronize(model: nn.Module) -> None:
    """Give every batch norm of `model` the statistics of all processes' images."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _SyncedBatchNorm


class _SyncedBatchNorm(nn.BatchNorm2d):
    """A batch norm whose statistics are those of all processes together.

    Only where gradients are computed: what is measured without them, all processes measure on the
    same images. (PyTorch's `SyncBatchNorm` runs on GPUs only.)
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        count = dist.get_world_size()
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        # In float64: the difference of two squares would lose the variance.
        moments = torch.stack([mean, variance]).double()
        moments = torch.stack([moments[0], moments[1] + moments[0].square()])
        first, second = _Sum.apply(moments) / count
        mean, variance = first.float(), (second - first.square()).float()
        with torch.no_grad():
            values = count * x.numel() // x.shape[1]
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (values / (values - 1)), self.momentum)
        # As in evaluation, but with statistics that have a gradient.
        gain = (variance + self.eps).rsqrt()
        shift = -mean * gain
        if self.affine:
            gain, shift = gain * self.weight, shift * self.weight + self.bias
        y = torch.addcmul(shift[:, None, None], x.float(), gain[:, None, None])
        return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad
