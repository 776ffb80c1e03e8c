# SPDX-License-Identifier: Apache-2.0
"""Convolutions of images side by side, next to those of single images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hiddenfold.sw.search import small_maps
from hiddenfold.sw.search.nets import FoldedResNet
from hiddenfold.sw.search.settings import ModelConfig, StageConfig, StemConfig


def operands(count: int, cin: int, cout: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count + cin + height)
    x = torch.randn(count, cin, height, width, generator=generator).bfloat16()
    weight = torch.randn(cout, cin, 3, 3, generator=generator).bfloat16()
    last = torch.channels_last
    return (
        x.contiguous(memory_format=last).requires_grad_(),
        weight.contiguous(memory_format=last).requires_grad_(),
    )


@pytest.mark.parametrize(
    ("count", "cin", "cout", "height", "width", "stride"),
    [
        (37, 24, 40, 8, 8, 1),
        (70, 16, 24, 4, 4, 1),
        (300, 8, 16, 2, 2, 1),
        (9, 16, 8, 16, 16, 2),
        (33, 24, 16, 7, 5, 2),
        (64, 24, 16, 5, 6, 1),
        (16, 24, 16, 6, 7, 2),
        (3, 8, 8, 1, 1, 1),
        (5, 8, 8, 1, 1, 2),
    ],
)
def test_all_directions(
    count: int, cin: int, cout: int, height: int, width: int, stride: int
) -> None:
    """The output and both gradients are those in float32, but for the rounding of bfloat16."""
    x, weight = operands(count, cin, cout, height, width)
    assert small_maps.pays(x, weight, stride)
    y = small_maps.convolve(x, weight, stride)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = (y, *torch.autograd.grad(y, (x, weight), grad))
    exact = x.detach().float().requires_grad_(), weight.detach().float().requires_grad_()
    y = F.conv2d(*exact, stride=stride, padding=1)
    expected = (y, *torch.autograd.grad(y, exact, grad.float()))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == torch.bfloat16
        apart = (ours.float() - theirs).abs().max() / theirs.abs().max()
        assert apart.item() <= 0.01


def test_only_where_it_pays() -> None:
    x, weight = operands(2, 8, 8, 16, 16)
    assert small_maps.pays(x, weight, 2)
    assert not small_maps.pays(x, weight, 1)
    assert not small_maps.pays(x.float(), weight.float(), 2)
    assert not small_maps.pays(x, weight.detach(), 2)
    assert not small_maps.pays(x, weight[:, :, :1, :1], 2)


def test_a_search_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's gradients go through it, and are those of the library's convolutions."""
    torch.manual_seed(3)
    stages = (StageConfig(blocks=3, channels=32, stride=2, folded=True),)
    network = FoldedResNet(
        ModelConfig(name="n", stem=StemConfig(channels=16), stages=stages, classes=10)
    )
    images = torch.rand(8, 3, 16, 16).bfloat16()
    calls = []
    convolve = small_maps.convolve

    def counted(*arguments: object) -> Tensor:
        calls.append(1)
        return convolve(*arguments)

    monkeypatch.setattr(small_maps, "convolve", counted)
    gradients = []
    for pays in (small_maps.pays, lambda *_: False):
        monkeypatch.setattr(small_maps, "pays", pays)
        network.zero_grad()
        network(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    # Two convolutions of the first block, and of each of two iterations of the recurrent one.
    assert len(calls) == 6
    for ours, theirs in zip(*gradients, strict=True):
        cosine = F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
        assert float(cosine) > 0.98
