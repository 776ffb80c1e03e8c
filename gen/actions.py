# SPDX-License-Identifier: Apache-2.0
"""The instructions of a program in order, with what each one reads and writes.

Loads are moved up as far as the work before them allows, so that they run while the stripe before
theirs is computed, and each instruction gets the fences that it needs: an instruction that touches
what a transfer still works on waits for that transfer, and for no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hiddenfold.gen.graph import Graph, Node
from hiddenfold.gen.plan import map_shape
from hiddenfold.gen.schedule import Part, Schedule
from hiddenfold.gen.spill import Layout
from hiddenfold.gen.stripes import Buffer, Group, input_shape
from hiddenfold.gen.target import Target
from hiddenfold.gen.tiling import Stripe
from hiddenfold.hw import isa
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.operations import Classifier, MaxPool, Unfold
from hiddenfold.sw.shapes import Execution, Shape

__all__ = ["Action", "Region", "actions"]

#: The largest number that a field `fence_loads` or `fence_saves` holds.
_MOST = (1 << isa.FIELDS["fence_loads"].width) - 1


class Region(NamedTuple):
    """Words of a memory, `end` not included."""

    start: int
    end: int

    def touches(self, other: Region | None) -> bool:
        """Whether both have a word in common."""
        return other is not None and self.start < other.end and other.start < self.end


@dataclass(frozen=True, kw_only=True)
class Action:
    """One instruction.

    `node` and `stripe` say what an operation computes, `src`, `dst` and `res` are word addresses
    of the first rows, `images` are those of the batch. `reads`, `writes` are words of the
    activation memory, `outside` those of external memory. `turn` numbers stripes through the whole
    program, `last` tells the last stripe of an operation. `rows` of a STORE are the first row and
    the number of rows of the node's result.
    """

    opcode: Opcode
    node: Node | None = None
    stripe: Stripe | None = None
    src: int = 0
    dst: int = 0
    res: int = 0
    count: int = 0
    reads: tuple[Region, ...] = ()
    writes: tuple[Region, ...] = ()
    outside: Region | None = None
    turn: int = 0
    rows: tuple[int, int] = (0, 0)
    last: bool = True
    images: range = range(1)
    fences: dict[str, int] = field(default_factory=dict)

    @property
    def execution(self) -> Execution:
        """That of its node, which it must have."""
        assert self.node is not None, "an instruction on an operation has a node"
        return self.node.execution


def actions(graph: Graph, plan: Schedule | Layout, target: Target, trace: bool) -> list[Action]:
    """All instructions of a program from BEGIN to END."""
    if isinstance(plan, Schedule):
        schedule = plan
        body = list(_on_chip(schedule.parts(), schedule, trace, turn=0))
    else:
        schedule = plan.schedule
        writer = _Writer(plan, target, trace)
        for image in range(schedule.batch):
            writer.image = image
            for number, group in enumerate(plan.groups):
                writer.group(group, plan.work[number])
        writer.hand_over()
        body = writer.actions
        body += _on_chip(schedule.parts_together(), schedule, trace, body[-1].turn)
        body = list(_fenced(_early(body)))
    end = Action(opcode=Opcode.END, images=range(schedule.batch))
    return [Action(opcode=Opcode.BEGIN), *body, end]


def _on_chip(parts: Iterable[Part], schedule: Schedule, trace: bool, turn: int) -> Iterator[Action]:
    """The instructions of operations on whole maps."""
    words = schedule.graph.words

    def region(variable: int | None, images: range) -> tuple[Region, ...]:
        if variable is None:
            return ()
        start = schedule.address(variable, images.start)
        return (Region(start, start + len(images) * words[variable]),)

    for part in parts:
        node = part.node
        result = map_shape(node.execution)
        stripe = Stripe(0, result.height, 0, input_shape(node).height, 0)
        if node.loop_start:
            yield Action(opcode=Opcode.LOOP, count=node.loop_count, turn=turn)
        for run in part.runs:
            src, dst, res = (
                schedule.address(variable, run.start) for variable in (node.src, node.dst, node.res)
            )
            yield Action(
                opcode=_opcode(node),
                node=node,
                stripe=stripe,
                src=src,
                dst=dst,
                res=res,
                reads=region(node.src, run) + region(node.res, run),
                writes=region(node.dst, run),
                turn=turn,
                images=run,
            )
        if trace and node.traced and node.dst is not None:
            yield Action(
                opcode=Opcode.STORE,
                node=node,
                src=schedule.address(node.dst, part.images.start),
                count=len(part.images) * words[node.dst],
                reads=region(node.dst, part.images),
                turn=turn,
                rows=(0, result.height),
                images=part.images,
            )
        if node.loop_end:
            yield Action(opcode=Opcode.ENDLOOP, turn=turn)


def _opcode(node: Node) -> Opcode:
    """The instruction that computes a node."""
    if node.copy or isinstance(node.execution.op, MaxPool):
        return Opcode.POOL
    return Opcode.IMAGE if isinstance(node.execution.op, Unfold) else Opcode.CONV


class _Writer:
    """Writes the instructions of one group after the other, for image number `image`."""

    def __init__(self, layout: Layout, target: Target, trace: bool) -> None:
        self.actions: list[Action] = []
        self.image = 0
        self._layout = layout
        self._lanes = target.lanes
        self._trace = trace
        self._turn = 0

    def group(self, group: Group, work: int) -> None:
        """Append all stripes of a group."""
        if group.nodes[0].loop_start:
            self._add(Opcode.LOOP, count=group.nodes[0].loop_count)
        buffers = {(b.node, b.role): b for b in group.buffers(self._lanes)}
        stored = [0] * len(group.nodes)
        for number in range(group.stripes):
            self._turn += 1
            stripes = group.stripe(number)
            for index, (node, stripe) in enumerate(zip(group.nodes, stripes, strict=True)):
                place = _Place(self, group, index, stripe, number, work, buffers)
                if index == 0 and node.src in group.spilled:
                    rows = stripe.in_first, stripe.in_rows
                    self._transfer_rows(Opcode.LOAD, node.src, input_shape(node), rows, place.src)
                result = map_shape(node.execution)
                rows = stripe.first, stripe.rows
                if node.res in group.spilled:
                    self._transfer_rows(Opcode.LOAD, node.res, result, rows, place.res)
                self._compute(node, stripe, place, number == group.stripes - 1)
                if self._trace and node.traced:
                    stored[index] = self._store(node, stripe, place.dst, stored[index])
                if node.dst in group.spilled:
                    self._transfer_rows(Opcode.SAVE, node.dst, result, rows, place.dst)
        if group.last.loop_end:
            self._add(Opcode.ENDLOOP)

    def hand_over(self) -> None:
        """Append the loads of what all images left in external memory."""
        schedule = self._layout.schedule
        self._turn += 1
        for variable in self._layout.loaded:
            words = schedule.graph.words[variable]
            for self.image in range(schedule.batch):
                place = schedule.address(variable, self.image)
                self._transfer(Opcode.LOAD, variable, words, 0, place)

    def row_words(self, shape: Shape) -> int:
        """Words of a row of a tensor."""
        return shape.width * -(-shape.channels // self._lanes)

    def resident(self, variable: int | None, first: int, shape: Shape) -> int:
        """Address of row `first` of a variable on chip."""
        if variable is None:
            return 0
        start = self._layout.schedule.address(variable, self.image)
        return start + first * self.row_words(shape)

    @property
    def _images(self) -> range:
        return range(self.image, self.image + 1)

    def _add(self, opcode: Opcode, count: int = 0) -> None:
        self.actions.append(Action(opcode=opcode, turn=self._turn, count=count))

    def _transfer_rows(
        self, opcode: Opcode, variable: int, shape: Shape, rows: tuple[int, int], address: int
    ) -> None:
        first, count = (number * self.row_words(shape) for number in rows)
        self._transfer(opcode, variable, count, first, address)

    def _transfer(
        self, opcode: Opcode, variable: int, count: int, first: int, address: int
    ) -> None:
        """Append the transfer of `count` words from word `first` of an image's tensor on."""
        inside = Region(address, address + count)
        home = self._layout.homes[variable]
        outside = home + self._layout.schedule.offset(variable, self.image) + first
        load = opcode == Opcode.LOAD
        self.actions.append(
            Action(
                opcode=opcode,
                turn=self._turn,
                src=0 if load else address,
                dst=address if load else 0,
                count=count,
                reads=() if load else (inside,),
                writes=(inside,) if load else (),
                outside=Region(outside, outside + count),
            )
        )

    def _compute(self, node: Node, stripe: Stripe, place: _Place, last: bool) -> None:
        op = node.execution.op
        source, result = input_shape(node), map_shape(node.execution)
        out_words = stripe.rows * self.row_words(result)
        reads = []
        if not isinstance(op, Unfold):
            reads.append(Region(place.src, place.src + stripe.in_rows * self.row_words(source)))
        if node.res is not None:
            reads.append(Region(place.res, place.res + out_words))
        writes = () if isinstance(op, Classifier) else (Region(place.dst, place.dst + out_words),)
        self.actions.append(
            Action(
                opcode=_opcode(node),
                node=node,
                stripe=stripe,
                src=place.src,
                dst=place.dst,
                res=place.res,
                reads=tuple(reads),
                writes=writes,
                turn=self._turn,
                last=last,
                images=self._images,
            )
        )

    def _store(self, node: Node, stripe: Stripe, dst: int, stored: int) -> int:
        """Append the rows of a stripe that the one before it did not have; return their end."""
        end = stripe.first + stripe.rows
        if end > stored:
            row_words = self.row_words(node.execution.out_shape)
            address = dst + (stored - stripe.first) * row_words
            count = (end - stored) * row_words
            self.actions.append(
                Action(
                    opcode=Opcode.STORE,
                    node=node,
                    src=address,
                    count=count,
                    reads=(Region(address, address + count),),
                    turn=self._turn,
                    rows=(stored, end - stored),
                    images=self._images,
                )
            )
        return end


