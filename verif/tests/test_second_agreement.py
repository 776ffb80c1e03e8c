# SPDX-License-Identifier: Apache-2.0
"""Both golden models agree on the shipped model and random networks, and see when they do not."""

from pathlib import Path

import numpy as np
import pytest

from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Model
from hiddenfold.verif.golden.random_networks import random_image
from hiddenfold.verif.second import engine, inference
from hiddenfold.verif.second.agreement import Agreement, check, check_model, random_network

MODEL = Path(__file__).parents[2] / "models" / "hfn-cifar100.hfn"
TINY = Target.load("sim-tiny")
#: Between them these networks have every feature that `Agreement` counts.
SEEDS = (1, 3, 5, 11)


def test_the_shipped_model():
    model, result = Model.load(MODEL), Agreement()
    picture = random_image(np.random.default_rng(1), *model.image)
    check_model("shipped", model, picture[None], result)
    assert result.differences == []
    assert result.layers == len(model.executions()) == 19


def test_random_networks():
    result = Agreement()
    for seed in SEEDS:
        check(random_network(seed, TINY), TINY, seed, result)
    assert result.differences == []
    assert [name for name, count in result.features.items() if not count] == []


def test_a_wrong_weight_is_seen(monkeypatch):
    """One sign of one layer of the second model is turned."""
    network = random_network(2, TINY)
    expand = engine.Engine.weights

    def turned(self, i, words):
        weights = expand(self, i, words)
        weights[np.unravel_index(np.argmax(weights != 0), weights.shape)] *= -1
        return weights

    monkeypatch.setattr(engine.Engine, "weights", turned)
    result = Agreement()
    check(network, TINY, 2, result)
    assert len(result.differences) == program_runs(result)
    assert all(", program, " in text for text in result.differences)


def program_runs(result: Agreement) -> int:
    """Of one network, with and without a trace; spilled ones with late memory as well."""
    assert result.networks == 1
    return 4 if result.features["spilled"] else 2


@pytest.mark.parametrize("wrong", ("rounding", "clamp"))
def test_wrong_arithmetic_is_seen(monkeypatch, wrong):
    right = inference.requantize

    def requantize(acc, multipliers, biases, shift, residual, factor, bits):
        if wrong == "rounding":
            biases = np.asarray(biases) + 1
        v, y = right(acc, multipliers, biases, shift, residual, factor, bits)
        return v, (np.abs(v >> 8) & (1 << bits) - 1 if wrong == "clamp" else y)

    monkeypatch.setattr(inference, "requantize", requantize)
    result = Agreement()
    check(random_network(2, TINY), TINY, 2, result)
    assert len(result.differences) == 1 + program_runs(result)
