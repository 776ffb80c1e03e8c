# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the reference implementation of Hidden-Fold Networks, and of edge-popup before it.

Such a checkpoint is a `state_dict`, alone or in a dictionary: `weight` (random, of one magnitude)
and `scores` of every convolution, statistics (and scale and shift, if learned) of every batch norm.
Layers are called `conv1`, `stage_1.0.conv1` (edge-popup: `layer1.0.conv1`), `fc`; the batch norms
of a recurrent block, one set per iteration, `stage_3.1.bnorm1_0`, others `bn1`. A mask keeps the
weights with the largest |score| of a layer.

Hardware makes its signs from a seed, so a network can only be taken over as it is if its weights
have these signs (`reference_signs` gives them, for a search in the reference implementation).
With other signs a mask means nothing; scores and batch norms are then a place to start a search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hiddenfold.sw.operations import shorten
from hiddenfold.sw.search.nets import FoldedResNet, StemConv2d
from hiddenfold.sw.search.plan import check_exportable
from hiddenfold.sw.search.run_directory import RunDirectory
from hiddenfold.sw.search.settings import ModelConfig, SearchConfig
from hiddenfold.sw.search.state import Search
from hiddenfold.sw.search.supermask import MaskedConv2d

__all__ = ["Checkpoint", "import_network", "import_run", "provenance", "reference_signs"]

# Weights of a layer have one magnitude if they differ by no more than this share of it.
_TOLERANCE = 1e-5


class Place(NamedTuple):
    """A convolution of ours, and the names of it and of its batch norms in a checkpoint."""

    name: str
    layer: MaskedConv2d
    norms: list[tuple[str, nn.BatchNorm2d]]

    def ours(self, tensor: Tensor) -> Tensor:
        """A weight or score tensor of the reference [Cout, Cin, K, K] in the shape of ours."""
        if isinstance(self.layer, StemConv2d):
            tensor = tensor.permute(0, 2, 3, 1)
        return tensor.reshape(self.layer.scores.shape)

    def theirs(self, tensor: Tensor) -> Tensor:
        """The inverse of `ours`."""
        if isinstance(self.layer, StemConv2d):
            out, k = self.layer.out_channels, self.layer.image_kernel
            return tensor.reshape(out, k, k, -1).permute(0, 3, 1, 2).contiguous()
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the reference's weights."""
        return tuple(self.theirs(self.layer.scores).shape)


