# SPDX-License-Identifier: Apache-2.0
"""Progress of what takes long, on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(total: int | None, text: str) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr; yields what advances it.

    ``total`` is None where it is not known. There is no bar where stderr is not a terminal, and
    without the package tqdm.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda _: None
    else:
        with tqdm(total=total, desc=text, file=sys.stderr, delay=0.3, disable=None) as bar:
            yield bar.update


#: Seconds between two lines where they cannot be written over each other.
_RARELY = 60.0


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Lines of text on stderr; yields what tells one.

    ``NAME: TEXT`` replaces what was told of NAME before on a terminal; elsewhere a line comes when
    NAME is another, or once a minute.
    """
    terminal = sys.stderr.isatty()
    name, last = "", 0.0

    def tell(text: str) -> None:
        nonlocal name, last
        found, now = text.partition(":")[0], time.monotonic()
        if terminal:
            print(
                "" if found == name else "\n",
                f"\r\x1b[K{text[:110]}",
                sep="",
                end="",
                file=sys.stderr,
            )
        elif found != name or now - last >= _RARELY or "done" in text:
            last = now
            print(text, file=sys.stderr)
        name = found
        sys.stderr.flush()

    try:
        yield tell
    finally:
        if terminal and name:
            print(file=sys.stderr)
