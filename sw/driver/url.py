# SPDX-License-Identifier: Apache-2.0
"""Options in device URLs: ``serial:/dev/ttyUSB0?baud=115200&size=32M``."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def number(text: str) -> int:
    """An integer from 0 on, decimal or hexadecimal, with k, M or G for powers of 1024."""
    match = re.fullmatch(r"(0x[0-9a-f]+|[0-9]+)([kmg]?)", text.strip().lower())
    if match is None:
        raise ValueError("a number such as 4096, 0x1000 or 4k")
    return int(match[1], 16 if match[1].startswith("0x") else 10) * _UNITS[match[2]]


def switch(text: str) -> bool:
    """``on`` or ``off``."""
    if text not in ("on", "off"):
        raise ValueError("on or off")
    return text == "on"


def megahertz(text: str) -> float:
    """A frequency above 0 in MHz."""
    return _positive(text, "a frequency above 0 and below 100000, in MHz")


def seconds(text: str) -> float:
    """A time above 0 in seconds."""
    return _positive(text, "a time above 0 and below 100000, in seconds")


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e5:
        raise ValueError(what)
    return value


def split_url(
    scheme: str,
    rest: str,
    kinds: Mapping[str, Callable[[str], Any]],
    options: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return what stands before ``?`` and the options after it.

    ``kinds`` gives the allowed options and what reads them; it raises ``ValueError`` with what it
    would take. ``options`` are those of the call, which win and are read in the same way, but for
    None, which is no option. Raises ``ValueError`` for others.
    """
    place, _, query = rest.partition("?")
    found: dict[str, Any] = {}

    def read(key: str, text: str) -> None:
        try:
            found[key] = kinds[key](text)
        except ValueError as error:
            raise ValueError(
                f"option {key} of a {scheme}: URL must be {error}, not {text!r}"
            ) from error

    for item in filter(None, query.split("&")):
        key, equals, text = item.partition("=")
        if key not in kinds or not equals:
            raise ValueError(
                f"option of a {scheme}: URL must be one of {', '.join(kinds)} and have a value, "
                f"as in {scheme}:{place}?{next(iter(kinds))}=..., not {item!r}"
            )
        read(key, text)
    unknown = sorted(set(options) - set(kinds))
    if unknown:
        raise ValueError(
            f"option of a {scheme}: device must be one of {', '.join(kinds)}, not {unknown[0]!r}"
        )
    for key, value in options.items():
        if value is not None:
            read(key, ("off", "on")[value] if isinstance(value, bool) else str(value))
    return place, found
