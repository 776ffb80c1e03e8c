# SPDX-License-Identifier: Apache-2.0
"""What IMAGE, POOL and CONV do to the memories (spec 6 and 7)."""

import numpy as np

from . import inference, lfsr, masks
from .memory import Stop, Undefined


class Engine:
    """`affine` is the affine pointer, `cache` the words of the mask cache."""

    def __init__(self, memory, target, noise):
        self.memory, self.target = memory, target
        self.rows, self.lanes = target["rows"], target["lanes"]
        self.affine = 0
        words = target["mask_cache"] // 8
        self.cache = np.random.default_rng(noise).integers(0, 2**64, words, np.uint64)

    def image(self, i):
        """IMAGE: rows of a picture, unfolded."""
        pitch = -(-4 * i.in_w // 16) * 16
        start, size = self.memory.pointer + i.offset, i.in_h * pitch
        data = np.frombuffer(self.memory.picture(start, size), np.uint8)
        picture = data.reshape(i.in_h, pitch)[:, : 4 * i.in_w].reshape(i.in_h, i.in_w, 4)[..., :3]
        out = inference.unfold(picture, i.kernel, i.stride, **stripe(i))
        if out.shape[2] > i.out_words * self.lanes:
            raise Undefined(f"IMAGE: {out.shape[2]} channels in {i.out_words} words")
        self.memory.write_map(i.dst, out, i.out_words)
        if i.advance:
            self.memory.pointer = start + size

    def pool(self, i):
        """POOL."""
        tensor = self.memory.read_map(i.src, i.in_h, i.in_w, i.in_words)
        out = inference.maxpool(tensor, i.kernel, i.stride, **stripe(i))
        self.memory.write_map(i.dst, out, i.in_words)

    def conv(self, i, iteration):
        """CONV in the given iteration of a loop, 0 outside."""
        weights = self.weights(i, self.mask_words(i, iteration))
        record = None if i.logits else self.record(i)
        tensors = [
            self.memory.read_map(
                i.src + n * i.in_h * i.in_w * i.in_words, i.in_h, i.in_w, i.in_words
            )
            for n in range(i.images)
        ]
        planes = i.passes * self.target["planes"]
        accs = [self.accumulate(i, tensor & (1 << planes) - 1, weights) for tensor in tensors]
        if i.logits:
            logits = np.stack([acc.sum((0, 1)) for acc in accs])  # [image, oc]
            ordered = logits.reshape(i.images, i.blocks, self.rows).transpose(1, 0, 2)
            self.memory.append(ordered.astype("<i4").tobytes())
            return
        size = i.out_h * i.out_w * i.out_words
        for n, acc in enumerate(accs):
            self.requantize(i, acc, record, n * size)

    @staticmethod
    def accumulate(i, tensor, weights):
        """int64 [y, x, oc]: the accumulators of one image."""
        return inference.accumulate(tensor, weights, i.kernel, i.stride, **stripe(i))

    def requantize(self, i, acc, record, place):
        """Write one image of the result; `place` is its distance from `dst` in words."""
        shift, factor, multipliers, biases = record
        residual = 0
        if i.residual:
            residual = self.memory.read_map(i.res + place, i.out_h, i.out_w, i.out_words)
            residual = residual[..., : acc.shape[2]].astype(np.int64)
            acc, multipliers = acc[..., : residual.shape[2]], multipliers[: residual.shape[2]]
            biases = biases[: residual.shape[2]]
        _, out = inference.requantize(acc, multipliers, biases, shift, residual, factor, i.out_bits)
        self.memory.write_map(i.dst + place, out, i.out_words)

    def record(self, i):
        """(S, R, M, B) at the affine pointer, which moves on."""
        size = 2 + i.blocks * self.rows
        words = np.frombuffer(self.memory.program(self.affine, 8 * size), "<u8")
        self.affine += 8 * size
        if lfsr.signature([words[0], *words[2:]]) != words[1]:
            raise Stop("AFFINE_SIGNATURE")
        entries = words[2:].astype(np.int64)
        multipliers = (entries & 0xFFFF) - ((entries & 0x8000) << 1)
        biases = (entries >> 16 & 0xFFFFFF) - ((entries >> 16 & 0x800000) << 1)
        return int(words[0]) >> 16 & 31, int(words[0]) & 0xFFFF, multipliers, biases

    def mask_words(self, i, iteration):
        """uint64 [blocks, count]: the masks as they are used; checks their signature.

        Words are read in the order of work: each block once per pixel tile.
        """
        tiles = -(-i.images // i.tile_images) * -(-i.out_h // i.tile_rows)
        sig, blocks = 2**64 - 1, []
        for block in range(i.blocks):
            for tile in range(tiles):
                if not i.cached or (tile == 0 and iteration == 0):
                    data = self.memory.program(i.offset + 8 * block * i.count, 8 * i.count)
                    words = np.frombuffer(data, "<u8")
                if i.cached:
                    place = (8 * i.cache + block * i.count + np.arange(i.count)) % len(self.cache)
                    if tile == 0 and iteration == 0:
                        self.cache[place] = words
                    words = self.cache[place]
                sig = lfsr.signature(words, sig)
            blocks.append(words)
        if sig != i.mask_signature:
            raise Stop("MASK_SIGNATURE")
        return np.stack(blocks)

    def weights(self, i, words):
        """int8 [blocks*rows, tap, in_words*lanes] of the masks [blocks, count]."""
        taps, m = i.kernel**2, 8 >> i.free
        channels, lanes = i.in_words * self.lanes, self.lanes
        tile = self.rows * lanes * m // 8
        bits = masks.unpack(words[..., None]).reshape(i.blocks, -1)
        if bits.shape[1] != taps * i.in_words * tile:
            raise Undefined(f"CONV: {i.count} mask words a block")
        # [block, tap, lane word, row, lane] -> [oc, tap, channel]
        bits = bits.reshape(i.blocks, taps, i.in_words, self.rows, lanes * m // 8)
        bits = bits.transpose(0, 3, 1, 2, 4).reshape(i.blocks * self.rows, taps, -1)
        signs, freeze = masks.generator_bits(i.seed, len(bits), channels, i.kernel, i.frozen)
        signs = masks.to_channels(signs, channels, i.kernel)
        if m < 8:
            freeze = masks.to_channels(freeze, channels, i.kernel)
            bits = masks.scatter(freeze, masks.free_places(signs, freeze, m), bits)
        return bits.astype(np.int8) * (1 - 2 * signs.astype(np.int8))


def stripe(i):
    """Where the output pixels of an instruction lie; all their centres are in its input."""
    last = (i.out_h - 1) * i.stride + i.top, (i.out_w - 1) * i.stride
    if last[0] >= i.in_h or last[1] >= i.in_w:
        raise Undefined(f"{i.name}: the centre of an output pixel is outside the input")
    return {"top": i.top, "size": (i.out_h, i.out_w)}
