# SPDX-License-Identifier: Apache-2.0
"""What a target cannot execute, and what would help."""

from __future__ import annotations

from hiddenfold.gen.graph import Graph
from hiddenfold.gen.plan import map_shape
from hiddenfold.gen.schedule import Schedule, largest_batch, schedule
from hiddenfold.gen.spill import DoesNotFit, Layout, plan
from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Classifier, Unfold
from hiddenfold.sw.shapes import Execution

__all__ = ["CompileError", "check", "place"]


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
    """Where each tensor of a batch lies.

    A single image may keep tensors in external memory. `CompileError` when a batch does not fit on
    chip, or an operation needs more than the whole memory.
    """
    found, words = schedule(graph, target, batch)
    if found is not None:
        return found
    if batch == 1:
        try:
            return plan(graph, target)
        except DoesNotFit as error:
            raise _too_small(error, target) from error
    remedy = (
        f"raise act_bank_words to {_power_of_two(-(-words // target.act_banks))} or use a target "
        "with a larger activation memory"
    )
    # A single image need not fit.
    largest = max(1, largest_batch(graph, target, batch - 1))
    raise _refusal(
        graph.widest().execution,
        target,
        f"the activations that exist at the same time need {words} words of memory "
        f"({words * target.lanes} bytes) for a batch of {batch}, the target has "
        f"{target.act_words}: compile with --batch {largest}, {remedy}",
    )


def _too_small(error: DoesNotFit, target: Target) -> CompileError:
    """No stripe is small enough."""
    whole = isinstance(error.node.execution.op, Classifier)
    return _refusal(
        error.node.execution,
        target,
        f"{'its input needs' if whole else 'a row of it needs'} {error.words} words of memory "
        f"({error.words * target.lanes} bytes), the target has {target.act_words}: raise "
        f"act_bank_words to {_power_of_two(-(-error.words // target.act_banks))}"
        + (", or make its input smaller" if whole else ""),
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
