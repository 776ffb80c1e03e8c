# SPDX-License-Identifier: Apache-2.0
"""Plot of explored targets as SVG: frames per second against what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from hiddenfold.gen.explore import Point, front
from hiddenfold.gen.figures import si

__all__ = ["plot"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 380, 320, 62, 48, 42
_PANELS = (("lut", "LUTs (estimate)"), ("bram", "block RAMs of 18 kbit (estimate)"))
_TRAFFIC = ("bytes_per_second", "bytes a second")
_COLOURS = ("#0b7a75", "#c8641b", "#5a4fcf", "#b0304c", "#6b7a8c")


def plot(points: Sequence[Point], title: str) -> str:
    """Three panels with both axes logarithmic; a line joins the targets that no other beats.

    A colour for each batch. Points of targets that cannot run the model are left out.
    """
    able = [point for point in points if point.frames_per_second is not None]
    batches = sorted({point.batch for point in able})
    colours = {batch: _COLOURS[i % len(_COLOURS)] for i, batch in enumerate(batches)}
    panels = (*_PANELS, _TRAFFIC)
    width = _WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT + 24}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{_HEIGHT + 24}" fill="#ffffff"/>',
        f'<text x="12" y="20" font-size="14">{escape(title)}</text>',
    ]
    for i, (key, label) in enumerate(panels):
        parts.append(f'<g transform="translate({i * _WIDTH} 0)">')
        parts += _panel(able, key, label, colours)
        parts.append("</g>")
    for i, batch in enumerate(batches):
        x = _LEFT + 90 * i
        parts.append(f'<circle cx="{x}" cy="{_HEIGHT + 8}" r="4" fill="{colours[batch]}"/>')
        parts.append(f'<text x="{x + 8}" y="{_HEIGHT + 12}">batch {batch}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(points: Sequence[Point], key: str, label: str, colours: dict[int, str]) -> list[str]:
    """Axes, the line of the best and all points."""
    right, bottom = _WIDTH - 16, _HEIGHT - _BOTTOM
    x_of = _Scale([getattr(point, key) for point in points], _LEFT, right)
    y_of = _Scale([point.speed for point in points], bottom, _TOP)
    parts = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#1b2430"/>']
    for value in x_of.ticks:
        parts.append(
            f'<text x="{x_of(value):.1f}" y="{bottom + 14}" text-anchor="middle">{si(value)}</text>'
        )
    for value in y_of.ticks:
        y = y_of(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#dde2e8"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{si(value)}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 32}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 8}">frames a second</text>')
    best = front(points, key)
    places = [(x_of(getattr(point, key)), y_of(point.speed)) for point in best]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#98a5b3"/>')
    for point, (x, y) in zip(best, places, strict=True):
        parts.append(
            f'<text x="{x - 6:.1f}" y="{y - 6:.1f}" text-anchor="end" font-size="8">'
            f"{escape(point.target)}</text>"
        )
    for point in points:
        x, y = x_of(getattr(point, key)), y_of(point.speed)
        text = f"{point.target}, batch {point.batch}: {point.speed:.1f} frames a second"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colours[point.batch]}">'
            f"<title>{escape(text)}</title></circle>"
        )
    return parts


class _Scale:
    """A logarithmic axis from `start` to `end` over all values, which are above 0."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values, default=1), max(values, default=10)
        self._low = math.log10(low / 1.3)
        self._span = math.log10(high * 1.3) - self._low
        self._start, self._end = start, end
        powers = range(math.floor(self._low), math.ceil(self._low + self._span) + 1)
        steps = (1, 2, 5) if self._span < 2.5 else (1,)
        found = [step * 10.0**power for power in powers for step in steps]
        self.ticks = [v for v in found if low / 1.3 <= v <= high * 1.3]

    def __call__(self, value: float) -> float:
        part = (math.log10(value) - self._low) / self._span
        return self._start + part * (self._end - self._start)
