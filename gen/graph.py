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
from hiddenfold.sw.operations import Loop
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

    @property
    def variables(self) -> list[int]:
        """Its operands, once for each use."""
        return [v for v in (self.dst, self.src, self.res) if v is not None]

    @property
    def traced(self) -> bool:
        """Whether a traced program stores the result."""
        return not self.copy and self.execution.writes is not None


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

    def add(self, execution: Execution, dst: int | None = None) -> None:
        """Append an operation; its result goes to variable `dst`, by default to a new one."""
        # What is read is looked up first: the result may get the same name.
        src = self._variables.get(execution.op.input)
        res = None if execution.residual is None else self._variables[execution.residual]
        if execution.writes is not None:
            dst = self._variable(execution) if dst is None else dst
            self._variables[execution.writes] = dst
        self.nodes.append(Node(execution, dst, src, res))

    def loop(self, count: int, executions: list[Execution]) -> None:
        """Append a loop; what it carries to the next iteration ends where it was before."""
        first = len(self.nodes)
        before = dict(self._variables)
        carried = _carried(executions)
        last = {execution.writes: execution for execution in executions}
        copies = []
        for execution in executions:
            name = execution.writes
            place = None
            if name is not None and name in carried and execution is last[name]:
                place = before[name]
                if self._variables[execution.op.input] == place:
                    # It reads as its input what it would overwrite: copy afterwards.
                    place = None
                    copies.append((execution, name))
            self.add(execution, place)
        for execution, name in copies:
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


def _carried(body: list[Execution]) -> set[str]:
    """Names that an iteration reads from the one before."""
    read: set[str] = set()
    assigned: set[str] = set()
    for execution in body:
        read |= execution.reads - assigned
        if execution.writes is not None:
            assigned.add(execution.writes)
    return read & assigned
