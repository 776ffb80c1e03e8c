# SPDX-License-Identifier: Apache-2.0
"""The weight generator of spec 1: steps one at a time, jumps as powers of a matrix over GF(2)."""

from functools import cache

import numpy as np

BITS = 64
STREAM_JUMP = 56  # log2 of the distance of two layers' streams
CHANNEL_JUMP = 40  # log2 of the distance of two output channels' streams


def to_bits(word):
    """uint8 [64], bit 0 first."""
    return np.array([word >> i & 1 for i in range(BITS)], np.uint8)


def from_bits(bits):
    """The word of bits [64], bit 0 first."""
    return sum(int(bit) << i for i, bit in enumerate(bits))


def step(state):
    """One step M of one state, or of an array of them."""
    parity = (state ^ (state >> 1) ^ (state >> 3) ^ (state >> 4)) & 1
    return (state >> 1) | (parity << (BITS - 1))


def leap(state):
    """64 steps: the next word of a stream."""
    for _ in range(BITS):
        state = step(state)
    return state


@cache
def jump_matrix(log2):
    """M^(2^log2) as a 64 x 64 matrix of bits: new bits = matrix @ old bits mod 2."""
    if log2:
        half = jump_matrix(log2 - 1).astype(np.int64)
        return (half @ half % 2).astype(np.uint8)
    return np.stack([to_bits(step(1 << i)) for i in range(BITS)], axis=1)


def jump(state, exponent):
    """M^exponent of a state."""
    bits = to_bits(state).astype(np.int64)
    for log2 in range(exponent.bit_length()):
        if exponent >> log2 & 1:
            bits = jump_matrix(log2) @ bits % 2
    return from_bits(bits)


def layer_state(seed, stream):
    """Where the stream of a layer starts."""
    return jump(seed, stream << STREAM_JUMP)


def channel_states(state, channels):
    """uint64 [channels]: where the output channels of a layer start."""
    matrix, bits = jump_matrix(CHANNEL_JUMP).astype(np.int64), to_bits(state).astype(np.int64)
    states = []
    for _ in range(channels):
        states.append(from_bits(bits))
        bits = matrix @ bits % 2
    return np.array(states, np.uint64)


def words(state, channels, count):
    """uint64 [channels, count]: the first words of the streams of a layer with this layer state."""
    states, out = channel_states(state, channels), []
    for _ in range(count):
        out.append(states)
        states = leap(states)
    return np.stack(out, axis=1)


def signature(values, start=2**64 - 1):
    """Checksum of a sequence of 64-bit words (spec 6)."""
    sig = start
    for value in values:
        sig = fast_leap(sig) ^ int(value)
    return sig


def fast_leap(state):
    """64 steps at once, for long checksums: bits 60..63 need four of the new bits as well."""
    new = state ^ state >> 1 ^ state >> 3 ^ state >> 4
    return (new ^ new << 63 ^ new << 61 ^ new << 60) & (2**64 - 1)


def user_state(number):
    """The seed state of a user's integer: the output function of splitmix64, 0 becomes 1."""
    mask = 2**64 - 1
    z = (number + 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return (z ^ z >> 31) or 1
