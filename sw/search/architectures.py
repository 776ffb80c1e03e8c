# SPDX-License-Identifier: Apache-2.0
"""Residual networks by name, as the stages of a configuration.

The published networks (He et al., "Deep residual learning", CVPR 2016, and "Identity mappings in
deep residual networks", ECCV 2016, for 200 layers; Zagoruyko and Komodakis, "Wide residual
networks", BMVC 2016): four stages of widths 64 .. 512, stride 2 from the second on.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

__all__ = ["ARCHITECTURES", "STAGES", "stages", "stem"]

STAGES = 4
#: Images up to this size keep their resolution in the stem, as the CIFAR networks do.
SMALL_IMAGE = 64
_WIDTHS = (64, 128, 256, 512)
# Output channels of a bottleneck are this many times its width.
_EXPANSION = 4


class Architecture(NamedTuple):
    """Kind of blocks, their number in each stage, and the factor on a bottleneck's inner width."""

    block: str
    blocks: tuple[int, int, int, int]
    wider: int = 1


ARCHITECTURES = {
    "resnet18": Architecture("basic", (2, 2, 2, 2)),
    "resnet34": Architecture("basic", (3, 4, 6, 3)),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3)),
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3)),
    "resnet152": Architecture("bottleneck", (3, 8, 36, 3)),
    "resnet200": Architecture("bottleneck", (3, 24, 36, 3)),
    "wideresnet50": Architecture("bottleneck", (3, 4, 6, 3), wider=2),
}


def stages(name: str, folded: Collection[int] = ()) -> list[dict[str, Any]]:
    """The tables `model.stages` of architecture `name` with the stages `folded` (1 .. 4) folded."""
    block, blocks, wider = ARCHITECTURES[name]
    result = []
    for number, (count, width) in enumerate(zip(blocks, _WIDTHS, strict=True), 1):
        stage = {
            "blocks": count,
            "channels": width,
            "block": block,
            "stride": 1 if number == 1 else 2,
            "folded": number in folded,
        }
        if block == "bottleneck":
            stage |= {"channels": _EXPANSION * width, "mid": wider * width}
        result.append(stage)
    return result


def stem(image: int) -> dict[str, Any]:
    """The table `model.stem` for images of `image` x `image` pixels."""
    if image <= SMALL_IMAGE:
        return {"channels": _WIDTHS[0], "kernel": 3, "stride": 1}
    return {"channels": _WIDTHS[0], "kernel": 7, "stride": 2, "pool": True}
