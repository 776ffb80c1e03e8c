# SPDX-License-Identifier: Apache-2.0
"""Which target suits a model: predicted speed, traffic and size of many of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from hiddenfold.gen import area
from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.limits import CompileError
from hiddenfold.gen.target import PARAMETERS, Target
from hiddenfold.sw.model import Model

__all__ = ["Point", "as_csv", "explore", "front", "variants"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model on a target with a batch.

    The predictions are None where the target cannot run the model; `refused` then says why. Cycles
    and bytes are those of an image, `bytes_per_second` at the target's clock. `lut` and `bram` are
    estimates (`hiddenfold.gen.area`).
    """

    target: str
    batch: int
    clock_mhz: float
    macs_per_cycle: float
    lut: int
    bram: int
    cycles: int | None = None
    utilization: float | None = None
    frames_per_second: float | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    bytes_per_second: float | None = None
    refused: str | None = None

    @property
    def speed(self) -> float:
        """Frames a second, 0 where the target cannot run the model."""
        return self.frames_per_second or 0.0


def variants(target: Target, changes: Mapping[str, Sequence[int]]) -> Iterator[Target]:
    """The target with each combination of other values of its parameters.

    Raises `ValueError` for an unknown parameter, and for a value that is not allowed.
    """
    for key in changes:
        if key not in PARAMETERS:
            raise ValueError(f"Parameter must be one of {', '.join(PARAMETERS)}, not {key!r}")
    for values in product(*changes.values()):
        chosen = dict(zip(changes, values, strict=True))
        suffix = "".join(f".{key}-{value}" for key, value in chosen.items())
        changed: dict[str, Any] = {"name": target.name + suffix, **chosen}
        yield replace(target, **changed)


def explore(
    model: Model,
    targets: Sequence[Target],
    batches: Sequence[int],
    tick: Callable[[int], object] = lambda _: None,
) -> list[Point]:
    """A point for each target and batch, in this order; `tick` hears of each."""
    points = []
    for target, batch in product(targets, batches):
        points.append(_point(model, target, batch))
        tick(1)
    return points


def _point(model: Model, target: Target, batch: int) -> Point:
    known = Point(
        target=target.name,
        batch=batch,
        clock_mhz=target.clock_mhz,
        macs_per_cycle=target.macs_per_cycle,
        lut=area.luts(target),
        bram=area.block_rams(target),
    )
    try:
        program = compile_model(model, target, batch=batch)
    except CompileError as error:
        return replace(known, refused=str(error))
    frames = target.clock_mhz * 1e6 / program.predicted_cycles
    read, written = program.predicted_bytes_read, program.predicted_bytes_written
    return replace(
        known,
        cycles=program.predicted_cycles,
        utilization=program.ideal_cycles / program.predicted_cycles,
        frames_per_second=frames,
        bytes_read=read,
        bytes_written=written,
        bytes_per_second=frames * (read + written),
    )


def front(points: Sequence[Point], cost: str) -> list[Point]:
    """The points that no other beats in frames per second at the same or less `cost`, a field."""
    best: list[Point] = []
    able = [point for point in points if point.frames_per_second is not None]
    for point in sorted(able, key=lambda p: (getattr(p, cost), -p.speed)):
        if not best or point.speed > best[-1].speed:
            best.append(point)
    return best


def as_csv(points: Sequence[Point]) -> str:
    """The points as a table with a line of headings."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(point) for point in points)
    return text.getvalue()
