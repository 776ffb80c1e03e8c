# SPDX-License-Identifier: Apache-2.0
"""Which tensors live in external memory, which operations are chained, and where everything lies.

The search starts with everything on chip. While the tensors that exist at the same time do not fit,
and as long as it saves time, it takes the one step that helps most: spill a tensor, keep one on
chip again, join an operation to the one before it, or part them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hiddenfold.gen import allocate
from hiddenfold.gen.allocate import Step
from hiddenfold.gen.graph import Graph, Node
from hiddenfold.gen.plan import map_shape
from hiddenfold.gen.stripes import OVERLAPPED, SINGLE, Copies, Group, input_shape, may_join, window
from hiddenfold.gen.target import Target
from hiddenfold.sw.operations import Classifier, Unfold

__all__ = ["DoesNotFit", "Layout", "plan"]

#: Cycles that an instruction costs besides its work, about.
_INSTRUCTION = 150
#: Parts of the memory that the search may fill before it counts with gaps between tensors.
_FILL = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


class DoesNotFit(Exception):
    """An operation needs more than the whole memory even in the smallest stripes."""

    def __init__(self, node: Node, words: int) -> None:
        super().__init__(f"{node.execution.name} needs {words} words")
        self.node = node
        self.words = words


@dataclass(frozen=True)
class Layout:
    """Groups in order, and the places of all tensors.

    `addresses` are those of variables on chip, `work` the start of each group's buffers, `homes`
    the first word of each spilled variable in external memory, `scratch_words` what they need.
    """

    groups: list[Group]
    addresses: dict[int, int]
    work: list[int]
    homes: dict[int, int]
    scratch_words: int


def plan(graph: Graph, target: Target) -> Layout:
    """Lay out a graph that does not fit on chip; raises `DoesNotFit` when there is no way."""
    for fill in _FILL:
        groups = _Choice(graph, target, int(fill * target.act_words)).search()
        layout = _place(graph, groups, target)
        if layout is not None:
            return layout
    widest = graph.widest()
    raise DoesNotFit(widest, sum(graph.words[v] for v in (widest.src, widest.dst) if v is not None))


def _place(graph: Graph, groups: list[Group], target: Target) -> Layout | None:
    """Addresses for groups that were chosen by the sum of their words; None: gaps are too large."""
    spilled = frozenset().union(*(group.spilled for group in groups))
    words = dict(graph.words)
    steps = _steps(groups, spilled)
    for number, (group, step) in enumerate(zip(groups, steps, strict=True)):
        size = group.words(target.lanes)
        if size:
            step.work = len(graph.words) + number
            words[step.work] = size
    addresses, _ = allocate.allocate(steps, words, target.act_banks, target.act_bank_words)
    if addresses is None:
        return None
    outside = _steps(groups, frozenset(graph.words) - spilled)
    homes, scratch = allocate.allocate(outside, words, 1, sum(words.values()))
    assert homes is not None, "external memory holds everything"
    work = [0 if step.work is None else addresses[step.work] for step in steps]
    return Layout(groups, addresses, work, homes, scratch)


def _steps(groups: Sequence[Group], without: frozenset[int]) -> list[Step]:
    """The groups as the allocator sees them, some variables left out."""

    def seen(variable: int | None) -> int | None:
        return None if variable in without else variable

    steps = []
    first = 0
    for index, group in enumerate(groups):
        first = index if group.nodes[0].loop_start else first
        back = first if group.last.loop_end else None
        inner = {node.dst for node in group.nodes[:-1]}
        read = [v for node in group.nodes for v in (node.src, node.res) if v not in inner]
        src = seen(group.nodes[0].src)
        res = seen(group.last.res)
        more = {v for v in map(seen, read) if v is not None} - {src, res}
        steps.append(Step(seen(group.last.dst), src, res, back, more=tuple(sorted(more))))
    return steps


class _Variables(NamedTuple):
    """Variables that live in external memory, and those that exist only in part."""

    spilled: frozenset[int]
    joined: frozenset[int]


class _Choice:
    """The search for the variables to spill and the operations to join."""

    def __init__(self, graph: Graph, target: Target, capacity: int) -> None:
        self._graph = graph
        self._target = target
        self._capacity = capacity
        self._uses = _uses(graph)
        self._joinable = {node.dst for node in graph.nodes if self._can_join(node)}
        self._sized: dict[Any, tuple[Group, int, float]] = {}

    def search(self) -> list[Group]:
        """Groups that fit `capacity` words; raises `DoesNotFit`."""
        choice = _Variables(frozenset(), frozenset())
        best = self._cost(choice)
        while best[0]:
            number, words = self._worst(choice)
            chains, kept = self._chains(choice)
            involved = kept[number] | {v for node in chains[number] for v in node.variables}
            cost, option = min(
                ((self._cost(option), option) for option in self._moves(choice, involved)),
                key=lambda item: (item[0], sorted(item[1].spilled), sorted(item[1].joined)),
            )
            if cost >= best:
                raise DoesNotFit(chains[number][-1], words)
            best, choice = cost, option
        for variable in self._graph.words:
            for option in self._moves(choice, {variable}):
                cost = self._cost(option)
                if cost < best:
                    best, choice = cost, option
        return self.groups(choice)

    def groups(self, choice: _Variables) -> list[Group]:
        """All groups, each in its best stripes."""
        return [group for group, _, _ in self._groups(choice)]

    def _moves(self, choice: _Variables, variables: Collection[int]) -> Iterator[_Variables]:
        """Choices that differ in one of some variables."""
        spilled, joined = choice
        for variable in sorted(variables):
            one = {variable}
            places = [(spilled | one, joined - one), (spilled - one, joined - one)]
            if variable in self._joinable:
                places.append((spilled - one, joined | one))
            for place in places:
                if place != choice:
                    yield _Variables(*place)

    def _cost(self, choice: _Variables) -> tuple[int, float]:
        """Words too many, and cycles."""
        excess = 0
        cycles = 0.0
        times = 1
        for group, over, each in self._groups(choice):
            if group.nodes[0].loop_start:
                times = group.nodes[0].loop_count
            excess += over
            cycles += times * each
            if group.last.loop_end:
                times = 1
        return excess, cycles

    def _worst(self, choice: _Variables) -> tuple[int, int]:
        """The group that needs the most words, and how many it needs."""
        overs = [over for _, over, _ in self._groups(choice)]
        return overs.index(max(overs)), self._capacity + max(overs)

    def _chains(self, choice: _Variables) -> tuple[list[list[Node]], list[set[int]]]:
        """The operations of each group, and the variables on chip while it runs."""
        chains: list[list[Node]] = []
        for node in self._graph.nodes:
            joins = node.src is not None and node.src in choice.joined
            if joins and may_join(chains[-1], node):
                chains[-1].append(node)
            else:
                chains.append([node])
        drafts = [Group(tuple(chain), frozenset(), 1) for chain in chains]
        return chains, allocate.live_during(_steps(drafts, choice.spilled))

    def _groups(self, choice: _Variables) -> list[tuple[Group, int, float]]:
        """Groups, each with the words it lacks and its cycles."""
        result = []
        position = 0
        for chain, variables in zip(*self._chains(choice), strict=True):
            free = max(0, self._capacity - sum(self._graph.words[v] for v in variables))
            over = max(0, sum(self._graph.words[v] for v in variables) - self._capacity)
            outside = self._outside(chain, choice.spilled)
            key = position, len(chain), outside, free
            if key not in self._sized:
                self._sized[key] = _best(Group(tuple(chain), outside, 1), free, self._target)
            group, words, cycles = self._sized[key]
            result.append((group, over + max(0, words - free), cycles))
            position += len(chain)
        return result

    def _outside(self, chain: Sequence[Node], spilled: frozenset[int]) -> frozenset[int]:
        return frozenset(v for node in chain for v in node.variables if v in spilled)

    def _can_join(self, node: Node) -> bool:
        """Whether the only reader of what a node makes is the next node, as its input."""
        nodes = self._graph.nodes
        index = nodes.index(node)
        if node.dst is None or node.copy or node.loop_end or index + 1 == len(nodes):
            return False
        following = nodes[index + 1]
        alone = self._uses[node.dst] == 2 and following.src == node.dst
        return alone and not following.loop_start and may_join([node], following)


def _uses(graph: Graph) -> dict[int, int]:
    """How many operands each variable is."""
    result = dict.fromkeys(graph.words, 0)
    for node in graph.nodes:
        for variable in node.variables:
            result[variable] += 1
    return result


def _best(draft: Group, free: int, target: Target) -> tuple[Group, int, float]:
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
    beats = 8 * target.lanes // target.bus_bits
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
