# SPDX-License-Identifier: Apache-2.0
"""The second golden model, written from docs/spec.md alone, against docs/vectors.json."""

import json
from pathlib import Path

import numpy as np
import pytest

from hiddenfold.verif.second import inference, lfsr, masks, model_file

FILE = Path(__file__).resolve().parents[2] / "docs" / "vectors.json"
DATA = json.loads(FILE.read_text())


def word(text):
    return int(text, 16)


def words(texts):
    return np.array([word(text) for text in texts], np.uint64)


def cases(section):
    return pytest.mark.parametrize("case", DATA[section], ids=range(len(DATA[section])))


@cases("steps")
def test_steps(case):
    state = word(case["state"])
    for expected in case["next"]:
        state = lfsr.step(state)
        assert state == word(expected)


@cases("leaps")
def test_leaps(case):
    state = word(case["state"])
    for expected in case["next"]:
        assert lfsr.fast_leap(state) == lfsr.leap(state) == word(expected)
        state = word(expected)


@cases("jumps")
def test_jumps(case):
    assert lfsr.jump(word(case["state"]), word(case["exponent"])) == word(case["result"])


@cases("user_seeds")
def test_seeds(case):
    assert lfsr.user_state(case["seed"]) == word(case["state"])


@cases("layer_states")
def test_layer_states(case):
    assert lfsr.layer_state(word(case["seed"]), case["stream"]) == word(case["state"])


@cases("streams")
def test_streams(case):
    state = lfsr.layer_state(word(case["seed"]), case["stream"])
    count = masks.positions(case["in_channels"], case["kernel"])
    found = lfsr.words(state, case["out_channels"], count)
    assert np.array_equal(found, np.stack([words(row) for row in case["words"]]))


@cases("weights")
def test_weights(case):
    expected = np.array(case["weights"])
    out_channels, in_channels, kernel, _ = expected.shape
    mask = words(sum(case["mask"], []))
    stream = masks.Stream(
        word(case["seed"]), case["stream"], 8, out_channels, in_channels, kernel, mask
    )
    assert np.array_equal(masks.kernel_order(stream.weights, kernel), expected)


@cases("frozen_masks")
def test_frozen_masks(case):
    shape = case["out_channels"], case["in_channels"], case["kernel"]
    stored = words(case["stored"])
    stream = masks.Stream(word(case["seed"]), case["stream"], case["m"], *shape, stored)
    expected = masks.unpack(np.stack([words(row) for row in case["mask"]])[..., None])
    assert np.array_equal(stream.mask, masks.to_channels(expected, *shape[1:]))


@cases("signatures")
def test_signatures(case):
    assert lfsr.signature(words(case["words"])) == word(case["signature"])


@cases("requantization")
def test_requantization(case):
    v, y = inference.requantize(
        np.array([case["acc"]]),
        [case["multiplier"]],
        [case["bias"]],
        case["shift"],
        case["residual"],
        case["residual_multiplier"],
        case["bits"],
    )
    assert (int(v[0]), int(y[0])) == (case["v"], case["y"])


def test_a_network():
    case = DATA["network"]
    model = model_file.Model(bytes.fromhex(case["hfn"]))
    run = inference.Inference(model, np.array(case["image"]))
    found = [(name, iteration, tensor.tolist()) for name, iteration, tensor in run.layers]
    layers = [(layer["name"], layer["iteration"], layer["values"]) for layer in case["layers"]]
    assert found == layers
    assert run.logits.tolist() == case["logits"]


def test_ties_go_to_the_lower_label():
    assert inference.top5(np.array([3, 9, 3, 3, 9, -1])) == [1, 4, 0, 2, 3]
