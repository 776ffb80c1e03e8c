# SPDX-License-Identifier: Apache-2.0
"""The HTML report: one self-contained page about a model on a target.

The page needs no network and no script: style and figures are inline, pictures are data URLs. It
follows the reader's light or dark mode and is readable on a phone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hiddenfold.gen.figures import (
    LayerTime,
    Roofline,
    Stage,
    layer_times,
    memory_bars,
    roofline,
    si,
    stages,
)
from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import Program

__all__ = ["Check", "Sample", "render", "write"]


#: What a cycle can be: its name in `LayerTime.parts`, a colour of the page, words.
_CYCLE_PARTS = (
    ("array", "fold", "array works"),
    ("masks", "warm", "waits for masks"),
    ("drain", "third", "waits for sums"),
    ("transfers", "fourth", "waits for transfers"),
    ("rest", "plain", "other"),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A classified picture.

    ``picture`` is the PNG or JPEG file; ``label`` the right answer if known; ``top5`` pairs of
    label and logit. ``cycles`` and ``utilization`` are measured, None on the golden model;
    ``bit_exact`` is None when nothing was compared.
    """

    picture: Path
    top5: Sequence[Sequence[Any]]
    label: str | None = None
    cycles: int | None = None
    utilization: float | None = None
    bit_exact: bool | None = None

    @property
    def right(self) -> bool:
        """Whether the first answer is the label."""
        return self.label == self.top5[0][0]

    @property
    def data_url(self) -> str:
        """The picture as a ``data:`` URL."""
        kind = "png" if self.picture.suffix.lower() == ".png" else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.picture.read_bytes()).decode()}"

    def bars(self) -> list[tuple[str, int, float]]:
        """The top-5 as label, logit and a bar length of 0 to 100 relative to the first."""
        best, worst = self.top5[0][1], self.top5[-1][1]
        # Logits have no natural zero: the fifth keeps a visible bar.
        span = max(best - worst, 1)
        return [(name, logit, 15 + 85 * (logit - worst) / span) for name, logit in self.top5]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the verification table: what was compared, how much, how many differed."""

    what: str
    compared: int
    mismatches: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One row of the layer table."""

    name: str
    runs: int
    shape: str
    macs: int
    ideal: float
    predicted: int
    mask_bytes: int
    folded: bool = field(default=False)

    @property
    def utilization(self) -> float:
        return self.ideal / self.predicted if self.predicted else 0.0


def render(
    model: Model,
    program: Program,
    target: Target,
    *,
    samples: Sequence[Sample] = (),
    checks: Sequence[Check] = (),
    counters: Sequence[Mapping[str, float]] | None = None,
    version: str = "",
) -> str:
    """The page as HTML text.

    ``program`` is ``model`` compiled for ``target``. Without ``checks`` the page says that nothing
    was compared with the golden model. ``counters`` are those of each layer in a run; without them
    the page has the compiler's predictions, and says so.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=_size, si=si)
    summary = model.summary()
    layers = _layers(program.layers)
    cycles = [sample.cycles for sample in samples if sample.cycles]
    times = layer_times(program.layers, counters)
    total = LayerTime(name="all layers")
    for time in times:
        total.cycles += time.cycles
        for name, value in time.parts.items():
            total.parts[name] += value
    measured = sum(cycles) / len(cycles) if cycles else None
    if measured is None and counters is not None:
        measured = total.cycles
    columns: list[Stage] = stages(model)
    roof: Roofline = roofline(times, target)
    return environment.get_template("report.html").render(
        model=model,
        summary=summary,
        target=target,
        program=program,
        layers=layers,
        stages=columns,
        roof=roof,
        times=times,
        cycle_parts=_CYCLE_PARTS,
        cycle_names={name: text for name, _, text in _CYCLE_PARTS},
        longest=max(time.cycles for time in times),
        total=total,
        counted=counters is not None,
        memory=memory_bars(summary),
        samples=samples,
        checks=checks,
        measured=measured,
        on_accelerator=bool(cycles),
        cycles=measured or program.predicted_cycles,
        widest=max([1.0, *(layer.utilization for layer in layers)]),
        version=version,
    )


def write(path: str | Path, html: str) -> Path:
    """Write the page to ``path`` (a folder gets ``index.html``) and return the file."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    page = path / "index.html"
    page.write_text(html, encoding="utf-8")
    return page


def _layers(executions: Sequence[Mapping[str, Any]]) -> list[_Layer]:
    """Rows of the table: the executions of a layer together."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for execution in executions:
        groups.setdefault(execution["name"], []).append(execution)
    return [
        _Layer(
            name=name,
            runs=len(runs),
            shape=f"{_shape(runs[0]['in'])} → {_shape(runs[0]['out'])}",
            macs=sum(run["macs"] for run in runs),
            ideal=sum(run["ideal_cycles"] for run in runs),
            predicted=sum(run["predicted_cycles"] for run in runs),
            mask_bytes=sum(run["mask_bytes"] for run in runs),
            folded=len(runs) > 1,
        )
        for name, runs in groups.items()
    ]


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
