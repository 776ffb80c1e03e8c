# SPDX-License-Identifier: Apache-2.0
"""Integer inference of a model (spec 4): every tensor of every execution, and the logits."""

import numpy as np

from . import masks
from .model_file import flatten


def windows(tensor, kernel, stride, top=0, size=None):
    """[ky*K + kx][y, x, c]: what each tap of a kernel sees of a map [height, width, c].

    Spec 3 and 4.2: outside the map a tensor is 0. `top` and `size` are those of a stripe (spec 6):
    the input rows above the centre of the first output row, and its output rows and columns.
    """
    height, width, _ = tensor.shape
    rows, columns = size or ((height - 1) // stride + 1, (width - 1) // stride + 1)
    half = (kernel - 1) // 2
    seen = []
    for ky in range(kernel):
        for kx in range(kernel):
            y = np.arange(rows) * stride + ky - half + top
            x = np.arange(columns) * stride + kx - half
            inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
            part = tensor[y.clip(0, height - 1)][:, x.clip(0, width - 1)]
            seen.append(np.where(inside[..., None], part, 0))
    return seen


def unfold(image, kernel, stride, **stripe):
    """Spec 4.1 on [y, x, c]; `stripe` as in `windows`."""
    return np.concatenate(windows(image, kernel, stride, **stripe), axis=-1)


def maxpool(tensor, kernel, stride, **stripe):
    """Spec 4.4 on [y, x, c]; `stripe` as in `windows`."""
    return np.max(windows(tensor, kernel, stride, **stripe), axis=0)


def accumulate(tensor, weights, kernel, stride, **stripe):
    """int64 [y, x, oc]: exact accumulators; `weights` are [oc, tap, ic], centre tap first.

    Products and sums stay below 2^53 (7*7*4096*255 < 2^26), so float64 products are exact.
    """
    seen = windows(tensor.astype(np.float64), kernel, stride, **stripe)
    total = np.float64(0)
    for tap, (ky, kx) in enumerate(masks.tap_order(kernel)):
        total = total + seen[ky * kernel + kx] @ weights[:, tap].T.astype(np.float64)
    return total.astype(np.int64)


def requantize(acc, multipliers, biases, shift, residual, factor, bits):
    """(v, y) of spec 4.3; arrays broadcast over the last axis, the channels."""
    v = (acc * np.asarray(multipliers) >> shift) + residual * factor + np.asarray(biases)
    return v, np.clip(v >> 8, 0, 2**bits - 1)


class Inference:
    """One image through a model.

    `layers` is [(name, iteration, tensor)] of each execution but the classifier's, in order;
    `logits` int64 [classes].
    """

    def __init__(self, model, image):
        tensors = {"image": np.asarray(image, np.int64)}
        constants = iter(model.executions)
        self.layers = []
        for op, iteration in flatten(model.ops):
            source = tensors[op["in"]]
            if op["op"] == "classifier":
                weights = model.streams[op["stream"]].weights[:, 0].astype(np.int64)
                self.logits = weights @ source.sum((0, 1))
                return
            if op["op"] == "unfold":
                out = unfold(source, op["kernel"], op["stride"])
            elif op["op"] == "maxpool":
                out = maxpool(source, op["kernel"], op["stride"])
            else:
                shift, factor, multipliers, biases = next(constants)
                weights = model.streams[op["stream"]].weights
                acc = accumulate(source, weights, op["kernel"], op["stride"])
                residual = 0 if op["residual"] is None else tensors[op["residual"]]
                _, out = requantize(acc, multipliers, biases, shift, residual, factor, op["bits"])
            tensors[op["out"]] = out
            self.layers.append((op["name"], iteration, out))


def top5(logits):
    """Labels by logit, descending, ties to the lower label (spec 4.5)."""
    return sorted(range(len(logits)), key=lambda label: (-int(logits[label]), label))[:5]
