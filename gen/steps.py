# SPDX-License-Identifier: Apache-2.0
"""Long work in steps whose results are kept in a folder and made again only when inputs change."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hiddenfold.gen.tools import ToolError

__all__ = ["Steps", "run_logged"]

#: File that says what a step's folder was made from; a folder without it is not used.
_STAMP = "step.json"
#: Seconds between two looks at a running program, and between two calls of ``progress``.
_LOOK, _TELL = 0.2, 5.0
#: Characters of a log that are told when its program fails.
_TAIL = 3000

#: Called with a line of text about what is going on.
Progress = Callable[[str], None]


@dataclass
class Steps:
    """A folder with one folder for each step.

    A step's folder appears complete or not at all; ``seconds`` has what each step took when it was
    made, ``kept`` the names of those that were up to date.
    """

    folder: Path
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, progress: Progress) -> Iterator[Steps]:
        """Take a folder for the time of a ``with``; ``ToolError`` when another process has it."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ToolError(f"another build is at work in {folder}: wait for it") from None
            for left in folder.glob(".step-*"):
                shutil.rmtree(left)
            yield cls(folder, progress)

    def run(self, name: str, inputs: Sequence[str | Path], make: Callable[[Path], object]) -> Path:
        """Return the folder of a step; have ``make`` fill an empty one if ``inputs`` changed.

        ``inputs`` are texts and files whose contents decide what comes out.
        """
        place = self.folder / name
        key = _digest(inputs)
        stamp = _read_stamp(place / _STAMP)
        if stamp.get("key") == key:
            self.progress(f"{name}: up to date")
            self.kept.append(name)
        else:
            started = time.monotonic()
            self.progress(f"{name}: started")
            work = Path(tempfile.mkdtemp(prefix=".step-", dir=self.folder))
            try:
                make(work)
                stamp = {"key": key, "seconds": round(time.monotonic() - started, 1)}
                (work / _STAMP).write_text(json.dumps(stamp) + "\n")
                work.chmod(0o755)
                if place.exists():
                    # Without its stamp what an interrupt leaves is worth nothing.
                    (place / _STAMP).unlink(missing_ok=True)
                    shutil.rmtree(place)
                work.rename(place)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            self.progress(f"{name}: done in {stamp['seconds']:.0f} s")
        self.seconds[name] = stamp["seconds"]
        return place


def run_logged(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    log: Path,
    progress: Progress,
    name: str,
    until: Path | None = None,
) -> None:
    """Run a program with its output in a file, and tell the last line of it now and then.

    It is ended, and all is well, when there is the file ``until``.
    Raises :class:`~hiddenfold.gen.tools.ToolError` with the end of the log when it fails. It does
    not outlive an exception in this process.
    """
    started = told = time.monotonic()
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise ToolError(f"{command[0]} cannot be started: {error}") from error
        try:
            while process.poll() is None:
                if until is not None and until.exists():
                    return
                time.sleep(_LOOK)
                now = time.monotonic()
                if now - told >= _TELL:
                    told = now
                    progress(f"{name}: {now - started:.0f} s {_last_line(log)}".rstrip())
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        text = log.read_text(errors="replace")[-_TAIL:].strip()
        raise ToolError(
            f"{name} failed with exit status {process.returncode} (all in {log}):\n{text}"
        )


def _digest(inputs: Sequence[str | Path]) -> str:
    total = hashlib.sha256()
    for item in inputs:
        data = item.read_bytes() if isinstance(item, Path) else item.encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def _read_stamp(path: Path) -> dict:
    try:
        stamp = json.loads(path.read_text())
        return stamp if isinstance(stamp["key"], str) and stamp["seconds"] >= 0 else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _last_line(path: Path) -> str:
    """The last whole line at the end of a file, or ""."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 500))
        lines = [line for line in file.read().decode(errors="replace").split("\n") if line.strip()]
    return lines[-1].strip() if lines else ""
