# SPDX-License-Identifier: Apache-2.0
"""The block that peers are compared on: 16x16x64, two 3x3 convolutions 64 to 64, residual, ReLU.

It stands in a loop of a small network, so that a network with one iteration more has one block
more: the difference of the two is the block alone, without image, stem and classifier.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Classifier, Conv, Loop, Unfold
from hiddenfold.verif.golden.random_constants import random_constants, random_masks
from hiddenfold.verif.golden.random_networks import random_image

__all__ = ["CHANNELS", "MACS", "SIZE", "peer_network"]

SIZE = 16
CHANNELS = 64
#: Multiply-accumulates of a block, padding included.
MACS = 2 * SIZE * SIZE * 9 * CHANNELS * CHANNELS


def peer_network(blocks: int, seed: int = 1) -> Model:
    """A network with the block `blocks` times, with random masks and constants."""

    def conv(name: str, source: str, output: str, stream: int, residual: str | None = None) -> Conv:
        return Conv(
            name=name,
            input=source,
            output=output,
            kernel=3,
            out_channels=CHANNELS,
            bits=8,
            stream=stream,
            residual=residual,
        )

    stem = Conv(
        name="stem", input="u", output="x", kernel=1, out_channels=CHANNELS, bits=8, stream=0
    )
    body = (conv("conv1", "x", "y", 1), conv("conv2", "y", "x", 2, residual="x"))
    model = Model(
        name=f"peer-block-{blocks}",
        dataset="none",
        classes=tuple(f"label {i}" for i in range(10)),
        image=(SIZE, SIZE),
        seed=seed,
        top_k=0.5,
        act_bits=8,
        ops=(
            Unfold(name="unfold", output="u", kernel=3),
            stem,
            Loop(count=blocks, body=body),
            Classifier(name="classifier", input="x", stream=3),
        ),
        masks={},
        affine=[],
    )
    rng = np.random.default_rng(seed)
    model = replace(model, masks=random_masks(rng, model, model.top_k))
    image = random_image(rng, *model.image)
    model = replace(model, affine=random_constants(rng, model, image))
    model.validate()
    return model
