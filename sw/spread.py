# SPDX-License-Identifier: Apache-2.0
"""Spreads independent pieces of work over processes, here and on other machines, with Dask.

A worker that is killed loses nothing: its piece goes to another one. A piece that takes its workers
with it each time is given back as `Died`, and the rest goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Died", "local_workers", "remote_workers", "spread"]

#: How often a piece may lose its worker before it is the piece's fault.
DEATHS = 3
#: Seconds that a scheduler, and its first worker, may take to answer.
PATIENCE = 60
#: Seconds between looks at whether there are workers.
POLL = 5
#: Seconds that a new process is given before it works.
SETTLE = 2.0
#: Seconds without any worker after which nobody waits for one any more.
GONE = 300


class Died(NamedTuple):
    """Stands for the result of a piece of work that ended its workers."""

    reason: str


@contextmanager
def local_workers(count: int) -> Iterator[Client]:
    """So many processes on this machine; those that die are replaced."""
    import dask
    from distributed import Client, LocalCluster

    settings = {"distributed.scheduler.allowed-failures": DEATHS - 1}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
        Client(cluster, timeout=PATIENCE) as client,
    ):
        yield client


@contextmanager
def remote_workers(address: str) -> Iterator[Client]:
    """The workers of a Dask scheduler at `address` (tcp://host:port).

    Raises `ValueError` when it does not answer, has no workers, or when one of them has another
    version of Hiddenfold.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"scheduler {address} does not answer: start `dask scheduler` there ({error})"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise ValueError(
                f"scheduler {address} must have at least one worker: `dask worker {address} "
                "--nthreads 1` starts one"
            ) from error
        own = version("hiddenfold")
        for worker, found in client.run(version, "hiddenfold").items():
            if found != own:
                raise ValueError(f"worker {worker} must have Hiddenfold {own}, not {found}")
        yield client


def spread(
    client: Client, function: Callable[[Any], Any], items: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Yield the number of each item with `function(item)` or `Died`, in the order of their ends.

    An exception of `function` is raised here, and `TimeoutError` when all workers stay away.
    """
    from distributed import KilledWorker, wait

    # Not pure: equal items are done as often as they are there.
    futures = client.map(partial(_piece, function), items, pure=False)
    numbers = {future: number for number, future in enumerate(futures)}
    seen = time.monotonic()  # when there were workers
    while numbers:
        try:
            done = wait(list(numbers), timeout=POLL, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            done = set()
        if client.nthreads():
            seen = time.monotonic()
        elif time.monotonic() - seen > GONE:
            raise TimeoutError(f"all workers are gone, {len(numbers)} pieces of work are left")
        for future in done:
            try:
                result = future.result(timeout=POLL)
            except TimeoutError:
                if future.status == "error":
                    raise  # it is the function's own
                continue  # its worker has died with the result: it is made again
            except KilledWorker:
                result = Died(f"it ended {DEATHS} worker processes")
            seen = time.monotonic()
            yield numbers.pop(future), result


@cache
def _settle() -> None:
    """Wait in a process's first piece of work.

    Dask replaces a process that dies, but not one that dies before Dask has seen it start.
    """
    time.sleep(SETTLE)


def _piece(function: Callable[[Any], Any], item: Any) -> Any:
    _settle()
    return function(item)
