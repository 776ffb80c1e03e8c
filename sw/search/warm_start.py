# SPDX-License-Identifier: Apache-2.0
"""Start of a search from a network that was searched before.

From a run directory the scores and batch norms are taken as they are. A model file holds masks and
no scores, so scores are drawn as for a new search and dealt out anew: in each layer the weights
that the model keeps get the largest of the drawn values, in random order, the others the rest. The
network then computes what the model computes, and its scores have the spread of a new search: the
nearest ones change sides after a few steps. (A kept weight's lead in the old search is not known.)
Soft masks are the scores themselves: to be near the model's masks, most scores are dealt near 0 and
1, few near the threshold.

`top_k` may differ from that of the start: with a lower one, masks are thinned out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hiddenfold.sw import signs
from hiddenfold.sw.model import Execution, Model
from hiddenfold.sw.search.data import Split, augment, resize, to_float
from hiddenfold.sw.search.float_network import FloatConstants, load_constants
from hiddenfold.sw.search.measure import REFRESH_IMAGES, batches
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers, normalized_layers
from hiddenfold.sw.search.optimizer import make_optimizer
from hiddenfold.sw.search.plan import check_exportable, plan
from hiddenfold.sw.search.run_directory import load_run, origin
from hiddenfold.sw.search.settings import ModelConfig
from hiddenfold.sw.search.state import Search
from hiddenfold.sw.search.supermask import MaskedConv2d

__all__ = ["warm_start"]

# Keys of a model's configuration that may differ between a run and the run it starts from.
_FREE = {"name", "top_k", "act_bits", "constants", "logit_scale", "dense_reference"}


def warm_start(search: Search, source: str | Path, training: Split) -> None:
    """Give a new `search` the masks and batch norms of `source`, a model file or run directory.

    A model file needs its float constants beside it, and some `training` images for them. Raises
    `ValueError` when `source` is not such a network or has another architecture or seed than the
    search.
    """
    source = Path(source)
    soft = search.config.train.softness(0.0) > 0.0
    if source.is_dir():
        config, network, log = load_run(source)
        search.origin = _origin(config.model.name, str(len(log)), origin(source))
        _check_same_config(source, config.model, search.config.model)
        state = network.state_dict()
        # Quantizers of another width begin here.
        strict = config.model.act_bits == search.config.model.act_bits
        if not strict:
            state = {k: v for k, v in state.items() if not k.endswith(("log_step", "_extra_state"))}
        search.model.load_state_dict(state, strict=strict)
        if soft and config.train.soft + config.train.harden == 0.0:
            for _, layer in conv_layers(search.model):
                _deal_scores(layer, layer.mask(), soft)
    else:
        model = Model.load(source)
        notes = model.provenance
        search.origin = _origin(model.name, notes.get("epochs", "?"), notes.get("from", ""))
        _check_same_model(source, model, search.model)
        constants = load_constants(source, model)
        for _, layer in conv_layers(search.model):
            words = model.masks[layer.stream]
            mask = signs.unpack(words.reshape(len(words), -1), layer.in_channels, layer.kernel)
            _deal_scores(layer, torch.from_numpy(mask), soft)
        settings, size = search.config.train, search.config.train.size_of(0)
        images = resize(training.sample(REFRESH_IMAGES).to(search.device), size)
        padding = round(settings.crop_padding * size / model.image[1])
        generator = torch.Generator().manual_seed(settings.seed)
        moved = augment(images, padding, settings.flip, generator)
        _set_batch_norms(search.model, constants, moved, settings.batch)
    # Adam's learning rate is in units of the scores.
    search.optimizer = make_optimizer(search.model, search.config.train)


def _origin(name: str, epochs: str, origin: str) -> str:
    return f"{name} of {epochs} epochs" + (f", from {origin}" if origin else "")


def _check_same_config(source: Path, found: ModelConfig, wanted: ModelConfig) -> None:
    for key in vars(wanted):
        a, b = getattr(found, key), getattr(wanted, key)
        if key not in _FREE and a != b:
            raise ValueError(
                f"{source}: key 'model.{key}' must be as in the configuration, {b!r}, not {a!r}"
            )


def _check_same_model(source: Path, model: Model, network: FoldedResNet) -> None:
    check_exportable(source, network.config)
    if network.config.scope != "layer":
        raise ValueError(
            f"{source}: key 'model.scope' must be 'layer' for a start from a model file, whose "
            f"layers keep shares of their own, not {network.config.scope!r}"
        )
    seed = signs.splitmix64(network.config.seed)
    if model.seed != seed:
        raise ValueError(
            f"{source}: seed state must be {seed:#x}, that of 'model.seed' = "
            f"{network.config.seed}, not {model.seed:#x}"
        )
    labels = tuple(str(label) for label in range(network.config.classes))
    wanted = plan(network.config, model.dataset, labels, model.image, model.act_bits)
    lists = [[_describe(m, e) for e in m.executions()] for m in (wanted, model)]
    longest = max(map(len, lists))
    a, b = (names + ["nothing"] * (longest - len(names)) for names in lists)
    for needed, found in zip(a, b, strict=True):
        if needed != found:
            raise ValueError(
                f"{source}: operation must be {needed}, as in the configuration, not {found}"
            )
    for stream in model.masks:
        needed_free, found_free = wanted.free_eighths(stream), model.free_eighths(stream)
        if needed_free != found_free:
            raise ValueError(
                f"{source}: 'free' of stream {stream} must be {needed_free}, as in the "
                f"configuration, not {found_free}"
            )


def _describe(model: Model, execution: Execution) -> str:
    text = f"'{execution.name}' with {execution.out_shape.channels} channels"
    if execution.stream is not None:
        kernel = model.weight_shapes()[execution.stream].kernel
        text += f", kernel {kernel}, stride {getattr(execution.op, 'stride', 1)}"
    return text


@torch.no_grad()
def _deal_scores(layer: MaskedConv2d, mask: Tensor, soft: bool) -> None:
    """Move the scores of `layer` so that the weights of the `mask` have the largest."""
    mask = mask.cpu()
    if soft:
        lead = torch.rand(mask.shape).pow(0.25)
        layer.scores.copy_(0.5 + 0.5 * lead.where(mask, -lead))
        return
    drawn = layer.scores.detach().cpu().flatten()
    # They are in random order: split at the threshold, each part stays so.
    importance = drawn.abs() if layer.magnitude else drawn
    largest = torch.zeros(len(drawn), dtype=torch.bool)
    largest[importance.argsort(descending=True)[: int(mask.sum())]] = True
    dealt = torch.empty_like(drawn)
    dealt[mask.flatten()], dealt[~mask.flatten()] = drawn[largest], drawn[~largest]
    layer.scores.copy_(dealt.reshape(layer.scores.shape))


@torch.no_grad()
def _set_batch_norms(
    network: FoldedResNet, constants: list[FloatConstants], images: Tensor, batch: int
) -> None:
    """Make every batch norm compute what `constants` say, with statistics measured on `images`.

    The constants are scale and shift in one. First all batch norms get exactly those, with mean 0
    and variance 1. In this network mean and variance of every layer are measured. Then scale and
    shift are set so that with the measured statistics the network stays the same. A batch norm
    without a learned scale needs no measurement: its constants are its statistics.
    """
    affine = network.config.affine
    handles = []
    measured = {}
    for (layer, norm, _, unit), c in zip(normalized_layers(network), constants, strict=True):
        device = layer.scores.device
        # In float64: a channel that is always 0 has a gain of 1 / sqrt(eps).
        gain = torch.from_numpy(c.scale.astype(np.float64) / (layer.scale * unit)).to(device)
        if not norm.affine and not bool((gain > 0.0).all()):
            raise ValueError(
                "key 'model.affine' must be 'all' for a start from a model with batch norms whose "
                f"scale is not positive, as those of stream {layer.stream}, not {affine!r}"
            )
        shift = torch.from_numpy(c.shift.astype(np.float64)).to(device)
        assert norm.running_mean is not None and norm.running_var is not None
        if norm.affine:
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0 - norm.eps)
            norm.weight.copy_(gain)
            norm.bias.copy_(shift)
            measured[norm] = _Moments()
            handles.append(norm.register_forward_pre_hook(measured[norm]))
        else:
            norm.running_var.copy_((gain**-2 - norm.eps).clamp_min(0.0))
            norm.running_mean.copy_(-shift / gain)
    was_training = network.training
    network.eval()
    for part in batches(images, batch):
        network(to_float(part))
    for handle in handles:
        handle.remove()
    for norm, moments in measured.items():
        assert norm.running_mean is not None and norm.running_var is not None
        mean, variance = moments.result()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.bias.add_(norm.weight * mean)
        norm.weight.mul_((variance + norm.eps).sqrt())
    network.train(was_training)


class _Moments:
    """A hook that averages mean and variance of a batch norm's input over the batches it sees."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        self._sums.append(torch.stack([mean, variance]))

    def result(self) -> Tensor:
        """Mean and variance, [2, channels]."""
        return torch.stack(self._sums).mean(0)
