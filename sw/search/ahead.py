# SPDX-License-Identifier: Apache-2.0
"""Makes batches in the background while the ones before are trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

Item = TypeVar("Item")


def ahead(make: Callable[[int], Item], numbers: Iterable[int], depth: int = 2) -> Iterator[Item]:
    """`make(number)` for each number in order; a thread makes up to `depth` more than asked for.

    What `make` raises is raised when its number's turn comes. Closing the iterator stops the
    thread.
    """
    pending: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(1, "ahead") as thread:
        try:
            for number in numbers:
                pending.append(thread.submit(make, number))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
