# SPDX-License-Identifier: Apache-2.0
"""The specification once more, bit by bit in plain Python integers, for tests to compare with.

Nothing here uses the code under test: a bit-serial register makes the signs, nested loops
convolve. Only the descriptions of a model (its operations and its arrays of words and constants)
are read.
"""

import functools

MASK64 = (1 << 64) - 1


def step(state):
    """One step of the register (docs/spec.md 1.1)."""
    new = (state ^ state >> 1 ^ state >> 3 ^ state >> 4) & 1
    return state >> 1 | new << 63


@functools.cache
def doubling(k):
    """The 64 images of the unit vectors under M^(2^k), by squaring the one-step matrix."""
    if k == 0:
        return [step(1 << bit) for bit in range(64)]
    half = doubling(k - 1)
    return [apply(half, column) for column in half]


def apply(columns, state):
    """The matrix with these columns times a state, over GF(2)."""
    result = 0
    for bit in range(64):
        if state >> bit & 1:
            result ^= columns[bit]
    return result


def jump(state, exponent):
    """`exponent` steps, by the binary digits of the exponent."""
    for k in range(exponent.bit_length()):
        if exponent >> k & 1:
            state = apply(doubling(k), state)
    return state


def sign_words(seed, stream, out_channels, words):
    """Words [oc][k] of a layer's streams (docs/spec.md 1.2), each next word by 64 single steps."""
    state = jump(seed, stream << 56)
    result = []
    for _ in range(out_channels):
        channel, row = state, []
        for _ in range(words):
            row.append(channel)
            for _ in range(64):
                channel = step(channel)
        result.append(row)
        state = jump(state, 1 << 40)
    return result


def tap_number(kernel, ky, kx):
    """Place of a tap in a stream (docs/spec.md 1.3): the centre first, then rows."""
    row_major, centre = ky * kernel + kx, (kernel * kernel - 1) // 2
    return 0 if row_major == centre else row_major + (row_major < centre)