class Checkpoint:
    """The tensors of a checkpoint file, and how many epochs it has seen ("?" if it does not say).

    Raises `ValueError` when `path` is not such a file. Nothing in it is executed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{path} must be a checkpoint file, and is none")
        try:
            data = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            # A damaged or unsafe file makes torch, pickle and zipfile raise many kinds of errors.
            raise ValueError(
                f"{path} must be a PyTorch file of tensors and plain values: save the state_dict "
                f"alone ({error!r:.200})"
            ) from error
        self.epochs = "?"
        if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
            self.epochs = str(data.get("epoch", "?"))
            data = data["state_dict"]
        if not isinstance(data, dict) or not any(str(key).endswith(".scores") for key in data):
            raise ValueError(
                f"{path} must hold a state_dict with 'scores' of convolutions, and has none"
            )
        # DataParallel puts this before every name.
        self._tensors = {str(key).removeprefix("module."): value for key, value in data.items()}
        self._unused = set(self._tensors)

    def places(self, network: FoldedResNet) -> list[Place]:
        """The layers of `network` in stream order."""
        return list(_places(network, set(self._tensors)))

    def layer(self, place: Place) -> tuple[Tensor, Tensor]:
        """Weights and scores of a convolution, float32 in the shape of ours."""
        weight_there, scores_there = (
            f"{place.name}.{kind}" in self._tensors for kind in ("weight", "scores")
        )
        if weight_there and not scores_there:
            raise ValueError(
                f"{self.path}: layer {place.name!r} must have 'scores' and has none, so its "
                "weights were trained (keys 'last_layer_dense' and 'first_layer_type' of the "
                "reference): hardware makes all weights from a seed"
            )
        weight, scores = (
            place.ours(self._tensor(f"{place.name}.{kind}", place.shape))
            for kind in ("weight", "scores")
        )
        return weight, scores

    @torch.no_grad()
    def copy_norm(self, name: str, norm: nn.BatchNorm2d) -> None:
        """Set a batch norm of ours to that called `name`."""
        shape = (norm.num_features,)
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(self._tensor(f"{name}.running_mean", shape))
        norm.running_var.copy_(self._tensor(f"{name}.running_var", shape))
        self._unused.discard(f"{name}.num_batches_tracked")
        learned = f"{name}.weight" in self._tensors
        if not norm.affine:
            if learned:
                raise ValueError(
                    f"{self.path}: batch norm {name!r} has a learned scale and shift: "
                    "key 'model.affine' must be 'all', or 'recurrent' if it is of a folded stage"
                )
        elif learned:
            norm.weight.copy_(self._tensor(f"{name}.weight", shape))
            norm.bias.copy_(self._tensor(f"{name}.bias", shape))

    def finish(self) -> None:
        """Raise `ValueError` unless everything was used."""
        if self._unused:
            raise ValueError(
                f"{self.path}: the network of the configuration must have a place for "
                f"{min(self._unused)!r} and {len(self._unused) - 1} more tensors of the checkpoint"
            )

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._tensors:
            raise ValueError(
                f"{self.path}: the checkpoint must have a tensor {name!r} for the network of the "
                "configuration"
            )
        tensor = self._tensors[name]
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = list(tensor.shape) if isinstance(tensor, Tensor) else shorten(tensor)
            raise ValueError(
                f"{self.path}: {name!r} must have the shape {list(shape)}, as in the "
                f"configuration, not {found}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{self.path}: {name!r} must be finite numbers, not all are")
        self._unused.discard(name)
        return tensor.float()


def _places(network: FoldedResNet, names: set[str]) -> Iterator[Place]:
    """All layers in stream order; `names` of tensors decide between the spellings."""
    yield Place("conv1", network.stem, [("bn1", network.stem_norm)])
    for number, blocks in enumerate(network.stages, 1):
        stage = f"layer{number}" if f"layer{number}.0.conv1.weight" in names else f"stage_{number}"
        for index, block in enumerate(blocks):
            at = f"{stage}.{index}"
            if block.shortcut is not None and block.shortcut_norm is not None:
                kind = "downsample" if f"{at}.downsample.0.weight" in names else "shortcut"
                norms = [(f"{at}.{kind}.1", block.shortcut_norm)]
                yield Place(f"{at}.{kind}.0", block.shortcut, norms)
            # Shared batch norms, which the reference calls as those of other blocks.
            shared = f"{at}.bn1.running_mean" in names
            folded = network.config.stages[number - 1].recurrent and index > 0 and not shared
            for i, conv in enumerate(block.convs, 1):
                norms = []
                for t, iteration in enumerate(block.norms):
                    name = f"{at}.bnorm{i}_{t}" if folded else f"{at}.bn{i}"
                    norms.append((name, list(iteration)[i - 1]))
                yield Place(f"{at}.conv{i}", conv, norms)
    yield Place("fc", network.classifier, [])


def reference_signs(config: ModelConfig) -> dict[str, Tensor]:
    """Signs +1 and -1 of all layers of `config`, by the names of the reference implementation.

    Before a search there, `p.data = signs[name] * p.data.abs()` for the parameters with these
    names makes its result one that can be imported.
    """
    return {
        f"{place.name}.weight": place.theirs(place.layer.weights.sign())
        for place in _places(FoldedResNet(config), set())
    }


def import_network(config: SearchConfig, checkpoint: Checkpoint) -> FoldedResNet:
    """The network of a checkpoint whose weights have our signs, in evaluation mode.

    It computes the same logits, but for `model.logit_scale`. Raises `ValueError` when the signs
    are others, or the network is not that of `config`.
    """
    config = _with_real_activations(config)
    path = checkpoint.path
    check_exportable(path, config.model)
    if config.model.free_eighths != 8:
        raise ValueError(
            f"{path}: key 'model.free_eighths' must be 8 for masks of the reference, which are "
            f"whole, not {config.model.free_eighths}"
        )
    if config.model.scope != "layer":
        raise ValueError(
            f"{path}: key 'model.scope' must be 'layer' for masks of the reference, not "
            f"{config.model.scope!r}"
        )
    network = FoldedResNet(config.model).eval()
    places = checkpoint.places(network)
    wrong: list[tuple[int, int, str]] = []
    for place in places:
        weight, scores = checkpoint.layer(place)
        layer = place.layer
        wrong.append(
            (int((weight.sign() != layer.weights.sign()).sum()), weight.numel(), place.name)
        )
        layer.scale = _magnitude(path, place.name, weight)
        layer.weights.copy_(layer.weights.sign() * layer.scale)
        _set_scores(layer, scores)
        # It keeps n - floor((1 - k) n) of n weights, which may be one more than ours would.
        count = scores.numel()
        layer.top_k = layer.free_share = (count - int((1 - config.model.top_k) * count)) / count
        for name, norm in place.norms:
            checkpoint.copy_norm(name, norm)
    checkpoint.finish()
    _check_signs(path, config.model.seed, wrong)
    return network


def _magnitude(path: Path, name: str, weight: Tensor) -> float:
    low, high = (float(value) for value in weight.abs().aminmax())
    if not (high - low) <= _TOLERANCE * high or low == 0.0:
        raise ValueError(
            f"{path}: weights of layer {name!r} must have one magnitude ('init: signed_constant' "
            f"of the reference), not {low:.4g} to {high:.4g}; --research takes the scores alone"
        )
    return high


def _check_signs(path: Path, seed: int, wrong: list[tuple[int, int, str]]) -> None:
    """Raise `ValueError` if of any layer (wrong signs, weights, name) a sign is not ours."""
    count, total = sum(item[0] for item in wrong), sum(item[1] for item in wrong)
    layers = [item for item in wrong if item[0]]
    if not layers:
        return
    first = layers[0]
    raise ValueError(
        f"{path}: signs of the weights must be those that the accelerator makes from 'model.seed' "
        f"= {seed}, but {100 * first[0] / first[1]:.1f} % of layer {first[2]!r} are others ("
        f"{100 * count / total:.1f} % of all weights, in {len(layers)} of {len(wrong)} layers). "
        "A mask means nothing with other signs: --research RUN writes a run from which "
        "`hiddenfold train --from RUN` searches on, over these signs"
    )


def import_run(config: SearchConfig, checkpoint: Checkpoint, run_dir: str | Path) -> None:
    """Write a run of no epochs with scores and batch norms of a checkpoint, whatever its signs."""
    config = _with_real_activations(config)
    run = RunDirectory(run_dir, resume=False)
    search = Search(config, "cpu")
    for place in checkpoint.places(search.model):
        _set_scores(place.layer, checkpoint.layer(place)[1])
        for name, norm in place.norms:
            checkpoint.copy_norm(name, norm)
    checkpoint.finish()
    notes = provenance(config, checkpoint)
    search.origin = f"{notes['from']} of {checkpoint.epochs} epochs"
    run.open(config)
    run.write(search)
    run.close()


def provenance(config: SearchConfig, checkpoint: Checkpoint) -> dict[str, str]:
    """What a model file says about where an imported network is from."""
    source = f"{checkpoint.path.name} of the reference implementation"
    return {"epochs": checkpoint.epochs, "config": config.model.name, "from": source}


@torch.no_grad()
def _set_scores(layer: MaskedConv2d, scores: Tensor) -> None:
    """Scores that give the same masks: the reference ranks by |score|."""
    layer.scores.copy_(scores if layer.magnitude else scores.abs())


def _with_real_activations(config: SearchConfig) -> SearchConfig:
    """The reference has no quantized activations; a search from the run may begin with them."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, act_bits=0))
