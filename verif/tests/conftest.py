# SPDX-License-Identifier: Apache-2.0
"""Fixtures of several test files: a tiny folded network, and a picture for it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiddenfold.sw import signs
from hiddenfold.sw.model import Affine, Classifier, Conv, Loop, Model, Unfold

# The tensors of the tests are small, and threads that wait for each other on a busy machine make
# them many times slower. Nothing has imported PyTorch so far.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
HEIGHT, WIDTH = 12, 10


def tiny_model(seed: int = 1) -> Model:
    """A folded network of 10 x 12 pixels and 5 channels, with random masks and constants."""
    rng = np.random.default_rng(seed)
    body = (
        Conv(name="a", input="x", output="y", kernel=3, out_channels=5, bits=4, stream=1),
        Conv(
            name="b",
            input="y",
            output="x",
            kernel=1,
            out_channels=5,
            bits=4,
            stream=2,
            residual="x",
        ),
    )
    model = Model(
        name="tiny",
        dataset="animals",
        classes=CLASSES,
        image=(HEIGHT, WIDTH),
        seed=signs.splitmix64(seed),
        top_k=0.5,
        act_bits=4,
        folded_stages=(1,),
        ops=(
            Unfold(name="unfold", output="u", kernel=3),
            Conv(name="stem", input="u", output="x", kernel=1, out_channels=5, bits=4, stream=0),
            Loop(count=3, body=body),
            Classifier(name="head", input="x", stream=3),
        ),
        masks={},
        affine=[],
        accuracy={"float": 61.5, "golden": 61.25},
    )
    for stream, shape in model.weight_shapes().items():
        keep = rng.random((shape.out_channels, shape.in_channels, shape.kernel, shape.kernel)) < 0.5
        model.masks[stream] = signs.pack(keep).reshape(shape.words)
    for execution in model.executions():
        if execution.affine is not None:
            model.affine.append(
                Affine(
                    4,
                    200 if execution.op.residual else 0,
                    rng.integers(4, 60, 5).astype(np.int16),
                    rng.integers(0, 1000, 5).astype(np.int32),
                )
            )
    return model


@pytest.fixture(scope="session")
def tiny_hfn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as a file."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.hfn"
    tiny_model().save(path)
    return path


@pytest.fixture(scope="session")
def tiny_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture for the tiny network."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    noise = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path
