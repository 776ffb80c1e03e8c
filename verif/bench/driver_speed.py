# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.bench.driver_speed``: what the driver adds to its link.

A program of 2 MB goes over a simulated serial line to a simulated ``sim-tiny``, then 100 images.
The line's own limit is the time that the bytes of program, images and results take at its bit rate,
once each way, since all of them are read back. What the driver adds is the bytes of its commands,
and its CPU time: the line stands still meanwhile. (The time on the wall is printed too; on a
machine with other work it says little.)
"""

import os
import resource
import time
from dataclasses import replace
from pathlib import Path

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

__all__ = ["measure"]

MEMORY_BYTES = 4 << 20


def measure(
    *, load_bytes: int = 2_000_000, images: int = 100, baud: int = BAUD
) -> dict[str, float]:
    """Return the seconds of a load and of a run of ``images`` images, and the memory growth.

    For each of ``load`` and ``run``: ``_seconds`` on the wall, ``_limit`` of the line, ``_line``
    the time of all bytes that went over it, ``_cpu`` the driver's CPU time; the last two without
    what is done while the accelerator computes. ``growth`` is in bytes, over most of ``images``
    runs of one image without a line between. Raises ``AssertionError`` if a logit is wrong.
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
    figures: dict[str, float] = {}
    with (
        RtlDevice(library, memory_size=MEMORY_BYTES) as core,
        SerialBoard(core, baud=baud) as board,
    ):
        url = f"serial:{board.path}?baud={baud}&base={MEMORY_BASE:#x}&size={MEMORY_BYTES}&clock=1"
        with Accelerator.open(url) as accelerator:
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
    with Accelerator(RtlDevice(library, memory_size=MEMORY_BYTES)) as accelerator:
        started = time.monotonic()
        accelerator.load(program)
        figures["direct_load_seconds"] = time.monotonic() - started
        started = time.monotonic()
        for number, picture in enumerate(pictures):
            result = accelerator.run(picture[np.newaxis])
            assert np.array_equal(result.logits[0], expected[number])
            if number == images // 10:
                before = _resident()
        figures["direct_run_seconds"] = time.monotonic() - started
        figures["growth"] = _resident() - before
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


def overhead(figures: dict[str, float], name: str) -> float:
    """Commands and CPU time of the driver as a share of the line's own limit."""
    return (figures[f"{name}_line"] + figures[f"{name}_cpu"]) / figures[f"{name}_limit"] - 1


def _resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def main() -> None:
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
        f"{figures['direct_run_seconds']:.2f} s, memory grew by {figures['growth'] / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
