# SPDX-License-Identifier: Apache-2.0
"""Random legal networks with random masks and constants, to compare implementations with.

A number makes a network: the same seed and limits give the same model on each machine. Between
them the networks have every feature of docs/spec.md section 4, in odd sizes too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw.frozen import FREE_EIGHTHS
from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Classifier, Conv, Loop, MaxPool, Operation, Unfold
from hiddenfold.sw.shapes import Execution, infer, unroll
from hiddenfold.verif.golden.random_constants import random_constants, random_masks

__all__ = ["Limits", "random_image", "random_model"]

# Channel counts around the word sizes of accelerators, where mistakes are likely.
_EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
_TRIES = 40


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a random network may need.

    Multiply-accumulates, padding included, are counted with channels rounded up to whole `lanes`
    and `rows`. `act_words` bounds the activation memory in words of `lanes` channels: tensors that
    live at the same time take at most half of it, so that it cannot be too fragmented. None stands
    for no bound. `psum_depth` bounds the width of each tensor but the image, and
    `acc_bits`, signed, what accumulators may reach with any mask. With `frozen` masks may be partly
    frozen.
    """

    max_macs: int = 1_000_000
    max_channels: int = 200
    max_classes: int = 40
    max_side: int = 40
    max_iterations: int = 8
    max_segments: int = 5
    rows: int = 1
    lanes: int = 1
    act_words: int | None = None
    psum_depth: int | None = None
    acc_bits: int = 32
    image_width: int = 1024
    stem_kernel: int = 7
    frozen: bool = False

    @classmethod
    def of(cls, target: Any, **changes: Any) -> Limits:
        """Limits of a `hiddenfold.gen.target.Target`; `changes` are other fields of this class."""
        return cls(
            rows=target.rows,
            lanes=target.lanes,
            act_words=target.act_banks * target.act_bank_words,
            psum_depth=target.psum_depth,
            acc_bits=target.acc_bits,
            image_width=target.image_width,
            stem_kernel=target.stem_kernel,
            **changes,
        )

    def allow(self, executions: list[Execution]) -> bool:
        """Whether a network with these executions keeps within the limits."""
        macs = 0
        for execution in executions:
            shape = execution.weight_shape
            if self.psum_depth is not None and execution.out_shape.width > self.psum_depth:
                return False
            if shape is None:
                continue
            fan_in = shape.in_channels * shape.kernel**2
            if ((1 << execution.in_bits) - 1) * fan_in > (1 << (self.acc_bits - 1)) - 1:
                return False
            # A classifier counts each pixel here, since each is work.
            pixels = execution.out_shape if execution.affine is not None else execution.in_shape
            padded = _up(shape.out_channels, self.rows) * _up(shape.in_channels, self.lanes)
            macs += pixels.height * pixels.width * shape.kernel**2 * padded
        if macs > self.max_macs:
            return False
        return self.act_words is None or 2 * self._peak_words(executions) <= self.act_words

    def _peak_words(self, executions: list[Execution]) -> int:
        """Most activation words that are needed at the same time."""
        peak = 0
        alive: dict[str, int] = {}
        for execution in reversed(executions):
            words = {}
            if not isinstance(execution.op, Unfold):
                words[execution.op.input] = self._words(execution.in_shape)
            if execution.residual is not None:
                words[execution.residual] = self._words(execution.out_shape)
            written = 0
            if execution.writes is not None:
                # Counted on top of all that is read, even where it replaces some of it.
                written = self._words(execution.out_shape)
                alive.pop(execution.writes, None)
            alive |= words
            peak = max(peak, sum(alive.values()) + written)
        return peak

    def _words(self, shape: Any) -> int:
        return shape.height * shape.width * (_up(shape.channels, self.lanes) // self.lanes)


def _up(channels: int, step: int) -> int:
    """`channels` rounded up to a multiple of `step`."""
    return -(-channels // step) * step


def random_model(seed: int, limits: Limits | None = None) -> Model:
    """The random network of a seed (any integer from 0 on), legal and within the limits.

    Constants are chosen after a run on a random image, so that most activations spread over their
    range; some are extremes instead.
    """
    limits = limits or Limits()
    rng = np.random.default_rng(seed)
    # A program stores partly frozen masks in full unless channels fill lane words and blocks.
    fill = limits.frozen and limits.lanes > 1 and seed % 3 == 0
    builder = _Builder(rng, limits, step=64 if fill else 1)
    builder.start()
    for _ in range(int(rng.integers(0, limits.max_segments + 1))):
        builder.extend()
    top_k = float(rng.choice([0.01, 0.1, 0.3, 0.5, 1.0, np.round(rng.uniform(0.01, 1), 3)]))
    model = Model(
        name=f"random-{seed}",
        dataset="random",
        classes=tuple(f"label {i}" for i in range(builder.classes)),
        image=builder.image,
        seed=int(rng.integers(1, 1 << 64, dtype=np.uint64)),
        top_k=top_k,
        act_bits=builder.bits,
        ops=tuple(builder.complete()),
        masks={},
        affine=[],
    )
    if limits.frozen:
        # From numbers of their own: all else is the same with and without frozen masks.
        free = np.random.default_rng([seed, 1]).choice(FREE_EIGHTHS, len(model.weight_shapes()))
        model = replace(model, free=tuple(free.tolist()))
    model = replace(model, masks=random_masks(rng, model, top_k))
    image = random_image(rng, *model.image)
    model = replace(model, affine=random_constants(rng, model, image))
    model.validate()
    return model


def random_image(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A random image uint8 [height, width, 3]: noise, a gradient, few bright pixels, or black and
    white."""
    shape = (height, width, 3)
    noise = rng.integers(0, 256, shape)
    kind = rng.integers(0, 4)
    if kind == 1:
        y, x = np.mgrid[0:height, 0:width]
        slopes = rng.integers(-9, 10, (2, 3))
        ramp = y[..., None] * slopes[0] + x[..., None] * slopes[1]
        noise = 255 * (ramp - ramp.min()) // max(np.ptp(ramp), 1) + rng.integers(0, 8, shape)
    elif kind == 2:
        noise = noise * (rng.random(shape) < 0.1)
    elif kind == 3:
        noise = 255 * (noise > 127)
    return np.clip(noise, 0, 255).astype(np.uint8)


class _Builder:
    """Grows a list of operations; what would break the limits is not added."""

    def __init__(self, rng: np.random.Generator, limits: Limits, step: int) -> None:
        self._rng = rng
        self._step = step  # numbers of channels are multiples of it
        self._limits = limits
        self._ops: list[Operation] = []
        self._streams = 0
        self._names = 0
        # The network grows at the end of this tensor.
        self._end = ""
        self.image = (1, 1)
        self.classes = 1
        self.bits = 8

    def start(self) -> None:
        """Choose the image, and add the stem."""
        rng, limits = self._rng, self._limits
        self.bits = int(rng.integers(1, 9))
        side = min(limits.max_side, limits.image_width)
        channels, classes = limits.max_channels, limits.max_classes
        while True:
            self._ops, self._streams = [], 0
            self.image = (self._below(side), self._below(side))
            self.classes = self._below(classes)
            kernel = self._kernel(limits.stem_kernel)
            self._ops.append(
                Unfold(name="unfold", output="u", kernel=kernel, stride=self._stride())
            )
            self._end = "x"
            kernel = self._kernel(7) if rng.random() < 0.2 else 1
            self._ops.append(
                self._conv("u", "x", kernel, self._stride(0.1), self._channels(channels))
            )
            if self._legal(self._ops):
                return
            # Ends: an image of one pixel with one channel fits everywhere.
            side, channels, classes = (max(1, n * 3 // 4) for n in (side, channels, classes))

    def extend(self) -> None:
        """Add one more part, if one of a few proposals keeps within the limits."""
        kinds = (self._pool, self._plain, self._basic, self._bottleneck, self._loop, self._again)
        weights = (0.1, 0.1, 0.2, 0.2, 0.3, 0.1)
        for _ in range(_TRIES):
            before = self._streams, self._names, self._end
            part = kinds[self._rng.choice(len(kinds), p=weights)]()
            if part and self._legal([*self._ops, *part]):
                self._ops += part
                return
            self._streams, self._names, self._end = before

    def complete(self) -> list[Operation]:
        """All operations with the classifier."""
        return [*self._ops, Classifier(name="classifier", input=self._end, stream=self._streams)]

    def _legal(self, ops: list[Operation]) -> bool:
        if self._streams > 255:
            return False
        try:
            return self._limits.allow(self._executions(ops))
        except ValueError:
            # Names are reused without a look at what they hold: not all proposals are legal.
            return False

    def _executions(self, ops: list[Operation]) -> list[Execution]:
        classifier = Classifier(name="classifier", input=self._end, stream=self._streams)
        groups, _ = infer([*ops, classifier], self.image, self.classes)
        return unroll(groups)

    def _last(self) -> Execution:
        """What made the tensor at the end."""
        made = [e for e in self._executions(self._ops) if e.writes == self._end]
        return made[-1]

    # Parts. Each returns the operations to add and moves `_end` to their result.

    def _pool(self) -> list[Operation]:
        source, self._end = self._end, self._tensor()
        return [
            MaxPool(
                name=self._name("pool"),
                input=source,
                output=self._end,
                kernel=self._kernel(7),
                stride=self._stride(0.7),
            )
        ]

    def _plain(self) -> list[Operation]:
        source = self._end
        # Now and then over its own input.
        self._end = source if self._rng.random() < 0.2 else self._tensor()
        return [self._conv(source, self._end, self._kernel(7), self._stride(), self._channels())]

    def _basic(self) -> list[Operation]:
        return self._block([self._kernel(7), self._kernel(7)])

    def _bottleneck(self) -> list[Operation]:
        return self._block([1, self._kernel(7), 1])

    def _block(self, kernels: list[int]) -> list[Operation]:
        """A residual block with a projection or, where the shape stays, the identity."""
        source, temporary = self._end, [self._tensor() for _ in kernels]
        identity = self._rng.random() < 0.5
        stride = 1 if identity else self._stride(0.5)
        channels = [self._channels() for _ in kernels]
        shortcut = source
        projection: list[Operation] = []
        if identity:
            channels[-1] = self._last().out_shape.channels
            if self._rng.random() < 0.5:
                temporary[-1] = source
        else:
            shortcut = self._tensor()
        main: list[Operation] = []
        place = int(self._rng.integers(0, len(kernels)))
        first = self._rng.random() < 0.5
        if not identity and first:
            projection = [self._conv(source, shortcut, 1, stride, channels[-1])]
        current = source
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            if last and not identity and not first:
                projection = [self._conv(source, shortcut, 1, stride, channels[-1])]
                main += projection
            main.append(
                self._conv(
                    current,
                    temporary[i],
                    kernel,
                    stride if i == place else 1,
                    channels[i],
                    residual=shortcut if last else None,
                )
            )
            current = temporary[i]
        self._end = current
        return [*projection, *main] if first else main

    def _loop(self) -> list[Operation]:
        """A recurrent block; the state is carried in place."""
        state = self._end
        count = int(self._rng.integers(1, self._limits.max_iterations + 1))
        channels, bits = self._last().out_shape.channels, self._last().out_bits
        kind = self._rng.choice(["basic", "bottleneck", "single", "outside", "double"])
        before: list[Operation] = []
        t, u = self._tensor(), self._tensor()
        inner = self._channels()

        def conv(source: str, output: str, out: int, residual: str | None = None) -> Conv:
            kernel = self._kernel(7)
            carried = output in (state, u) and out == channels and kind != "bottleneck"
            width = bits if carried or output == state else None
            return self._conv(source, output, kernel, 1, out, residual=residual, bits=width)

        plain = self._rng.random() < 0.2
        if kind == "basic":
            body = [conv(state, t, inner), conv(t, state, channels, None if plain else state)]
        elif kind == "bottleneck":
            body = [conv(state, t, inner), conv(t, u, inner)]
            body.append(conv(u, state, channels, None if plain else state))
        elif kind == "single":
            body = [conv(state, state, channels, None if plain else state)]
        elif kind == "outside":
            # The same tensor is added in each iteration.
            before = [conv(state, u, channels)]
            body = [conv(state, t, inner), conv(t, state, channels, u)]
        else:
            # Two states, each updated from the other.
            before = [conv(state, u, channels)]
            body = [conv(state, u, channels, u), conv(u, state, channels, state)]
        return [*before, Loop(count=count, body=tuple(body))]

    def _again(self) -> list[Operation]:
        """The body of the loop before once more, outside the loop and with other constants."""
        if not isinstance(self._ops[-1], Loop):
            return []
        body = [replace(conv, name=self._name("again")) for conv in self._ops[-1].body]
        self._end = body[-1].output
        return list(body)

    # Choices.

    def _conv(
        self,
        source: str,
        output: str,
        kernel: int,
        stride: int,
        out_channels: int,
        *,
        residual: str | None = None,
        bits: int | None = None,
    ) -> Conv:
        stream = self._streams
        self._streams += 1
        if bits is None:
            bits = self.bits if self._rng.random() < 0.5 else int(self._rng.integers(1, 9))
        return Conv(
            name=self._name("conv"),
            input=source,
            output=output,
            kernel=kernel,
            stride=stride,
            out_channels=out_channels,
            bits=bits,
            stream=stream,
            residual=residual,
        )

    def _below(self, limit: int) -> int:
        """A number in 1..limit, small ones more often."""
        fraction = self._rng.random()
        return int(np.ceil(limit * fraction * fraction)) or 1

    def _channels(self, limit: int | None = None) -> int:
        limit = limit or self._limits.max_channels
        if self._rng.random() < 0.5:
            return _up(int(self._rng.choice([n for n in _EDGES if n <= limit])), self._step)
        return _up(self._below(limit), self._step)

    def _kernel(self, limit: int) -> int:
        kernels = [k for k in (1, 3, 3, 3, 5, 7) if k <= limit]
        return int(self._rng.choice(kernels))

    def _stride(self, probability: float = 0.3) -> int:
        return 2 if self._rng.random() < probability else 1

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}{self._names}"

    def _tensor(self) -> str:
        """A name for a tensor: a new one, or one that is used again and again."""
        if self._rng.random() < 0.3:
            self._names += 1
            return f"t{self._names}"
        return f"v{self._names % 7}"
