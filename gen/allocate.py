# SPDX-License-Identifier: Apache-2.0
"""Places of tensors in the activation memory.

The operations of a program read and write *variables*: a variable is one place in memory. What a
loop carries from one iteration to the next is one variable, and so is a residual that its sum
replaces. Variables that hold a value at the same time must not overlap; apart from that they share
memory. Which memory bank a variable lies in does not change results, only speed: the array and the
residual reader read at the same time, best from different banks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

__all__ = ["Step", "allocate", "coalesce", "interference", "live_during", "live_out"]

_RANDOM_ORDERS = 64


@dataclass
class Step:
    """One instruction: writes variable `dst` after reading `src` and `res` (None: nothing).

    A chain of operations that are executed together is one step; `more` is what it reads besides.
    `work` is a variable that exists during the step only.
    """

    dst: int | None
    src: int | None = None
    res: int | None = None
    #: Index of the step that follows when this step ends a loop body: the body's first one.
    back: int | None = None
    #: Other variables that must stay while the step runs.
    keep: Set[int] = frozenset()
    more: tuple[int, ...] = ()
    work: int | None = None

    @property
    def written(self) -> set[int]:
        """The variable that is written, if any."""
        return set() if self.dst is None else {self.dst}

    @property
    def read(self) -> set[int]:
        """All variables that are read."""
        return {v for v in (self.src, self.res, *self.more) if v is not None}


def interference(steps: Sequence[Step], in_place: int | None = None) -> dict[int, set[int]]:
    """Variables that must not overlap, as a symmetric relation.

    At step number `in_place` the result may overwrite the residual.
    """
    edges: dict[int, set[int]] = {}
    for index, (step, live) in enumerate(zip(steps, live_out(steps), strict=True)):
        read = step.read
        if step.dst is not None:
            assert step.dst != step.src, "a result must not overwrite its input"
            kept = read - {step.res} if index == in_place else read
            _connect(edges, step.dst, live | kept)
        if step.work is not None:
            _connect(edges, step.work, live | read | step.written)
    return edges


def _connect(edges: dict[int, set[int]], variable: int, others: set[int]) -> None:
    """Make `variable` a neighbour of all `others`."""
    edges.setdefault(variable, set()).update(others - {variable})
    for other in others - {variable}:
        edges.setdefault(other, set()).add(variable)


def live_out(steps: Sequence[Step]) -> list[set[int]]:
    """Variables whose value is still needed after each step, and those that it must keep."""
    result: list[set[int]] = [set() for _ in steps]
    changed = True
    while changed:
        changed = False
        for index in reversed(range(len(steps))):
            following = [index + 1] if index + 1 < len(steps) else []
            back = steps[index].back
            if back is not None:
                following.append(back)
            live: set[int] = set()
            for target in following:
                step = steps[target]
                live |= result[target] - {step.dst}
                live |= step.read
            if live != result[index]:
                result[index] = live
                changed = True
    return [live | step.keep for live, step in zip(result, steps, strict=True)]


def live_during(steps: Sequence[Step]) -> list[set[int]]:
    """Variables that are in memory while each step runs."""
    return [
        live | step.read | step.written for step, live in zip(steps, live_out(steps), strict=True)
    ]


def coalesce(steps: Sequence[Step]) -> None:
    """Make sums overwrite residuals that nobody needs any more; changes `steps` in place."""
    for index, step in enumerate(steps):
        if step.res is None or step.dst is None or step.dst == step.res:
            continue
        if step.src == step.res or step.res in live_out(steps)[index]:
            continue
        keep, gone = step.res, step.dst
        if gone in interference(steps, in_place=index).get(keep, ()):
            continue
        for other in steps:
            other.dst = keep if other.dst == gone else other.dst
            other.src = keep if other.src == gone else other.src
            other.res = keep if other.res == gone else other.res


def allocate(
    steps: Sequence[Step], words: Mapping[int, int], banks: int, bank_words: int
) -> tuple[dict[int, int] | None, int]:
    """Return the start address of each variable, and the words in use.

    The addresses are None when they do not fit; the words are then the fewest that were found.
    """
    memory = _Memory(steps, words, banks, bank_words)
    layouts = []
    for order in memory.orders():
        for spread in (True, False):
            start = memory.place(order, spread)
            layouts.append((memory.overflows(start), memory.conflicts(start), start))
        if layouts[-2][:2] == (False, 0):
            break
    overflow, _, start = min(layouts, key=lambda layout: layout[:2])
    if overflow:
        return None, min(memory.peak(start) for _, _, start in layouts)
    return start, memory.peak(start)


class _Memory:
    """Places variables one after the other, in any order that is tried."""

    def __init__(
        self, steps: Sequence[Step], words: Mapping[int, int], banks: int, bank_words: int
    ) -> None:
        self._words = words
        self._edges = interference(steps)
        self._have = banks * bank_words
        self._bank_words = bank_words
        # Words that are read while the other variable is read as well.
        self._pairs: dict[int, dict[int, int]] = {variable: {} for variable in self._edges}
        for step in steps:
            if step.res is not None and step.src is not None and step.res != step.src:
                for a, b in ((step.src, step.res), (step.res, step.src)):
                    self._pairs[a][b] = self._pairs[a].get(b, 0) + words[step.res]

    def orders(self) -> Iterator[list[int]]:
        """Orders in which to place the variables, the promising ones first."""
        words, edges = self._words, self._edges
        variables = sorted(edges)
        yield sorted(variables, key=lambda v: (-words[v], v))
        yield sorted(variables, key=lambda v: (-words[v] * len(edges[v]), v))
        yield variables
        yield variables[::-1]
        generator = random.Random(0)
        for _ in range(_RANDOM_ORDERS):
            generator.shuffle(variables)
            yield variables

    def place(self, order: Sequence[int], spread: bool) -> dict[int, int]:
        """Place each variable as low as possible, if `spread` where it shares the fewest banks."""
        start: dict[int, int] = {}
        for variable in order:
            start[variable] = min(self._candidates(variable, start, spread))[-1]
        return start

    def _candidates(
        self, variable: int, start: dict[int, int], spread: bool
    ) -> Iterator[tuple[bool, int, int]]:
        """Whether the memory ends too early, cost and address of all places worth a thought."""
        size = self._words[variable]
        taken = [(start[v], start[v] + self._words[v]) for v in self._edges[variable] & set(start)]
        addresses = {0, *(end for _, end in taken)}
        if spread:
            addresses |= {*range(0, self._have, self._bank_words), self._have - size}
            addresses |= {low - size for low, _ in taken}
        for address in addresses:
            if address < 0 or any(address < end and low < address + size for low, end in taken):
                continue
            cost = 0
            if spread:
                cost = sum(
                    weight * self._shared_banks(variable, address, other, start[other])
                    for other, weight in self._pairs[variable].items()
                    if other in start
                )
            yield address + size > self._have, cost, address

    def conflicts(self, start: Mapping[int, int]) -> int:
        """Cost of all pairs that are read at the same time from the same banks."""
        return sum(
            weight * self._shared_banks(a, start[a], b, start[b])
            for a, others in self._pairs.items()
            for b, weight in others.items()
            if a < b
        )

    def peak(self, start: Mapping[int, int]) -> int:
        """Words in use."""
        ends = (address + self._words[variable] for variable, address in start.items())
        return max(ends, default=0)

    def overflows(self, start: Mapping[int, int]) -> bool:
        """Whether the memory is too small."""
        return self.peak(start) > self._have

    def _shared_banks(self, a: int, a_start: int, b: int, b_start: int) -> int:
        """Number of banks that both variables touch."""
        low = max(a_start, b_start) // self._bank_words
        high = min(a_start + self._words[a] - 1, b_start + self._words[b] - 1) // self._bank_words
        return max(0, high - low + 1)
