# SPDX-License-Identifier: Apache-2.0
"""Cycles and bytes of a whole program: its instructions and transfers, one after the other.

A model of the accelerator that runs through a batch: instructions execute one at a time, the next
one is fetched and its masks are asked for meanwhile, and transfers work beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields

from hiddenfold.gen import cost
from hiddenfold.gen.actions import Action
from hiddenfold.gen.bus import AFFINE, FETCH, MASKS, Bus, Memory
from hiddenfold.gen.graph import Node
from hiddenfold.gen.output import Output
from hiddenfold.gen.pipeline import ConvRun, MaskSupply, Window
from hiddenfold.gen.plan import ConvPlan, map_shape
from hiddenfold.gen.stripes import input_shape, window
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import Stripe
from hiddenfold.gen.transfers import Loads, Saves
from hiddenfold.hw import isa
from hiddenfold.hw.isa import UNIT_OPCODES, Opcode
from hiddenfold.sw.operations import Classifier, Unfold
from hiddenfold.sw.shapes import Execution

__all__ = ["Forecast", "Spent", "forecast", "unrolled"]

#: Cycles from the first beat of an instruction to the cycle in which it can be looked at, by the
#: width of the bus: wide beats wait in a FIFO.
_FETCHED = {64: 9, 128: 12}
#: From there, or from the end of the instruction before, to its start.
_DISPATCH = 4
#: From the end of the last mask to the command for those of the next CONV.
_AHEAD = 3
#: Transfers of a kind that may be unfinished.
_DEPTH = 3
#: Opcodes of instructions that belong to the operation after them.
_BEFORE = (Opcode.BEGIN, Opcode.LOOP, Opcode.LOAD)
#: Cycles of a run from its last instruction on besides the beats of the last burst of output.
_END = 12


@dataclass
class Spent:
    """Cycles and bytes of an execution of an operation; all of them count a whole batch.

    The instructions between two operations belong to them too, so that the sum is the whole.

    `array`, `tile_stalls` and `drain_stalls` are those of the hardware's counters, `fences` the
    cycles in which transfers were waited for.
    """

    cycles: int = 0
    mask_bytes: int = 0
    affine_bytes: int = 0
    array: int = 0
    tile_stalls: int = 0
    drain_stalls: int = 0
    fences: int = 0

    def add(self, other: Spent) -> None:
        """Add what another one spent."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass
class Forecast:
    """Totals of a batch, and what each execution of an operation takes.

    `executions` has a key (name, iteration). `loaded` and `saved` are the bytes of spilled tensors,
    which `bytes_read` and `bytes_written` contain. `starts` are the cycles in which the
    instructions begin, in the order of `unrolled`.
    """

    cycles: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    loaded: int = 0
    saved: int = 0
    executions: dict[tuple[str, int], Spent] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)


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
    memory: Memory | None = None,
) -> Forecast:
    """Follow a batch through a program.

    `stored` of an execution's 8 mask bits are in memory; operations in `cached` use the mask cache.
    """
    return _Machine(target, stored, cached, memory or Memory()).run(list(unrolled(actions)))


