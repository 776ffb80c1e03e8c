# SPDX-License-Identifier: Apache-2.0
"""What a program wrote to its output window (spec 6 and 10)."""

import numpy as np


def read_output(header, data):
    """(traces, logits) of all images in `data`.

    `traces` is a list, an image each, of [(name, iteration, tensor)] in order; `logits` int64
    [images, classes].
    """
    batch, lanes = header["batch"], header["target_parameters"]["lanes"]
    rows, labels = header["target_parameters"]["rows"], len(header["classes"])
    size = batch * header["output_bytes"]
    traces, logits = [], []
    for start in range(0, len(data), size):
        tensors, rest = read_tensors(header, np.frombuffer(data, np.uint8, size, start), lanes)
        traces += tensors
        # For each block, for each image, the logits of the block's rows.
        blocks = rest.view("<i4").reshape(-1, batch, rows)
        logits += [blocks[:, image].reshape(-1)[:labels] for image in range(batch)]
    return traces, np.array(logits, np.int64)


def read_tensors(header, data, lanes):
    """(traces of a batch's images, bytes that follow them)."""
    entries = header["trace"] or []
    order = header["trace_order"] or [(n, entry["height"]) for n, entry in enumerate(entries)]
    parts: list = [[] for _ in entries]
    at = 0
    for number, rows in order:
        entry = entries[number]
        shape = entry["images"], rows, entry["width"], entry["lane_words"] * lanes
        count = int(np.prod(shape))
        parts[number].append(data[at : at + count].reshape(shape)[..., : entry["channels"]])
        at += count
    traces: list = [[] for _ in range(header["batch"])]
    for entry, stripes in zip(entries, parts, strict=True):
        for image, tensor in enumerate(np.concatenate(stripes, axis=1), entry["image"]):
            traces[image].append((entry["name"], entry["iteration"], tensor))
    return traces, data[at:]
