# SPDX-License-Identifier: Apache-2.0
"""What the driver adds to its link, on a small scale, and that the look for leaks finds some."""

import threading

import numpy as np
import pytest

from hiddenfold.verif.bench import driver_speed
from hiddenfold.verif.bench.driver_speed import (
    GROWTH,
    OBJECTS,
    left_behind,
    measure,
    overhead,
    problems,
)


def test_driver_adds_little_to_a_serial_line() -> None:
    """The bytes of a program and of images, there and back, are nearly all of the time."""
    figures = measure(load_bytes=100_000, images=60)
    # The bench judges CPU time as well, which is other work's, too, where tests run.
    assert problems(figures | {"load_cpu": 0.0, "run_cpu": 0.0}) == []
    assert figures["load_limit"] == pytest.approx(2.0, rel=1e-3)
    # Nothing was left out: all bytes of the limit went over the line, and the driver did work.
    for name in ("load", "run"):
        assert figures[f"{name}_line"] >= figures[f"{name}_limit"]
        assert figures[f"{name}_cpu"] > 0 and overhead(figures, name) > 0


def test_what_is_left_behind_is_found(tmp_path) -> None:
    kept: list[object] = []
    file = tmp_path / "file"
    file.touch()
    end = threading.Event()

    def thread() -> threading.Thread:
        found = threading.Thread(target=end.wait)
        found.start()
        return found

    left = left_behind(lambda _: np.zeros(100_000).sum(), 200)
    assert left.bytes < GROWTH and left.objects < OBJECTS
    # An image of the bench and no more.
    assert left_behind(lambda _: kept.append(bytearray(b"1" * 3000)), 100).bytes > GROWTH
    assert left_behind(lambda number: kept.append((number, f"{number:99}")), 100).objects > OBJECTS
    assert left_behind(lambda _: kept.append(file.open()), 12).files == 2
    assert left_behind(lambda _: kept.append(thread()), 12).threads == 2
    end.set()
    for item in kept:
        if isinstance(item, threading.Thread):
            item.join()
        elif hasattr(item, "close"):
            item.close()


def test_bench_fails_for_each_limit(monkeypatch, capsys) -> None:
    good = {
        **{f"{name}_limit": 1.0 for name in ("load", "run")},
        **{f"{name}_line": 1.01 for name in ("load", "run")},
        **{f"{name}_cpu": 0.03 for name in ("load", "run")},
        **{f"{name}_seconds": 1.0 for name in ("load", "run", "direct_load", "direct_run")},
        **{f"{name}_bytes": 1000.0 for name in ("runs", "sessions")},
        **{f"{name}_objects": 0.5 for name in ("runs", "sessions")},
        **{f"{name}_{kind}": 0 for name in ("runs", "sessions") for kind in ("files", "threads")},
    }
    for name, value, message in (
        ("load_cpu", 0.05, "load: the driver must add at most 5 % of the line's limit, not 6.0 %"),
        ("run_line", 1.1, "run: the driver must add at most 5 % of the line's limit, not 13.0 %"),
        ("runs_bytes", 3000.0, "runs: at most 1024 bytes may be left behind, not 3000"),
        ("runs_objects", 2.5, "runs: at most 1 objects may be left behind, not 2.5"),
        ("sessions_files", 1, "sessions: at most 0 files may be left behind, not 1"),
        ("sessions_threads", 2, "sessions: at most 0 threads may be left behind, not 2"),
    ):
        assert problems({**good, name: value}) == [message]
    for figures, code in ((good, 0), ({**good, "runs_files": 1}, 1)):
        monkeypatch.setattr(driver_speed, "measure", lambda figures=figures: figures)
        assert driver_speed.main() == code
    assert capsys.readouterr().err == "runs: at most 0 files may be left behind, not 1\n"
