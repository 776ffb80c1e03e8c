# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.bench.driver_speed``: what the driver adds to its link.

A program of 2 MB goes over a simulated serial line to a simulated ``sim-tiny``, then 100 images.
The line's own limit is the time that the bytes of program, images and results take at its bit rate,
once each way, since all of them are read back. What the driver adds is the bytes of its commands,
and its CPU time: the line stands still meanwhile. (The time on the wall is printed too; on a
machine with other work it says little.)

After that, images one by one and accelerators opened, loaded, run and closed one after the other
must leave nothing behind: no memory, no object, no open file, no thread. The exit code is 1 if the
driver adds more than ``MOST`` of the line's limit, or if anything is left.
"""

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.rtl import MEMORY_BASE, RtlDevice
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.sw.driver.uart import BAUD
from hiddenfold.verif.bench.boards import SerialBoard
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image

__all__ = ["Left", "left_behind", "measure", "overhead", "problems"]

MEMORY_BYTES = 4 << 20
#: Share of the line's limit that the driver may add.
MOST = 0.05
#: Bytes that memory may grow by in each of the repeated actions: less than an image takes.
GROWTH = 1024
#: Small objects that may be left by each of them.
OBJECTS = 1
#: Repetitions before memory is looked at: caches and the allocator's pools fill.
_WARM = 10


def measure(
    *, load_bytes: int = 2_000_000, images: int = 100, baud: int = BAUD
) -> dict[str, float]:
    """Return the seconds of a load and of a run of ``images`` images, and the memory growth.

    For each of ``load`` and ``run``: ``_seconds`` on the wall, ``_limit`` of the line, ``_line``
    the time of all bytes that went over it, ``_cpu`` the driver's CPU time; the last two without
    what is done while the accelerator computes. Then, without a line between, ``direct_`` seconds
    of a load and of ``images`` runs of one image. For these ``runs`` and as many ``sessions``
    (opened, loaded, run and closed) what :class:`Left` has. Raises ``AssertionError`` if a logit is
    wrong.
    """
    target, model = Target.load("sim-tiny"), small_model()
    rng = np.random.default_rng(1)
    program = compile_model(model, target)
    missing = -(-load_bytes // 64) * 64 - len(program.memory)
    program = replace(program, memory=program.memory + rng.bytes(max(0, missing)))
    pictures = np.stack([random_image(rng, HEIGHT, WIDTH) for _ in range(images)])
    expected = Golden(model).run(pictures)
    library = simulator_library(
        target_verilog(target, print), bus_bits=target.bus_bits, trace=False, log=print
    )
    place = f"base={MEMORY_BASE:#x}&size={MEMORY_BYTES}&clock=1"
    figures: dict[str, float] = {}
    with (
        RtlDevice(library, memory_size=MEMORY_BYTES) as core,
        SerialBoard(core, baud=baud) as board,
    ):
        with Accelerator.open(f"serial:{board.path}?baud={baud}&{place}") as accelerator:
            meter = _Meter(board, accelerator)
            each = HEIGHT * program.pitch + program.output_bytes
            for name, size, action in (
                ("load", len(program.memory), lambda: accelerator.load(program)),
                ("run", images * each, lambda: accelerator.run(pictures)),
            ):
                started, first = time.monotonic(), meter.read()
                result = action()
                figures[f"{name}_seconds"] = time.monotonic() - started
                moved, cpu = meter.read() - first
                figures |= {f"{name}_limit": 2 * 10 * size / baud}
                figures |= {f"{name}_line": 10 * moved / baud, f"{name}_cpu": cpu}
            assert result is not None and np.array_equal(result.logits, expected)

    def right(accelerator: Accelerator, number: int) -> None:
        result = accelerator.run(pictures[number : number + 1])
        assert np.array_equal(result.logits[0], expected[number])

    def session(number: int) -> None:
        with (
            SerialBoard(core) as board,
            Accelerator.open(f"serial:{board.path}?{place}") as accelerator,
        ):
            accelerator.load(program)
            right(accelerator, number)

    with Accelerator(RtlDevice(library, memory_size=MEMORY_BYTES)) as accelerator:
        started = time.monotonic()
        accelerator.load(program)
        figures["direct_load_seconds"] = time.monotonic() - started
        started = time.monotonic()
        left = left_behind(lambda number: right(accelerator, number), images)
        figures["direct_run_seconds"] = time.monotonic() - started
    figures |= {f"runs_{name}": value for name, value in left._asdict().items()}
    with RtlDevice(library, memory_size=MEMORY_BYTES) as core:
        left = left_behind(session, images)
    figures |= {f"sessions_{name}": value for name, value in left._asdict().items()}
    return figures


class _Meter:
    """Bytes on the line and CPU time of this thread, but for those while a run is waited for."""

    def __init__(self, board: SerialBoard, accelerator: Accelerator):
        self._board = board
        self._waited = np.zeros(2)
        control = accelerator._control
        plain = control.wait

        def wait(*arguments) -> None:
            before = self._now()
            plain(*arguments)
            self._waited += self._now() - before

        control.__dict__["wait"] = wait

    def read(self) -> np.ndarray:
        """Bytes and seconds so far."""
        return self._now() - self._waited

    def _now(self) -> np.ndarray:
        return np.array([self._board.received + self._board.sent, time.thread_time()])


class Left(NamedTuple):
    """What a repeated action leaves behind.

    Each time: bytes of the C library's heap and small objects of Python, which are not in it; of
    all times: open files and threads.
    """

    bytes: float
    objects: float
    files: int
    threads: int


def left_behind(action: Callable[[int], object], times: int) -> Left:
    """Do ``action`` with the numbers 0 .. ``times`` - 1 (more than 10) and see what it leaves."""
    for number in range(_WARM):
        action(number)
    before = _held()
    for number in range(_WARM, times):
        action(number)
    heap, objects, files, threads = (now - then for now, then in zip(_held(), before, strict=True))
    return Left(heap / (times - _WARM), objects / (times - _WARM), files, threads)


class _Heap(ctypes.Structure):
    """``struct mallinfo2`` of the C library."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _held() -> tuple[int, int, int, int]:
    """Bytes, small objects, open files and threads that this process has."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Heap
    heap = mallinfo()
    files = len(os.listdir("/proc/self/fd"))
    used = heap.uordblks + heap.hblkhd
    return used, sys.getallocatedblocks(), files, threading.active_count()


def overhead(figures: dict[str, float], name: str) -> float:
    """Commands and CPU time of the driver as a share of the line's own limit."""
    return (figures[f"{name}_line"] + figures[f"{name}_cpu"]) / figures[f"{name}_limit"] - 1


