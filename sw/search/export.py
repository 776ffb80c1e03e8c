# SPDX-License-Identifier: Apache-2.0
"""From a trained run to a model file: batch norms, calibration, quantization, packing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiddenfold.sw import signs
from hiddenfold.sw.affine import SHORT
from hiddenfold.sw.model import Conv, Execution, MaxPool, Model, Unfold
from hiddenfold.sw.search.activation import Activation
from hiddenfold.sw.search.data import Split, load_data, load_split
from hiddenfold.sw.search.float_network import (
    FloatConstants,
    FloatNetwork,
    load_constants,
    save_constants,
)
from hiddenfold.sw.search.measure import REFRESH_IMAGES, refresh_batch_norms
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers, normalized_layers
from hiddenfold.sw.search.plan import check_exportable, plan, with_act_bits
from hiddenfold.sw.search.quantize import (
    Scale,
    affine_constants,
    choose_scale,
    residual_multiplier,
    short_constants,
)
from hiddenfold.sw.search.recalibrate import recalibrate
from hiddenfold.sw.search.run_directory import load_run, origin
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.supermask import MaskedConv2d

__all__ = [
    "build_model",
    "export_model",
    "export_network",
    "export_run",
    "fold_batch_norms",
    "quantize",
]

CALIBRATION_IMAGES = 1024
SAMPLES = 1 << 18


def export_run(
    run_dir: str | Path,
    data_dir: str | Path,
    act_bits: int | None = None,
    output: str | Path | None = None,
    constants_form: str | None = None,
) -> Model:
    """The model of a run; `export_network` says how. Batch norms are measured anew."""
    config, network, log = load_run(run_dir)
    check_exportable(run_dir, config.model)
    notes = _provenance(config.model.name, len(log), origin(run_dir))
    return export_network(
        config, network, data_dir, notes, act_bits, output, constants_form, measure=True
    )


def export_network(
    config: SearchConfig,
    network: FoldedResNet,
    data_dir: str | Path,
    provenance: dict[str, str],
    act_bits: int | None = None,
    output: str | Path | None = None,
    constants_form: str | None = None,
    *,
    measure: bool,
) -> Model:
    """The model of a searched network, quantized with activations of `act_bits` bits (1 .. 8).

    None stands for those of the search, with the scales that it has learned, or 8 if it had real
    numbers; with any other width the scales are chosen anew.
    Calibrates on training images, after measuring the batch norms anew on them if `measure` is
    set, and notes the float accuracy on the test images. `constants_form`, "full" or "short",
    replaces `model.constants` of the configuration. With `output` the model is saved there, and
    its float constants beside it.
    """
    _check_bits(act_bits)
    if act_bits is None:
        act_bits = config.model.act_bits or 8
    training, test = load_data(config, data_dir)
    size = config.image
    if measure:
        images = training.sample(REFRESH_IMAGES)
        refresh_batch_norms(network, images, config.train.crop_padding, config.train)
    network.eval()
    model = build_model(network, config.dataset, training.classes, (size, size), act_bits)
    if constants_form is not None:
        model = dataclasses.replace(model, constants=constants_form)
    constants = fold_batch_norms(network)
    if act_bits != network.config.act_bits:
        constants = [dataclasses.replace(c, output=None) for c in constants]
    model = dataclasses.replace(model, provenance=provenance)
    return _finish(model, constants, training, test, output)


def export_model(
    path: str | Path,
    data_dir: str | Path,
    act_bits: int | None = None,
    output: str | Path | None = None,
    constants_form: str | None = None,
) -> Model:
    """The network of a model file, quantized anew; `export_network` says how.

    The float constants beside the file are needed. Raises `ValueError` where they are missing, and
    where `output` is the file itself.
    """
    _check_bits(act_bits)
    if output is not None and Path(output).resolve() == Path(path).resolve():
        raise ValueError(f"the model's new file must be another one than {path}")
    model = Model.load(path)
    constants = load_constants(path, model)
    if act_bits is not None and act_bits != model.act_bits:
        model = with_act_bits(model, act_bits)
        constants = [dataclasses.replace(c, output=None) for c in constants]
    if constants_form is not None:
        model = dataclasses.replace(model, constants=constants_form)
    training, test = (
        load_split(model.dataset, data_dir, split, model.image[0]) for split in ("train", "test")
    )
    return _finish(model, constants, training, test, output)


def _check_bits(act_bits: int | None) -> None:
    if act_bits is not None and (isinstance(act_bits, bool) or not isinstance(act_bits, int)):
        raise TypeError(f"Activation bits must be an integer, not {act_bits!r}")
    if act_bits is not None and not 1 <= act_bits <= 8:
        raise ValueError(f"Activation bits must be 1 to 8, not {act_bits}")


def _finish(
    model: Model,
    constants: list[FloatConstants],
    training: Split,
    test: Split,
    output: str | Path | None,
) -> Model:
    best = FloatNetwork(model, constants).logits(test.images).argmax(1)
    top1 = 100.0 * float((best == test.labels).double().mean())
    model = dataclasses.replace(
        quantize(model, constants, training.sample(CALIBRATION_IMAGES)),
        accuracy={"float": top1, "golden": None},
    )
    if output is not None:
        model.save(output)
        save_constants(output, constants)
    return model


def _provenance(name: str, epochs: int, source: str) -> dict[str, str]:
    notes = {"epochs": str(epochs), "config": name}
    return notes | {"from": source} if source else notes


def build_model(
    network: FoldedResNet,
    dataset: str,
    classes: tuple[str, ...],
    image: tuple[int, int],
    act_bits: int,
) -> Model:
    """The model's operations and masks, without affine tables."""
    check_exportable(network.config.name, network.config)
    masks = {}
    network.select()
    for _, layer in conv_layers(network):
        words = signs.pack(layer.mask().cpu().numpy())
        masks[layer.stream] = words.reshape(layer.out_channels, layer.kernel**2, -1)
    model = plan(network.config, dataset, classes, image, act_bits)
    return dataclasses.replace(model, masks=masks)


