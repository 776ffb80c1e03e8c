# SPDX-License-Identifier: Apache-2.0
"""The settings of a search (data set, network, training): dataclasses that check themselves.

A bad value is refused with a `ValueError` that names the key of the TOML file, what is allowed, and
what was found.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from hiddenfold.sw.affine import FORMS
from hiddenfold.sw.frozen import FREE_EIGHTHS
from hiddenfold.sw.operations import shorten
from hiddenfold.sw.search.architectures import ARCHITECTURES
from hiddenfold.sw.search.generators import GENERATORS

__all__ = [
    "DATASETS",
    "FOLDERS",
    "SHORTCUT_BITS",
    "SIZES",
    "ModelConfig",
    "PhaseConfig",
    "SearchConfig",
    "StageConfig",
    "StemConfig",
    "TrainConfig",
    "one_of",
]

# What is known of every data set the search can read: number of classes and image size.
DATASETS: dict[str, dict[str, int]] = {
    "cifar10": {"classes": 10, "image": 32},
    "cifar100": {"classes": 100, "image": 32},
    "imagenet": {"classes": 1000, "image": 224},
    "folder": {},
}
# Those that are folders of pictures, which are scaled to any of these sizes.
FOLDERS = ("imagenet", "folder")
SIZES = range(16, 225)
MAX_EPOCHS = 100_000

# A projection shortcut is added, never multiplied by the array: 8 bits of it cost no cycles.
SHORTCUT_BITS = 8


@dataclass(frozen=True, kw_only=True)
class StemConfig:
    """First convolution, on the image, with an optional 3x3 max pool of stride 2 after it."""

    channels: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False

    def __post_init__(self) -> None:
        _at_least("model.stem.channels", self.channels, 1)
        one_of("model.stem.kernel", self.kernel, (1, 3, 5, 7))
        one_of("model.stem.stride", self.stride, (1, 2))


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """`blocks` residual blocks; in a folded stage all but the first are one recurrent block.

    `channels` is the width of the stage's output and `mid` the inner width of a bottleneck. The
    stride belongs to the first block.
    """

    blocks: int
    channels: int
    block: str = "basic"
    mid: int = 0
    stride: int = 1
    folded: bool = False

    def __post_init__(self) -> None:
        _at_least("model.stages.blocks", self.blocks, 1)
        _at_least("model.stages.channels", self.channels, 1)
        one_of("model.stages.block", self.block, ("basic", "bottleneck"))
        one_of("model.stages.stride", self.stride, (1, 2))
        if self.block == "bottleneck":
            _at_least("model.stages.mid", self.mid, 1)
        elif self.mid != 0:
            raise ValueError(
                f"Key 'model.stages.mid' is for bottleneck blocks only, not {self.mid!r} "
                f"in a {self.block} block"
            )

    @property
    def recurrent(self) -> bool:
        """Whether the stage has a recurrent block: a folded stage of one block has none."""
        return self.folded and self.blocks > 1

    def convolutions(self, stride: int) -> tuple[tuple[int, int, int], ...]:
        """Output channels, kernel and stride of a block's convolutions, the shortcut left out."""
        if self.block == "basic":
            return (self.channels, 3, stride), (self.channels, 3, 1)
        return (self.mid, 1, 1), (self.mid, 3, stride), (self.channels, 1, 1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: stem, stages, classifier, and how masks and signs are made.

    `weights` is "signs", or "trained" for a baseline: float32 weights that are trained, and no
    masks. Such a network cannot be exported.
    `top_k` is the share of weights that every layer keeps, or, with `scope` "network" in place of
    "layer", that the network keeps (see `FoldedResNet.select`). `seed` gives the weight signs.
    `affine` says which batch norms have a learned scale and shift: "recurrent" (those of the
    recurrent blocks, as published), "all" or "none". `magnitude` ranks weights by |score|, as
    published, instead of by the score itself. `logit_scale` is a constant factor on the logits
    during the search, which has no effect on their order. `generator` makes the signs (see
    `weight_signs`); a network of another one than "lfsr" cannot be exported. `dense_reference`
    names the architecture whose float32 size the network is compared with; "" is the network
    itself, not folded.
    `act_bits` is the width of the activations that the network is searched with (1 to 8, with
    learned clipping), 0 for real numbers. `constants` says how the export stores batch norms:
    "full", or "short" with 3 bytes a channel instead of 5 (docs/spec.md section 5). `free_eighths`
    says how many of 8 neighbouring channels have a stored mask bit (section 2.1): 4, 2 or 1 for
    partly frozen masks. Stem, classifier and layers of fewer than `free_from` weights keep whole
    masks.
    """

    name: str
    stem: StemConfig
    stages: tuple[StageConfig, ...]
    classes: int
    weights: str = "signs"
    top_k: float = 0.3
    scope: str = "layer"
    seed: int = 1
    affine: str = "recurrent"
    magnitude: bool = True
    logit_scale: float = 1.0
    generator: str = "lfsr"
    dense_reference: str = ""
    act_bits: int = 0
    constants: str = "full"
    free_eighths: int = 8
    free_from: int = 16384

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("Key 'model.name' must be a non-empty string, not ''")
        if not self.stages:
            raise ValueError("Key 'model.stages' must list at least 1 stage, not 0")
        _at_least("model.classes", self.classes, 2)
        if not 0.0 < self.top_k <= 1.0:
            raise ValueError(f"Key 'model.top_k' must be above 0 and up to 1, not {self.top_k!r}")
        one_of("model.scope", self.scope, ("layer", "network"))
        if self.scope == "network" and (self.weights, self.free_eighths) != ("signs", 8):
            raise ValueError(
                "Keys 'model.weights' and 'model.free_eighths' must be 'signs' and 8 with "
                f"model.scope 'network', not {self.weights!r} and {self.free_eighths!r}"
            )
        one_of("model.weights", self.weights, ("signs", "trained"))
        if self.weights == "trained" and (self.top_k, self.free_eighths) != (1.0, 8):
            raise ValueError(
                "Keys 'model.top_k' and 'model.free_eighths' must be 1.0 and 8 for trained "
                f"weights, which have no masks, not {self.top_k!r} and {self.free_eighths!r}"
            )
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"Key 'model.seed' must be 0 to 2**64 - 1, not {self.seed!r}")
        if not 0.0 < self.logit_scale < math.inf:
            raise ValueError(f"Key 'model.logit_scale' must be above 0, not {self.logit_scale!r}")
        one_of("model.affine", self.affine, ("recurrent", "all", "none"))
        one_of("model.generator", self.generator, GENERATORS)
        one_of("model.dense_reference", self.dense_reference, ("", *ARCHITECTURES))
        _range("model.act_bits", self.act_bits, 0, 8)
        one_of("model.constants", self.constants, FORMS)
        one_of("model.free_eighths", self.free_eighths, FREE_EIGHTHS)
        _at_least("model.free_from", self.free_from, 0)
        # Half of the frozen weights are kept; the free ones make up the difference.
        low = (8 - self.free_eighths) / 16
        if not (low < self.top_k < 1.0 - low or self.free_eighths == 8):
            raise ValueError(
                f"Key 'model.top_k' must be above {low} and below {1.0 - low} "
                f"with free_eighths {self.free_eighths}, not {self.top_k!r}"
            )

    def free_of(self, weights: int) -> int:
        """The m of docs/spec.md section 2.1 for a convolution of so many weights."""
        return self.free_eighths if weights >= self.free_from else 8


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """`epochs` epochs on images resized to `size` x `size` pixels."""

    epochs: int
    size: int

    def __post_init__(self) -> None:
        _range("train.phases.epochs", self.epochs, 1, MAX_EPOCHS)
        _at_least("train.phases.size", self.size, 8)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the scores are trained: linear warm-up of the learning rate, then a cosine to 0.

    `optimizer` is "sgd" (with `momentum`, in Nesterov's form if `nesterov` is set) or "adam"
    (`momentum` is then its beta1, beta2 is 0.99, and `lr` is in units of the mean |score| of each
    layer when the search starts). The warm-up is given in epochs. `weight_decay` acts on scores,
    and with `decay_norms` on the scale and shift of batch norms as well.
    `norm_lr` is the learning rate of the batch norms' scale and shift and of the logarithms of
    quantizers' steps, `lr` that of the scores.
    `precision` is the type of activations and effective weights, "fp32", "bf16" or "auto" (bf16
    where the machine gains from it); scores stay float32.
    `crop` is "padded" (the image, moved by up to `crop_padding` pixels) or "resized" (a part of
    random size and shape, for data sets of picture files). `quantize_from` is the epoch (from 0)
    with which activations of `model.act_bits` bits begin.
    For the share `soft` of the epochs masks are soft, and for the share `harden` after it they turn
    into the masks of ones and zeros that all epochs have otherwise (see `MaskedConv2d`).
    `teacher` is the directory of a run (of a network with trained weights, say) whose answers at
    `temperature` are learned too; `distill` is their share of the loss.
    With `mixup` above 0 neighbouring images of a batch are mixed, by shares drawn from the beta
    distribution of that parameter, and so are their labels (Zhang et al., "mixup", ICLR 2018).
    `cutmix` is the share of the steps in which a box of random size is the neighbour's instead (Yun
    et al., "CutMix", ICCV 2019).
    With `average` above 0 the result of the search is the exponential moving average of all scores
    and batch norms with that decay per step (0.999, say), not their last values.
    `eval_every` is in epochs; the last epoch is always evaluated. `held_out` is the share of the
    training images that are not trained on but evaluated, in place of the test images: for choices
    that the test images must not take part in.
    """

    phases: tuple[PhaseConfig, ...]
    batch: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    norm_lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norms: bool = False
    warmup: float = 1.0
    label_smoothing: float = 0.1
    crop: str = "padded"
    crop_padding: int = 4
    flip: bool = True
    precision: str = "auto"
    seed: int = 0
    quantize_from: int = 0
    soft: float = 0.0
    harden: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    average: float = 0.0
    eval_every: int = 1
    held_out: float = 0.0
    teacher: str = ""
    distill: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("Key 'train.phases' must list at least 1 phase, not 0")
        _at_least("train.batch", self.batch, 2)
        one_of("train.optimizer", self.optimizer, ("sgd", "adam"))
        for key in ("lr", "norm_lr"):
            _range(f"train.{key}", getattr(self, key), 0.0, 1e6)
        _range("train.momentum", self.momentum, 0.0, 0.9999)
        _range("train.weight_decay", self.weight_decay, 0.0, 1.0)
        _range("train.warmup", self.warmup, 0.0, float(self.epochs))
        _range("train.label_smoothing", self.label_smoothing, 0.0, 0.9)
        one_of("train.crop", self.crop, ("padded", "resized"))
        _at_least("train.crop_padding", self.crop_padding, 0)
        _range("train.seed", self.seed, 0, (1 << 64) - 1)
        _range("train.quantize_from", self.quantize_from, 0, self.epochs - 1)
        _at_least("train.eval_every", self.eval_every, 1)
        _range("train.soft", self.soft, 0.0, 1.0)
        _range("train.harden", self.harden, 0.0, round(1.0 - self.soft, 9))
        _range("train.held_out", self.held_out, 0.0, 0.5)
        _range("train.distill", self.distill, 0.0, 1.0)
        _range("train.mixup", self.mixup, 0.0, 100.0)
        _range("train.cutmix", self.cutmix, 0.0, 1.0)
        _range("train.average", self.average, 0.0, 0.999999)
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"Key 'train.temperature' must be above 0, not {self.temperature!r}")
        one_of("train.precision", self.precision, ("auto", "fp32", "bf16"))

    def softness(self, progress: float) -> float:
        """How soft masks are after `progress` epochs: 1 is soft, 0 is ones and zeros."""
        past = progress / self.epochs - self.soft
        if past < 0.0:
            return 1.0
        return 1.0 - past / self.harden if past < self.harden else 0.0

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def size_of(self, epoch: int) -> int:
        """Image size of `epoch` (0 .. epochs - 1)."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase.size
            epoch -= phase.epochs
        raise ValueError(f"Epoch must be 0 to {self.epochs - 1}, not {epoch + self.epochs}")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A whole search: data set, size of its images in pixels, network, training."""

    dataset: str
    image: int
    model: ModelConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        known = DATASETS[self.dataset]
        self._as_known("model.classes", self.model.classes, known.get("classes"))
        if self.dataset not in FOLDERS:
            self._as_known("image", self.image, known["image"])
            if self.train.crop != "padded":
                raise ValueError(
                    f"Key 'train.crop' must be 'padded' for dataset {self.dataset!r}, "
                    f"not {self.train.crop!r}"
                )
        elif self.image not in SIZES:
            raise ValueError(
                f"Key 'image' must be {SIZES[0]} to {SIZES[-1]} for dataset {self.dataset!r}, "
                f"not {self.image!r}"
            )

        model, train = self.model, self.train
        hard = model.weights != "signs" or model.magnitude or model.free_eighths != 8
        if train.soft + train.harden > 0.0 and (hard or model.scope != "layer"):
            raise ValueError(
                "Keys 'train.soft' and 'train.harden' must be 0 unless 'model.weights' is 'signs', "
                "'model.magnitude' is false, 'model.free_eighths' is 8 and 'model.scope' is "
                "'layer', not "
                f"{train.soft!r} and {train.harden!r}"
            )

    def _as_known(self, key: str, value: int, known: int | None) -> None:
        if known is not None and value != known:
            raise ValueError(
                f"Key {key!r} must be {known} for dataset {self.dataset!r}, not {shorten(value)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, accepted by `parse_config`."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _at_least(key: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"Key {key!r} must be {low} or more, not {shorten(value)}")


def _range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"Key {key!r} must be {low:g} to {high:g}, not {shorten(value)}")


def one_of(key: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise `ValueError` unless the value of `key` is among those `allowed`."""
    if value not in allowed:
        names = ", ".join(repr(item) for item in allowed)
        raise ValueError(f"Key {key!r} must be one of {names}, not {shorten(value)}")
