# SPDX-License-Identifier: Apache-2.0
"""Runs numbered inputs through a reader and watches time, memory and errors.

A number makes an input: the same one on each machine, whatever ran before it.
"""

from __future__ import annotations

import resource
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hiddenfold.verif.fuzz.kinds import Kind

__all__ = ["Findings", "campaign"]

#: Seconds of processor time for one input.
SECONDS = 10
#: Address space that reading may take on top of what the process has, in bytes.
MEMORY = 1 << 30
#: Longest text of an error.
LINE = 1000


class Hang(Exception):
    """An input takes too long. No reader catches it by accident."""


@dataclass
class Findings:
    """What came of a number of inputs; `slowest` in seconds, `peak` in bytes of growth."""

    inputs: int = 0
    accepted: int = 0
    slowest: float = 0.0
    peak: int = 0
    found: list[str] = field(default_factory=list)


def campaign(name: str, kind: Kind, first: int, count: int) -> Findings:
    """Read the inputs `first` to `first + count - 1` of a kind."""
    result = Findings(inputs=count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _limits():
        for number in range(first, first + count):
            data = kind.make(Random(f"{name} {number}"))
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                error = _read(kind, data)
            except Hang:
                error = f"longer than {SECONDS} s"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            result.slowest = max(result.slowest, time.process_time() - start)
            if error is None:
                result.accepted += 1
            elif error:
                result.found.append(f"{name} {number}: {error}")
    result.peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return result


def _read(kind: Kind, data: Any) -> str | None:
    """None when the input is accepted, "" when it is refused as it should be, else a finding."""
    try:
        kind.read(data)
    except kind.errors as error:
        text = str(error)
        if not text or "\n" in text or len(text) > LINE:
            return f"error text of {len(text)} characters: {text[:200]!r}"
        return ""
    except Hang:
        raise
    except Exception as error:  # everything else is what is looked for
        return f"{type(error).__name__}: {error!s:.200}"
    return None


@contextmanager
def _limits() -> Iterator[None]:
    """Bound the memory, make the timer raise `Hang`, and keep warnings of decoders quiet."""

    def stop(*_: object) -> None:
        raise Hang

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, handler)
