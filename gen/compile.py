# SPDX-License-Identifier: Apache-2.0
"""Compiler: a model and a target make a program (docs/spec.md sections 6, 7 and 10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.gen import cost, tiling
from hiddenfold.gen.checksum import repeated_signature, signature
from hiddenfold.gen.graph import Graph, Node, build
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.target import Target
from hiddenfold.hw import isa, lfsr
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.instructions import encode
from hiddenfold.sw.model import Affine, Model
from hiddenfold.sw.operations import Classifier
from hiddenfold.sw.program import ALIGNMENT, Program
from hiddenfold.sw.shapes import Execution

__all__ = ["CompileError", "compile_model"]


class CompileError(ValueError):
    """The model cannot run on the target; the text names the operation and the remedy."""


def compile_model(model: Model, target: Target, *, trace: bool = False, batch: int = 1) -> Program:
    """Compile `model` for `target`.

    With `trace` the program also writes every tensor that `unfold`, `conv` and `maxpool` make to
    the output, in each iteration.

    Raises
    ------
    CompileError
        When the target cannot run the model. The text names the operation and what would help.
    ValueError
        When the model is not legal.
    """
    if batch != 1:
        raise CompileError(
            "--batch above 1 is not supported yet by this hardware: compile with --batch 1 and let "
            f"the driver queue images (IMAGES register), found --batch {batch}"
        )
    model.validate()
    return _Compiler(model, target, trace).program()


@dataclass
class _Section:
    """Part of the memory image: chunks one after the other from an aligned offset."""

    chunks: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, data: bytes, alignment: int = 1) -> int:
        """Append `data` and return where it starts."""
        padding = -self.size % alignment
        self.chunks += [bytes(padding), data]
        start = self.size + padding
        self.size = start + len(data)
        return start

    def bytes(self) -> bytes:
        return b"".join(self.chunks) + bytes(-self.size % ALIGNMENT)


class _Compiler:
    """One compilation."""

    def __init__(self, model: Model, target: Target, trace: bool) -> None:
        self._model = model
        self._target = target
        self._trace = trace
        self._graph: Graph = build(model, target.lanes)
        self._masks = _Section()
        self._mask_words: dict[int, NDArray[np.uint64]] = {}
        self._mask_offsets: dict[int, int] = {}
        self._peaks: dict[tuple[int, int], int] = {}

    def program(self) -> Program:
        """Check, place and encode everything."""
        for node in self._graph.nodes:
            self._check(node)
        addresses = self._allocate()
        executions = self._model.executions()
        affine = _Section()
        for execution in executions:
            if execution.affine is not None:
                affine.add(self._affine_record(execution))
        for node in self._graph.nodes:
            if node.execution.weight_shape is not None:
                self._add_masks(node.execution)

        affine_offset = self._instruction_count() * isa.BYTES
        affine_bytes = affine.bytes()
        mask_offset = affine_offset + len(affine_bytes)
        code, places = self._encode(addresses, affine_offset, mask_offset)
        assert len(code) == affine_offset
        memory = code + affine_bytes + self._masks.bytes()
        if len(memory) >= 1 << 32:
            raise CompileError(f"Memory image must be below 2^32 bytes, not {len(memory)}")
        return self._finish(memory, places, affine.size)

    # Limits of the target.

    def _check(self, node: Node) -> None:
        """Raise `CompileError` when the target cannot execute the operation."""
        execution, target = node.execution, self._target
        if execution.kind == "unfold":
            if execution.in_shape.width > target.image_width:
                self._refuse(
                    execution,
                    f"image width {execution.in_shape.width} is above the target's image_width "
                    f"{target.image_width}: scale the images, or raise image_width",
                )
            if execution.op.kernel > target.stem_kernel:
                self._refuse(
                    execution,
                    f"kernel {execution.op.kernel} is above the target's stem_kernel "
                    f"{target.stem_kernel}: train with a smaller kernel, or raise stem_kernel",
                )
        if execution.weight_shape is None:
            return
        width = map_shape(execution).width
        if width > target.psum_depth:
            self._refuse(
                execution,
                f"output width {width} is above the target's psum_depth {target.psum_depth}: "
                f"raise psum_depth to {_power_of_two(width)}",
            )
        key = (execution.op.stream, execution.in_bits)
        if key not in self._peaks:
            self._peaks[key] = self._model.accumulator_peak(*key)
        peak = self._peaks[key]
        if peak > (1 << (target.acc_bits - 1)) - 1:
            self._refuse(
                execution,
                f"its sums reach {peak}, more than the target's acc_bits {target.acc_bits} hold: "
                f"raise acc_bits to {peak.bit_length() + 1}, or keep fewer weights",
            )

    def _refuse(self, execution: Execution, reason: str) -> None:
        raise CompileError(
            f"Operation '{execution.name}' does not fit target '{self._target.name}': {reason}"
        )

    def _allocate(self) -> dict[int, int]:
        """Start address of every variable of the graph."""
        target = self._target
        addresses, words = self._graph.place(target.act_banks, target.act_bank_words)
        if addresses is None:
            node = self._graph.widest()
            self._refuse(
                node.execution,
                f"the activations that exist at the same time need {words} words of memory "
                f"({words * target.lanes} bytes), the target has {target.act_words}: raise "
                f"act_bank_words to {_power_of_two(-(-words // target.act_banks))} or use a target "
                "with a larger activation memory",
            )
        assert addresses is not None
        return addresses

    # Streams.

    def _affine_record(self, execution: Execution) -> bytes:
        """Affine record of one execution (spec section 6)."""
        assert execution.affine is not None
        constants: Affine = self._model.affine[execution.affine]
        channels = execution.out_shape.channels
        blocks = -(-channels // self._target.rows)
        words = np.zeros(2 + blocks * self._target.rows, dtype=np.uint64)
        words[0] = constants.residual | constants.shift << 16
        multiplier = constants.multiplier.astype(np.int64) & 0xFFFF
        bias = constants.bias.astype(np.int64) & 0xFFFFFF
        words[2 : 2 + channels] = (multiplier | bias << 16).astype(np.uint64)
        words[1] = signature(np.delete(words, 1))
        return words.astype("<u8").tobytes()

    def _add_masks(self, execution: Execution) -> None:
        """Put the mask stream of a layer into the image, once."""
        stream = execution.op.stream
        if stream in self._mask_offsets:
            return
        words = tiling.mask_words(
            self._model.masks[stream],
            execution.in_shape.channels,
            self._target.rows,
            self._target.lanes,
        )
        self._mask_words[stream] = words
        self._mask_offsets[stream] = self._masks.add(words.astype("<u8").tobytes(), ALIGNMENT)

    # Instructions.

    def _instruction_count(self) -> int:
        """BEGIN, END, one per node, two per loop and, with trace, a STORE for each tensor."""
        count = 2
        for node in self._graph.nodes:
            count += 1 + node.loop_start + node.loop_end + self._stored(node)
        return count

    def _stored(self, node: Node) -> bool:
        """Whether a STORE follows."""
        return self._trace and not node.copy and not isinstance(node.execution.op, Classifier)

    def _encode(
        self, addresses: dict[int, int], affine_offset: int, mask_offset: int
    ) -> tuple[bytes, dict[str, int]]:
        """All instructions, and the offset of each operation's one."""
        code = [encode(Opcode.BEGIN, seed=self._target.identifier, offset=affine_offset)]
        places: dict[str, int] = {}
        for node in self._graph.nodes:
            if node.loop_start:
                code.append(encode(Opcode.LOOP, count=node.loop_count))
            if not node.copy:
                places[node.execution.name] = len(code) * isa.BYTES
            code.append(self._instruction(node, addresses, mask_offset))
            if self._stored(node):
                words = self._graph.words[node.dst]
                code.append(encode(Opcode.STORE, src=addresses[node.dst], count=words))
            if node.loop_end:
                code.append(encode(Opcode.ENDLOOP))
        code.append(encode(Opcode.END))
        return b"".join(code), places

    def _instruction(self, node: Node, addresses: dict[int, int], mask_offset: int) -> bytes:
        """The instruction that executes a node."""
        execution, lanes = node.execution, self._target.lanes
        op = execution.op
        source, result = execution.in_shape, map_shape(execution)
        maps = {
            "in_h": source.height,
            "in_w": source.width,
            "out_h": result.height,
            "out_w": result.width,
        }
        dst = addresses[node.dst] if node.dst is not None else 0
        src = addresses[node.src] if node.src is not None else 0
        if node.copy:
            # A maximum over windows of one pixel copies the tensor that the operation made.
            maps["in_h"], maps["in_w"] = result.height, result.width
            words = -(-result.channels // lanes)
            return encode(Opcode.POOL, kernel=1, stride=1, in_words=words, src=src, dst=dst, **maps)
        if execution.kind == "unfold":
            words = -(-result.channels // lanes)
            window = {"kernel": op.kernel, "stride": op.stride}
            return encode(Opcode.IMAGE, dst=dst, out_words=words, **window, **maps)
        in_words = -(-source.channels // lanes)
        if execution.kind == "maxpool":
            window = {"kernel": op.kernel, "stride": op.stride}
            return encode(Opcode.POOL, in_words=in_words, src=src, dst=dst, **window, **maps)
        plan = ConvPlan.make(execution, self._target)
        words = self._mask_words[op.stream]
        fields: dict[str, int] = {
            "kernel": plan.shape.kernel,
            "stride": plan.shape.stride,
            "passes": plan.passes,
            "gap": plan.gap,
            "blocks": plan.blocks,
            "in_words": in_words,
            "out_words": -(-execution.out_shape.channels // lanes),
            "tile_rows": plan.tile_rows,
            "src": src,
            "dst": dst,
            "seed": lfsr.layer_state(self._model.seed, op.stream),
            "offset": mask_offset + self._mask_offsets[op.stream],
            "count": words.shape[1],
            "mask_signature": repeated_signature(words, len(plan.tiles)),
        }
        if isinstance(op, Classifier):
            fields["logits"] = 1
        else:
            fields["out_bits"] = op.bits
            if node.res is not None:
                fields |= {"residual": 1, "res": addresses[node.res]}
        return encode(Opcode.CONV, **fields, **maps)

    # The header.

    def _finish(self, memory: bytes, places: dict[str, int], affine_bytes: int) -> Program:
        """The program with everything that its header says."""
        model, target = self._model, self._target
        executions = model.executions()
        layers = [self._layer(execution, places[execution.name]) for execution in executions]
        traced = [e for e in executions if self._trace and e.kind != "classifier"]
        trace = [self._trace_entry(execution) for execution in traced]
        stored = sum(
            entry["height"] * entry["width"] * entry["lane_words"] * target.lanes for entry in trace
        )
        logits = -(-len(model.classes) // target.rows) * target.rows
        overhead = cost.overhead(self._graph.nodes, self._trace, target)
        output_bytes = stored + 4 * logits
        return Program(
            model=model.name,
            target=target.name,
            target_id=target.identifier,
            target_parameters=target.parameters(),
            classes=list(model.classes),
            image=model.image,
            batch=1,
            logits=logits,
            output_bytes=output_bytes,
            macs=sum(layer["macs"] for layer in layers),
            ideal_cycles=sum(layer["ideal_cycles"] for layer in layers),
            predicted_cycles=sum(layer["predicted_cycles"] for layer in layers) + overhead.cycles,
            predicted_bytes_read=sum(
                layer["mask_bytes"] + layer["affine_bytes"] for layer in layers
            )
            + cost.image_bytes(model.image)
            + overhead.bytes_read,
            predicted_bytes_written=output_bytes,
            instructions=self._instruction_count(),
            mask_bytes=self._masks.size,
            affine_bytes=affine_bytes,
            layers=layers,
            trace=trace if self._trace else None,
            memory=memory,
        )

    def _layer(self, execution: Execution, place: int) -> dict[str, Any]:
        """Entry of `layers` for one execution."""
        estimate = cost.execution_cost(execution, self._target)
        target = self._target
        return {
            "name": execution.name,
            "op": execution.kind,
            "iteration": execution.iteration,
            "pc": place,
            "macs": execution.macs,
            "ideal_cycles": execution.macs
            * execution.in_bits
            / (target.rows * target.lanes * target.planes),
            "predicted_cycles": estimate.cycles,
            "mask_bytes": estimate.mask_bytes,
            "affine_bytes": estimate.affine_bytes,
            "in": list(execution.in_shape),
            "out": list(execution.out_shape),
        }

    def _trace_entry(self, execution: Execution) -> dict[str, Any]:
        """Entry of `trace` for one execution."""
        shape = execution.out_shape
        return {
            "name": execution.name,
            "iteration": execution.iteration,
            "height": shape.height,
            "width": shape.width,
            "channels": shape.channels,
            "lane_words": -(-shape.channels // self._target.lanes),
        }


def _power_of_two(value: int) -> int:
    """The smallest power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()
