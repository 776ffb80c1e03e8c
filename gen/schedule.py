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

__all__ = ["Part", "Schedule", "heads", "operands", "schedule"]


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
        for image in range(self.batch if self.head else 0):
            for node in self.graph.nodes[: self.head]:
                yield Part(node, (range(image, image + 1),))
        yield from self.parts_together()

    def parts_together(self) -> Iterator[Part]:
        """Those on all images."""
        each = tuple(range(image, image + 1) for image in range(self.batch))
        for node in self.graph.nodes[self.head :]:
            # Only CONV takes several images.
            together = node.execution.stream is not None and not node.copy
            yield Part(node, (range(self.batch),) if together else each)

    def address(self, variable: int | None, image: int) -> int:
        """Where the tensor of an image starts; 0 for no variable."""
        if variable is None:
            return 0
        return self.addresses[variable] + self.offset(variable, image)

    def offset(self, variable: int, image: int) -> int:
        """Where the tensor of an image starts in a variable, which may hold those of a batch."""
        return image * self.graph.words[variable] if variable in self._shared else 0

    @cached_property
    def _shared(self) -> frozenset[int]:
        return operands(self.graph.nodes[self.head :])


def schedule(graph: Graph, target: Target, batch: int) -> Schedule | None:
    """The schedule with the shortest head that fits the target's activation memory, if any does."""
    for head in heads(graph) if batch > 1 else [0]:
        steps, words = _steps(graph, head, batch)
        need = max(sum(words[v] for v in live) for live in allocate.live_during(steps))
        if need <= target.act_words:
            start, _ = allocate.allocate(steps, words, target.act_banks, target.act_bank_words)
            if start is not None:
                return Schedule(graph, batch, head, start)
    return None


def heads(graph: Graph) -> Iterator[int]:
    """Lengths of heads: numbers of nodes after which no loop is open; at least one node follows."""
    inside = False
    for index, node in enumerate(graph.nodes):
        if not inside:
            yield index
        inside = (inside or node.loop_start) and not node.loop_end


def _steps(graph: Graph, head: int, batch: int) -> tuple[list[Step], dict[int, int]]:
    """The nodes as the allocator sees them, and the sizes of the variables."""
    steps = graph.steps()
    shared = operands(graph.nodes[head:])
    words = {v: size * (batch if v in shared else 1) for v, size in graph.words.items()}
    if head:
        # What the head made of the images before must stay.
        kept = allocate.live_out(steps)[head - 1]
        steps = [replace(step, keep=kept) for step in steps[:head]] + steps[head:]
    return steps, words


def operands(nodes: list[Node]) -> frozenset[int]:
    """All operands of some nodes."""
    return frozenset(v for node in nodes for v in node.variables)
