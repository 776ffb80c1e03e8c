# SPDX-License-Identifier: Apache-2.0
"""Selection of the top-k weights, its gradient, and the folded network built on it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hiddenfold.sw import signs
from hiddenfold.sw.frozen import pattern, word_stride
from hiddenfold.sw.search.config import load_config
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers, macs
from hiddenfold.sw.search.settings import ModelConfig, StageConfig, StemConfig
from hiddenfold.sw.search.supermask import (
    MaskedConv2d,
    _from_threshold,
    kept_weights,
    top_k_mask,
)
from hiddenfold.sw.shapes import WeightShape


def small_net(**changes) -> FoldedResNet:
    torch.manual_seed(0)
    settings = {
        "name": "small",
        "stem": StemConfig(channels=8),
        "stages": (
            StageConfig(blocks=1, channels=16, stride=2),
            StageConfig(blocks=3, channels=32, block="bottleneck", mid=8, stride=2, folded=True),
        ),
        "classes": 10,
    }
    return FoldedResNet(ModelConfig(**{**settings, **changes}))


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("top_k", [0.001, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_top_k_keeps_exactly_the_largest(count: int, top_k: float, levels: int) -> None:
    """Also with ties: `levels` distinct values, or all different for 0."""
    values = torch.randperm(count).float()
    if levels:
        values = values % levels
    mask = top_k_mask(values, top_k)
    assert int(mask.sum()) == kept_weights(count, top_k) == max(1, round(count * top_k))
    if not mask.all():
        assert values[mask].min() >= values[~mask].max()


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "few levels", "one off"])
@pytest.mark.parametrize("top_k", [0.001, 0.3, 0.5, 0.999])
def test_top_k_of_many_values_is_exact(order: str, top_k: float) -> None:
    """Values in orders that are hard to select from."""
    count = 100_003
    values = torch.randperm(count, generator=torch.Generator().manual_seed(1)).float()
    if order in ("ascending", "descending"):
        values = values.sort(descending=order == "descending").values
    elif order == "few levels":
        values = (values / 3e4).floor()
    elif order == "one off":
        # All values that the sample sees are far below the others.
        values[:: count // 8192] -= 1e6
    mask = top_k_mask(values, top_k)
    ordered = values.sort(descending=True, stable=True).indices
    expected = torch.zeros(count, dtype=torch.bool)
    keep = kept_weights(count, top_k)
    expected[ordered[:keep]] = True
    assert torch.equal(mask, expected)
    # As it is done on a GPU.
    assert torch.equal(_from_threshold(values, values[ordered[keep - 1]], keep), expected)


def test_ties_go_to_the_first_weights() -> None:
    values = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0, 1.0])
    assert top_k_mask(values, 0.5).tolist() == [True, True, True, False, False, False]


def test_selection_from_the_whole_network() -> None:
    """The largest scores of all layers together, in units in which they are drawn alike."""
    net = small_net(scope="network", top_k=0.25)
    with torch.no_grad():
        net.stem.scores *= 3.0
    net.select()
    layers = [layer for _, layer in conv_layers(net)]
    units = [layer.scores[0].numel() ** -0.5 for layer in layers]
    values = [layer.scores.detach().abs() / unit for layer, unit in zip(layers, units, strict=True)]
    masks = [layer.mask() for layer in layers]
    count = sum(v.numel() for v in values)
    assert sum(int(mask.sum()) for mask in masks) == round(0.25 * count)
    kept = min(float(v[mask].min()) for v, mask in zip(values, masks, strict=True))
    left = max(float(v[~mask].max()) for v, mask in zip(values, masks, strict=True))
    assert kept >= left
    # Where scores are larger, more are kept than elsewhere.
    assert masks[0].float().mean() > 0.6 and masks[-1].float().mean() < 0.3
    before = [mask.clone() for mask in masks]
    with torch.no_grad():
        net.stem.scores /= 9.0
    net(torch.rand(1, 3, 8, 8))
    assert not torch.equal(layers[0].mask(), before[0])


@pytest.mark.parametrize("magnitude", [True, False])
def test_gradient_reaches_all_scores_and_only_scores(magnitude: bool) -> None:
    net = small_net(affine="none", magnitude=magnitude)
    before = {name: layer.weights.clone() for name, layer in conv_layers(net)}
    net(torch.rand(4, 3, 16, 16)).square().sum().backward()
    assert [name for name, _ in net.named_parameters() if not name.endswith("scores")] == []
    for name, layer in conv_layers(net):
        assert not layer.weights.requires_grad and torch.equal(layer.weights, before[name])
        # Straight through: weights that are masked out have a gradient as well.
        grad = layer.scores.grad
        assert grad is not None
        if layer is not net.stem:
            assert float((grad[~layer.mask()] != 0).float().mean()) > 0.5


@pytest.mark.parametrize("magnitude", [True, False])
def test_straight_through_gradient(magnitude: bool) -> None:
    """dL/dscore = dL/dweight * weight, times sign(score) when ranked by |score|."""
    layer = MaskedConv2d(5, 4, 3, 1, seed_state=1, stream=0, top_k=0.4, magnitude=magnitude)
    upstream = torch.randn(4, 5, 3, 3)
    layer.effective_weight().mul(upstream).sum().backward()
    expected = upstream * layer.weights
    if magnitude:
        expected = expected * layer.scores.detach().sign()
    assert torch.allclose(layer.scores.grad, expected)


def test_soft_masks() -> None:
    layer = MaskedConv2d(5, 4, 3, 1, seed_state=1, stream=0, top_k=0.4, magnitude=False)
    layer.start_soft()
    scores = layer.scores.detach() * 1.5 - 0.25
    layer.scores.data.copy_(scores)
    upstream = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    for softness in (1.0, 0.25, 0.0):
        layer.softness = softness
        layer.scores.grad = None
        share = softness * scores.clamp(0, 1) + (1 - softness) * layer.mask().float()
        weight = layer.effective_weight()
        assert torch.allclose(weight, share * layer.weights)
        weight.mul(upstream).sum().backward()
        # Straight through: also where scores are clipped.
        assert torch.allclose(layer.scores.grad, upstream * layer.weights)


def test_recentred_scores_have_their_threshold_at_half() -> None:
    layer = MaskedConv2d(16, 20, 3, 1, seed_state=1, stream=0, top_k=0.3, magnitude=False)
    layer.start_soft()
    mask = layer.mask()
    layer.recentre()
    scores = layer.scores.detach()
    assert int((scores >= 0.5).sum()) == kept_weights(scores.numel(), 0.3)
    assert torch.equal(layer.mask(), mask) and torch.equal(scores >= 0.5, mask)
    # The threshold was near 0.7.
    assert float(scores.min()) == 0.0 and 0.7 < float(scores.max()) < 0.9


def test_weights_are_the_lfsr_signs_under_the_mask() -> None:
    net = small_net()
    state = signs.splitmix64(net.config.seed)
    streams = []
    for _, layer in conv_layers(net):
        streams.append(layer.stream)
        cout, cin, kernel, _ = layer.scores.shape
        sign = signs.sign_tensor(state, layer.stream, cout, cin, kernel)
        assert np.array_equal(layer.weights.sign().numpy(), sign)
        kept = int(layer.mask().sum())
        assert kept == kept_weights(layer.scores.numel(), net.config.top_k)
        # The same after packing: pruned bits are 0 in the stored words.
        words = signs.pack(layer.mask().numpy())
        assert int(np.bitwise_count(words).sum()) == kept
    assert streams == list(range(len(streams)))


@pytest.mark.parametrize(("eighths", "top_k"), [(4, 0.5), (4, 0.3), (2, 0.5), (1, 0.5)])
def test_frozen_masks_are_those_of_the_seed(eighths: int, top_k: float) -> None:
    net = small_net(free_eighths=eighths, free_from=600, top_k=top_k)
    state = signs.splitmix64(net.config.seed)
    partly = []
    for name, layer in conv_layers(net):
        cout, cin, kernel, _ = layer.scores.shape
        frozen_layer = layer.scores.numel() >= 600 and name not in ("stem", "classifier")
        assert layer.free_eighths == (eighths if frozen_layer else 8)
        made = pattern(state, layer.stream, WeightShape(cout, cin, kernel), layer.free_eighths)
        words = signs.pack(layer.mask().numpy()).reshape(made.free.shape)
        assert not ((words & ~made.free) ^ made.kept).any()
        # The layer keeps its share all the same, of weights with the signs of the right words.
        kept = int(layer.mask().sum())
        assert kept == kept_weights(layer.scores.numel(), top_k)
        sign = signs.sign_tensor(state, layer.stream, cout, cin, kernel, word_stride(made.m))
        assert np.array_equal(layer.weights.sign().numpy(), sign)
        partly.append(frozen_layer)
        # Scores decide which of the free weights these are.
        with torch.no_grad():
            layer.scores.neg_().sub_(1.0)
        changed = signs.pack(layer.mask().numpy()).reshape(made.free.shape)
        assert (changed != words).any() and not ((changed ^ words) & ~made.free).any()
    assert True in partly and False in partly


def test_top_k_that_frozen_masks_cannot_reach() -> None:
    message = "Key 'model.top_k' must be above 0.375 and below 0.625 with free_eighths 2, not 0.3"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_net(free_eighths=2, top_k=0.3)


def test_stem_is_a_1x1_convolution_on_the_unfolded_image() -> None:
    """Channel (ky * K + kx) * 3 + c of the unfolded image, zero outside."""
    for kernel, stride in ((3, 1), (5, 2), (7, 2)):
        net = small_net(stem=StemConfig(channels=8, kernel=kernel, stride=stride))
        image = torch.rand(2, 3, 9, 11)
        pad = (kernel - 1) // 2
        columns = torch.nn.functional.unfold(image, kernel, padding=pad, stride=stride)
        columns = columns.reshape(2, 3, kernel * kernel, -1).transpose(1, 2).flatten(1, 2)
        flat = (net.stem.weights * net.stem.mask())[:, :, 0, 0]
        expected = torch.einsum("oc,ncp->nop", flat, columns)
        assert torch.allclose(net.stem(image).flatten(2), expected, atol=1e-5)


def test_recurrent_block_shares_weights_and_not_batch_norms() -> None:
    net = small_net()
    first, recurrent = net.stages[1]
    assert (first.iterations, recurrent.iterations) == (1, 2)
    assert len(recurrent.convs) == 3 and len(recurrent.norms) == 2
    assert recurrent.norms[0][0].affine and not first.norms[0][0].affine
    assert first.shortcut is not None and recurrent.shortcut is None
    # By hand: two passes through the same weights.
    net.eval()
    x = torch.rand(1, 32, 4, 4)
    expected = x
    with torch.no_grad():
        for norms in recurrent.norms:
            y = expected
            for i, conv in enumerate(recurrent.convs):
                y = norms[i](conv(y))
                y = torch.relu(y + expected if i == 2 else y)
            expected = y
        assert torch.allclose(recurrent(x), expected, atol=1e-6)


def test_macs() -> None:
    net = small_net()
    stem = 27 * 8 * 256
    first = (9 * 8 * 16 + 9 * 16 * 16 + 8 * 16) * 64
    second = 16 * 8 * 64 + (9 * 8 * 8 + 8 * 32 + 16 * 32) * 16
    recurrent = 2 * (32 * 8 + 9 * 8 * 8 + 8 * 32) * 16
    assert macs(net, 16) == stem + first + second + recurrent + 32 * 10


def test_published_network_has_the_published_size() -> None:
    """HFN-ResNet50 for CIFAR-100: figures counted from the model of the paper's own code."""
    config = load_config(Path(__file__).parents[2] / "configs" / "cifar100-hfn-resnet50.toml")
    net = FoldedResNet(config.model)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert sum(layer.scores.numel() for _, layer in conv_layers(net)) == 14_739_136
    assert sum(norm.num_features for norm in norms) == 26_560
    assert sum(norm.num_features for norm in norms if norm.affine) == 13_824
    assert round(macs(net, 32) / 1e9, 2) == 1.30


def test_imagenet_stem() -> None:
    net = small_net(stem=StemConfig(channels=8, kernel=7, stride=2, pool=True))
    assert net.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 10)


def test_too_small_config_is_refused() -> None:
    message = "Key 'model.top_k' must be above 0 and up to 1, not 0.0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_net(top_k=0.0)


def test_shortcuts_with_a_stride_are_convolutions_of_fewer_pixels() -> None:
    """In bfloat16 the output and both gradients are those of the library with a stride."""
    generator = torch.Generator().manual_seed(0)
    conv = MaskedConv2d(16, 24, 1, 2, seed_state=5, stream=0, top_k=0.5)
    x = torch.randn(3, 16, 7, 6, generator=generator).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(3, 24, 4, 3, generator=generator).bfloat16()
    weight = conv.effective_weight(x.dtype).detach().requires_grad_()
    ours, theirs = conv(x, weight), torch.nn.functional.conv2d(x, weight, stride=2)
    found = (ours, *torch.autograd.grad(ours, (x, weight), grad))
    expected = (theirs, *torch.autograd.grad(theirs, (x, weight), grad))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=0.01, atol=0.02)
