# SPDX-License-Identifier: Apache-2.0
"""`verify` on many workers: the same networks and the same report, whoever did what and when."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.spread import Died, local_workers, remote_workers, spread
from hiddenfold.sw.verify import verify

__all__ = ["verify_spread"]


def verify_spread(
    target: str,
    seed: int,
    count: int,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    failures: Path | None = None,
    tick: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Compare `count` random networks as `verify` does, each as one piece of work.

    `workers` processes are started here, or the workers of the Dask `scheduler` (an address) are
    taken, which see this machine's files if `target` is one. A network that ends its workers counts
    as a mismatch. `failures` is as in `verify`.
    """
    if (workers is None) == (scheduler is None):
        raise ValueError("verify needs either a number of workers or a scheduler")
    if workers is not None:
        # Built once, here, so that the workers find it.
        Accelerator.open(f"rtl:{target}").close()
    place = local_workers(workers) if workers else remote_workers(str(scheduler))
    numbers = range(seed, seed + count)
    results: dict[int, dict[str, Any]] = {}
    with place as client:
        for index, found in spread(client, partial(_one, target, failures), numbers):
            results[index] = (
                found if isinstance(found, dict) else _dead(target, seed + index, found)
            )
            tick(1)
    ordered = [results[index] for index in range(count)]
    firsts = (one["first_mismatch"] for one in ordered)
    return {
        **{key: sum(one[key] for one in ordered) for key in _SUMS},
        "first_mismatch": next((first for first in firsts if first), None),
        "seed": seed,
    }


_SUMS = ("networks", "layers", "values_compared", "mismatches")


def _one(target: str, failures: Path | None, number: int) -> dict[str, Any]:
    return verify(target, number, count=1, failures=failures)


def _dead(target: str, number: int, died: Died) -> dict[str, Any]:
    """The report of a network that nobody could finish."""
    again = f"hiddenfold verify --target {target} --seed {number} --count 1"
    text = f"network random-{number}: {died.reason} (repeat: {again})"
    return dict.fromkeys(_SUMS, 0) | {"networks": 1, "mismatches": 1, "first_mismatch": text}
