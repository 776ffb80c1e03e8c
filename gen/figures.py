# SPDX-License-Identifier: Apache-2.0
"""Geometry of the report's figures; the template only draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Conv, Loop, MaxPool, Model, Unfold

__all__ = [
    "Bar",
    "Block",
    "LayerTime",
    "Point",
    "Roofline",
    "Stage",
    "layer_times",
    "memory_bars",
    "roofline",
    "si",
    "stages",
]


@dataclass(kw_only=True)
class Block:
    """A residual block (or a layer that stands alone): its layers, and how often it runs."""

    lines: list[str]
    iterations: int = 1
    shape: tuple[int, int, int] = (0, 0, 0)

    @property
    def height(self) -> int:
        """Height of its box in the figure."""
        return 18 * len(self.lines) + (34 if self.iterations > 1 else 14)


@dataclass(kw_only=True)
class Stage:
    """Neighbouring blocks with the same output shape: one column of the folding diagram."""

    title: str
    shape: tuple[int, int, int]
    blocks: list[Block] = field(default_factory=list)

    @property
    def height(self) -> int:
        """Height of the column."""
        return sum(block.height + 14 for block in self.blocks)

    def boxes(self) -> list[tuple[int, Block]]:
        """The blocks with the top of their boxes."""
        top, result = 0, []
        for block in self.blocks:
            result.append((top, block))
            top += block.height + 14
        return result


def stages(model: Model) -> list[Stage]:
    """The columns of the folding diagram.

    A block ends with the convolution that adds a residual tensor; a loop is a recurrent block.
    """
    shapes: dict[str, tuple[int, int, int]] = {
        execution.name: (*execution.out_shape,) for execution in model.executions()
    }
    head = Stage(title="stem", shape=(0, 0, 0))
    columns: list[Stage] = [head]
    open_lines: list[str] = []

    def close(shape: Any, iterations: int = 1) -> None:
        block = Block(lines=list(open_lines), iterations=iterations, shape=shape)
        open_lines.clear()
        if columns[-1].shape != shape or columns[-1] is head:
            number = len(columns)
            columns.append(Stage(title=f"stage {number}", shape=shape))
        columns[-1].blocks.append(block)

    stem_input = None
    last: Any = None  # shape of the last open line
    for op in model.ops:
        if isinstance(op, Unfold):
            stem_input = op.output
            head.blocks.append(Block(lines=[f"unfold {op.kernel}×{op.kernel}"]))
        elif isinstance(op, Conv) and op.input == stem_input:
            head.blocks.append(Block(lines=[_line(op)]))
            head.shape = shapes[op.name]
            if op.output == stem_input:  # from here on the name is another tensor's
                stem_input = None
        elif isinstance(op, MaxPool):
            if open_lines:
                close(last)
            block = Block(lines=[f"max pool {op.kernel}×{op.kernel}, /{op.stride}"])
            columns[-1].blocks.append(block)
            if columns[-1] is head:
                head.shape = shapes[op.name]
        elif isinstance(op, Conv):
            open_lines.append(_line(op))
            last = shapes[op.name]
            if op.residual is not None:
                close(last)
        elif isinstance(op, Loop):
            if open_lines:
                close(last)
            open_lines.extend(map(_line, op.body))
            close(shapes[op.body[-1].name], op.count)
    if open_lines:
        close(last)
    tail = Stage(title="classifier", shape=(1, 1, len(model.classes)))
    tail.blocks.append(Block(lines=["sum, linear"]))
    return [*columns, tail]


def _line(op: Conv) -> str:
    stride = f", /{op.stride}" if op.stride > 1 else ""
    return f"{op.kernel}×{op.kernel}, {op.out_channels}{stride}"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A stacked bar: its parts are (name, bytes, percent of the widest bar)."""

    title: str
    total: int
    parts: list[tuple[str, int, float]]


def memory_bars(summary: Mapping[str, Any]) -> list[Bar]:
    """Dense float32, the paper's formula, and the file that is shipped, on one scale."""
    widest = max(summary["dense_fp32_bytes"], summary["total_bytes"])

    def bar(title: str, parts: dict[str, int]) -> Bar:
        scaled = [(name, size, 100 * size / widest) for name, size in parts.items()]
        return Bar(title=title, total=sum(parts.values()), parts=scaled)

    return [
        bar("dense float32", {"dense": summary["dense_fp32_bytes"]}),
        bar(
            "the shipped file",
            {
                "masks": summary["mask_bytes"],
                "affine": summary["affine_bytes"],
                "other": summary["other_bytes"],
            },
        ),
        bar("formula of the paper", {"paper": summary["paper_bytes"]}),
    ]