class _Machine:
    """The accelerator between two instructions."""

    def __init__(
        self,
        target: Target,
        stored: Callable[[Execution], int],
        cached: Collection[str],
        memory: Memory,
    ) -> None:
        self._target = target
        self._stored = stored
        self._cached = cached
        self._bus = Bus(memory)
        self._loads = Loads(target, self._bus)
        self._saves = Saves(target, self._bus)
        self._output = Output(memory.interval)
        self._result = Forecast()
        #: Number of the first beat of masks that were asked for and not used yet.
        self._ahead: int | None = None
        #: Numbers of the first beats of the last constants and image that were asked for.
        self._constants = 0
        self._image = 0

    def run(self, steps: Sequence[tuple[int, Action]]) -> Forecast:
        """Go through all instructions."""
        result = self._result
        start = self._dispatch(self._fetch(0), 1)
        # What comes before an operation's instruction on behalf of it, and the last operation's.
        before, last = Spent(cycles=start), Spent()
        for number, (iteration, action) in enumerate(steps):
            fetched = start
            start = self._fence(start, action)
            result.starts.append(start)
            wait = Spent(cycles=start - fetched, fences=start - fetched)
            if action.opcode == Opcode.END:
                last.add(wait)
                break
            following = steps[number + 1]
            begin = start + (action.opcode in UNIT_OPCODES)
            self._ask(begin, iteration, action)
            came = self._fetch(start)
            end, spent = self._execute(begin, iteration, action, following, came)
            after = self._dispatch(came, end + 1)
            spent.cycles += after - start
            spent.add(wait)
            start = after
            if action.opcode in _BEFORE:
                before.add(spent)
            elif action.stripe is None or action.node is None or action.node.copy:
                last.add(spent)
            else:
                key = action.node.execution.name, iteration
                last = result.executions.setdefault(key, Spent())
                last.add(before)
                last.add(spent)
                before = Spent()
        beats = -(-8 * result.bytes_written // self._target.bus_bits)
        tail = _END + self._output.last_burst(beats)
        last.cycles += tail
        result.cycles = start + tail
        result.bytes_read += result.loaded
        result.bytes_written += result.saved
        return result

    def _fence(self, cycle: int, action: Action) -> int:
        """When the transfers that an instruction waits for have ended."""
        limits = {Opcode.LOAD: (_DEPTH, 0), Opcode.SAVE: (0, _DEPTH), Opcode.END: (1, 1)}
        loads, saves = limits.get(action.opcode, (0, 0))
        cycle = self._loads.below(action.fences.get("fence_loads", 0), cycle)
        cycle = self._saves.below(action.fences.get("fence_saves", 0), cycle)
        return self._saves.below(saves, self._loads.below(loads, cycle))

    def _fetch(self, cycle: int) -> int:
        """Ask for an instruction; return the cycle in which it can be looked at."""
        bus, beats = self._bus, isa.BYTES * 8 // self._target.bus_bits
        self._result.bytes_read += isa.BYTES
        first = bus.ports[FETCH].command(cycle + 2, beats)
        begin = bus.arrival(FETCH, first)
        last = bus.arrival(FETCH, first + beats - 1)
        bus.ports[FETCH].take(first + beats, last)
        fetched = _FETCHED[self._target.bus_bits]
        return max(begin + fetched, last + fetched - isa.WORDS + 8 // beats)

    def _dispatch(self, fetched: int, free: int) -> int:
        return max(fetched, free) + _DISPATCH

    def _execute(
        self, start: int, iteration: int, action: Action, following: tuple[int, Action], came: int
    ) -> tuple[int, Spent]:
        """The cycle in which an instruction's unit is done, and what it takes besides cycles."""
        result, target = self._result, self._target
        opcode, node = action.opcode, action.node
        size = action.count * target.lanes
        if opcode == Opcode.LOAD:
            result.loaded += size
        elif opcode == Opcode.SAVE:
            self._saves.begin(start, action.src, action.count)
            result.saved += size
        elif opcode == Opcode.STORE:
            result.bytes_written += size
            sent = self._output.send(start, -(-8 * size // target.bus_bits), store=True)
            end = max(start + cost.store_cycles(action.count, target), sent)
            self._ask_ahead(came, end, following)
            return end, Spent()
        elif node is not None and action.stripe is not None:
            return self._operation(start, iteration, action, node, action.stripe, following, came)
        return start, Spent()

    def _operation(
        self,
        start: int,
        iteration: int,
        action: Action,
        node: Node,
        stripe: Stripe,
        following: tuple[int, Action],
        came: int,
    ) -> tuple[int, Spent]:
        """An IMAGE, POOL or CONV."""
        target, execution = self._target, node.execution
        kernel, stride = window(node)
        source, made = input_shape(node), map_shape(execution)
        if action.opcode == Opcode.POOL:
            end = start + cost.pool_cycles(source.width, made, stripe.rows, target, kernel)
            self._ask_ahead(came, end, following)
            return end, Spent()
        if isinstance(execution.op, Unfold):
            self._result.bytes_read += stripe.in_rows * cost.image_pitch(source.width)
            end = cost.image_end(
                self._bus,
                start,
                self._image,
                source.width,
                stripe,
                made,
                target,
                kernel,
                stride,
            )
            return end, Spent()
        return self._convolution(start, iteration, action, execution, stripe, following, came)

    def _convolution(
        self,
        start: int,
        iteration: int,
        action: Action,
        execution: Execution,
        stripe: Stripe,
        following: tuple[int, Action],
        came: int,
    ) -> tuple[int, Spent]:
        target = self._target
        plan = ConvPlan.make(execution, target, len(action.images), stripe)
        supply = self._supply(execution, iteration)
        assert self._ahead is not None
        logits = isinstance(execution.op, Classifier)
        residual = action.node is not None and action.node.res is not None
        conv = ConvRun(
            plan,
            target,
            self._bus,
            self._output,
            supply,
            start,
            self._ahead,
            self._constants,
            logits,
            action.src,
            action.res if residual else None,
        )

        def watch(window: Window, span: tuple[int, int]) -> None:
            self._saves.beside(window, span)
            if not logits:
                self._loads.occupy(span)

        conv.run(watch)
        self._ahead = None
        self._ask_ahead(max(conv.masks_taken + 1, came), conv.end, following)
        masks = supply.parts(plan) * supply.part_bits(plan, target) // 8
        constants = 0 if logits else 8 * self._constant_words(plan)
        self._result.bytes_read += masks + constants
        if logits:
            self._result.bytes_written += 4 * len(action.images) * plan.blocks * target.rows
        spent = Spent(
            mask_bytes=masks,
            affine_bytes=constants,
            array=conv.array_cycles,
            tile_stalls=conv.tile_stalls,
            drain_stalls=conv.drain_stalls,
        )
        return conv.end, spent

    def _constant_words(self, plan: ConvPlan) -> int:
        return 2 + plan.blocks * self._target.rows

    def _ask(self, start: int, iteration: int, action: Action) -> None:
        """Ask for what an instruction needs as it starts, before the next one is fetched."""
        if action.opcode == Opcode.LOAD:
            self._loads.begin(start, action.count)
        if action.opcode == Opcode.IMAGE and action.node is not None and action.stripe is not None:
            width = input_shape(action.node).width
            self._image = cost.ask_image(self._bus, start, width, action.stripe, self._target)
        if action.opcode != Opcode.CONV or action.node is None:
            return
        execution = action.node.execution
        plan = ConvPlan.make(execution, self._target, len(action.images), action.stripe)
        if not isinstance(execution.op, Classifier):
            beats = self._constant_words(plan) * 64 // self._target.bus_bits
            self._constants = self._bus.ports[AFFINE].command(start + 1, beats)
        if self._ahead is None:
            self._ask_masks(start + 1, plan, self._supply(execution, iteration))

    def _supply(self, execution: Execution, iteration: int) -> MaskSupply:
        return MaskSupply(self._stored(execution), execution.name in self._cached, iteration > 0)

    def _ask_masks(self, cycle: int, plan: ConvPlan, supply: MaskSupply) -> None:
        """Ask for the masks of a convolution."""
        beats = supply.part_bits(plan, self._target) // self._target.bus_bits
        self._ahead = self._bus.ports[MASKS].command(cycle, beats, supply.parts(plan))

    def _ask_ahead(self, cycle: int, end: int, following: tuple[int, Action]) -> None:
        """Ask for the masks of the next instruction if it is a CONV and came before the end."""
        iteration, action = following
        if cycle <= end and action.opcode == Opcode.CONV and action.node is not None:
            execution = action.node.execution
            plan = ConvPlan.make(execution, self._target, len(action.images), action.stripe)
            self._ask_masks(cycle + _AHEAD, plan, self._supply(execution, iteration))