class _Place:
    """Where an operation of a group finds the operands of a stripe."""

    def __init__(
        self,
        writer: _Writer,
        group: Group,
        index: int,
        stripe: Stripe,
        number: int,
        work: int,
        buffers: dict[tuple[int, str], Buffer],
    ) -> None:
        node = group.nodes[index]

        def buffer(node_index: int, *roles: str) -> int | None:
            for role in roles:
                if (node_index, role) in buffers:
                    return work + buffers[node_index, role].address(number)
            return None

        def first(*choices: int | None) -> int:
            return next(choice for choice in choices if choice is not None)

        result = map_shape(node.execution)
        made = buffer(index, "res", "dst")
        inside = None if made is not None else writer.resident(node.dst, stripe.first, result)
        self.dst = first(made, inside)
        if node.res is None:
            self.res = 0
        elif node.res in group.spilled:
            self.res = self.dst
        else:
            self.res = writer.resident(node.res, stripe.first, result)
        taken = buffer(0, "src") if index == 0 else buffer(index - 1, "res", "dst")
        if taken is None:
            taken = writer.resident(node.src, stripe.in_first, input_shape(node))
        self.src = taken


def _early(body: Sequence[Action]) -> list[Action]:
    """Move each LOAD up, at most over the stripe before its own."""
    result: list[Action] = []
    for action in body:
        place = len(result)
        if action.opcode == Opcode.LOAD:
            while place and _may_pass(action, result[place - 1]):
                place -= 1
        result.insert(place, action)
    return result