def fold_batch_norms(network: FoldedResNet) -> list[FloatConstants]:
    """Constants of every execution of a convolution, in execution order."""
    if network.config.act_bits:
        # Steps follow from each other in a forward pass, whatever the image is.
        was_training = network.training
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, 3, 32, 32, device=network.stem.scores.device))
        network.train(was_training)
    return [_fold(*execution) for execution in normalized_layers(network)]


def _fold(
    layer: MaskedConv2d, norm: nn.BatchNorm2d, act: Activation, input_unit: float
) -> FloatConstants:
    """Batch norm and weight scale as one scale and shift; `input_unit` is the value of input 1."""
    mean, variance = _float64(norm.running_mean), _float64(norm.running_var)
    gain = 1.0 / np.sqrt(variance + norm.eps)
    offset = np.zeros_like(gain)
    if norm.affine:
        gain, offset = gain * _float64(norm.weight), _float64(norm.bias)
    scale = gain * layer.scale * input_unit
    shift = offset - gain * mean
    return FloatConstants(
        scale.astype(np.float32), shift.astype(np.float32), not act.signed, act.scale
    )


def _float64(tensor: Tensor | None) -> NDArray[np.float64]:
    assert tensor is not None
    return tensor.detach().cpu().double().numpy()


def quantize(model: Model, constants: list[FloatConstants], calibration: Tensor) -> Model:
    """The model with affine tables that make it approximate the float network.

    `calibration` is a batch of images uint8 [N, 3, H, W]. The scale of an activation tensor is the
    one that the search has learned, else the one with the least mean square error on the images.
    Batch norms are measured anew with all activations rounded.
    """
    statistics = _observe(model, constants, calibration)
    steps = _steps(model, constants, statistics)
    constants = recalibrate(model, constants, [step.output for step in steps], calibration)
    affine = []
    for step, c, seen in zip(steps, constants, statistics, strict=True):
        gain = c.scale.astype(np.float64) * (step.input.step / step.output.step)
        offset = c.shift.astype(np.float64) / step.output.step + step.output.zero
        # A channel whose accumulator never changes may have a huge gain (its variance is
        # about 0); keep it from taking the multipliers' precision away from the others.
        constant = seen.low == seen.high
        offset = np.where(constant, seen.low / step.output.step + step.output.zero, offset)
        gain = np.where(constant, 0.0, gain)
        made = affine_constants(step.name, gain, offset, step.multiplier, step.residual_zero)
        if model.constants == SHORT:
            made = short_constants(made, (seen.mean - c.shift) / step.output.step)
        affine.append(made)
    return dataclasses.replace(model, affine=affine)


