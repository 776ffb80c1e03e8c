# SPDX-License-Identifier: Apache-2.0
"""The signature of docs/spec.md section 6 over millions of words.

A leap is linear over GF(2), so the signature of `n` words is `leap^n` of the start value, plus the
sum of `leap^(n-1-i)` of word `i`. The sum is taken pairwise: neighbours first, then pairs of pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiddenfold.hw import lfsr
from hiddenfold.sw import signs

__all__ = ["repeated_signature", "signature"]

_WORD_BITS = 64
_START = (1 << 64) - 1


def signature(words: NDArray[np.uint64]) -> int:
    """Signature of uint64[n]; the same as `hiddenfold.hw.lfsr.signature`, but fast."""
    return repeated_signature(words.reshape(1, -1), 1)


def repeated_signature(blocks: NDArray[np.uint64], times: int) -> int:
    """Signature of the rows of uint64[b, n], each row `times` times before the next one."""
    bits = _WORD_BITS * blocks.shape[1]
    sums = np.repeat(_fold(blocks, _WORD_BITS), times)
    return lfsr.jump(_START, bits * len(sums)) ^ int(_fold(sums[None], bits)[0])


def _fold(words: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Sum along the last axis of each word jumped by `bits` for every word behind it."""
    while words.shape[1] > 1:
        if words.shape[1] % 2:
            # A zero in front adds nothing.
            words = np.concatenate([np.zeros_like(words[:, :1]), words], axis=1)
        words = signs.jump(words[:, 0::2], bits) ^ words[:, 1::2]
        bits *= 2
    return words[:, 0]
