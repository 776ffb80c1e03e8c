# SPDX-License-Identifier: Apache-2.0
"""Colours of the text for people, where the reader is a terminal that wants them.

Commands colour what they like; the command line takes the colours out again (:func:`plain`) unless
:func:`wanted`. ``NO_COLOR`` (https://no-color.org), ``TERM=dumb`` and any output that is not a
terminal switch them off, ``FORCE_COLOR`` switches them on.
"""

import os
import re
from typing import TextIO

_CODES = re.compile(r"\x1b\[[0-9;]*m")


def good(text: str) -> str:
    """Green."""
    return f"\x1b[32m{text}\x1b[0m"


def bad(text: str) -> str:
    """Red, bold."""
    return f"\x1b[1;31m{text}\x1b[0m"


def faint(text: str) -> str:
    """Less bright."""
    return f"\x1b[2m{text}\x1b[0m"


def strong(text: str) -> str:
    """Bold."""
    return f"\x1b[1m{text}\x1b[0m"


def plain(text: str) -> str:
    """The text without colours."""
    return _CODES.sub("", text)


def wanted(stream: TextIO) -> bool:
    """Whether text for ``stream`` is to have colours."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()
