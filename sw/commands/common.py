# SPDX-License-Identifier: Apache-2.0
"""What the commands share: results, argument kinds, pictures, tables, progress."""

import argparse
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hiddenfold.sw.colour import faint, plain, strong
from hiddenfold.sw.ranking import ranking

__all__ = [
    "MODELS",
    "Outcome",
    "add_batch",
    "add_command",
    "add_target",
    "add_waves",
    "at_least",
    "default_model",
    "format_bytes",
    "format_table",
    "installed_version",
    "positive",
    "top5",
]

#: Models that come with Hiddenfold, in the source tree and in an installed wheel.
MODELS = Path(__file__).resolve().parents[2] / "models"


@dataclass(frozen=True)
class Outcome:
    """What a command found: the fields of ``--json``, the same for people, and the exit code."""

    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    code: int = 0


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--batch``."""
    parser.add_argument(
        "--batch",
        metavar="B",
        type=at_least(1),
        default=1,
        help="images that the accelerator works on together; cycles and bytes are then the mean "
        "over them (default: 1)",
    )


def add_target(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the option ``--target``, which must be given unless there is a `default`."""
    note = f" (default: {default})" if default else ""
    parser.add_argument(
        "--target",
        metavar="T",
        default=default,
        required=default is None,
        help=f"name or TOML file{note}",
    )


def add_waves(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--waves``."""
    parser.add_argument(
        "--waves",
        metavar="FILE.fst",
        type=_waves,
        help="write the waveform of the simulated accelerator, with files that show it in "
        "GTKWave (.gtkw) and Surfer (.sucl); slow and large",
    )


def _waves(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".fst":
        raise argparse.ArgumentTypeError(f"must be the name of an .fst file, not {text!r}")
    return path


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], Outcome],
    help: str,
    *,
    example: str | Sequence[str],
    detail: str = "",
) -> argparse.ArgumentParser:
    """Add a command with the options that every command has; returns its parser."""
    examples = [example] if isinstance(example, str) else list(example)
    title = "example" if len(examples) == 1 else "examples"
    parser = commands.add_parser(
        name,
        help=help,
        description=textwrap.fill(f"{help[0].upper()}{help[1:]}. {detail}".rstrip(), 78),
        epilog="\n  ".join([f"{title}:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run, command=name)
    return parser


def at_least(low: int) -> Callable[[str], int]:
    """Kind of argument: an integer from ``low`` on."""

    def integer(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"must be an integer of {low} or more, not {text!r}")
        return value

    return integer


def positive(text: str) -> float:
    """Kind of argument: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def default_model() -> Path:
    """The shipped model."""
    found = sorted(MODELS.glob("*.hfn"))
    if not found:
        raise ValueError(f"no model in {MODELS}: name one, or make one with `hiddenfold export`")
    return found[0]


def installed_version() -> str:
    """Version of the installed package, "" when there is none."""
    try:
        return version("hiddenfold")
    except PackageNotFoundError:
        return ""


def top5(logits: ArrayLike, classes: Sequence[str]) -> list[list[Any]]:
    """The five best ``[label, logit]``, best first, ties to the lower label (spec section 4.5)."""
    values = np.asarray(logits)
    return [[classes[label], int(values[label])] for label in ranking(values)]


def format_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A text table; columns of numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(head, *cells, strict=True))
    widths = [max(len(plain(cell)) for cell in column) for column in columns]
    right = [
        len(column) > 1 and all(re.fullmatch(r"-|[-\d.,]+", plain(cell)) for cell in column[1:])
        for column in columns
    ]

    def line(row: Sequence[str]) -> str:
        parts = []
        for cell, width, flush in zip(row, widths, right, strict=True):
            blank = " " * (width - len(plain(cell)))
            parts.append(blank + cell if flush else cell + blank)
        return "  ".join(parts).rstrip()

    rule = faint("  ".join("-" * width for width in widths))
    return "\n".join([strong(line(head)), rule, *map(line, cells)])


def format_bytes(count: float) -> str:
    """``1234567`` as ``1.23 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
