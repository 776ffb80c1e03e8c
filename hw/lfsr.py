# SPDX-License-Identifier: Apache-2.0
"""The weight generator's LFSR as numbers (docs/spec.md section 1): no hardware, no numpy.

The circuit (:mod:`hiddenfold.hw.weights`), the search, the golden model and the compiler all take
their bits from this one definition.
"""

from functools import cache

WIDTH = 64
#: Exponents below 64 of p(x) = x^64 + x^4 + x^3 + x + 1, which is primitive.
TAPS = (0, 1, 3, 4)
#: Steps between the streams of neighbouring output channels and of neighbouring layers.
CHANNEL_JUMP = 1 << 40
LAYER_JUMP = 1 << 56

_MASK = (1 << WIDTH) - 1
_POLYNOMIAL = (1 << WIDTH) | sum(1 << tap for tap in TAPS)


def check_state(state: int, subject: str = "LFSR state") -> int:
    """Return ``state``; raise ``ValueError`` unless it is in 1..2^64-1."""
    if not isinstance(state, int):
        raise TypeError(f"{subject} must be an integer, not {state!r}")
    if not 0 < state <= _MASK:
        raise ValueError(f"{subject} must be in 1..2^64-1, not {state!r}")
    return state


def step(state: int) -> int:
    """Return the state one bit later."""
    new = sum(state >> tap for tap in TAPS) & 1
    return state >> 1 | new << (WIDTH - 1)


def next_bits(word: list) -> list:
    """Return the 64 sequence bits after the 64 bits in ``word``.

    Works on anything with ``^``: integers 0/1 as well as hardware signals.
    """
    bits = list(word)
    for n in range(WIDTH):
        first, *rest = (bits[n + tap] for tap in TAPS)
        for other in rest:
            first = first ^ other
        bits.append(first)
    return bits[WIDTH:]


def leap(state: int) -> int:
    """Return the state 64 bits later, that is the next word of the stream."""
    # Bits 0..59 depend on the old state alone; the last four also on the first four new ones.
    low = 0
    for tap in TAPS:
        low ^= state >> tap
    low &= (1 << 60) - 1
    extended = state >> 60 | low << 4
    high = 0
    for tap in TAPS:
        high ^= extended >> tap
    return low | (high & 15) << 60


@cache
def jump_coefficients(exponent: int) -> int:
    """Return x^exponent mod p(x) as an integer whose bit i is the coefficient of x^i."""
    if exponent < 0:
        raise ValueError(f"LFSR jump must be a non-negative number of steps, not {exponent!r}")
    result, base = 1, 2
    while exponent:
        if exponent & 1:
            result = _multiply(result, base)
        base = _multiply(base, base)
        exponent >>= 1
    return result


def jump(state: int, exponent: int) -> int:
    """Return the state ``exponent`` steps later (jump-ahead)."""
    window = state | leap(state) << WIDTH
    coefficients = jump_coefficients(exponent)
    return sum(((window >> bit & coefficients).bit_count() & 1) << bit for bit in range(WIDTH))


def jump_matrix(exponent: int) -> list[int]:
    """Return M^exponent as 64 rows: new bit j is the parity of ``row[j] & state``."""
    columns = [jump(1 << bit, exponent) for bit in range(WIDTH)]
    return [sum((columns[bit] >> row & 1) << bit for bit in range(WIDTH)) for row in range(WIDTH)]


def layer_state(seed_state: int, stream: int) -> int:
    """Return the start state of output channel 0 of the layer with that stream number."""
    if not 0 <= stream <= 255:
        raise ValueError(f"stream number must be in 0..255, not {stream!r}")
    return jump(check_state(seed_state, "seed state"), stream * LAYER_JUMP)


def seed_state(user_seed: int) -> int:
    """Return the model's seed state for a user's integer seed (splitmix64, never 0)."""
    z = (user_seed + 0x9E3779B97F4A7C15) & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return (z ^ z >> 31) or 1


def signature(words, start: int = _MASK) -> int:
    """Return the checksum of an iterable of 64-bit integers (docs/spec.md section 6)."""
    state = start
    for word in words:
        state = leap(state) ^ word
    return state


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials modulo p(x)."""
    result = 0
    while b:
        if b & 1:
            result ^= a
        b >>= 1
        a <<= 1
        if a >> WIDTH:
            a ^= _POLYNOMIAL
    return result
