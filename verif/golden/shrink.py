# SPDX-License-Identifier: Apache-2.0
"""Makes a network that shows a mistake smaller, as long as it still shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Classifier, Conv, Loop, Operation
from hiddenfold.verif.golden.random_constants import random_masks

__all__ = ["shrink", "smaller"]

#: Networks that are tried at most.
_TRIES = 60


def shrink(model: Model, fails: Callable[[Model], bool], tries: int = _TRIES) -> Model:
    """The smallest network found that `fails` as `model` does.

    First operations are cut off at the end, then loops are run less often, then the image is
    cropped; what is left of masks and constants stays as it is. A network that is illegal or that
    `fails` refuses with a `ValueError` is passed over.
    """
    while True:
        for candidate in smaller(model):
            if tries == 0:
                return model
            try:
                candidate.validate()
                tries -= 1
                failed = fails(candidate)
            except ValueError:
                continue
            if failed:
                model = candidate
                break
        else:
            return model


def smaller(model: Model) -> Iterator[Model]:
    """Networks with less of what `model` has, the smallest first."""
    for length in range(2, len(model.ops) - 1):
        yield _cut(model, length)
    for place, op in enumerate(model.ops):
        if isinstance(op, Loop):
            for count in sorted({1, op.count // 2, op.count - 1} - {0, op.count}):
                yield _shorten(model, place, count)
    height, width = model.image
    for size in (
        ((height + 1) // 2, (width + 1) // 2),
        ((height + 1) // 2, width),
        (height, (width + 1) // 2),
        (height - 1, width),
        (height, width - 1),
    ):
        if size != model.image and min(size) > 0:
            yield replace(model, image=size)


def _convs(ops: tuple[Operation, ...]) -> int:
    """Executions of convolutions."""
    return sum(
        op.count * len(op.body) if isinstance(op, Loop) else isinstance(op, Conv) for op in ops
    )


def _cut(model: Model, length: int) -> Model:
    """The first `length` operations and a classifier."""
    ops = model.ops[:length]
    last = ops[-1].body[-1] if isinstance(ops[-1], Loop) else ops[-1]
    assert not isinstance(last, Classifier)
    flat = [op for part in ops for op in (part.body if isinstance(part, Loop) else (part,))]
    streams = len({op.stream for op in flat if isinstance(op, Conv)})
    name = model.ops[-1].name  # type: ignore[union-attr]
    result = replace(
        model,
        ops=(*ops, Classifier(name=name, input=last.output, stream=streams)),
        affine=model.affine[: _convs(ops)],
        free=(*model.free[:streams], 8) if model.free else (),
    )
    masks = {stream: model.masks[stream] for stream in range(streams)}
    masks[streams] = random_masks(np.random.default_rng(0), result, model.top_k)[streams]
    return replace(result, masks=masks)


def _shorten(model: Model, place: int, count: int) -> Model:
    """The loop at `place` runs `count` times."""
    loop = model.ops[place]
    assert isinstance(loop, Loop)
    before = _convs(model.ops[:place])
    kept, end = before + count * len(loop.body), before + loop.count * len(loop.body)
    return replace(
        model,
        ops=(*model.ops[:place], replace(loop, count=count), *model.ops[place + 1 :]),
        affine=[*model.affine[:kept], *model.affine[end:]],
    )
