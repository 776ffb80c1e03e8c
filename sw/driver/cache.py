# SPDX-License-Identifier: Apache-2.0
"""A folder of things that take long to make, each under a name that stands for its content.

It is ``$XDG_CACHE_HOME/hiddenfold`` (``~/.cache/hiddenfold``) and may be deleted at any time.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache's folder, without making it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hiddenfold"


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
    if final.is_dir():
        return final
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{name}.lock"):
        if final.is_dir():
            return final
        # Verilator and make dislike blanks in paths, which the cache's own path may have.
        with tempfile.TemporaryDirectory(prefix="hiddenfold-") as scratch:
            work = Path(scratch) / name
            work.mkdir()
            make(work)
            arrived = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
            try:
                shutil.copytree(work, arrived, dirs_exist_ok=True)
                arrived.rename(final)
            finally:
                shutil.rmtree(arrived, ignore_errors=True)
    return final


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
