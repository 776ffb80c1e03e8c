# SPDX-License-Identifier: Apache-2.0
"""Winograd's convolution is the direct one, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from hiddenfold.sw.search import winograd
from hiddenfold.sw.search.supermask import MaskedConv2d


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (1, 1), (2, 2), (1, 2), (3, 7), (6, 5), (9, 12)])
@pytest.mark.parametrize("channels", [(1, 1), (5, 3)])
def test_equals_the_direct_way(size: tuple[int, int], channels: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, channels[0], *size, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(channels[1], channels[0], 3, 3, generator=generator, dtype=torch.float64)
    w.requires_grad_()
    results = []
    for y in (F.conv2d(x, w, padding=1), winograd.convolve(x, w)):
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).double()
        results.append((y, *torch.autograd.grad(y, (x, w), upstream)))
    for expected, found in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-10)
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)


def test_layers_use_it_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MaskedConv2d(128, 160, 3, 1, seed_state=1, stream=0, top_k=0.5)
    x = torch.rand(2, 128, 8, 8, generator=torch.Generator().manual_seed(1))
    weight = layer.effective_weight().detach()
    assert winograd.pays(x, weight, 1)
    assert not winograd.pays(x, weight, 2)
    assert not winograd.pays(x[:, :, :5, :5], weight, 1)
    assert not winograd.pays(x[:, :64], weight[:, :64], 1)
    assert not winograd.pays(x.bfloat16(), weight, 1)
    found = layer(x, weight)
    expected = F.conv2d(x, weight, padding=1)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    monkeypatch.setattr(winograd, "convolve", lambda x, weight: "used")
    assert layer(x) == "used"
    assert isinstance(layer(x.bfloat16()), torch.Tensor)
