# SPDX-License-Identifier: Apache-2.0
"""The compiled passes of a step, next to PyTorch's operations."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw.search import kernels
from hiddenfold.sw.search.nets import FoldedResNet
from hiddenfold.sw.search.settings import ModelConfig, StageConfig, StemConfig

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")


def images(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 3.0
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", [(6, 64, 9, 9), (3, 24, 5, 7), (1, 1, 1, 2), (300, 100, 8, 8)])
def test_batch_norm(shape: tuple[int, ...], added: bool, relu: bool) -> None:
    """Output, gradients and running statistics are those in float32, but for rounding."""
    norm, exact = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.0, 2.0, shape[1]))
        norm.bias.copy_(torch.linspace(0.5, -0.5, shape[1]))
    exact.load_state_dict(norm.state_dict())
    x, residual = images(*shape), images(*shape, seed=1) - 3.0
    grad = images(*shape, seed=2) - 3.0
    given = [x.clone().requires_grad_()] + ([residual.clone().requires_grad_()] if added else [])
    assert kernels.normalizes(norm, given[0])
    y = kernels.normalize(norm, given[0], given[1] if added else None, relu)
    found = [y, *torch.autograd.grad(y, [*given, norm.weight, norm.bias], grad)]
    wide = [t.detach().float().requires_grad_() for t in given]
    # The gradient passes where the output that was found is positive.
    z = exact(wide[0]) + (wide[1] if added else 0.0)
    z = z * (y > 0) if relu else z
    expected = [z, *torch.autograd.grad(z, [*wide, exact.weight, exact.bias], grad.float())]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        apart = (ours.float() - theirs).abs().max() / theirs.abs().max().clamp(min=0.1)
        assert apart.item() <= 0.01
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.allclose(getattr(norm, name), getattr(exact, name), rtol=1e-4), name


def test_batch_norm_says_what_is_not_a_number() -> None:
    x = images(2, 16, 4, 4)
    x[1, 3, 2, 2] = float("nan")
    y = kernels.normalize(nn.BatchNorm2d(16), x.requires_grad_(), None, True)
    assert y[:, 3].isnan().all() and not y[:, 4:].isnan().any()


def test_no_result_depends_on_the_number_of_threads() -> None:
    x, grad = images(40, 48, 16, 16), images(40, 48, 16, 16, seed=1)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            norm, given = nn.BatchNorm2d(48), x.clone().requires_grad_()
            y = kernels.normalize(norm, given, None, True)
            results.append([y, norm.running_var, *torch.autograd.grad(y, [given, norm.bias], grad)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_only_where_it_is_the_same() -> None:
    norm, x = nn.BatchNorm2d(16), images(2, 16, 4, 4)
    assert kernels.normalizes(norm, x)
    assert not kernels.normalizes(norm, x.float())
    assert not kernels.normalizes(norm, x.contiguous())
    with torch.no_grad():
        assert not kernels.normalizes(norm, x)
    assert not kernels.normalizes(norm.eval(), x)
    norm.train().momentum = None
    assert not kernels.normalizes(norm, x)


@pytest.mark.parametrize("magnitude", [False, True])
def test_a_search_is_the_same_without(magnitude: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are equal, gradients nearly, ties among the scores included."""
    torch.manual_seed(3)
    stages = (
        StageConfig(blocks=3, channels=32, stride=2, folded=True),
        StageConfig(blocks=1, channels=48, stride=2),
    )
    config = ModelConfig(name="n", stem=StemConfig(channels=16), stages=stages, classes=10)
    network = FoldedResNet(dataclasses.replace(config, magnitude=magnitude))
    with torch.no_grad():
        network.stages[0][1].convs[0].scores.mul_(50.0).round_()
    batch = torch.rand(16, 3, 16, 16).bfloat16()
    found = []
    for there in (True, False):
        if not there:
            monkeypatch.setattr(kernels, "library", lambda: None)
        weights = [c.effective_weight(torch.bfloat16) for c in network.stages[0][1].convs]
        network.zero_grad()
        F.cross_entropy(network(batch), torch.arange(16) % 10).backward()
        found.append((weights, [p.grad.clone() for p in network.parameters()]))
    (weights, gradients), (plain_weights, plain_gradients) = found
    assert all(torch.equal(*pair) for pair in zip(weights, plain_weights, strict=True))
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        assert float(F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)) > 0.97


def test_gradient_of_scores() -> None:
    grad, weights = images(8, 24, 3, 3), images(8, 24, 3, 3, seed=1).float()
    scores = images(8, 24, 3, 3, seed=2).float() - 3.0
    scores[0, 0, 0, 0] = 0.0
    expected = grad.float() * weights
    assert torch.equal(kernels.score_gradient(grad, weights, None), expected)
    assert torch.equal(kernels.score_gradient(grad, weights, scores), expected * scores.sign())


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("count", [1, 2, 1000, 200_003])
def test_threshold(count: int, magnitude: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    for values in (
        torch.randn(count, generator=generator),
        torch.randint(-2, 3, (count,), generator=generator).float(),
    ):
        scores = values.view(count, 1, 1, 1)
        ordered = (scores.abs() if magnitude else scores).flatten().sort(descending=True).values
        for rank in {1, count // 3 + 1, (count + 1) // 2, count}:
            found = kernels.threshold(scores, rank, magnitude)
            assert found == float(ordered[rank - 1])
