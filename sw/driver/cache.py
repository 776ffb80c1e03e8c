# SPDX-License-Identifier: Apache-2.0
"""A folder of things that take long to make, each under a name that stands for its content.

It is ``$XDG_CACHE_HOME/hiddenfold`` (``~/.cache/hiddenfold``) and may be deleted at any time. When
something new is kept, what has not been used for longest goes until the rest is smaller than
``$HIDDENFOLD_CACHE_GIB`` (:data:`LIMIT_GIB`).
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

#: Size in GiB above which the cache is made smaller.
LIMIT_GIB = 4.0
LIMIT_VARIABLE = "HIDDENFOLD_CACHE_GIB"
#: Seconds during which nothing that was used is removed: its user may not have opened it yet.
_SPARED = 600.0
#: `verilog-`, `simulator-` or `cocotb-`, and a hash.
_ENTRY = re.compile(r"[a-z]+-[0-9a-f]{24}")


class Entry(NamedTuple):
    """Something that is kept: its folder, size in bytes and time of last use in seconds."""

    path: Path
    size: int
    used: float


def cache_folder() -> Path:
    """Return the cache's folder, without making it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hiddenfold"


def cache_limit() -> int:
    """Return the size in bytes above which the cache is made smaller."""
    text = os.environ.get(LIMIT_VARIABLE, str(LIMIT_GIB))
    try:
        return gibibytes(text)
    except ValueError as error:
        raise ValueError(f"environment variable {LIMIT_VARIABLE} {error}") from error


def gibibytes(text: str) -> int:
    """Return the bytes of a number of GiB."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise ValueError(f"must be a number of GiB, 0 or more, not {text!r}")
    return int(value * 2**30)


def digest(*texts: str) -> str:
    """Return a short hash of some texts, for the name of what is made from them."""
    total = hashlib.sha256()
    for text in texts:
        data = text.encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:24]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache's folder ``name``; if there is none, have ``make`` fill one.

    Concurrent calls for one name wait for each other, those of other processes too. The folder
    appears complete or not at all.
    """
    root = cache_folder()
    final = root / name
    if _use(final):
        return final
    limit = cache_limit()
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{name}.lock"):
        if _use(final):
            return final
        # Verilator and make dislike blanks in paths, which the cache's own path may have.
        with tempfile.TemporaryDirectory(prefix="hiddenfold-") as scratch:
            work = Path(scratch) / name
            work.mkdir()
            make(work)
            arrived = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
            try:
                shutil.copytree(work, arrived, dirs_exist_ok=True)
                _use(arrived)
                arrived.rename(final)
            finally:
                shutil.rmtree(arrived, ignore_errors=True)
    prune(limit)
    return final


def entries() -> list[Entry]:
    """Return what is kept, the last used first, with what interrupted processes left behind."""
    found = []
    for path in _paths():
        # Another process may remove what is looked at here.
        with contextlib.suppress(OSError):
            size = sum(file.lstat().st_size for file in path.rglob("*"))
            found.append(Entry(path, size, path.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def prune(limit: int, *, spared: float = _SPARED) -> list[Entry]:
    """Remove what has not been used for longest until the rest has at most ``limit`` bytes.

    What was used in the last ``spared`` seconds stays. What interrupted processes left behind goes
    in any case. Returns what was removed.
    """
    now = time.time()
    kept, removed = 0, []
    for entry in entries():
        leftover = _ENTRY.fullmatch(entry.path.name) is None
        kept += entry.size
        if now - entry.used < spared or (kept <= limit and not leftover):
            continue
        kept -= entry.size
        # Renamed first, so that no one finds a half-empty folder under a good name.
        doomed = entry.path.with_name(f"{entry.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            entry.path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
            (entry.path.parent / f"{entry.path.name}.lock").unlink(missing_ok=True)
            removed.append(entry)
    return removed


def _paths() -> list[Path]:
    """The folders in the cache that are ours."""
    try:
        paths = list(cache_folder().iterdir())
    except OSError:
        return []
    return [path for path in paths if _ENTRY.match(path.name) and path.is_dir()]


def _use(folder: Path) -> bool:
    """Return whether a folder is there, and note that it has been used."""
    if not folder.is_dir():
        return False
    # A cache may be read-only.
    with contextlib.suppress(OSError):
        os.utime(folder)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
