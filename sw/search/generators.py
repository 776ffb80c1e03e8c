# SPDX-License-Identifier: Apache-2.0
"""Other sources of weight signs than the one of the specification, to measure what they cost.

For the search only: a model file holds a seed, and hardware makes the signs of "lfsr" from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiddenfold.hw import lfsr
from hiddenfold.sw import signs

__all__ = ["GENERATORS", "weight_signs"]

GENERATORS = ("lfsr", "torch", "serial-lfsr", "parallel-lfsr")


def weight_signs(
    generator: str,
    seed_state: int,
    stream: int,
    first: int,
    shape: tuple[int, int, int],
    word_stride: int = 1,
) -> NDArray[np.int8]:
    """Signs +1 and -1 of a layer, int8[Cout, Cin, K, K]; `shape` is (Cout, Cin, K).

    * "lfsr": docs/spec.md section 1, the layer's stream number is `stream`. `word_stride`, which
      partly frozen masks need, is that of `signs.sign_tensor`; the others have no use for it.
    * "torch": PyTorch's random number generator, seeded by seed state and stream number.
    * "serial-lfsr": the same LFSR run through the whole network without a jump, a bit per weight;
      `first` is the number of weights before this layer. A circuit would need one clock per weight.
    * "parallel-lfsr": the LFSR makes one step per clock, and its whole state is the signs of 64
      input channels. Each word is the one before, shifted by one channel, and so all output
      channels of a layer are shifted copies of each other. It is what a circuit without leaps does.
    """
    out_channels, in_channels, kernel = shape
    if generator == "lfsr":
        return signs.sign_tensor(seed_state, stream, *shape, word_stride)
    full = out_channels, in_channels, kernel, kernel
    if generator == "torch":
        # Here, so that configurations can be read without PyTorch.
        import torch

        rng = torch.Generator().manual_seed(lfsr.seed_state(seed_state + stream) >> 1)
        bits = torch.randint(0, 2, full, generator=rng, dtype=torch.int8).numpy()
    elif generator == "serial-lfsr":
        bits = _sequence(lfsr.jump(seed_state, first), int(np.prod(full))).reshape(full)
    elif generator == "parallel-lfsr":
        words = out_channels * signs.words_per_channel(in_channels, kernel)
        sequence = _sequence(signs.layer_state(seed_state, stream), words + signs.WORD_BITS - 1)
        windows = np.lib.stride_tricks.sliding_window_view(sequence, signs.WORD_BITS)
        packed = np.packbits(windows, axis=1, bitorder="little").view("<u8")
        bits = signs.unpack(packed.reshape(out_channels, -1), in_channels, kernel).astype(np.int8)
    else:
        raise ValueError(f"Generator must be one of {', '.join(GENERATORS)}, not {generator!r}")
    return 1 - 2 * bits


def _sequence(state: int, count: int) -> NDArray[np.int8]:
    """The next `count` bits of the sequence from `state` on."""
    words = np.array([state], dtype=np.uint64)
    while len(words) * signs.WORD_BITS < count:
        words = np.concatenate([words, signs.jump(words, len(words) * signs.WORD_BITS)])
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
    return bits[:count].astype(np.int8)
