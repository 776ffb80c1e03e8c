# SPDX-License-Identifier: Apache-2.0
"""Folded residual networks.

A stage is a first block, which may change the shape, and `blocks - 1` more. In a folded stage
those are one recurrent block: the same convolutions run `blocks - 1` times, each time with its own
batch norms (Garcia-Arias et al., "Hidden-fold networks", BMVC 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiddenfold.sw import signs
from hiddenfold.sw.search import kernels
from hiddenfold.sw.search.activation import Activation, activation
from hiddenfold.sw.search.settings import SHORTCUT_BITS, ModelConfig, StageConfig
from hiddenfold.sw.search.supermask import MaskedConv2d, top_k_mask

__all__ = ["Block", "FoldedResNet", "conv_layers", "macs", "normalized_layers"]


Item = TypeVar("Item", bound=nn.Module)


class _ModuleList(nn.ModuleList, Generic[Item]):
    """A `ModuleList` that says what it holds."""

    def __iter__(self) -> Iterator[Item]:
        return cast(Iterator[Item], super().__iter__())


class _Streams:
    """Makes masked convolutions, numbering their sign streams in order of creation."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._state = signs.splitmix64(config.seed)
        self._next = 0
        self._weights = 0

    def conv(self, cin: int, cout: int, kernel: int, stride: int) -> MaskedConv2d:
        weights = cin * cout * kernel**2
        free = self._config.free_of(weights)
        return MaskedConv2d(cin, cout, kernel, stride, free_eighths=free, **self._options(weights))

    def classifier(self, cin: int, classes: int) -> MaskedConv2d:
        return MaskedConv2d(cin, classes, 1, 1, **self._options(cin * classes))

    def stem(self, cout: int, kernel: int, stride: int) -> StemConv2d:
        options = self._options(3 * cout * kernel**2)
        return StemConv2d(cout, kernel, stride, image_channels=3, **options)

    def _options(self, weights: int) -> dict[str, Any]:
        stream, first = self._next, self._weights
        self._next += 1
        self._weights += weights
        return {
            "seed_state": self._state,
            "stream": stream,
            "top_k": self._config.top_k,
            "magnitude": self._config.magnitude,
            "generator": self._config.generator,
            "trained": self._config.weights == "trained",
            "first_weight": first,
        }