#: What a cycle of a layer can be, as the counters tell; the rest is none of them.
_PARTS = {
    "array": "array_cycles",
    "masks": "tile_stalls",
    "drain": "drain_stalls",
    "transfers": "transfer_stalls",
}


@dataclass(kw_only=True)
class LayerTime:
    """Cycles of all executions of a layer: `parts` has those of each kind, which add up.

    `macs` and `ideal` are its multiply-accumulates and their cycles, `read` the bytes of its masks
    and constants.
    """

    name: str
    runs: int = 0
    cycles: float = 0
    macs: int = 0
    ideal: float = 0
    read: float = 0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys([*_PARTS, "rest"], 0.0))

    @property
    def largest_loss(self) -> str:
        """The kind of most cycles in which the array did not work."""
        return max((name for name in self.parts if name != "array"), key=self.parts.__getitem__)


def layer_times(
    executions: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, float]] | None = None
) -> list[LayerTime]:
    """Where the cycles of each layer go, the executions of a layer together.

    `measured` are the counters of each execution (`hiddenfold.sw.driver.profile`), for one image;
    without them the compiler's predictions are taken.
    """
    found: dict[str, LayerTime] = {}
    for number, execution in enumerate(executions):
        time = found.setdefault(execution["name"], LayerTime(name=execution["name"]))

        known = {key.removeprefix("predicted_"): value for key, value in execution.items()}
        if measured is not None:
            known |= measured[number]
        cycles = known["cycles"]
        parts = {name: known[counter] for name, counter in _PARTS.items()}
        parts["rest"] = max(0, cycles - sum(parts.values()))
        time.runs += 1
        time.cycles += cycles
        time.macs += execution["macs"]
        time.ideal += execution["ideal_cycles"]
        time.read += execution["mask_bytes"] + execution["affine_bytes"]
        for name, value in parts.items():
            time.parts[name] += value
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Point:
    """A layer in the roofline figure."""

    x: float
    y: float
    title: str
    folded: bool


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Multiply-accumulates per cycle over multiply-accumulates per byte read, both logarithmic."""

    width: int
    height: int
    roof: str
    points: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    peak: float


def roofline(times: Sequence[LayerTime], target: Target) -> Roofline:
    """Where each layer stands against the array's rate and the memory port's.

    The rate of the array is ``target.macs_per_cycle``; skipped padding lifts points above it.
    """
    left, right, top, bottom = 46.0, 456.0, 12.0, 262.0
    bytes_per_cycle = target.bus_bits / 8
    peak = float(target.macs_per_cycle)
    measured = [
        (time.macs / max(time.read, 1), time.macs / time.cycles, time.name, time.runs)
        for time in times
        if time.macs and time.cycles
    ]
    xs = [peak / bytes_per_cycle, *(point[0] for point in measured)]
    ys = [peak, *(point[1] for point in measured)]
    x_low, x_high = _decades(xs)
    y_low, y_high = _decades(ys)

    def x_of(value: float) -> float:
        share = (math.log10(value) - x_low) / (x_high - x_low)
        return left + (right - left) * share

    def y_of(value: float) -> float:
        share = (math.log10(value) - y_low) / (y_high - y_low)
        return bottom - (bottom - top) * share

    knee = peak / bytes_per_cycle
    # The slope enters the frame at its left or lower edge.
    start = max(10**x_low, 10**y_low / bytes_per_cycle)
    corners = [(start, start * bytes_per_cycle), (knee, peak), (10**x_high, peak)]
    return Roofline(
        width=480,
        height=300,
        roof=" ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in corners),
        points=[
            Point(
                x=round(x_of(x), 1),
                y=round(y_of(y), 1),
                title=f"{name}: {y:.0f} MAC/cycle at {x:.0f} MAC per byte read",
                folded=runs > 1,
            )
            for x, y, name, runs in measured
        ],
        x_ticks=[(round(x_of(10.0**n), 1), _power(n)) for n in range(x_low, x_high + 1)],
        y_ticks=[(round(y_of(10.0**n), 1), _power(n)) for n in range(y_low, y_high + 1)],
        peak=round(y_of(peak), 1),
    )


def si(value: float) -> str:
    """A count for people: 1234567 becomes 1.23 M."""
    for unit in ("", " k", " M"):
        if abs(value) < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} G"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values) * 1.05))
    return low, max(high, low + 1)


def _power(exponent: int) -> str:
    return {0: "1", 1: "10", 2: "100", 3: "1 k", 4: "10 k", 5: "100 k"}.get(
        exponent, f"1e{exponent}"
    )
