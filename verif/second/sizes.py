# SPDX-License-Identifier: Apache-2.0
"""The sizes that spec 5 defines."""


def sizes(model):
    """{name: bytes, or bits} of a `model_file.Model`; names as the specification has them."""
    header = model.header
    weights = sum(stream.mask.size for stream in model.streams)
    convs = [(op, out) for op, _, _, out in model.shapes if op["op"] == "conv"]
    looped = {op["name"] for loop in header["ops"] if loop["op"] == "loop" for op in loop["body"]}
    norms = sum(channels for op, (_, _, channels) in convs if op["name"] in looped)
    unfolded = sum(
        out[2] * source[2] * op.get("kernel", 1) ** 2
        for op, _, source, out in model.shapes
        if "stream" in op
    )
    dense = unfolded + 2 * sum(channels for _, (_, _, channels) in convs)
    if "dense_reference" in header:
        dense = header["dense_reference"]["parameters"]
    return {
        "mask_bytes": model.mask_bytes,
        "mask_bits": sum(stream.mask_bits for stream in model.streams),
        "affine_bytes": model.affine_bytes,
        "total_bytes": model.total_bytes,
        "other_bytes": model.total_bytes - model.mask_bytes - model.affine_bytes,
        "paper_bytes": -(-(32 + weights + 64 * norms) // 8),
        "dense_fp32_bytes": 4 * dense,
    }
