# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.signoff.planted``: a bug in each part, and the test that catches it.

Each bug of ``planted.toml`` is planted in a copy of the sources; the quick test that it names must
pass in the copy without the bug, and fail with it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from hiddenfold.verif.signoff.outcome import write_outcome

BUGS = Path(__file__).with_name("planted.toml")
ROOT = Path(__file__).parents[2]
_FOLDERS = ("hw", "gen", "sw", "verif", "models", "targets", "docs", "configs")
#: What pytest returns when a test has failed, and nothing else was wrong.
_TESTS_FAILED = 1


@dataclass(frozen=True)
class Bug:
    """A change of ``text`` to ``planted`` in ``file``, and the tests that must see it."""

    part: str
    what: str
    file: str
    text: str
    planted: str
    test: str
    only: str


def load_bugs() -> list[Bug]:
    """The bugs."""
    with BUGS.open("rb") as file:
        return [Bug(**entry) for entry in tomllib.load(file)["bug"]]


def catches(bug: Bug, tree: Path, *, clean: bool = True) -> tuple[bool, str]:
    """Whether the test of a bug passes without it and fails with it, and the last words of pytest.

    Without ``clean`` that it passes is taken for granted. ``tree`` is a copy of the sources made by
    :func:`copy_sources`; it is left as it was.
    """
    path = tree / "hiddenfold" / bug.file
    source = path.read_text(encoding="utf-8")
    if source.count(bug.text) != 1:
        raise ValueError(
            f"{bug.file} must have {bug.text!r} once, has it {source.count(bug.text)}x"
        )
    code, text = _run(bug, tree) if clean else (0, "")
    if code != 0:
        return False, f"fails without the bug: {text}"
    path.write_text(source.replace(bug.text, bug.planted), encoding="utf-8")
    try:
        code, text = _run(bug, tree)
    finally:
        path.write_text(source, encoding="utf-8")
    return code == _TESTS_FAILED, text


def copy_sources(tree: Path) -> None:
    """Copy the sources to ``tree``, so that they go before the installed ones in ``PYTHONPATH``."""
    for folder in _FOLDERS:
        shutil.copytree(
            ROOT / folder,
            tree / "hiddenfold" / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
        )


def _run(bug: Bug, tree: Path) -> tuple[int, str]:
    tests = tree / "hiddenfold" / "verif" / "tests" / bug.test
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *("-c", os.devnull, "--rootdir", tree, tests),
            *(["-k", bug.only] if bug.only else []),
        ],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith("FAILED")]
    return result.returncode, (failed or lines or [""])[-1][:200]


def main() -> int:
    """Plant all bugs, or those of some parts; exit status 1 if one is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--quick", action="store_true", help="not without the bug")
    parser.add_argument("--json", type=Path, help="write the outcome here")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="hiddenfold-planted-") as folder:
        tree = Path(folder)
        copy_sources(tree)
        for bug in load_bugs():
            if arguments.parts and bug.part not in arguments.parts:
                continue
            began = time.monotonic()
            caught, text = catches(bug, tree, clean=not arguments.quick)
            seconds = time.monotonic() - began
            rows.append(vars(bug) | {"caught": caught, "words": text, "seconds": seconds})
            print(
                f"{bug.part}: {bug.what}: {'caught' if caught else 'NOT CAUGHT'} by {bug.test} "
                f"({seconds:.0f} s): {text}",
                flush=True,
            )
    write_outcome(arguments.json, rows)
    return int(not all(row["caught"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