def frozen_mask(seed, stream, shape, m, stored):
    """Mask words [oc][t][cw] of the 64-bit words of their stored form (docs/spec.md 2.1).

    `shape` is (Cout, Cin, K). Asserts that what must be 0 is.
    """
    out_channels, in_channels, kernel = shape
    channel_words = -(-in_channels // 64)
    bits = [word >> i & 1 for word in stored for i in range(64)]
    result = []
    for row in sign_words(seed, stream, out_channels, 2 * kernel * kernel * channel_words):
        result.append([])
        for tap in range(kernel * kernel):
            result[-1].append([])
            for cw in range(channel_words):
                k = tap * channel_words + cw
                sign, freeze = row[2 * k], row[2 * k + 1]
                word = 0
                for g in range(8):
                    rot = ((sign ^ freeze) >> 8 * g) & 7
                    made = {i: freeze >> (8 * g + i) & 1 for i in range(8)}
                    for j in range(m):
                        made[(rot + j) % 8] = bits.pop(0)
                        if 64 * cw + 8 * g + (rot + j) % 8 >= in_channels:
                            assert made[(rot + j) % 8] == 0
                    for i in range(8):
                        if 64 * cw + 8 * g + i < in_channels:
                            word |= made[i] << (8 * g + i)
                result[-1][-1].append(word)
    assert len(bits) < 64 and not any(bits)
    return result


def weights(mask, signs, in_channels, kernel):
    """Weights [oc][ic][ky][kx] of mask words [oc][t][cw] and sign words [oc][k]."""
    channel_words = -(-in_channels // 64)

    def weight(oc, ic, ky, kx):
        tap, (cw, bit) = tap_number(kernel, ky, kx), divmod(ic, 64)
        if not int(mask[oc][tap][cw]) >> bit & 1:
            return 0
        return -1 if signs[oc][tap * channel_words + cw] >> bit & 1 else 1

    return [
        [
            [[weight(oc, ic, ky, kx) for kx in range(kernel)] for ky in range(kernel)]
            for ic in range(in_channels)
        ]
        for oc in range(len(mask))
    ]


def at(tensor, y, x, c):
    """An element of [y][x][c], 0 outside."""
    inside = 0 <= y < len(tensor) and 0 <= x < len(tensor[0])
    return tensor[y][x][c] if inside else 0


def clamp(v, bits):
    """The last line of docs/spec.md 4.3."""
    return max(0, min(v >> 8, (1 << bits) - 1))


class Network:
    """Runs a model on one image [y][x][c]; `trace` gets (name, iteration, [y][x][c])."""

    def __init__(self, model, image):
        self.model = model
        self.tensors = {"image": image}
        self.trace = []
        self.affine = iter(model.affine)
        self.cache = {}

    def run(self):
        for op in self.model.ops:
            if hasattr(op, "body"):
                for iteration in range(op.count):
                    for conv in op.body:
                        self.execute(conv, iteration)
            else:
                self.execute(op, 0)

    def execute(self, op, iteration):
        kind = type(op).__name__
        source = self.tensors[op.input]
        out = getattr(self, kind.lower())(op, source)
        self.trace.append((op.name, iteration, out))
        if kind != "Classifier":
            self.tensors[op.output] = out

    def weights(self, stream, in_channels, kernel):
        if stream not in self.cache:
            mask = self.model.masks[stream].tolist()
            words = len(mask[0]) * len(mask[0][0])
            stride = 2 if self.model.free and self.model.free[stream] < 8 else 1
            signs = sign_words(self.model.seed, stream, len(mask), stride * words)
            signs = [row[::stride] for row in signs]
            self.cache[stream] = weights(mask, signs, in_channels, kernel)
        return self.cache[stream]

    def unfold(self, op, source):
        def pixel(y, x, window):
            return [at(source, *place, c) for place in window for c in range(3)]

        return each_pixel(op, source, pixel)

    def maxpool(self, op, source):
        def pixel(y, x, window):
            channels = range(len(source[0][0]))
            return [max(at(source, *place, c) for place in window) for c in channels]

        return each_pixel(op, source, pixel)

    def conv(self, op, source):
        constants = next(self.affine)
        channels = len(source[0][0])
        layer = self.weights(op.stream, channels, op.kernel)
        residual = self.tensors[op.residual] if op.residual else None

        def pixel(y, x, window):
            result = []
            for oc in range(op.out_channels):
                acc = 0
                for tap, place in enumerate(window):
                    for ic in range(channels):
                        weight = layer[oc][ic][tap // op.kernel][tap % op.kernel]
                        if weight:
                            acc += weight * at(source, *place, ic)
                multiplier, bias = int(constants.multiplier[oc]), int(constants.bias[oc])
                added = (residual[y][x][oc] if residual else 0) * constants.residual
                v = ((acc * multiplier) >> constants.shift) + added + bias
                result.append(clamp(v, op.bits))
            return result

        return each_pixel(op, source, pixel)

    def classifier(self, op, source):
        channels = len(source[0][0])
        logits = []
        for oc in self.weights(op.stream, channels, 1):
            logit = 0
            for row in source:
                for pixel in row:
                    for ic in range(channels):
                        logit += oc[ic][0][0] * pixel[ic]
            logits.append(logit)
        return logits


def each_pixel(op, source, pixel):
    """[y][x] of `pixel(y, x, window)`, the window being the input places of all taps in rows."""
    height, width = len(source), len(source[0])
    pad, stride = (op.kernel - 1) // 2, op.stride
    return [
        [
            pixel(
                y,
                x,
                [
                    (y * stride + ky - pad, x * stride + kx - pad)
                    for ky in range(op.kernel)
                    for kx in range(op.kernel)
                ],
            )
            for x in range((width - 1) // stride + 1)
        ]
        for y in range((height - 1) // stride + 1)
    ]


def run(model, image):
    """Trace [(name, iteration, [y][x][c])] of one image [y][x][c]; last the logits [oc]."""
    network = Network(model, image)
    network.run()
    return network.trace