@dataclass(frozen=True)
class _Step:
    """Scales of an execution of a convolution, and what its residual is multiplied with."""

    name: str
    input: Scale
    output: Scale
    multiplier: int
    residual_zero: int


def _steps(
    model: Model, constants: list[FloatConstants], statistics: list[_Statistics]
) -> list[_Step]:
    """Choose the scales of all executions of convolutions."""
    scales: dict[str, Scale] = {}
    steps = []
    for execution in model.executions():
        op = execution.op
        if isinstance(op, Unfold):
            scales[op.output] = Scale(1.0)
        elif isinstance(op, MaxPool):
            scales[op.output] = scales[op.input]
        elif isinstance(op, Conv):
            assert execution.affine is not None
            c = constants[execution.affine]
            values = statistics[execution.affine].values
            scale = c.output or choose_scale(values, op.bits, signed=not c.relu)
            multiplier, residual_zero = 0, 0
            if op.residual is not None:
                residual = scales[op.residual]
                residual_zero = residual.zero
                multiplier, scale = residual_multiplier(op.name, residual, scale)
            steps.append(_Step(op.name, scales[op.input], scale, multiplier, residual_zero))
            scales[op.output] = scale
    return steps


@dataclass(frozen=True, eq=False)
class _Statistics:
    """Sample of a convolution's output; mean and range of each channel before the residual."""

    values: NDArray[np.float32]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def _observe(
    model: Model, constants: list[FloatConstants], images: Tensor, batch: int = 128
) -> list[_Statistics]:
    """Statistics of every execution of a convolution in the float network."""
    network = FloatNetwork(model, constants)
    parts = images.split(batch)
    each = -(-SAMPLES // len(parts))
    values: list[list[Tensor]] = [[] for _ in constants]
    means: list[list[Tensor]] = [[] for _ in constants]
    ranges: list[list[tuple[Tensor, Tensor]]] = [[] for _ in constants]
    generator = torch.Generator().manual_seed(0)

    def observe(execution: Execution, normalized: Tensor, output: Tensor) -> None:
        assert execution.affine is not None
        flat = output.flatten()
        index = torch.randint(0, flat.numel(), (each,), generator=generator)
        values[execution.affine].append(flat[index])
        # The largest and the smallest value take part in every sample.
        values[execution.affine].append(torch.stack(output.aminmax()))
        means[execution.affine].append(normalized.mean((0, 2, 3)))
        ranges[execution.affine].append((normalized.amin((0, 2, 3)), normalized.amax((0, 2, 3))))

    for part in parts:
        network.forward(part, observe)
    return [
        _Statistics(
            torch.cat(values[i]).numpy(),
            torch.stack(means[i]).mean(0).double().numpy(),
            torch.stack([low for low, _ in ranges[i]]).amin(0).double().numpy(),
            torch.stack([high for _, high in ranges[i]]).amax(0).double().numpy(),
        )
        for i in range(len(constants))
    ]
