# SPDX-License-Identifier: Apache-2.0
"""The vectorised sign generator against a bit-serial register, and the packing of words."""

import re

import numpy as np
import pytest

from hiddenfold.sw import signs

ORDER = (1 << 64) - 1


def serial(state: int, steps: int) -> tuple[int, list[int]]:
    """State after `steps` single steps of the Fibonacci register, and all bits from the start."""
    bits = [state >> i & 1 for i in range(64)]
    for n in range(steps):
        bits.append(bits[n + 4] ^ bits[n + 3] ^ bits[n + 1] ^ bits[n])
    return sum(bit << i for i, bit in enumerate(bits[steps : steps + 64])), bits


def one(value: int) -> np.ndarray:
    return np.array([value], dtype=np.uint64)


def random_states(count: int, seed: int = 7) -> list[int]:
    return [int(s) for s in np.random.default_rng(seed).integers(1, 1 << 63, count, np.uint64)]


@pytest.mark.parametrize("state", [1, 1 << 63, ORDER, 0x0123456789ABCDEF])
def test_leap_is_64_serial_steps(state: int) -> None:
    assert int(signs.leap(one(state))[0]) == serial(state, 64)[0]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 60, 63, 64, 65, 127, 128, 1000])
def test_jump_is_serial_steps(exponent: int) -> None:
    for state in random_states(5):
        assert int(signs.jump(one(state), exponent)[0]) == serial(state, exponent)[0]


def test_jumps_add_up_and_commute() -> None:
    states = np.array(random_states(9), dtype=np.uint64)
    a, b, c = (1 << 40) + 5, 3 * (1 << 56) + 1, 12345678901234567
    left = signs.jump(signs.jump(states, a), b)
    assert np.array_equal(left, signs.jump(states, a + b))
    assert np.array_equal(left, signs.jump(signs.jump(states, b), a))
    assert np.array_equal(signs.jump(left, c), signs.jump(states, a + b + c))


def test_jump_is_linear() -> None:
    a, b = (np.array(random_states(4, seed), dtype=np.uint64) for seed in (1, 2))
    for exponent in (1 << 40, (1 << 56) - 1):
        total = signs.jump(a, exponent) ^ signs.jump(b, exponent)
        assert np.array_equal(total, signs.jump(a ^ b, exponent))


def test_period_is_maximal() -> None:
    """x generates the multiplicative group: order 2**64 - 1 and no proper divisor of it."""
    primes = [3, 5, 17, 257, 641, 65537, 6700417]
    assert np.prod(primes, dtype=object) == ORDER
    state = one(0xDEADBEEF)
    assert np.array_equal(signs.jump(state, ORDER), state)
    for prime in primes:
        assert not np.array_equal(signs.jump(state, ORDER // prime), state)


def test_sign_words_follow_the_sequence() -> None:
    state = signs.layer_state(signs.splitmix64(42), 3)
    words = signs.sign_words(state, 5, 4)
    for channel in range(5):
        start = int(signs.jump(one(state), channel << 40)[0])
        _, bits = serial(start, 4 * 64)
        expected = [sum(bits[64 * k + i] << i for i in range(64)) for k in range(4)]
        assert [int(w) for w in words[channel]] == expected


def test_layer_states_are_spaced_by_2_to_56() -> None:
    state = signs.splitmix64(1)
    assert signs.layer_state(state, 0) == state
    assert signs.layer_state(state, 2) == int(signs.jump(one(state), 1 << 57)[0])


def test_splitmix64_check_values() -> None:
    """First outputs of the reference implementation (Vigna, splitmix64.c) for two seeds."""
    assert signs.splitmix64(0) == 0xE220A8397B1DCDAF
    assert signs.splitmix64(1234567) == 6457827717110365317
    # The one seed whose output is 0.
    assert signs.splitmix64(-0x9E3779B97F4A7C15) == 1


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("cin", [1, 27, 63, 64, 65, 130])
def test_pack_and_unpack(kernel: int, cin: int) -> None:
    bits = np.random.default_rng(cin).integers(0, 2, (3, cin, kernel, kernel)).astype(bool)
    words = signs.pack(bits)
    assert words.dtype == np.uint64
    assert words.shape == (3, signs.words_per_channel(cin, kernel))
    assert np.array_equal(signs.unpack(words, cin, kernel), bits)
    # Every bit by itself: (tap, word, bit), the centre tap first.
    taps = [(kernel // 2, kernel // 2)]
    taps += [(y, x) for y in range(kernel) for x in range(kernel) if (y, x) != taps[0]]
    per_tap = -(-cin // 64)
    for t, (y, x) in enumerate(taps):
        for channel in range(per_tap * 64):
            word = int(words[1, t * per_tap + channel // 64])
            expected = bits[1, channel, y, x] if channel < cin else False
            assert word >> (channel % 64) & 1 == expected


def test_sign_tensor_is_balanced_and_channels_differ() -> None:
    tensor = signs.sign_tensor(signs.splitmix64(1), 0, 64, 64, 3)
    assert set(np.unique(tensor)) == {-1, 1}
    rows = tensor.reshape(64, -1).astype(int)
    assert abs(rows.mean()) < 0.02
    correlation = rows @ rows.T / rows.shape[1]
    assert np.abs(correlation - np.eye(64)).max() < 0.25


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: signs.jump(one(1), -1), ValueError, "Exponent must be 0 or more, not -1"),
        (lambda: signs.jump(one(1), 1.5), TypeError, "Exponent must be an integer, not 1.5"),
        (lambda: signs.layer_state(0, 0), ValueError, "seed state must be in 1..2^64-1, not 0"),
        (lambda: signs.layer_state(1, 256), ValueError, "stream number must be in 0..255, not 256"),
        (lambda: signs.splitmix64("1"), TypeError, "Seed must be an integer, not '1'"),
        (lambda: signs.tap_order(2), ValueError, "Kernel size must be 1, 3, 5 or 7, not 2"),
        (
            lambda: signs.channel_states(1, 0),
            ValueError,
            "Number of output channels must be 1 to 65536, not 0",
        ),
        (
            lambda: signs.unpack(np.zeros((2, 3), np.uint64), 64, 3),
            ValueError,
            "Words of 64 input channels and kernel 3 must have the shape [Cout, 9], not (2, 3)",
        ),
    ],
)
def test_errors(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()
