# SPDX-License-Identifier: Apache-2.0
"""Instructions of a program (docs/spec.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass

from hiddenfold.gen.graph import Node
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.schedule import Schedule
from hiddenfold.gen.streams import MaskStreams
from hiddenfold.gen.target import Target
from hiddenfold.hw import isa, lfsr
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.instructions import encode
from hiddenfold.sw.operations import Classifier, Conv, MaxPool, Unfold

__all__ = ["Code", "instruction_count"]


def instruction_count(schedule: Schedule, trace: bool) -> int:
    """BEGIN, END, those of all parts, two per loop and, with `trace`, a STORE for each tensor."""
    count = 2
    for part in schedule.parts():
        node = part.node
        count += len(part.runs) + node.loop_start + node.loop_end + (trace and node.traced)
    return count


@dataclass(frozen=True)
class Code:
    """What the instructions of a program depend on.

    `cached` are the places of `mask_cache.cache_places`. `affine_offset` and `mask_offset` are
    where the two sections start in the memory image; `seed` is the model's seed state.
    """

    target: Target
    schedule: Schedule
    masks: MaskStreams
    cached: dict[str, int]
    seed: int
    affine_offset: int
    mask_offset: int

    def encode(self, trace: bool) -> tuple[bytes, dict[str, list[int]]]:
        """All instructions, and the offsets of each operation's ones."""
        code = [encode(Opcode.BEGIN, seed=self.target.identifier, offset=self.affine_offset)]
        places: dict[str, list[int]] = {}
        for part in self.schedule.parts():
            node = part.node
            if node.loop_start:
                code.append(encode(Opcode.LOOP, count=node.loop_count))
            for run in part.runs:
                if not node.copy:
                    places.setdefault(node.execution.name, []).append(len(code) * isa.BYTES)
                code.append(self._instruction(node, run))
            if trace and node.traced and node.dst is not None:
                words = len(part.images) * self.schedule.graph.words[node.dst]
                start = self.schedule.address(node.dst, part.images.start)
                code.append(encode(Opcode.STORE, src=start, count=words))
            if node.loop_end:
                code.append(encode(Opcode.ENDLOOP))
        code.append(encode(Opcode.END, images=self.schedule.batch))
        return b"".join(code), places

    def _lane_words(self, channels: int) -> int:
        return -(-channels // self.target.lanes)

    def _instruction(self, node: Node, images: range) -> bytes:
        """The instruction that executes a node on some images."""
        op = node.execution.op
        source, result = node.execution.in_shape, map_shape(node.execution)
        if node.copy:
            source = result
        fields = {
            "in_h": source.height,
            "in_w": source.width,
            "out_h": result.height,
            "out_w": result.width,
            "src": self.schedule.address(node.src, images.start),
            "dst": self.schedule.address(node.dst, images.start),
        }
        if node.copy:
            # A maximum over windows of one pixel copies the tensor that the operation made.
            words = self._lane_words(result.channels)
            return encode(Opcode.POOL, kernel=1, stride=1, in_words=words, **fields)
        if isinstance(op, Unfold):
            fields |= {"kernel": op.kernel, "stride": op.stride, "advance": 1}
            return encode(Opcode.IMAGE, out_words=self._lane_words(result.channels), **fields)
        fields["in_words"] = self._lane_words(source.channels)
        if isinstance(op, MaxPool):
            return encode(Opcode.POOL, kernel=op.kernel, stride=op.stride, **fields)
        return encode(Opcode.CONV, **fields, **self._weight_fields(node, op, images))

    def _weight_fields(self, node: Node, op: Conv | Classifier, images: range) -> dict[str, int]:
        """Fields of CONV besides those that all instructions on maps have."""
        plan = ConvPlan.make(node.execution, self.target, len(images))
        fields = {
            "kernel": plan.shape.kernel,
            "stride": plan.shape.stride,
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
            fields |= {"residual": 1, "res": self.schedule.address(node.res, images.start)}
        return fields
