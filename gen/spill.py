# SPDX-License-Identifier: Apache-2.0
"""Which tensors live in external memory, which operations are chained, and where everything lies.

The search starts with everything on chip. While the tensors that exist at the same time do not fit,
and as long as it saves time, it takes the one step that helps most: spill a tensor, keep one on
chip again, join an operation to the one before it, or part them.

Of a batch the first operations, its head, run like this image by image, and the others on all
images together, with all their tensors on chip. What the head hands over is kept for each image, on
chip or spilled; in the latter case it is loaded before the other operations begin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hiddenfold.gen import allocate
from hiddenfold.gen.allocate import Step
from hiddenfold.gen.graph import Graph, Node
from hiddenfold.gen.schedule import Schedule, heads, operands
from hiddenfold.gen.stripe_cost import batch_cycles, best, transfer_cycles
from hiddenfold.gen.stripes import Group, may_join
from hiddenfold.gen.target import Target

__all__ = ["DoesNotFit", "Layout", "plan"]

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
    the first word of each spilled variable in external memory, `scratch_words` what they need. The
    groups are the head of `schedule`, a batch; when there is one, `loaded` are the variables that
    its other nodes read and that the head has spilled.
    """

    groups: list[Group]
    addresses: dict[int, int]
    work: list[int]
    homes: dict[int, int]
    scratch_words: int
    schedule: Schedule
    loaded: tuple[int, ...] = ()


def plan(graph: Graph, target: Target, batch: int = 1) -> Layout:
    """Lay out a graph that does not fit on chip; raises `DoesNotFit` when there is no way."""
    lengths = [len(graph.nodes)] if batch == 1 else [head for head in heads(graph) if head]
    options = [_Batch(graph, batch, head) for head in lengths]
    tails = [option.tail_words() for option in options]
    if min(tails) > target.act_words:
        # That of the longest head, whose tail is the last node.
        raise DoesNotFit(graph.nodes[-1], min(tails))
    found = []
    refused: DoesNotFit | None = None
    for option, words in zip(options, tails, strict=True):
        try:
            if words <= target.act_words:
                found.append(_plan(option, target))
        except DoesNotFit as error:
            refused = error
    if found:
        return min(found, key=lambda one: one[0])[1]
    assert refused is not None, "something was tried"
    raise refused


class _Batch:
    """A batch whose first `head` nodes run image by image; a single image is all head.

    `words` are those of all images of the variables that the other nodes share.
    """

    def __init__(self, graph: Graph, batch: int, head: int) -> None:
        self.graph = graph
        self.batch = batch
        self.head = head
        shared = operands(graph.nodes[head:])
        self.words = {v: n * (batch if v in shared else 1) for v, n in graph.words.items()}
        self.handed = sorted(shared & operands(graph.nodes[:head]))
        self.tail = graph.steps()[head:]

    def head_graph(self) -> Graph:
        """The first nodes alone."""
        nodes = self.graph.nodes[: self.head]
        return Graph(nodes, {v: self.words[v] for v in sorted(operands(nodes))})

    def tail_words(self) -> int:
        """Most words in use when the head has been executed."""
        steps = self.graph.steps()
        live = allocate.live_during(steps)[self.head :]
        return max((sum(self.words[v] for v in alive) for alive in live), default=0)

    def tail_cycles(self, target: Target) -> float:
        """About how long the nodes behind the head take on all images."""
        return batch_cycles(self.graph.nodes[self.head :], target, self.batch)


def _plan(batch: _Batch, target: Target) -> tuple[float, Layout]:
    """The best layout of a batch with a given head, and about how long it takes."""
    for fill in _FILL:
        choice = _Choice(batch, target, int(fill * target.act_words))
        cycles, groups = choice.search()
        layout = _place(batch, groups, target)
        if layout is not None:
            return batch.batch * cycles + batch.tail_cycles(target), layout
    widest = batch.graph.widest()
    raise DoesNotFit(widest, sum(batch.words[v] for v in widest.variables))


def _place(batch: _Batch, groups: list[Group], target: Target) -> Layout | None:
    """Addresses for groups that were chosen by the sum of their words; None: gaps are too large."""
    graph = batch.graph
    spilled = frozenset().union(*(group.spilled for group in groups))
    loaded = tuple(v for v in batch.handed if v in spilled)
    words = dict(batch.words)
    steps = _steps(groups, spilled, batch.handed)
    for number, (group, step) in enumerate(zip(groups, steps, strict=True)):
        size = group.words(target.lanes)
        if size:
            step.work = len(graph.words) + number
            words[step.work] = size
    work_steps = list(steps)
    steps += [Step(v) for v in loaded]
    steps += [replace(step, back=_moved(step.back, len(steps) - batch.head)) for step in batch.tail]
    addresses, _ = allocate.allocate(steps, words, target.act_banks, target.act_bank_words)
    if addresses is None:
        return None
    outside = _steps(groups, frozenset(graph.words) - spilled, batch.handed)
    outside += [Step(None, v) for v in loaded]
    homes, scratch = allocate.allocate(outside, words, 1, sum(words.values()))
    assert homes is not None, "external memory holds everything"
    work = [0 if step.work is None else addresses[step.work] for step in work_steps]
    schedule = Schedule(graph, batch.batch, batch.head, addresses)
    return Layout(groups, addresses, work, homes, scratch, schedule, loaded)


def _moved(step: int | None, by: int) -> int | None:
    return None if step is None else step + by


def _steps(groups: Sequence[Group], without: frozenset[int], keep: Collection[int]) -> list[Step]:
    """The groups as the allocator sees them, some variables left out, others always there."""

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
        kept = frozenset(keep) - without
        dst = seen(group.last.dst)
        steps.append(Step(dst, src, res, back, kept, more=tuple(sorted(more))))
    return steps


class _Variables(NamedTuple):
    """Variables that live in external memory, and those that exist only in part."""

    spilled: frozenset[int]
    joined: frozenset[int]


class _Choice:
    """The search for the variables to spill and the operations to join."""

    def __init__(self, batch: _Batch, target: Target, capacity: int) -> None:
        self._graph = batch.head_graph()
        self._handed = batch.handed
        self._batch = batch.batch
        self._target = target
        self._capacity = capacity
        self._uses = _uses(batch.graph)
        self._joinable = {node.dst for node in self._graph.nodes if self._can_join(node)}
        self._sized: dict[Any, tuple[Group, int, float]] = {}

    def search(self) -> tuple[float, list[Group]]:
        """Groups that fit `capacity` words, and their cycles; raises `DoesNotFit`."""
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
        return best[1], [group for group, _, _ in self._groups(choice)]

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
        """Words too many, and cycles of an image."""
        excess = 0
        reload = sum(self._graph.words[v] for v in choice.spilled.intersection(self._handed))
        cycles = transfer_cycles(reload, self._target) / self._batch
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
        steps = _steps(drafts, choice.spilled, self._handed)
        return chains, allocate.live_during(steps)

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
                self._sized[key] = best(Group(tuple(chain), outside, 1), free, self._target)
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