def problems(figures: dict[str, float]) -> list[str]:
    """Return what is not as it must be, in words."""
    found = []
    for name in ("load", "run"):
        if overhead(figures, name) > MOST:
            found.append(
                f"{name}: the driver must add at most {100 * MOST:g} % of the line's limit, not "
                f"{100 * overhead(figures, name):.1f} %"
            )
    for name in ("runs", "sessions"):
        limits = {"bytes": GROWTH, "objects": OBJECTS, "files": 0, "threads": 0}
        for kind, limit in limits.items():
            if figures[f"{name}_{kind}"] > limit:
                found.append(
                    f"{name}: at most {limit} {kind} may be left behind, not "
                    f"{figures[f'{name}_{kind}']:g}"
                )
    return found


def main() -> int:
    """Print the figures."""
    print(f"load {os.getloadavg()[0]:.1f}")
    figures = measure()
    for name, what in (("load", "a program of 2 MB"), ("run", "100 images")):
        print(
            f"serial line of {BAUD / 1e6:g} Mbaud, {what}: limit {figures[f'{name}_limit']:.2f} s, "
            f"with commands {figures[f'{name}_line']:.2f} s, CPU {figures[f'{name}_cpu']:.2f} s: "
            f"the driver adds {100 * overhead(figures, name):.1f} % (on the wall "
            f"{figures[f'{name}_seconds']:.2f} s, simulation included)"
        )
    print(
        f"without a line: loaded in {figures['direct_load_seconds']:.3f} s, 100 inferences in "
        f"{figures['direct_run_seconds']:.2f} s"
    )
    for name in ("runs", "sessions"):
        print(
            f"left behind by 100 {name}: {figures[f'{name}_bytes']:.0f} bytes and "
            f"{figures[f'{name}_objects']:.2f} objects each, "
            f"{figures[f'{name}_files']} files, {figures[f'{name}_threads']} threads"
        )
    found = problems(figures)
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
