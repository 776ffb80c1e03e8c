# SPDX-License-Identifier: Apache-2.0
"""Signs, masks and weights of a stream (spec 1.3 and 2), as arrays of single bits."""

import numpy as np

from . import lfsr


def unpack(words):
    """uint8 [..., n*64]: the bits of uint64 words [..., n], bit 0 first."""
    return np.unpackbits(
        np.ascontiguousarray(words, "<u8").view(np.uint8), axis=-1, bitorder="little"
    )


def positions(in_channels, kernel):
    """Words of one output channel: taps x words a tap."""
    return kernel * kernel * -(-in_channels // 64)


def generator_bits(state, out_channels, in_channels, kernel, frozen):
    """uint8 [oc, position, 64] twice: sign bits and freeze bits (None unless `frozen`)."""
    count = positions(in_channels, kernel)
    if not frozen:
        return unpack(lfsr.words(state, out_channels, count)[..., None]), None
    bits = unpack(lfsr.words(state, out_channels, 2 * count)[..., None])
    return bits[:, 0::2], bits[:, 1::2]


def free_places(signs, freeze, m):
    """int [..., 8, m]: which bits of the bytes of positions [..., 64] are stored (spec 2.1)."""
    if freeze is None or m == 8:
        return np.broadcast_to(np.arange(8), (*signs.shape[:-1], 8, 8))
    groups = (signs ^ freeze).reshape(*signs.shape[:-1], -1, 8).astype(int)
    rot = groups[..., 0] + 2 * groups[..., 1] + 4 * groups[..., 2]
    return (rot[..., None] + np.arange(m)) % 8


def scatter(base, places, stored):
    """uint8 [..., 64]: the positions `base` with stored bits [..., 8*m] put in their places."""
    mask = base.reshape(*places.shape[:-1], 8).copy()
    np.put_along_axis(mask, places, stored.reshape(places.shape), axis=-1)
    return mask.reshape(base.shape)


def tap_order(kernel):
    """Places (ky, kx) in the order of the taps: the centre, then the others row by row."""
    places = [(ky, kx) for ky in range(kernel) for kx in range(kernel)]
    centre = ((kernel - 1) // 2,) * 2
    return [centre] + [place for place in places if place != centre]


def to_channels(bits, in_channels, kernel):
    """uint8 [oc, tap, in_channels] of bits [oc, position, 64]."""
    return bits.reshape(len(bits), kernel * kernel, -1)[..., :in_channels]


def kernel_order(weights, kernel):
    """[oc, ic, ky, kx] of [oc, tap, ic], for comparison with published vectors."""
    out = np.zeros((len(weights), weights.shape[2], kernel, kernel), weights.dtype)
    for tap, (ky, kx) in enumerate(tap_order(kernel)):
        out[:, :, ky, kx] = weights[:, tap]
    return out


class Stream:
    """Weights of a stream of a model file.

    `stored` are the words of its mask in the file; `mask`, `signs` uint8 and `weights` int8 are
    [oc, tap, ic]. Raises ValueError for stored bits that spec 2 wants to be 0.
    """

    def __init__(self, seed, number, m, out_channels, in_channels, kernel, stored):
        state = lfsr.layer_state(seed, number)
        signs, freeze = generator_bits(state, out_channels, in_channels, kernel, m < 8)
        places = free_places(signs, freeze, m)
        flat = unpack(stored)
        bits = flat[: places.size].reshape(*signs.shape[:2], 8 * m)
        channel = np.arange(signs.shape[1] * 64) % (64 * -(-in_channels // 64))
        dead = np.broadcast_to((channel >= in_channels).reshape(-1, 64), signs.shape)
        only_stored = scatter(np.zeros_like(signs), places, bits)
        if (only_stored & dead).any() or flat[places.size :].any():
            raise ValueError(f"stream {number} has mask bits where there is no channel")
        mask = only_stored if freeze is None else scatter(freeze, places, bits)
        self.mask = to_channels(mask, in_channels, kernel)
        self.signs = to_channels(signs, in_channels, kernel)
        self.weights = self.mask.astype(np.int8) * (1 - 2 * self.signs.astype(np.int8))
        free = scatter(np.zeros_like(signs), places, np.ones_like(bits))
        self.mask_bits = int((free & ~dead).sum())
