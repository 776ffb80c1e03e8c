# SPDX-License-Identifier: Apache-2.0
"""A network as the reference implementation of Hidden-Fold Networks has it: names and arithmetic.

Written from its description, to make checkpoints of its format: masks of the largest |score|,
weights of one magnitude, batch norms without scale and shift but in recurrent blocks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw.search.settings import ModelConfig, StageConfig

__all__ = ["ReferenceNetwork"]


class SubnetConv(nn.Conv2d):
    """Keeps the weights whose |score| is not among the floor((1 - top_k) n) smallest of n."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, top_k: float):
        super().__init__(cin, cout, kernel, stride, kernel // 2, bias=False)
        self.top_k = top_k
        self.scores = nn.Parameter(torch.randn_like(self.weight))
        magnitude = math.sqrt(2.0 / (cin * kernel**2 * top_k))
        self.weight = nn.Parameter(self.weight.detach().sign() * magnitude, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the masked weights."""
        order = self.scores.abs().flatten().argsort()
        mask = torch.ones(len(order))
        mask[order[: int((1 - self.top_k) * len(order))]] = 0.0
        weight = self.weight * mask.reshape(self.weight.shape)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class ReferenceBlock(nn.Module):
    """A residual block; `iterations` above 0 make it a recurrent one."""

    def __init__(self, stage: StageConfig, cin: int, stride: int, top_k: float, iterations: int):
        super().__init__()
        self.iterations = iterations
        self.shortcut = nn.Sequential()
        shapes = stage.convolutions(stride)
        self.count = len(shapes)
        for i, (cout, kernel, step) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", SubnetConv(cin, cout, kernel, step, top_k))
            if not iterations:
                setattr(self, f"bn{i}", nn.BatchNorm2d(cout, affine=False))
            for t in range(iterations):
                setattr(self, f"bnorm{i}_{t}", nn.BatchNorm2d(cout))
            if i == 1 and (stride != 1 or cin != stage.channels):
                self.shortcut = nn.Sequential(
                    SubnetConv(cin, stage.channels, 1, stride, top_k),
                    nn.BatchNorm2d(stage.channels, affine=False),
                )
            cin = cout

    def forward(self, x: Tensor) -> Tensor:
        """Run all iterations."""
        for t in range(max(1, self.iterations)):
            y = x
            for i in range(1, self.count + 1):
                norm = f"bnorm{i}_{t}" if self.iterations else f"bn{i}"
                y = getattr(self, norm)(getattr(self, f"conv{i}")(y))
                y = y.relu() if i < self.count else (y + self.shortcut(x)).relu()
            x = y
        return x


class ReferenceNetwork(nn.Module):
    """The network of a configuration, with random signs, scores and batch norms."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        stem, top_k = config.stem, config.top_k
        self.pool = stem.pool
        self.conv1 = SubnetConv(3, stem.channels, stem.kernel, stem.stride, top_k)
        self.bn1 = nn.BatchNorm2d(stem.channels, affine=False)
        cin = stem.channels
        self.stages = []
        for number, stage in enumerate(config.stages, 1):
            blocks = [ReferenceBlock(stage, cin, stage.stride, top_k, 0)]
            cin = stage.channels
            if stage.recurrent:
                blocks.append(ReferenceBlock(stage, cin, 1, top_k, stage.blocks - 1))
            else:
                blocks += [ReferenceBlock(stage, cin, 1, top_k, 0) for _ in range(stage.blocks - 1)]
            self.stages.append(f"stage_{number}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.fc = SubnetConv(cin, config.classes, 1, 1, top_k)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images of 0 to 1."""
        x = self.bn1(self.conv1(x)).relu()
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)

    @torch.no_grad()
    def set_signs(self, signs: dict[str, Tensor]) -> None:
        """Give the weights other signs."""
        for name, weight in self.named_parameters():
            if name in signs:
                weight.copy_(signs[name] * weight.abs())

    @torch.no_grad()
    def see(self, images: Tensor) -> "ReferenceNetwork":
        """Measure the batch norms on `images`; return the network in evaluation mode."""
        self.train()
        for _ in range(20):
            self(images)
        return self.eval()