def _may_pass(load: Action, before: Action) -> bool:
    """Whether a LOAD may be asked for before another instruction instead of after it."""
    if before.opcode in (Opcode.LOAD, Opcode.LOOP, Opcode.ENDLOOP) or load.turn - before.turn > 1:
        return False
    target = load.writes[0]
    if any(target.touches(region) for region in (*before.reads, *before.writes)):
        return False
    return load.outside is None or not load.outside.touches(before.outside)


def _fenced(body: Sequence[Action]) -> Iterator[Action]:
    """Give each instruction its fences; a loop begins and ends without transfers."""
    loads: list[Action] = []
    saves: list[Action] = []
    for action in body:
        fences = {}
        everything = action.opcode in (Opcode.LOOP, Opcode.ENDLOOP)
        for name, pending in (("fence_loads", loads), ("fence_saves", saves)):
            waits = [n for n, other in enumerate(pending) if everything or _collide(action, other)]
            if waits:
                allowed = min(len(pending) - waits[-1], _MOST)
                fences[name] = allowed
                del pending[: len(pending) - allowed + 1]
        yield replace(action, fences=fences)
        if action.opcode == Opcode.LOAD:
            loads.append(action)
        elif action.opcode == Opcode.SAVE:
            saves.append(action)


def _collide(action: Action, transfer: Action) -> bool:
    """Whether an instruction must not begin while a transfer is under way."""
    if action.opcode == transfer.opcode:
        # Transfers of one kind are in order.
        return False
    if action.outside is not None and action.outside.touches(transfer.outside):
        return True
    inside = (*action.reads, *action.writes)
    if any(region.touches(written) for written in transfer.writes for region in inside):
        return True
    return any(region.touches(read) for read in transfer.reads for region in action.writes)
