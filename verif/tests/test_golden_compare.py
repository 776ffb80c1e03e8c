# SPDX-License-Identifier: Apache-2.0
"""hiddenfold.verif.golden.compare."""

import numpy as np
import pytest

from hiddenfold.verif.golden.compare import Layer, Mismatch, first_mismatch


def trace():
    rng = np.random.default_rng(0)
    return [
        Layer("stem", 0, rng.integers(0, 16, (2, 3, 4, 5), np.uint8)),
        Layer("a", 0, rng.integers(0, 16, (2, 2, 2, 7), np.uint8)),
        Layer("a", 1, rng.integers(0, 16, (2, 2, 2, 7), np.uint8)),
        Layer("classifier", 0, rng.integers(-99, 99, (2, 10))),
    ]


def test_equal():
    assert first_mismatch(trace(), trace()) is None
    assert first_mismatch([], []) is None


def test_integer_types_may_differ():
    other = [(name, iteration, values.astype(np.int64)) for name, iteration, values in trace()]
    assert first_mismatch(trace(), other) is None


def test_no_wrap_around():
    """256 is not 0, whatever the types."""
    one = [Layer("x", 0, np.zeros((1, 1, 1, 1), np.uint8))]
    other = [Layer("x", 0, np.full((1, 1, 1, 1), 256, np.int16))]
    assert first_mismatch(one, other).found == 256
    assert first_mismatch(other, one).expected == 256


@pytest.mark.parametrize("layer", range(4))
def test_each_value_counts(layer):
    expected = trace()
    for place in np.ndindex(expected[layer].values.shape):
        actual = trace()
        actual[layer].values[place] += 1
        mismatch = first_mismatch(expected, actual)
        name, iteration, values = expected[layer]
        image, *pixel, channel = place
        y, x = pixel or (None, None)
        value = int(values[place])
        assert mismatch == Mismatch(name, iteration, image, channel, y, x, value, value + 1)


def test_the_first_of_several():
    """In order of layer, image, y, x, channel."""
    expected, actual = trace(), trace()
    for layer, place in ((3, (0, 0)), (2, (1, 0, 0, 0)), (2, (0, 1, 1, 2)), (2, (0, 1, 0, 6))):
        actual[layer].values[place] ^= 1
    text = str(first_mismatch(expected, actual))
    value = int(expected[2].values[0, 1, 0, 6])
    assert text == (
        f"layer 'a', iteration 1, image 0, channel 6, y 1, x 0: expected {value}, found {value ^ 1}"
    )


def test_text_of_logits():
    expected, actual = trace(), trace()
    expected[3].values[1, 4] = -7
    actual[3].values[1, 4] = 8
    assert str(first_mismatch(expected, actual)) == (
        "layer 'classifier', iteration 0, image 1, channel 4: expected -7, found 8"
    )


def test_other_shape():
    actual = trace()
    actual[1] = Layer("a", 0, np.zeros((2, 2, 2, 8), np.uint8))
    assert str(first_mismatch(trace(), actual)) == (
        "layer 'a', iteration 0: expected shape (2, 2, 2, 7), found shape (2, 2, 2, 8)"
    )


def test_other_layer():
    actual = trace()
    del actual[1]
    assert str(first_mismatch(trace(), actual)) == (
        "layer 'a', iteration 0: expected this layer, found layer 'a', iteration 1"
    )


def test_missing_and_surplus_layers():
    assert str(first_mismatch(trace(), trace()[:3])) == (
        "layer 'classifier', iteration 0: expected 4 layers, found 3 layers"
    )
    assert str(first_mismatch(trace()[:2], trace())) == (
        "layer 'a', iteration 1: expected 2 layers, found 4 layers"
    )


def test_floats_are_refused():
    actual = trace()
    actual[2] = Layer("a", 1, actual[2].values.astype(np.float32))
    with pytest.raises(TypeError, match="^Values of layer 'a' must be integers, not float32$"):
        first_mismatch(trace(), actual)
