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


def requantize(acc, multiplier, shift, residual, residual_multiplier, bias, bits):
    """docs/spec.md 4.3 for one element."""
    v = ((acc * multiplier) >> shift) + residual * residual_multiplier + bias
    return max(0, min(v >> 8, (1 << bits) - 1))


def run(model, image):
    """Trace [(name, iteration, [y][x][c])] of one image [y][x][c]; last the logits [oc]."""
    from hiddenfold.sw.model import Classifier, Loop, MaxPool, Unfold

    tensors = {"image": image}
    trace = []
    cache = {}
    affine = iter(model.affine)

    def layer_weights(stream, in_channels, kernel):
        if stream not in cache:
            mask = model.masks[stream].tolist()
            words = len(mask[0]) * len(mask[0][0])
            signs = sign_words(model.seed, stream, len(mask), words)
            cache[stream] = weights(mask, signs, in_channels, kernel)
        return cache[stream]

    def execute(op, iteration):
        source = tensors[op.input]
        height, width, channels = len(source), len(source[0]), len(source[0][0])
        if isinstance(op, Classifier):
            w = layer_weights(op.stream, channels, 1)
            logits = []
            for oc in range(len(w)):
                logit = 0
                for y in range(height):
                    for x in range(width):
                        for ic in range(channels):
                            logit += w[oc][ic][0][0] * source[y][x][ic]
                logits.append(logit)
            trace.append((op.name, iteration, logits))
            return
        pad, kernel, stride = (op.kernel - 1) // 2, op.kernel, op.stride
        out_h, out_w = (height - 1) // stride + 1, (width - 1) // stride + 1
        window = [(ky, kx) for ky in range(kernel) for kx in range(kernel)]
        if isinstance(op, Unfold):
            out = [
                [
                    [
                        at(source, y * stride + ky - pad, x * stride + kx - pad, c)
                        for ky, kx in window
                        for c in range(3)
                    ]
                    for x in range(out_w)
                ]
                for y in range(out_h)
            ]
        elif isinstance(op, MaxPool):
            out = [
                [
                    [
                        max(
                            at(source, y * stride + ky - pad, x * stride + kx - pad, c)
                            for ky, kx in window
                        )
                        for c in range(channels)
                    ]
                    for x in range(out_w)
                ]
                for y in range(out_h)
            ]
        else:
            constants = next(affine)
            w = layer_weights(op.stream, channels, kernel)
            residual = tensors[op.residual] if op.residual else None
            out = []
            for y in range(out_h):
                out.append([])
                for x in range(out_w):
                    out[y].append([])
                    for oc in range(op.out_channels):
                        acc = 0
                        for ky, kx in window:
                            for ic in range(channels):
                                weight = w[oc][ic][ky][kx]
                                if weight:
                                    sy, sx = y * stride + ky - pad, x * stride + kx - pad
                                    acc += weight * at(source, sy, sx, ic)
                        value = requantize(
                            acc,
                            int(constants.multiplier[oc]),
                            constants.shift,
                            residual[y][x][oc] if residual else 0,
                            constants.residual,
                            int(constants.bias[oc]),
                            op.bits,
                        )
                        out[y][x].append(value)
        tensors[op.output] = out
        trace.append((op.name, iteration, out))

    for op in model.ops:
        if isinstance(op, Loop):
            for iteration in range(op.count):
                for conv in op.body:
                    execute(conv, iteration)
        else:
            execute(op, 0)
    return trace