class StemConv2d(MaskedConv2d):
    """A KxK convolution of an image whose signs and masks are those of a 1x1 convolution.

    The image is unfolded into K*K*3 channels, channel (ky * K + kx) * 3 + c, so `scores` and
    `weights` have the shape [Cout, K*K*3, 1, 1]; the convolution itself runs on the plain image.
    """

    def __init__(
        self, cout: int, kernel: int, stride: int, *, image_channels: int, **options: Any
    ) -> None:
        super().__init__(kernel * kernel * image_channels, cout, 1, 1, **options)
        self.image_kernel = kernel
        self.image_stride = stride

    def effective_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight as a [Cout, 3, K, K] tensor."""
        k = self.image_kernel
        flat = super().effective_weight(dtype).reshape(self.out_channels, k, k, -1)
        return flat.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Convolve an image batch [N, 3, H, W]."""
        if weight is None:
            weight = self.effective_weight(x.dtype)
        return F.conv2d(x, weight, stride=self.image_stride, padding=(self.image_kernel - 1) // 2)


class Block(nn.Module):
    """Residual block, basic or bottleneck, run `iterations` times with unshared batch norms.

    y = relu(bn(conv(...)) + shortcut); the shortcut is the input or, when the shape changes, a 1x1
    convolution with its own batch norm.
    """

    def __init__(
        self,
        streams: _Streams,
        stage: StageConfig,
        cin: int,
        stride: int,
        iterations: int,
        affine: bool,
        source: Activation,
        bits: int,
    ) -> None:
        super().__init__()
        cout = stage.channels
        shapes = stage.convolutions(stride)
        inputs = [cin, *(channels for channels, _, _ in shapes[:-1])]
        self.iterations = iterations
        self.shortcut: MaskedConv2d | None = None
        self.shortcut_norm: nn.BatchNorm2d | None = None
        self.shortcut_activation = activation(0, signed=True)
        if stride != 1 or cin != cout:
            self.shortcut = streams.conv(cin, cout, 1, stride)
            self.shortcut_norm = nn.BatchNorm2d(cout, affine=affine)
            self.shortcut_activation = activation(SHORTCUT_BITS if bits else 0, signed=True)
        self.convs = _ModuleList[MaskedConv2d](
            [streams.conv(n, *shape) for n, shape in zip(inputs, shapes, strict=True)]
        )
        self.norms = _ModuleList[_ModuleList[nn.BatchNorm2d]](
            [
                _ModuleList([nn.BatchNorm2d(shape[0], affine=affine) for shape in shapes])
                for _ in range(iterations)
            ]
        )
        self.activations = _ModuleList[_ModuleList[Activation]](
            [_ModuleList([activation(bits) for _ in shapes]) for _ in range(iterations)]
        )
        # What made the input; in a tuple, for it is not a part of this module.
        self._source = (source,)

    @property
    def output(self) -> Activation:
        """What makes the output."""
        return list(list(self.activations)[-1])[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Run all iterations on `x`."""
        weights = [conv.effective_weight(x.dtype) for conv in self.convs]
        last = len(self.convs) - 1
        (added,) = self._source
        for norms, activations in zip(
            map(list, self.norms), map(list, self.activations), strict=True
        ):
            residual = x
            if self.shortcut is not None and self.shortcut_norm is not None:
                added = self.shortcut_activation
                residual = _finished(self.shortcut(x), self.shortcut_norm, added)
            for i, conv in enumerate(self.convs):
                x = conv(x, weights[i])
                if i < last:
                    x = _finished(x, norms[i], activations[i])
                else:
                    x = _finished(x, norms[i], activations[i], residual, added)
            added = activations[last]
        return x


def _finished(
    x: Tensor,
    norm: nn.BatchNorm2d,
    act: Activation,
    residual: Tensor | None = None,
    added: Activation | None = None,
) -> Tensor:
    """What follows a convolution: batch norm, a residual that `added` made, activation."""
    if type(act) is Activation and kernels.normalizes(norm, x):
        return kernels.normalize(norm, x, residual, relu=not act.signed)
    x = norm(x)
    return act(x) if residual is None else act(x.add_(residual), added)


class FoldedResNet(nn.Module):
    """Folded residual network with masked random (or trained) weights, defined by a `ModelConfig`.

    Input: float images [N, 3, H, W] in 0 .. 1, any H and W. Output: logits [N, classes], float32.
    Sign streams are numbered in the order of execution: stem, blocks (a projection shortcut before
    the block's other convolutions), classifier.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        streams = _Streams(config)
        stem = config.stem
        self.stem = streams.stem(stem.channels, stem.kernel, stem.stride)
        everywhere = config.affine == "all"
        self.stem_norm = nn.BatchNorm2d(stem.channels, affine=everywhere)
        self.stem_activation = source = activation(config.act_bits)
        self.stages = _ModuleList[_ModuleList[Block]]()
        cin = stem.channels
        for stage in config.stages:
            # Stride, iterations, and whether batch norms have a learned scale and shift.
            shapes = [(stage.stride, 1, everywhere)]
            if stage.recurrent:
                affine = everywhere or config.affine == "recurrent"
                shapes.append((1, stage.blocks - 1, affine))
            else:
                shapes += [(1, 1, everywhere)] * (stage.blocks - 1)
            blocks = _ModuleList[Block]()
            for shape in shapes:
                block = Block(streams, stage, cin, *shape, source, config.act_bits)
                blocks.append(block)
                cin, source = stage.channels, block.output
            self.stages.append(blocks)
        self.classifier = streams.classifier(cin, config.classes)

    @torch.no_grad()
    def select(self) -> None:
        """With `scope` "network", choose all layers' masks: the `top_k` largest of all weights.

        Scores are compared in units of 1/sqrt(fan_in), in which they are drawn in every layer.
        """
        if self.config.scope == "layer":
            return
        layers = [layer for _, layer in conv_layers(self)]
        values = [layer.importance() * layer.scores[0].numel() ** 0.5 for layer in layers]
        mask = top_k_mask(torch.cat([v.flatten() for v in values]), self.config.top_k)
        for layer, part in zip(layers, mask.split([v.numel() for v in values]), strict=True):
            layer.chosen = part.view(layer.scores.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        self.select()
        x = _finished(self.stem(x), self.stem_norm, self.stem_activation)
        if self.config.stem.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        features = x.float().mean((2, 3))
        logits = F.linear(features, self.classifier.effective_weight().flatten(1))
        return logits * self.config.logit_scale


def conv_layers(model: nn.Module) -> Iterator[tuple[str, MaskedConv2d]]:
    """Name and module of every masked layer, in stream order."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, MaskedConv2d)]
    return iter(sorted(layers, key=lambda item: item[1].stream))


class Normalized(NamedTuple):
    """One execution of a convolution: `input_unit` is the value that input 1 stands for."""

    layer: MaskedConv2d
    norm: nn.BatchNorm2d
    activation: Activation
    input_unit: float


def normalized_layers(network: FoldedResNet) -> Iterator[Normalized]:
    """Every execution of a convolution that a batch norm follows, in execution order."""
    yield Normalized(network.stem, network.stem_norm, network.stem_activation, 1.0 / 255.0)
    for blocks in network.stages:
        for block in blocks:
            for norms, activations in zip(block.norms, block.activations, strict=True):
                if block.shortcut is not None and block.shortcut_norm is not None:
                    act = block.shortcut_activation
                    yield Normalized(block.shortcut, block.shortcut_norm, act, 1.0)
                for layer, norm, act in zip(block.convs, norms, activations, strict=True):
                    yield Normalized(layer, norm, act, 1.0)


def macs(model: FoldedResNet, size: int) -> int:
    """Nominal multiply-accumulates, padding included, of one `size` x `size` image."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, MaskedConv2d)
        total += output.shape[2] * output.shape[3] * module.scores.numel()

    handles = [m.register_forward_hook(count) for _, m in conv_layers(model)]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return total + model.classifier.scores.numel()
