# SPDX-License-Identifier: Apache-2.0
"""Networks for what random ones seldom have: each fills bins of functional or code coverage.

They are as small as they can be, since the simulator that counts is slow. All are for `sim-tiny`:
16 lanes, blocks of 4 channels, pixel tiles of at most 64 pixels, a mask cache of 4 KiB.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Classifier, Conv, Loop, MaxPool, Model, Unfold
from hiddenfold.sw.operations import Operation
from hiddenfold.sw.verify import network_limits
from hiddenfold.verif.bench.case import filled
from hiddenfold.verif.golden.random_networks import Limits, random_model


@dataclass(frozen=True)
class Directed:
    """A model, how it is compiled, and how many images at least run through it."""

    model: Model
    options: dict[str, Any] = field(default_factory=dict)
    images: int = 1

    @property
    def count(self) -> int:
        """Images to run: at least a batch."""
        return max(self.images, self.options.get("batch", 1))


def directed() -> list[Directed]:
    """All of them, quick ones first."""
    return [
        *(Directed(_kernels(passes)) for passes in (1, 2, 3, 4)),
        *(Directed(_tall_kernel(kernel, rows), {"act_words": 64})
          for kernel, rows in ((5, 21), (7, 20))),
        Directed(_tall_kernel(5, 12, width=10), {"act_words": 64}),
        Directed(_tall_kernel(7, 12, width=4), {"act_words": 32}),
        Directed(_tall_kernel(3, 13, width=10), {"act_words": 256}),
        Directed(_caches()),
        Directed(_frozen()),
        *(Directed(_model("maps", (side, side), [_conv("u", "x", 12, kernel=3)]), {"batch": batch})
          for side, batch in ((4, 2), (4, 3), (5, 2), (5, 3), (5, 4), (9, 4))),
        Directed(_model("long", (1024, 3), [
            _conv("u", "x", 4), _conv("x", "y", 4, kernel=3), _conv("y", "y", 4, residual="x"),
        ])),
        Directed(_model("one pixel", (1, 1), [_conv("u", "x", 4096), _conv("x", "y", 9)], 1020)),
        Directed(_model("many channels", (2, 2), [
            _conv("u", "x", 2080), _conv("x", "y", 9, kernel=3),
        ])),
        Directed(_model("many", (1, 1), [_conv("u", "x", 3)]), images=300),
        Directed(_model("batch", (1, 1), [_conv("u", "x", 3)]), {"batch": 255}),
        Directed(_model("turns", (1, 1), [_conv("u", "x", 3), (255, [_conv("x", "x", 3)])])),
        # Many SAVEs on their way while an instruction waits for one.
        Directed(random_model(1265, _limits()), {"batch": 3, "act_words": 256}),
        Directed(_wide()),
    ]  # fmt: skip


def wide_image_model() -> Model:
    """A stem that writes many words for each pixel of few, wide rows."""
    return _model("wide image", (3, 64), [_conv("u", "x", 3)], stem=(7, 1))


def _wide() -> Model:
    """The widest image and stem, several pixel tiles, masks that do not fit the cache."""
    pool = MaxPool(name="pool", input="s", output="p", kernel=3, stride=2)
    again = _conv("x", "x", 80, residual="x")
    parts = [_conv("u", "s", 48), pool, _conv("p", "x", 80, kernel=3), (8, [again])]
    return _model("wide", (20, 64), parts, 11, bits=8, stem=(7, 2))


def _limits() -> Limits:
    limits = network_limits(Target.load("sim-tiny"))
    return replace(limits, max_macs=limits.max_macs * 15 // 100)


def _conv(source: str, output: str, channels: int, **options: Any) -> dict[str, Any]:
    """A convolution without name, stream and, if it is that of the network, width."""
    given = {"input": source, "output": output, "out_channels": channels, "kernel": 1}
    return given | options


def _model(
    name: str,
    image: tuple[int, int],
    parts: list[Any],
    classes: int = 3,
    *,
    bits: int = 2,
    free: tuple[int, ...] = (),
    stem: tuple[int, int] = (1, 1),
) -> Model:
    """A model with random masks and constants.

    Of `parts`, a dict is a convolution, a pair of a number and dicts is a loop; anything else is an
    operation. The last tensor goes to the classifier.
    """
    rng, streams, last = np.random.default_rng(3), 0, ""

    def conv(fields: dict[str, Any]) -> Conv:
        nonlocal streams, last
        streams, last = streams + 1, fields["output"]
        return Conv(name=f"conv{streams}", stream=streams - 1, **{"bits": bits} | fields)

    ops: list[Operation] = [Unfold(name="unfold", output="u", kernel=stem[0], stride=stem[1])]
    for part in parts:
        if isinstance(part, dict):
            ops.append(conv(part))
        elif isinstance(part, tuple):
            count, body = part
            ops.append(Loop(count=count, body=tuple(conv(fields) for fields in body)))
        else:
            ops.append(part)
            last = part.output
    ops.append(Classifier(name="classifier", input=last, stream=streams))
    model = Model(
        name=name,
        dataset="random",
        classes=tuple(f"label {i}" for i in range(classes)),
        image=image,
        seed=int(rng.integers(1, 1 << 64, dtype=np.uint64)),
        top_k=0.5,
        act_bits=bits,
        ops=tuple(ops),
        masks={},
        affine=[],
        free=free,
    )
    return filled(model, rng)


def _kernels(passes: int) -> Model:
    """All kernels and strides, in and outside of a loop, with activations of so many passes."""
    outside = [
        _conv("x", "x", 6, kernel=kernel, stride=stride)
        for kernel, stride in ((5, 1), (7, 1), (1, 2), (3, 2), (5, 2), (7, 2))
    ]
    body = [_conv("x", "x", 6, kernel=kernel) for kernel in (7, 5, 3, 1)]
    parts = [_conv("u", "x", 6), outside[0], outside[1], (2, body), *outside[2:]]
    return _model(f"kernels, {passes} passes", (17, 3), parts, bits=2 * passes)


def _tall_kernel(kernel: int, rows: int, width: int = 6) -> Model:
    """A large kernel over stripes of a tensor that does not fit, so that it has few rows above."""
    less = MaxPool(name="pool", input="x", output="y", kernel=3, stride=2)
    large = _conv("x", "x", 5, kernel=kernel)
    parts = [_conv("u", "x", 5), large, less, (2, [_conv("y", "y", 5)])]
    return _model(f"tall {kernel}x{kernel}, {rows} rows of {width}", (rows, width), parts)


def _caches() -> Model:
    """Masks that fit the cache and masks that do not, with one and with several pixel tiles."""
    small, large = _conv("x", "x", 48), _conv("x", "x", 48, kernel=5)
    pool = MaxPool(name="pool", input="x", output="y", kernel=5, stride=2)
    again = [_conv("y", "y", 48, kernel=5), _conv("y", "y", 48)]
    parts = [_conv("u", "x", 48), large, (2, [small, large]), pool, (2, again)]
    return _model("caches", (13, 5), parts)


def _frozen() -> Model:
    """Masks of which all, a half, a quarter and an eighth are stored, cached and not."""
    inside = [_conv("x", "x", 128) for _ in range(4)]
    outside = [_conv("x", "x", 128) for _ in range(4)]
    parts = [_conv("u", "x", 128), *outside, (2, inside)]
    return _model("frozen", (2, 2), parts, free=(8, 8, 4, 2, 1, 8, 4, 2, 1, 8))
