# SPDX-License-Identifier: Apache-2.0
"""Instructions of a program (docs/spec.md section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hiddenfold.gen.actions import Action
from hiddenfold.gen.cost import image_pitch
from hiddenfold.gen.graph import Node
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.streams import MaskStreams
from hiddenfold.gen.stripes import input_shape, window
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import Stripe
from hiddenfold.hw import lfsr
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.instructions import encode
from hiddenfold.sw.operations import Classifier, Conv, MaxPool, Unfold

__all__ = ["Code"]


@dataclass(frozen=True)
class Code:
    """What the instructions of a program depend on.

    `cached` are the places of `mask_cache.cache_places`. `affine_offset` and `mask_offset` are
    where the two sections start in the memory image; `seed` is the model's seed state.
    """

    target: Target
    masks: MaskStreams
    cached: dict[str, int]
    seed: int
    affine_offset: int
    mask_offset: int

    def encode(self, actions: Sequence[Action]) -> bytes:
        """All instructions."""
        return b"".join(
            encode(action.opcode, **action.fences, **self._fields(action)) for action in actions
        )

    def _fields(self, action: Action) -> dict[str, int]:
        """All fields of an instruction but its fences."""
        if action.node is not None and action.stripe is not None:
            return self._map_fields(action, action.node, action.stripe)
        if action.opcode == Opcode.BEGIN:
            return {"seed": self.target.identifier, "offset": self.affine_offset}
        if action.opcode == Opcode.END:
            return {"images": len(action.images)}
        fields = {"src": action.src, "dst": action.dst, "count": action.count}
        if action.outside is not None:
            fields["offset"] = action.outside.start * self.target.lanes
        return fields

    def _lane_words(self, channels: int) -> int:
        return -(-channels // self.target.lanes)

    def _map_fields(self, action: Action, node: Node, stripe: Stripe) -> dict[str, int]:
        """Fields of IMAGE, CONV and POOL."""
        op = node.execution.op
        source, result = input_shape(node), map_shape(node.execution)
        kernel, stride = window(node)
        fields = {
            "kernel": kernel,
            "stride": stride,
            "in_h": stripe.in_rows,
            "in_w": source.width,
            "out_h": stripe.rows,
            "out_w": result.width,
            "top": stripe.top,
            "dst": action.dst,
        }
        if isinstance(op, Unfold):
            return fields | {
                "out_words": self._lane_words(result.channels),
                "offset": stripe.in_first * image_pitch(source.width),
                "advance": int(action.last),
            }
        fields |= {"src": action.src, "in_words": self._lane_words(source.channels)}
        if action.opcode == Opcode.POOL:
            # A maximum over windows of one pixel copies a tensor.
            return fields
        assert not isinstance(op, MaxPool), "a pool has no weights"
        return fields | self._weight_fields(action, node, stripe, op)

    def _weight_fields(
        self, action: Action, node: Node, stripe: Stripe, op: Conv | Classifier
    ) -> dict[str, int]:
        """Fields of CONV besides those that all instructions on maps have."""
        plan = ConvPlan.make(node.execution, self.target, len(action.images), stripe)
        fields = {
            "passes": plan.passes,
            "gap": int(plan.gap),
            "blocks": plan.blocks,
            "images": plan.images,
            "tile_images": plan.tile_images,
            "out_words": self._lane_words(node.execution.out_shape.channels),
            "tile_rows": plan.tile_rows,
            "seed": lfsr.layer_state(self.seed, op.stream),
            "offset": self.mask_offset + self.masks.offset(op.stream),
            **self.masks.fields(op.stream),
            "mask_signature": self.masks.signature(op.stream, len(plan.tiles)),
        }
        if op.name in self.cached:
            fields |= {"cached": 1, "cache": self.cached[op.name]}
        if isinstance(op, Classifier):
            return fields | {"logits": 1}
        fields["out_bits"] = op.bits
        if node.res is not None:
            fields |= {"residual": 1, "res": action.res}
        return fields
