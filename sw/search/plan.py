# SPDX-License-Identifier: Apache-2.0
"""What a configured network will be as a model: its operations and sizes, before any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from hiddenfold.sw import signs
from hiddenfold.sw.model import (
    Classifier,
    Conv,
    DenseReference,
    Loop,
    MaxPool,
    Model,
    Operation,
    Unfold,
)
from hiddenfold.sw.model_summary import dense_parameters
from hiddenfold.sw.search.architectures import stages
from hiddenfold.sw.search.settings import SHORTCUT_BITS, ModelConfig, SearchConfig, StageConfig

__all__ = ["check_exportable", "plan", "plan_search", "with_act_bits"]

# Width of the activations where no export has chosen one.
ACT_BITS = 8


def check_exportable(subject: object, config: ModelConfig) -> None:
    """Raise `ValueError`, about `subject`, unless the network can be a model file.

    Hardware makes weights from a seed by the LFSR, and has no others.
    """
    for key, wanted in (("weights", "signs"), ("generator", "lfsr")):
        found = getattr(config, key)
        if found != wanted:
            raise ValueError(
                f"{subject}: key 'model.{key}' must be {wanted!r} for a model file, whose weights "
                f"are made from a seed, not {found!r}"
            )


def plan(
    config: ModelConfig,
    dataset: str,
    classes: tuple[str, ...],
    image: tuple[int, int],
    act_bits: int,
) -> Model:
    """The model of a network without masks and affine tables; `image` is (height, width)."""
    reference = None
    if config.dense_reference:
        dense = dataclasses.replace(
            config,
            stages=tuple(StageConfig(**stage) for stage in stages(config.dense_reference)),
            dense_reference="",
        )
        executions = plan(dense, dataset, classes, image, act_bits).executions()
        reference = DenseReference(config.dense_reference, dense_parameters(executions))
    model = Model(
        name=config.name,
        dataset=dataset,
        classes=classes,
        image=image,
        seed=signs.splitmix64(config.seed),
        top_k=config.top_k,
        act_bits=act_bits,
        folded_stages=tuple(i for i, s in enumerate(config.stages, 1) if s.recurrent),
        ops=tuple(_Operations(act_bits).of(config)),
        masks={},
        affine=[],
        dense_reference=reference,
        constants=config.constants,
    )
    _, *shapes, _ = model.weight_shapes().values()
    free = (8, *(config.free_of(shape.weights) for shape in shapes), 8)
    return dataclasses.replace(model, free=free if min(free) < 8 else ())


def plan_search(search: SearchConfig) -> Model:
    """The model that a search will make, with numbers for labels."""
    size = search.image
    labels = tuple(map(str, range(search.model.classes)))
    return plan(
        search.model, search.dataset, labels, (size, size), search.model.act_bits or ACT_BITS
    )


def with_act_bits(model: Model, act_bits: int) -> Model:
    """The model with activations of another width; its affine tables are those of the old one."""

    def change(op: Any) -> Any:
        if isinstance(op, Loop):
            return dataclasses.replace(op, body=tuple(map(change, op.body)))
        # What is only added is a shortcut, of a width of its own.
        if isinstance(op, Conv) and op.output in sources:
            return dataclasses.replace(op, bits=act_bits)
        return op

    sources = {e.op.input for e in model.executions()}
    return dataclasses.replace(model, act_bits=act_bits, ops=tuple(map(change, model.ops)))


class _Operations:
    """Makes the operations of a network, numbering sign streams in the order of execution."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._streams = 0

    def of(self, config: ModelConfig) -> Iterator[Operation]:
        """The network's operations. Tensor x is carried from block to block."""
        stem = config.stem
        yield Unfold(name="unfold", output="patches", kernel=stem.kernel, stride=stem.stride)
        yield self._conv("stem", "patches", "x", stem.channels)
        if stem.pool:
            yield MaxPool(name="pool", input="x", output="x", kernel=3, stride=2)
        channels = stem.channels
        for s, stage in enumerate(config.stages, 1):
            name = f"stage{s}.block"
            projects = stage.stride != 1 or channels != stage.channels
            yield from self._block(f"{name}1", stage, stage.stride, projects)
            channels = stage.channels
            if stage.recurrent:
                body = tuple(self._block(f"{name}2", stage, 1, False))
                yield Loop(count=stage.blocks - 1, body=body)
            else:
                for b in range(2, stage.blocks + 1):
                    yield from self._block(f"{name}{b}", stage, 1, False)
        yield Classifier(name="classifier", input="x", stream=self._stream())

    def _block(self, name: str, stage: StageConfig, stride: int, projects: bool) -> Iterator[Conv]:
        residual = "x"
        if projects:
            residual = "shortcut"
            yield self._conv(
                f"{name}.shortcut", "x", residual, stage.channels, 1, stride, bits=SHORTCUT_BITS
            )
        shapes = stage.convolutions(stride)
        source = "x"
        for i, (channels, kernel, step) in enumerate(shapes, 1):
            last = i == len(shapes)
            target = "x" if last else f"mid{i}"
            yield self._conv(
                f"{name}.conv{i}",
                source,
                target,
                channels,
                kernel,
                step,
                residual=residual if last else None,
            )
            source = target

    def _conv(
        self,
        name: str,
        source: str,
        target: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        bits: int = 0,
        residual: str | None = None,
    ) -> Conv:
        return Conv(
            name=name,
            input=source,
            output=target,
            kernel=kernel,
            stride=stride,
            out_channels=channels,
            bits=bits or self._bits,
            stream=self._stream(),
            residual=residual,
        )

    def _stream(self) -> int:
        self._streams += 1
        return self._streams - 1
