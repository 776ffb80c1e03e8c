# SPDX-License-Identifier: Apache-2.0
"""Weight signs from one LFSR orbit, and the packing of signs and masks into 64-bit words.

The definitions are those of docs/spec.md sections 1 and 2 and of `hiddenfold.hw.lfsr`; here they
are vectorised over output channels. Output channel `oc` of the layer with stream number `l` reads
the sequence from position `l * 2**56 + oc * 2**40` on, 64 bits (one word) at a time, words ordered
by (tap, input-channel word), the centre tap first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiddenfold.hw import lfsr

__all__ = [
    "WORD_BITS",
    "channel_states",
    "jump",
    "layer_state",
    "leap",
    "pack",
    "sign_tensor",
    "sign_words",
    "splitmix64",
    "tap_order",
    "unpack",
    "words_per_channel",
]

WORD_BITS = lfsr.WIDTH


def splitmix64(seed: int) -> int:
    """The seed state of a user's seed, an integer that is taken modulo 2**64."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"Seed must be an integer, not {seed!r}")
    return lfsr.seed_state(seed)


def leap(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The states after 64 single steps, that is the next 64 bits of every sequence."""
    s = np.asarray(states, dtype=np.uint64)
    # Bits 0..59 of the next word only need bits of this one; bits 60..63 also need bits 0..3 of
    # the next word, which are complete in `t` and are folded in by the left shifts.
    t = s ^ (s >> np.uint64(1)) ^ (s >> np.uint64(3)) ^ (s >> np.uint64(4))
    return t ^ (t << np.uint64(60)) ^ (t << np.uint64(61)) ^ (t << np.uint64(63))


def jump(states: NDArray[np.uint64], exponent: int) -> NDArray[np.uint64]:
    """The states after `exponent` (>= 0) single steps, in a time that hardly depends on it."""
    if isinstance(exponent, bool) or not isinstance(exponent, int):
        raise TypeError(f"Exponent must be an integer, not {exponent!r}")
    if exponent < 0:
        raise ValueError(f"Exponent must be 0 or more, not {exponent}")
    low = np.asarray(states, dtype=np.uint64)
    high = leap(low)
    c = lfsr.jump_coefficients(exponent)
    # The new state is the sum over the set coefficients i of the windows b[n+i] .. b[n+i+63].
    result = low.copy() if c & 1 else np.zeros_like(low)
    for i in range(1, WORD_BITS):
        if c >> i & 1:
            result = result ^ (low >> np.uint64(i)) ^ (high << np.uint64(WORD_BITS - i))
    return result


def layer_state(seed_state: int, stream: int) -> int:
    """State of output channel 0 of the layer with stream number `stream` (0 .. 255)."""
    return lfsr.layer_state(seed_state, stream)


def channel_states(state: int, out_channels: int) -> NDArray[np.uint64]:
    """Start states of `out_channels` (1 .. 65536) output channels, from a layer's state."""
    lfsr.check_state(state)
    _check_count("Number of output channels", out_channels, 1 << 16)
    states = np.array([state], dtype=np.uint64)
    while len(states) < out_channels:
        states = np.concatenate([states, jump(states, len(states) * lfsr.CHANNEL_JUMP)])
    return states[:out_channels]


def sign_words(state: int, out_channels: int, words: int, stride: int = 1) -> NDArray[np.uint64]:
    """Sign words of a layer: uint64[out_channels, words], bit 1 for weight -1, 0 for +1.

    `state` is what `layer_state` returned, `words` what `words_per_channel` says. Word `k` is word
    `k * stride` of the stream; `stride` is 2 for partly frozen masks.
    """
    _check_count("Number of words", words, 1 << 34)
    result = np.empty((out_channels, words), dtype=np.uint64)
    s = channel_states(state, out_channels)
    for k in range(words):
        result[:, k] = s
        for _ in range(stride):
            s = leap(s)
    return result


def tap_order(kernel: int) -> list[int]:
    """Row-major tap indices in stored order: the centre tap, then the others row by row."""
    if kernel not in (1, 3, 5, 7):
        raise ValueError(f"Kernel size must be 1, 3, 5 or 7, not {kernel!r}")
    centre = kernel * kernel // 2
    return [centre] + [tap for tap in range(kernel * kernel) if tap != centre]


def words_per_channel(in_channels: int, kernel: int) -> int:
    """Number of 64-bit words that hold the weights of one output channel."""
    _check_count("Number of input channels", in_channels, 1 << 16)
    return len(tap_order(kernel)) * -(-in_channels // WORD_BITS)


def pack(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack bool[Cout, Cin, K, K] into uint64[Cout, words] in stored order; unused bits are 0."""
    bits = np.asarray(bits)
    if bits.ndim != 4 or bits.shape[2] != bits.shape[3]:
        raise ValueError(f"Weights must have the shape [Cout, Cin, K, K], not {bits.shape}")
    cout, cin, kernel, _ = bits.shape
    channel_words = -(-cin // WORD_BITS)
    taps = bits.astype(bool).reshape(cout, cin, kernel * kernel)[:, :, tap_order(kernel)]
    padded = np.zeros((cout, kernel * kernel, channel_words * WORD_BITS), dtype=bool)
    padded[:, :, :cin] = taps.transpose(0, 2, 1)
    packed = np.packbits(padded, axis=-1, bitorder="little")
    return packed.view("<u8").astype(np.uint64).reshape(cout, -1)


def unpack(words: NDArray[np.uint64], in_channels: int, kernel: int) -> NDArray[np.bool_]:
    """Unpack uint64[Cout, words] into bool[Cout, Cin, K, K]; unused bits are ignored."""
    words = np.ascontiguousarray(words, dtype="<u8")
    expected = words_per_channel(in_channels, kernel)
    if words.ndim != 2 or words.shape[1] != expected:
        raise ValueError(
            f"Words of {in_channels} input channels and kernel {kernel} must have the shape "
            f"[Cout, {expected}], not {words.shape}"
        )
    cout = len(words)
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    bits = bits.reshape(cout, kernel * kernel, -1)[:, :, :in_channels].astype(bool)
    result = np.empty((cout, in_channels, kernel * kernel), dtype=bool)
    result[:, :, tap_order(kernel)] = bits.transpose(0, 2, 1)
    return result.reshape(cout, in_channels, kernel, kernel)


def sign_tensor(
    seed_state: int,
    stream: int,
    out_channels: int,
    in_channels: int,
    kernel: int,
    stride: int = 1,
) -> NDArray[np.int8]:
    """Signs of a layer as int8[Cout, Cin, K, K] of +1 and -1; `stride` as in `sign_words`."""
    state, count = layer_state(seed_state, stream), words_per_channel(in_channels, kernel)
    words = sign_words(state, out_channels, count, stride)
    return 1 - 2 * unpack(words, in_channels, kernel).astype(np.int8)


def _check_count(name: str, value: int, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not 1 <= value <= limit:
        raise ValueError(f"{name} must be 1 to {limit}, not {value}")
