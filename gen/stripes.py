# SPDX-License-Identifier: Apache-2.0
"""Operations in stripes of rows, for tensors that are not on chip (docs/spec.md section 6).

A *group* is one operation, or a chain of operations each of which reads what the one before it
made. All tensors between the operations of a chain exist only in part: a stripe of the last
operation's rows is computed from a few more rows of the tensors before it. Tensors that are
*spilled* live in external memory; a stripe of theirs is loaded into a buffer before it is used, and
saved from one after it was made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hiddenfold.gen.graph import Node
from hiddenfold.gen.plan import map_shape
from hiddenfold.gen.tiling import Stripe
from hiddenfold.sw.operations import Classifier
from hiddenfold.sw.shapes import Shape

__all__ = ["OVERLAPPED", "SINGLE", "Buffer", "Copies", "Group", "input_shape", "may_join", "window"]


class Copies(NamedTuple):
    """How many stripes of each kind exist at a time, so that transfers overlap with work."""

    load: int
    save: int
    #: A residual that its sum replaces is loaded, worked on and saved.
    in_place: int


SINGLE = Copies(1, 1, 1)
OVERLAPPED = Copies(2, 2, 3)


class Buffer(NamedTuple):
    """Place of a stripe: `role` (src, res, dst) of node number `node` in a group.

    `start` counts words from the start of the group's buffers, `words` are those of one copy.
    """

    node: int
    role: str
    start: int
    words: int
    copies: int

    def address(self, stripe: int) -> int:
        """Where stripe number `stripe` lies, relative to the group's buffers."""
        return self.start + stripe % self.copies * self.words


def window(node: Node) -> tuple[int, int]:
    """Kernel and stride of a node."""
    if node.copy or isinstance(node.execution.op, Classifier):
        return 1, 1
    return node.execution.op.kernel, node.execution.op.stride


def input_shape(node: Node) -> Shape:
    """Shape of what the node reads; a copy reads what its operation made."""
    return node.execution.out_shape if node.copy else node.execution.in_shape


@dataclass(frozen=True)
class Group:
    """Operations that are executed together, `rows` rows of the last one's result at a time.

    `spilled` are the variables in external memory that the group reads or writes.
    """

    nodes: tuple[Node, ...]
    spilled: frozenset[int]
    rows: int
    copies: Copies = SINGLE

    @property
    def last(self) -> Node:
        """The operation whose rows are divided."""
        return self.nodes[-1]

    @property
    def stripes(self) -> int:
        """Number of stripes."""
        return -(-map_shape(self.last.execution).height // self.rows)

    def stripe(self, number: int) -> list[Stripe]:
        """What each operation computes in stripe `number`.

        The stripes of an operation together read every row of its input; they overlap by the halo.
        """
        height = map_shape(self.last.execution).height
        first = number * self.rows
        end = min(height, first + self.rows)
        result: list[Stripe] = []
        for node in reversed(self.nodes):
            kernel, stride = window(node)
            edge = kernel // 2
            in_h = input_shape(node).height
            in_first = max(0, first * stride - edge)
            in_end = min(in_h, max(end * stride, (end - 1) * stride + edge + 1))
            if end == map_shape(node.execution).height:
                in_end = in_h
            top = first * stride - in_first
            result.append(Stripe(first, end - first, in_first, in_end - in_first, top))
            first, end = in_first, in_end
        return result[::-1]

    def buffers(self, lanes: int) -> list[Buffer]:
        """The buffers, one behind the other."""
        result: list[Buffer] = []
        start = 0
        for index, role, row_words, rows, copies in self._needs(lanes):
            result.append(Buffer(index, role, start, row_words * rows, copies))
            start += row_words * rows * copies
        return result

    def words(self, lanes: int) -> int:
        """Words of all buffers."""
        return sum(need[2] * need[3] * need[4] for need in self._needs(lanes))

    def _needs(self, lanes: int) -> Iterator[tuple[int, str, int, int, int]]:
        """Node, role, words of a row, rows of a stripe and copies of each buffer."""
        heights = self._heights()
        for index, node in enumerate(self.nodes):
            out_rows, in_rows = heights[index]
            if index == 0 and node.src in self.spilled:
                yield 0, "src", _row_words(input_shape(node), lanes), in_rows, self.copies.load
            last = index == len(self.nodes) - 1
            kept = last and (node.dst is None or node.dst not in self.spilled)
            if kept:
                continue
            row_words = _row_words(map_shape(node.execution), lanes)
            if node.res in self.spilled:
                copies = self.copies.in_place if last else self.copies.load
                yield index, "res", row_words, out_rows, copies
            else:
                yield index, "dst", row_words, out_rows, self.copies.save if last else 1

    def _heights(self) -> list[tuple[int, int]]:
        """Most output and input rows of each operation in a stripe."""
        result: list[tuple[int, int]] = []
        rows = min(self.rows, map_shape(self.last.execution).height)
        for node in reversed(self.nodes):
            kernel, stride = window(node)
            reach = max(rows * stride + kernel // 2, (rows - 1) * stride + kernel)
            in_rows = min(input_shape(node).height, reach)
            result.append((rows, in_rows))
            rows = in_rows
        return result[::-1]


def _row_words(shape: Shape, lanes: int) -> int:
    return shape.width * -(-shape.channels // lanes)


def may_join(group: Collection[Node], node: Node) -> bool:
    """Whether `node` can be computed stripe by stripe together with the operations before it.

    Stripes are computed one after the other, so what the node overwrites must not be read by
    them later: only the residual of the very same rows may be.
    """
    if node.copy or isinstance(node.execution.op, Classifier):
        return False
    read = {variable for other in group for variable in (other.src, other.res)}
    return node.dst not in read
