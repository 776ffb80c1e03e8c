# SPDX-License-Identifier: Apache-2.0
"""hiddenfold.verif.golden.evaluate and hiddenfold.sw.ranking."""

import re

import numpy as np
import pytest
from model_cases import small_model

from hiddenfold.sw.ranking import ranking
from hiddenfold.verif.golden.evaluate import evaluate
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_model


def test_ranking():
    assert ranking([3, 9, -4, 9, 5, 0, 3]).tolist() == [1, 3, 4, 0, 6]
    assert ranking([[1, 2], [2, 1], [1, 1]]).tolist() == [[1, 0], [0, 1], [0, 1]]
    assert ranking([0, 1, 2], 2).tolist() == [2, 1]


def test_ranking_of_extremes():
    assert ranking([-(1 << 31), (1 << 31) - 1, 0]).tolist() == [1, 2, 0]


def test_ranking_of_many_equal_logits():
    logits = np.random.default_rng(0).integers(-2, 3, 1000)
    expected = sorted(range(1000), key=lambda label: (-logits[label], label))
    assert ranking(logits, 1000).tolist() == expected


def scored_model():
    """A model with more than five classes whose logits differ."""
    return next(
        model
        for model in (random_model(seed) for seed in range(50))
        if len(model.classes) > 7 and model.image[0] * model.image[1] > 9
    )


def test_evaluate(capsys):
    model = scored_model()
    images = np.random.default_rng(0).integers(0, 256, (20, *model.image, 3), np.uint8)
    order = ranking(Golden(model).run(images), len(model.classes))
    # 8 images right, 6 in the second to fifth place, 6 behind.
    places = [0] * 8 + [1, 2, 3, 4, 4, 4] + [5, 6, 5, 6, 5, 6]
    labels = order[np.arange(20), places]
    result = evaluate(model, images, labels, batch=7)
    seconds = result.pop("seconds")
    assert result.pop("images_per_second") == 20 / seconds
    assert result == {"backend": "golden", "images": 20, "top1": 40.0, "top5": 70.0}
    output = capsys.readouterr()
    assert output.out == ""
    assert "20/20" in output.err


def test_wrong_labels():
    model = small_model()
    images = np.zeros((3, 5, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=re.escape("Labels must have the shape (3,), not (2,)")):
        evaluate(model, images, [0, 1])
    with pytest.raises(ValueError, match="^Batch must be at least 1, not 0$"):
        evaluate(model, images, [0, 1, 1], batch=0)
