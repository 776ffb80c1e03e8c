# SPDX-License-Identifier: Apache-2.0
"""Code coverage of the generated Verilog: lines, branches and toggled bits, by component.

Verilator counts; this module reads its file (one line a point: fields with their names, then the
count), maps each module of the Verilog to the component that it was made from, and takes away what
``waivers.toml`` lists with a reason.

Amaranth's netlist has few statements. A *branch* here is an arm of an ``if`` or ``case`` of a
process, a *line* an assignment in it; everything else is a continuous assignment of which only bits
can be seen. So toggled bits say most: that each bit of each named signal was seen to rise and to
fall. Nets without a name, parts of expressions, are not counted.
"""

import re
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

WAIVERS = Path(__file__).with_name("waivers.toml")
#: Kinds of Verilator's points, by the first word of the page field.
KINDS = {"v_line": "line", "v_branch": "branch", "v_toggle": "toggle"}
#: How Verilator writes characters that C++ names cannot have.
_ENCODED = re.compile("__0([0-9A-Fa-f]{2})")
#: Nets that Amaranth has named: parts of expressions, all of them functions of named signals.
_ANONYMOUS = re.compile(r"\$\d")
_FIELD = re.compile("\x01([^\x02]+)\x02([^\x01']*)")


@dataclass(frozen=True)
class Point:
    """A thing to cover: ``kind``, ``module`` of the Verilog, and what in it."""

    kind: str
    module: str
    what: str


@dataclass
class Tally:
    """Points of one kind in one component."""

    covered: int = 0
    waived: int = 0
    missed: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Points that have to be covered."""
        return self.covered + len(self.missed)

    @property
    def share(self) -> float:
        """Covered part of what has to be."""
        return self.covered / self.total if self.total else 1.0


@dataclass(frozen=True)
class Waiver:
    """Points that need not be covered: patterns of ``kind``, ``module`` and ``what``."""

    kind: str
    module: str
    what: str
    reason: str

    def fits(self, point: Point) -> bool:
        """Whether it speaks about ``point``."""
        return all(
            re.fullmatch(pattern, text)
            for pattern, text in (
                (self.kind, point.kind),
                (self.module, point.module),
                (self.what, point.what),
            )
        )


def load_waivers(path: Path = WAIVERS) -> list[Waiver]:
    """The reviewed waivers; each needs a reason."""
    with path.open("rb") as file:
        return [Waiver(**entry) for entry in tomllib.load(file).get("waiver", [])]


def read(paths: list[Path]) -> dict[Point, int]:
    """Counts of all points of Verilator's coverage files, added up."""
    counts: dict[Point, int] = defaultdict(int)
    for path in paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.startswith("C '"):
                continue
            text, _, count = line.rpartition("' ")
            fields = dict(_FIELD.findall(text))
            kind, _, module = fields["page"].partition("/")
            if kind in KINDS:
                what = _ENCODED.sub(lambda found: chr(int(found[1], 16)), fields.get("o", ""))
                if kind == "v_toggle":
                    if _ANONYMOUS.match(what):
                        continue
                else:
                    what = f"{what} {fields.get('S') or fields['l']}:{fields.get('n', '')}"
                counts[Point(KINDS[kind], module, what)] += int(count)
    return dict(counts)


def tally(
    counts: dict[Point, int], waivers: list[Waiver]
) -> tuple[dict[str, dict[str, Tally]], list[Waiver]]:
    """Tallies by component and kind, and the waivers that fit no uncovered point."""
    result: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    used: set[Waiver] = set()
    for point, count in sorted(counts.items(), key=lambda item: (item[0].module, item[0].what)):
        place = result[component(point.module)][point.kind]
        if count:
            place.covered += 1
            continue
        fitting = [waiver for waiver in waivers if waiver.fits(point)]
        used.update(fitting)
        if fitting:
            place.waived += 1
        else:
            place.missed.append(f"{point.module}: {point.what}")
    return result, [waiver for waiver in waivers if waiver not in used]


def component(module: str) -> str:
    """The part of the accelerator that a module of the Verilog belongs to."""
    _, *names = re.sub(r"\$\d+", "", module).split(".")
    if names[:1] == ["engine"]:
        names = names[1:] or names
    return ".".join(names[: 2 if names[:1] == ["conv"] else 1]) or module
