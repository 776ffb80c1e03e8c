# SPDX-License-Identifier: Apache-2.0
"""Cycles and bytes of a whole program: its instructions and transfers one after the other.

Instructions execute one at a time, each in the cycles that :mod:`hiddenfold.gen.cost` estimates.
Loads and saves each have an engine of their own that works beside them; a fence waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from hiddenfold.gen import cost
from hiddenfold.gen.actions import Action
from hiddenfold.gen.cost import Estimate, MaskSupply
from hiddenfold.gen.target import Target
from hiddenfold.hw import isa
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.operations import Classifier
from hiddenfold.sw.shapes import Execution

__all__ = ["Forecast", "forecast", "unrolled"]

#: Cycles of a LOAD and of a SAVE besides their beats and the latency of the memory.
LOAD = 12
SAVE = 25
#: Beats of loads that may be on their way; what is asked for after them waits for them.
LOAD_FIFO = 128
#: Cycles of a burst of a SAVE besides its beats.
SAVE_BURST = 3
_SAVE_BEATS = 32
#: Cycles between the words that a SAVE reads.
SAVE_WORD = 3


@dataclass
class Forecast:
    """Totals of a batch, and what each execution of an operation takes.

    `executions` has a key (name, iteration). `loaded` and `saved` are the bytes of spilled tensors,
    which `bytes_read` and `bytes_written` contain.
    """

    cycles: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    loaded: int = 0
    saved: int = 0
    executions: dict[tuple[str, int], Estimate] = field(default_factory=dict)


def unrolled(actions: Sequence[Action]) -> Iterator[tuple[int, Action]]:
    """All instructions as they are executed, each with the iteration of its loop."""
    first, count = 0, 1
    for index, action in enumerate(actions):
        if action.opcode == Opcode.LOOP:
            first, count = index + 1, action.count
        yield 0, action
        if action.opcode == Opcode.ENDLOOP:
            for iteration in range(1, count):
                yield from ((iteration, again) for again in actions[first : index + 1])


def forecast(
    actions: Sequence[Action],
    target: Target,
    stored: Callable[[Execution], int],
    cached: Collection[str] = (),
) -> Forecast:
    """Follow a batch through a program.

    `stored` of an execution's 8 mask bits are in memory; operations in `cached` use the mask cache.
    """
    result = Forecast(cycles=cost.RUN)
    loads, saves = _Engine(), _Engine()
    beats = 8 * target.lanes // target.bus_bits
    lead = 0
    for iteration, action in unrolled(actions):
        start = result.cycles
        result.bytes_read += isa.BYTES
        for name, engine in (("fence_loads", loads), ("fence_saves", saves)):
            result.cycles = max(result.cycles, engine.wait(action.fences.get(name, 0)))
        size = action.count * target.lanes
        behind = loads.queue(result.cycles)
        cycles = cost.EMPTY + behind
        before, lead = lead, 0
        if action.opcode == Opcode.LOAD:
            loads.begin(result.cycles, cost.MEMORY_LATENCY + LOAD + action.count * beats)
            result.loaded += size
        elif action.opcode == Opcode.SAVE:
            bursts = -(-action.count * beats // _SAVE_BEATS)
            sent = action.count * max(beats, SAVE_WORD) + bursts * SAVE_BURST
            saves.begin(result.cycles, SAVE + sent)
            result.saved += size
        elif action.opcode == Opcode.STORE:
            cycles = max(cycles, cost.store_cycles(action.count, target))
            lead = Estimate(cycles, tail=cycles).lead
            result.bytes_written += size
        elif action.opcode == Opcode.END:
            result.cycles = max(result.cycles, loads.wait(1), saves.wait(1))
        elif action.node is not None:
            execution, images = action.node.execution, len(action.images)
            supply = MaskSupply(stored(execution), execution.name in cached, iteration > 0, before)
            estimate = cost.execution_cost(action.node, target, images, supply, action.stripe)
            waits = behind if action.opcode != Opcode.POOL else 0
            cycles = max(cycles, estimate.cycles + waits)
            lead = estimate.lead
            moved = estimate.mask_bytes + estimate.affine_bytes + estimate.image_bytes
            loads.delay(result.cycles, cycles, moved * 8 // target.bus_bits)
            result.bytes_read += moved
            if isinstance(execution.op, Classifier):
                logits = -(-execution.out_shape.channels // target.rows) * target.rows
                result.bytes_written += 4 * images * logits
        result.cycles += cycles
        if action.node is not None and action.opcode != Opcode.STORE and not action.node.copy:
            key = action.node.execution.name, iteration
            earlier = result.executions.get(key, Estimate(0))
            spent = Estimate(result.cycles - start, estimate.mask_bytes, estimate.affine_bytes)
            result.executions[key] = Estimate(*(a + b for a, b in zip(earlier, spent, strict=True)))
    result.bytes_read += result.loaded
    result.bytes_written += result.saved
    return result


class _Engine:
    """When the transfers of one kind end."""

    def __init__(self) -> None:
        self._ends: list[int] = []

    def begin(self, now: int, cycles: int) -> None:
        """Ask for a transfer; it begins when the one before it has ended."""
        self._ends.append(max(now, self._ends[-1] if self._ends else 0) + cycles)

    def wait(self, count: int) -> int:
        """When fewer than `count` transfers are unfinished; 0 waits for nothing."""
        return self._ends[-count] if 0 < count <= len(self._ends) else 0

    def queue(self, now: int) -> int:
        """Cycles that another read takes longer because beats that were asked for come first."""
        left = self._ends[-1] - now if self._ends else 0
        return max(0, min(LOAD_FIFO, left) - cost.MEMORY_LATENCY)

    def delay(self, now: int, cycles: int, beats: int) -> None:
        """An instruction takes `beats` of the bus from transfers that run beside it."""
        for index, end in enumerate(self._ends[-8:], max(0, len(self._ends) - 8)):
            if end > now:
                self._ends[index] = end + beats * min(cycles, end - now) // max(cycles, 1)
