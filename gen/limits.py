# SPDX-License-Identifier: Apache-2.0
"""What a target cannot execute, and what would help."""

from __future__ import annotations

from hiddenfold.gen.graph import Graph
from hiddenfold.gen.plan import map_shape
from hiddenfold.gen.schedule import Schedule, schedule
from hiddenfold.gen.spill import DoesNotFit, Layout, plan
from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Classifier, Unfold
from hiddenfold.sw.shapes import Execution

__all__ = ["CompileError", "check", "largest_batch", "place"]


class CompileError(ValueError):
    """The model cannot run on the target; the text names the operation and the remedy."""


def check(model: Model, graph: Graph, target: Target) -> None:
    """Raise `CompileError` for the first operation that the target cannot execute."""
    peaks: dict[tuple[int, int], int] = {}
    for node in graph.nodes:
        execution = node.execution
        if isinstance(execution.op, Unfold):
            _check_unfold(execution, execution.op, target)
        if execution.stream is None:
            continue
        width = map_shape(execution).width
        if width > target.psum_depth:
            raise _refusal(
                execution,
                target,
                f"output width {width} is above the target's psum_depth {target.psum_depth}: "
                f"raise psum_depth to {_power_of_two(width)}",
            )
        key = (execution.stream, execution.in_bits)
        if key not in peaks:
            peaks[key] = model.accumulator_peak(*key)
        if peaks[key] > (1 << (target.acc_bits - 1)) - 1:
            raise _refusal(
                execution,
                target,
                f"its sums reach {peaks[key]}, more than the target's acc_bits {target.acc_bits} "
                f"hold: raise acc_bits to {peaks[key].bit_length() + 1}, or keep fewer weights",
            )


def place(graph: Graph, target: Target, batch: int) -> Schedule | Layout:
    """Where each tensor of a batch lies: all on chip if they fit, else some in external memory.

    `CompileError` when an operation needs more than the whole memory.
    """
    found = schedule(graph, target, batch)
    if found is not None:
        return found
    try:
        return plan(graph, target, batch)
    except DoesNotFit as error:
        raise _too_small(error, graph, target, batch) from error


def largest_batch(graph: Graph, target: Target, limit: int) -> int:
    """The largest batch up to `limit` that fits, 0 for none."""
    least, most = 0, limit
    while least < most:
        batch = (least + most + 1) // 2
        try:
            place(graph, target, batch)
        except CompileError:
            most = batch - 1
        else:
            least = batch
    return least


def _too_small(error: DoesNotFit, graph: Graph, target: Target, batch: int) -> CompileError:
    """No stripe is small enough."""
    whole = isinstance(error.node.execution.op, Classifier)
    remedies = [f"raise act_bank_words to {_power_of_two(-(-error.words // target.act_banks))}"]
    fits = largest_batch(graph, target, batch - 1)
    if fits:
        remedies.insert(0, f"compile with --batch {fits}")
    elif whole:
        remedies.append("make its input smaller")
    return _refusal(
        error.node.execution,
        target,
        f"{'its input needs' if whole else 'a row of it needs'} {error.words} words of memory "
        f"({error.words * target.lanes} bytes){f' for a batch of {batch}' if batch > 1 else ''}, "
        f"the target has {target.act_words}: {', or '.join(remedies)}",
    )


def _check_unfold(execution: Execution, op: Unfold, target: Target) -> None:
    width = execution.in_shape.width
    if width > target.image_width:
        raise _refusal(
            execution,
            target,
            f"image width {width} is above the target's image_width {target.image_width}: scale "
            "the images, or raise image_width",
        )
    if op.kernel > target.stem_kernel:
        raise _refusal(
            execution,
            target,
            f"kernel {op.kernel} is above the target's stem_kernel {target.stem_kernel}: train "
            "with a smaller kernel, or raise stem_kernel",
        )


def _refusal(execution: Execution, target: Target, reason: str) -> CompileError:
    return CompileError(
        f"Operation '{execution.name}' does not fit target '{target.name}': {reason}"
    )


def _power_of_two(value: int) -> int:
    """The smallest power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()
