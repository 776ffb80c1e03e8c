# SPDX-License-Identifier: Apache-2.0
"""The shipped models: what their files say, and that the accelerator computes their bits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.model import Model
from hiddenfold.verif.golden.model import Golden

MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = sorted(MODELS.glob("*.hfn"))


def pictures(count: int) -> np.ndarray:
    paths = sorted((MODELS / "samples").glob("*.png"))[:count]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def test_there_are_models() -> None:
    assert len(SHIPPED) >= 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_model_on_the_accelerator(path: Path) -> None:
    """Real pictures, all logits, on the array of a real board."""
    model = Model.load(path)
    images = pictures(4)
    assert len(images) == 4
    with Accelerator.open("rtl:ulx3s-85f") as accelerator:
        accelerator.load(compile_model(model, Target.load("ulx3s-85f")))
        found = accelerator.run(images).logits
    assert np.array_equal(found, Golden(model).run(images))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_model_says_how_good_it_is(path: Path) -> None:
    """Accuracy, integer next to float, and where the model is from."""
    model = Model.load(path)
    integer, real = model.accuracy["golden"], model.accuracy["float"]
    assert integer is not None and real is not None and integer > real - 0.3
    assert (Path(__file__).parents[2] / "configs" / f"{model.provenance['config']}.toml").is_file()
    assert path.with_suffix(".csv").is_file() and path.with_suffix(".float.npz").is_file()
