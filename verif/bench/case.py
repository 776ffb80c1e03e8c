# SPDX-License-Identifier: Apache-2.0
"""A small network with one of everything, and its golden trace, for benches of the whole top."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Classifier, Conv, Loop, MaxPool, Model, Unfold
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_constants import random_constants, random_masks
from hiddenfold.verif.golden.random_networks import random_image

HEIGHT, WIDTH = 9, 7
IMAGES = 2


def small_model(seed: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Model:
    """A folded network for images of ``size`` (height, width).

    Stem, projection, recurrent block, pool, classifier.
    """
    rng = np.random.default_rng(seed)
    conv: dict[str, Any] = {"kernel": 1, "bits": 4}
    body = (
        Conv(name="a", input="x", output="y", out_channels=9, stream=3, **conv | {"kernel": 3}),
        Conv(name="b", input="y", output="x", out_channels=18, stream=4, residual="x", **conv),
    )
    model = Model(
        name="small",
        dataset="random",
        classes=tuple("abcdefg"),
        image=size,
        seed=int(rng.integers(1, 1 << 64, dtype=np.uint64)),
        top_k=0.5,
        act_bits=4,
        ops=(
            Unfold(name="unfold", output="u", kernel=3),
            Conv(name="stem", input="u", output="s", out_channels=5, stream=0, **conv),
            Conv(
                name="shortcut", input="s", output="x", out_channels=18, stream=1, stride=2, **conv
            ),
            Conv(
                name="down",
                input="s",
                output="x",
                out_channels=18,
                stream=2,
                stride=2,
                residual="x",
                **conv | {"kernel": 3, "bits": 4},
            ),
            Loop(count=3, body=body),
            MaxPool(name="pool", input="x", output="p", kernel=3, stride=2),
            Classifier(name="classifier", input="p", stream=5),
        ),
        masks={},
        affine=[],
    )
    return filled(model, rng)


def filled(model: Model, rng: np.random.Generator) -> Model:
    """The model with random masks and constants that suit them."""
    model = replace(model, masks=random_masks(rng, model, 0.5))
    image = random_image(rng, *model.image)
    model = replace(model, affine=random_constants(rng, model, image))
    model.validate()
    return model


def write_case(target: Target, folder: Path) -> None:
    """Write ``program.hfp`` (with a trace), ``images.npy`` and ``golden.npz`` to ``folder``."""
    model = small_model()
    rng = np.random.default_rng(2)
    images = np.stack([random_image(rng, HEIGHT, WIDTH) for _ in range(IMAGES)])
    compile_model(model, target, trace=True).save(folder / "program.hfp")
    np.save(folder / "images.npy", images)
    layers = Golden(model).trace(images)
    arrays: dict[str, Any] = {f"{i:03}": layer.values for i, layer in enumerate(layers)}
    np.savez(folder / "golden.npz", **arrays)
