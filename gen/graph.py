# SPDX-License-Identifier: Apache-2.0
"""Operations of a model as instructions to be, on variables instead of named tensors.

A name of a model can stand for one tensor after the other; a variable is one place in memory. This
module decides which tensors share a variable, :mod:`hiddenfold.gen.allocate` where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hiddenfold.gen import allocate
from hiddenfold.gen.allocate import Step
from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Classifier, Conv, Loop, Unfold
from hiddenfold.sw.shapes import Execution, infer

__all__ = ["Graph", "Node", "build"]


@dataclass(frozen=True)
class Node:
    """One instruction: an operation, or a copy of what it made to where the loop expects it.

    `dst`, `src`, `res` are variables. `execution` is that of the first iteration. `loop_start` and
    `loop_end` tell that a loop of `loop_count` iterations starts before or ends after the node.
    """

    execution: Execution
    dst: int | None
    src: int | None
    res: int | None
    loop_count: int = 1
    loop_start: bool = False
    loop_end: bool = False
    copy: bool = False


@dataclass
class Graph:
    """All nodes in order, and the size of each variable in words."""

    nodes: list[Node]
    words: dict[int, int]

    def steps(self) -> list[Step]:
        """The nodes as the allocator sees them."""
        steps = []
        first = 0
        for index, node in enumerate(self.nodes):
            first = index if node.loop_start else first
            back = first if node.loop_end else None
            steps.append(Step(node.dst, node.src, node.res, back))
        return steps

    def place(self, banks: int, bank_words: int) -> tuple[dict[int, int] | None, int]:
        """Address of each variable (None: they do not fit), and the words in use."""
        return allocate.allocate(self.steps(), self.words, banks, bank_words)

    def widest(self) -> Node:
        """The node with the most words in use while it runs."""
        steps = self.steps()
        live = allocate.live_during(steps)
        sizes = [sum(self.words[variable] for variable in variables) for variables in live]
        return self.nodes[sizes.index(max(sizes))]


def build(model: Model, lanes: int) -> Graph:
    """The graph of a model for activation words of `lanes` channels."""
    builder = _Builder(lanes)
    groups, _ = infer(model.ops, model.image, len(model.classes))
    for op, (count, executions) in zip(model.ops, groups, strict=True):
        if isinstance(op, Loop):
            builder.loop(count, executions)
        else:
            builder.add(executions[0])
    graph = Graph(builder.nodes, builder.words)
    steps = graph.steps()
    allocate.coalesce(steps)
    graph.nodes = [
        replace(node, dst=step.dst, src=step.src, res=step.res)
        for node, step in zip(graph.nodes, steps, strict=True)
    ]
    return graph


class _Builder:
    """Gives tensors variables while it walks through the operations."""

    def __init__(self, lanes: int) -> None:
        self.nodes: list[Node] = []
        self.words: dict[int, int] = {}
        self._lanes = lanes
        self._variables: dict[str, int] = {}

    def add(self, execution: Execution, dst: int | None = None) -> Node:
        """Append an operation; its result goes to variable `dst`, by default to a new one."""
        op = execution.op
        src = None if isinstance(op, Unfold) else self._variables[op.input]
        res = None
        if isinstance(op, Conv) and op.residual is not None:
            res = self._variables[op.residual]
        if not isinstance(op, Classifier):
            if dst is None:
                dst = self._variable(execution)
            self._variables[op.output] = dst
        self.nodes.append(Node(execution, dst, src, res))
        return self.nodes[-1]

    def loop(self, count: int, executions: list[Execution]) -> None:
        """Append a loop; what it carries to the next iteration ends where it was before."""
        first = len(self.nodes)
        before = dict(self._variables)
        carried = _carried([execution.op for execution in executions])
        last = {execution.op.output: execution for execution in executions}
        copies = []
        for execution in executions:
            name = execution.op.output
            place = None
            if name in carried and execution is last[name]:
                place = before[name]
                if self._variables[execution.op.input] == place:
                    # It reads as its input what it would overwrite: copy afterwards.
                    place = None
                    copies.append(execution)
            self.add(execution, place)
        for execution in copies:
            name = execution.op.output
            src, dst = self._variables[name], before[name]
            self.nodes.append(Node(execution, dst, src, None, copy=True))
            self._variables[name] = dst
        self.nodes[first] = replace(self.nodes[first], loop_start=True, loop_count=count)
        self.nodes[-1] = replace(self.nodes[-1], loop_end=True)

    def _variable(self, execution: Execution) -> int:
        shape = execution.out_shape
        variable = len(self.words)
        self.words[variable] = shape.height * shape.width * -(-shape.channels // self._lanes)
        return variable


def _carried(body: list[Conv]) -> set[str]:
    """Names that an iteration reads from the one before."""
    read: set[str] = set()
    assigned: set[str] = set()
    for op in body:
        read |= {name for name in (op.input, op.residual) if name} - assigned
        assigned.add(op.output)
    return read & assigned
