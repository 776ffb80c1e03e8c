# SPDX-License-Identifier: Apache-2.0
"""Speed of the search, next to a plain implementation of the same network.

The plain one is what edge-popup looks like when it is written down as published: float32, channels
first, the scores of every layer sorted completely at every step, an optimizer with a loop over
tensors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw.search.config import load_config
from hiddenfold.sw.search.memory import keep_freed_memory
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.state import Search

__all__ = ["PlainResNet18", "compare"]

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "cifar100-hfn-resnet18.toml"
SECONDS = 20.0


class _Subnet(torch.autograd.Function):
    """1 for the largest scores, 0 for the others; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, top_k: float) -> Tensor:
        subnet = scores.clone()
        order = scores.flatten().sort().indices
        pruned = round((1 - top_k) * scores.numel())
        flat = subnet.flatten()
        flat[order[:pruned]] = 0
        flat[order[pruned:]] = 1
        return flat.reshape(scores.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Conv(nn.Conv2d):
    def __init__(self, cin: int, cout: int, kernel: int, stride: int, top_k: float) -> None:
        super().__init__(cin, cout, kernel, stride, kernel // 2, bias=False)
        self.top_k = top_k
        nn.init.kaiming_normal_(self.weight)
        self.weight.data = self.weight.data.sign() * self.weight.data.std()
        self.weight.requires_grad = False
        self.scores = nn.Parameter(torch.empty_like(self.weight))
        nn.init.kaiming_uniform_(self.scores, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * _Subnet.apply(self.scores.abs(), self.top_k)
        return F.conv2d(x, weight, None, self.stride, self.padding)


class _Block(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, top_k: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = _Conv(cin, cout, 3, stride, top_k), nn.BatchNorm2d(cout)
        self.conv2, self.norm2 = _Conv(cout, cout, 3, 1, top_k), nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(_Conv(cin, cout, 1, stride, top_k), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class PlainResNet18(nn.Sequential):
    """ResNet18 for CIFAR: input [N, 3, 32, 32], output [N, classes]."""

    def __init__(self, classes: int, top_k: float) -> None:
        layers: list[nn.Module] = [_Conv(3, 64, 3, 1, top_k), nn.BatchNorm2d(64), nn.ReLU()]
        cin = 64
        for cout, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [_Block(cin, cout, stride, top_k), _Block(cout, cout, 1, top_k)]
            cin = cout
        last = _Conv(cin, classes, 1, 1, top_k)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), last, nn.Flatten())


def compare(seconds: float = SECONDS) -> dict[str, float]:
    """Images a second of both, from the fastest step within `seconds`, and their ratio.

    Reading and augmenting images is left out: both are given random ones, in their own format.
    `cpu_ratio` is the ratio of CPU seconds, which other work on the machine disturbs less.
    """
    # Each in a process of its own, as it would be: ours changes how memory is given to tensors.
    found = []
    for measured in (_plain, _ours):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found.append(process.submit(measured, seconds).result())
    plain, ours = found
    count = load_config(CONFIG).train.batch
    return {
        "plain": count / plain[0],
        "ours": count / ours[0],
        "ratio": plain[0] / ours[0],
        "cpu_ratio": plain[1] / ours[1],
    }


def _ours(seconds: float) -> tuple[float, float]:
    keep_freed_memory()
    config = load_config(CONFIG)
    images, labels = _batch(config)
    search = Search(config, "cpu")
    images = images.to(search.dtype).contiguous(memory_format=torch.channels_last)
    return _fastest(lambda: search.train_batch(images, labels), seconds)


def _plain(seconds: float) -> tuple[float, float]:
    config = load_config(CONFIG)
    return _fastest(_plain_step(config, *_batch(config)), seconds)


def _batch(config: SearchConfig) -> tuple[Tensor, Tensor]:
    images = torch.rand(config.train.batch, 3, config.image, config.image)
    return images, torch.randint(0, config.model.classes, (config.train.batch,))


def _plain_step(config: SearchConfig, images: Tensor, labels: Tensor) -> Callable[[], Any]:
    model = PlainResNet18(config.model.classes, config.model.top_k)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, foreach=False, fused=False
    )

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _fastest(step: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Least seconds and least CPU seconds of the steps that begin within `seconds`.

    The first ones are slow, often by half: memory is written for the first time.
    """
    end = time.perf_counter() + seconds
    wall: list[float] = []
    cpu: list[float] = []
    while not wall or time.perf_counter() < end:
        start = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return min(wall), min(cpu)
