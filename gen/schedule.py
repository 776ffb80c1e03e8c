# SPDX-License-Identifier: Apache-2.0
"""How a batch of images goes through a graph, and where its tensors lie.

Early maps are large: a tile of weights sees enough pixels of one image, and the maps of a batch may
not fit the activation memory. Late maps are small. So the first nodes of a graph, its *head*, may
run image by image, one image after the other, and the others on all images together. Only what the
head leaves behind must then be kept for each image. The head is as short as the memory allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from hiddenfold.gen import allocate
from hiddenfold.gen.allocate import Step
from hiddenfold.gen.graph import Graph, Node
from hiddenfold.gen.target import Target
from hiddenfold.sw.shapes import Execution

__all__ = ["Part", "Schedule", "largest_batch", "schedule"]


class Part(NamedTuple):
    """A node with the images of the batch that it works on, a range for each instruction."""

    node: Node
    runs: tuple[range, ...]

    @property
    def images(self) -> range:
        """The images of all instructions."""
        return range(self.runs[0].start, self.runs[-1].stop)


@dataclass(frozen=True)
class Schedule:
    """A graph on a batch: the first `head` nodes run image by image.

    `addresses` are those of the variables, of their first image if they hold several.
    """

    graph: Graph
    batch: int
    head: int
    addresses: dict[int, int]

    def parts(self) -> Iterator[Part]:
        """All instructions on nodes in the order of execution, loops not unrolled."""
        nodes = self.graph.nodes
        for image in range(self.batch if self.head else 0):
            for node in nodes[: self.head]:
                yield Part(node, (range(image, image + 1),))
        each = tuple(range(image, image + 1) for image in range(self.batch))
        for node in nodes[self.head :]:
            # Only CONV takes several images.
            together = node.execution.stream is not None and not node.copy
            yield Part(node, (range(self.batch),) if together else each)

    def address(self, variable: int | None, image: int) -> int:
        """Where the tensor of an image starts; 0 for no variable."""
        if variable is None:
            return 0
        offset = image * self.graph.words[variable] if variable in self._shared else 0
        return self.addresses[variable] + offset

    def in_head(self, execution: Execution) -> bool:
        """Whether the operation runs image by image."""
        return execution.name in self._head_names

    def images_at_once(self, execution: Execution) -> int:
        """Images that pass the operation before the next operation begins."""
        return 1 if self.in_head(execution) else self.batch

    @cached_property
    def _shared(self) -> frozenset[int]:
        return _variables(self.graph.nodes[self.head :])

    @cached_property
    def _head_names(self) -> frozenset[str]:
        return frozenset(node.execution.name for node in self.graph.nodes[: self.head])


def schedule(graph: Graph, target: Target, batch: int) -> tuple[Schedule | None, int]:
    """The schedule with the shortest head that fits the target's activation memory.

    It is None when there is none; the number is the fewest words of memory that would do.
    """
    fewest = None
    for head in _heads(graph) if batch > 1 else [0]:
        steps, words = _steps(graph, head, batch)
        need = max(sum(words[v] for v in live) for live in allocate.live_during(steps))
        if need <= target.act_words:
            start, need = allocate.allocate(steps, words, target.act_banks, target.act_bank_words)
            if start is not None:
                return Schedule(graph, batch, head, start), need
        fewest = need if fewest is None else min(fewest, need)
    assert fewest is not None, "a graph has a head of no nodes"
    return None, fewest


def largest_batch(graph: Graph, target: Target, limit: int) -> int:
    """The largest batch up to `limit` that fits, 0 for none."""
    fits = (batch for batch in range(limit, 0, -1) if schedule(graph, target, batch)[0])
    return next(fits, 0)


def _heads(graph: Graph) -> Iterator[int]:
    """Numbers of nodes after which no loop is open; at least one node follows."""
    inside = False
    for index, node in enumerate(graph.nodes):
        if not inside:
            yield index
        inside = (inside or node.loop_start) and not node.loop_end


def _steps(graph: Graph, head: int, batch: int) -> tuple[list[Step], dict[int, int]]:
    """The nodes as the allocator sees them, and the sizes of the variables."""
    steps = graph.steps()
    shared = _variables(graph.nodes[head:])
    words = {v: size * (batch if v in shared else 1) for v, size in graph.words.items()}
    if head:
        # What the head made of the images before must stay.
        kept = allocate.live_out(steps)[head - 1]
        steps = [replace(step, keep=kept) for step in steps[:head]] + steps[head:]
    return steps, words


def _variables(nodes: list[Node]) -> frozenset[int]:
    found = {v for node in nodes for v in (node.dst, node.src, node.res) if v is not None}
    return frozenset(found)
