# SPDX-License-Identifier: Apache-2.0
"""Progress bars with the time that is left."""

import contextlib
import sys
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
