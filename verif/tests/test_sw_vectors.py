# SPDX-License-Identifier: Apache-2.0
"""docs/vectors.json against plain code, and the project's code against docs/vectors.json."""

import json
from pathlib import Path

import golden_naive
import numpy as np
import pytest
import torch

from hiddenfold.hw import lfsr
from hiddenfold.sw import frozen, signs, vectors
from hiddenfold.sw.model import Model
from hiddenfold.sw.shapes import WeightShape
from hiddenfold.verif.golden.compare import Layer, first_mismatch
from hiddenfold.verif.golden.model import Golden, requantize

FILE = Path(__file__).resolve().parents[2] / "docs" / "vectors.json"


@pytest.fixture(scope="module")
def data():
    return json.loads(FILE.read_text())


def words(texts):
    return [int(text, 16) for text in texts]


def test_the_file_is_up_to_date():
    assert vectors.dumps(vectors.make()) == FILE.read_text()


def test_steps_and_leaps(data):
    for case in data["steps"]:
        state = int(case["state"], 16)
        for expected in words(case["next"]):
            state = golden_naive.step(state)
            assert state == expected
    for case in data["leaps"]:
        state = array = int(case["state"], 16)
        for expected in words(case["next"]):
            array = int(signs.leap(np.array([array], np.uint64))[0])
            for _ in range(64):
                state = golden_naive.step(state)
            assert state == array == expected


def test_sequence_obeys_the_recurrence(data):
    """Section 1.1: the bits of consecutive words are one sequence b."""
    for case in data["leaps"]:
        bits = [word >> i & 1 for word in words([case["state"], *case["next"]]) for i in range(64)]
        for n in range(len(bits) - 64):
            assert bits[n + 64] == bits[n + 4] ^ bits[n + 3] ^ bits[n + 1] ^ bits[n]


def test_jumps(data):
    exponents = {int(case["exponent"], 16) for case in data["jumps"]}
    assert exponents >= {1, 1 << 40, 255 << 56, (1 << 64) - 1}
    for case in data["jumps"]:
        state, steps = words([case["state"], case["exponent"]])
        assert golden_naive.jump(state, steps) == int(case["result"], 16)
        found = signs.jump(np.array([state], np.uint64), steps)
        assert int(found[0]) == int(case["result"], 16)


def test_seeds(data):
    # The published first outputs of splitmix64 for the seeds 0 and 1 are two of them.
    known = {0: 0xE220A8397B1DCDAF, 1: 0x910A2DEC89025CC1}
    for case in data["user_seeds"]:
        state = int(case["state"], 16)
        assert lfsr.seed_state(case["seed"]) == state == known.get(case["seed"], state)
    assert known.keys() <= {case["seed"] for case in data["user_seeds"]}


def test_layer_states(data):
    for case in data["layer_states"]:
        seed, state = words([case["seed"], case["state"]])
        assert golden_naive.jump(seed, case["stream"] << 56) == state
        assert signs.layer_state(seed, case["stream"]) == state


def test_streams(data):
    for case in data["streams"]:
        seed = int(case["seed"], 16)
        count = case["kernel"] ** 2 * -(-case["in_channels"] // 64)
        expected = [words(row) for row in case["words"]]
        assert (
            golden_naive.sign_words(seed, case["stream"], case["out_channels"], count) == expected
        )


def test_weights(data):
    for case in data["weights"]:
        expected = case["weights"]
        out_channels, in_channels, kernel = len(expected), len(expected[0]), len(expected[0][0])
        channel_words = -(-in_channels // 64)
        mask = np.array([words(row) for row in case["mask"]], np.uint64)
        mask = mask.reshape(out_channels, kernel**2, channel_words).tolist()
        sign = golden_naive.sign_words(
            int(case["seed"], 16), case["stream"], out_channels, kernel**2 * channel_words
        )
        assert golden_naive.weights(mask, sign, in_channels, kernel) == expected
        assert {w for a in expected for b in a for c in b for w in c} == {-1, 0, 1}


def test_frozen_masks(data):
    assert {case["m"] for case in data["frozen_masks"]} == {1, 2, 4}
    for case in data["frozen_masks"]:
        seed, m = int(case["seed"], 16), case["m"]
        shape = case["out_channels"], case["in_channels"], case["kernel"]
        expected = [words(row) for row in case["mask"]]
        found = golden_naive.frozen_mask(seed, case["stream"], shape, m, words(case["stored"]))
        assert [sum(channel, []) for channel in found] == expected
        made = frozen.pattern(seed, case["stream"], WeightShape(*shape), m)
        stored = np.array(words(case["stored"]), "<u8").tobytes()
        assert frozen.expand(stored, made).reshape(shape[0], -1).tolist() == expected


def test_signatures(data):
    for case in data["signatures"]:
        state = (1 << 64) - 1
        for word in words(case["words"]):
            for _ in range(64):
                state = golden_naive.step(state)
            state ^= word
        assert state == int(case["signature"], 16)


def test_requantization(data):
    results = set()
    for case in data["requantization"]:
        # Floor division by powers of two instead of shifts.
        v = case["acc"] * case["multiplier"] // 2 ** case["shift"]
        v += case["residual"] * case["residual_multiplier"] + case["bias"]
        y = min(max(v // 256, 0), 2 ** case["bits"] - 1)
        assert (case["v"], case["y"]) == (v, y)
        found = requantize(
            torch.full((1, 1, 1, 1), case["acc"], dtype=torch.float64),
            torch.full((1,), case["multiplier"] / 2 ** (case["shift"] + 8), dtype=torch.float64),
            torch.full((1,), case["bias"] / 256, dtype=torch.float64),
            case["residual_multiplier"] / 256,
            torch.full((1, 1, 1, 1), case["residual"], dtype=torch.float32),
            case["bits"],
        )
        assert int(found) == y
        results.add(y)
    assert len(results) > 10


def test_network(data):
    network = data["network"]
    model = Model.from_bytes(bytes.fromhex(network["hfn"]))
    *layers, logits = golden_naive.run(model, network["image"])
    expected = [(layer["name"], layer["iteration"], layer["values"]) for layer in network["layers"]]
    assert layers == expected
    assert logits == ("classifier", 0, network["logits"])
    trace = [Layer(name, iteration, np.array([values])) for name, iteration, values in expected]
    trace.append(Layer("classifier", 0, np.array([network["logits"]])))
    image = np.array([network["image"]], np.uint8)
    assert first_mismatch(trace, Golden(model).trace(image)) is None
    # A network that says something: no layer is constant, and logits differ.
    assert all(np.ptp(layer.values) > 0 for layer in trace)
