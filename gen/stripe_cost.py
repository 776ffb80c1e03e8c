# SPDX-License-Identifier: Apache-2.0
"""The stripes in which operations are computed best, and about how long that takes."""

from __future__ import annotations

from collections.abc import Iterable

from hiddenfold.gen.graph import Node
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.stripes import OVERLAPPED, SINGLE, Copies, Group, input_shape, window
from hiddenfold.gen.target import Target
from hiddenfold.sw.operations import Classifier, Unfold

__all__ = ["batch_cycles", "best", "transfer_cycles"]

#: Cycles that an instruction costs besides its work, about.
_INSTRUCTION = 150


def best(draft: Group, free: int, target: Target) -> tuple[Group, int, float]:
    """The group in the stripes that take the least time in `free` words, its words and cycles.

    A group without buffers is one stripe. When not even a row fits, the words are those of one.
    """
    height = map_shape(draft.last.execution).height
    whole = Group(draft.nodes, draft.spilled, height)
    if len(draft.nodes) == 1 and not draft.spilled:
        return whole, 0, _cycles(whole, target)
    choices = [whole]
    if not isinstance(draft.last.execution.op, Classifier):
        choices = [Group(draft.nodes, draft.spilled, 1)]
        for copies in (OVERLAPPED, SINGLE):
            most = _most_rows(draft, copies, height, free, target)
            for rows in _heights(most, draft, target):
                choices.append(Group(draft.nodes, draft.spilled, rows, copies))
    sized = [(group.words(target.lanes), _cycles(group, target), group) for group in choices]
    words, cycles, group = min(sized, key=lambda one: (max(0, one[0] - free), one[1]))
    return group, words, cycles


def _heights(most: int, draft: Group, target: Target) -> set[int]:
    """Heights of stripes worth a thought, up to `most` rows.

    Masks are read once for each pixel tile, so stripes of whole pixel tiles read no more of them
    than the whole map would. More stripes than the fewest leave less to do before the first
    result and after the last input.
    """
    shape = map_shape(draft.last.execution)
    tile = max(1, min(shape.height, target.psum_depth // shape.width))
    rows = {most, most - most % tile, tile, tile // 2, tile // 4}
    rows |= {-(-shape.height // count) for count in range(1, 9)}
    return {n for n in rows if 0 < n <= most}


def _most_rows(draft: Group, copies: Copies, height: int, free: int, target: Target) -> int:
    """The tallest stripe that fits, 0 if none does."""
    low, high = 0, height
    while low < high:
        rows = (low + high + 1) // 2
        if Group(draft.nodes, draft.spilled, rows, copies).words(target.lanes) <= free:
            low = rows
        else:
            high = rows - 1
    return low


def _cycles(group: Group, target: Target) -> float:
    """About how long a group takes: the slowest of array, reads and writes, if they overlap."""
    beats = transfer_cycles(1, target)
    work = reads = writes = 0.0
    stripes = group.stripes
    for number in range(stripes):
        for index, (node, stripe) in enumerate(zip(group.nodes, group.stripe(number), strict=True)):
            execution = node.execution
            shape = map_shape(execution)
            kernel, stride = window(node)
            words = -(-shape.channels // target.lanes)
            pixels = stripe.rows * shape.width
            in_shape = input_shape(node)
            in_words = -(-in_shape.channels // target.lanes)
            if execution.stream is None or node.copy:
                scanned = stripe.in_rows * in_shape.width
                unfold = isinstance(execution.op, Unfold)
                work += scanned + pixels * words if unfold else pixels * words * kernel**2
            else:
                blocks = -(-shape.channels // target.rows)
                passes = -(-execution.in_bits // target.planes)
                tiles = -(-stripe.rows // max(1, target.psum_depth // shape.width))
                loads = blocks * kernel**2 * in_words
                work += loads * max(passes * pixels, tiles * target.rows)
                reads += loads * tiles * target.tile_bits / target.bus_bits
            if node.src in group.spilled and index == 0:
                reads += stripe.in_rows * in_shape.width * in_words * beats
            if node.res in group.spilled:
                reads += pixels * words * beats
            if node.dst in group.spilled:
                writes += pixels * words * beats
    if stripes == 1 or group.copies == SINGLE:
        return work + reads + writes + stripes * _INSTRUCTION
    # Of all but the slowest, one stripe's part shows.
    slowest = max(work, reads, writes)
    return slowest + (work + reads + writes - slowest) / stripes + stripes * _INSTRUCTION


def transfer_cycles(words: int, target: Target) -> int:
    """About how long a LOAD or SAVE takes."""
    return words * 8 * target.lanes // target.bus_bits


def batch_cycles(nodes: Iterable[Node], target: Target, batch: int) -> float:
    """About how long operations on chip take on all images of a batch, loops included."""
    total = 0.0
    times = 1
    for node in nodes:
        times = node.loop_count if node.loop_start else times
        total += times * _on_chip(node, target, batch)
        times = 1 if node.loop_end else times
    return total


def _on_chip(node: Node, target: Target, batch: int) -> float:
    """About how long an operation takes on whole maps of a batch."""
    shape = map_shape(node.execution)
    if node.execution.stream is None or node.copy:
        return batch * _cycles(Group((node,), frozenset(), shape.height), target)
    plan = ConvPlan.make(node.execution, target, batch)
    loads = plan.blocks * window(node)[0] ** 2 * plan.in_words
    work = loads * plan.passes * batch * shape.height * shape.width
    masks = loads * len(plan.tiles) * target.tile_bits / target.bus_bits
    return max(work, masks) + _INSTRUCTION
