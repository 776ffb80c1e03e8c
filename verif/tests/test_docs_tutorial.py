# SPDX-License-Identifier: Apache-2.0
"""The tutorial's commands are run as they stand, but with few pictures and few epochs."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
#: What makes it quick: pattern, what is put in its place, and where.
SMALLER = (
    (r"pictures\.py 60", "pictures.py 8"),
    (
        r"hiddenfold inspect mine\.toml",
        "sed -i -E 's/epochs = [0-9]+/epochs = 1/' mine.toml; \\g<0>",
    ),
    (r"generate --target zynq-7020", "generate --target sim-tiny"),
)


def blocks(text: str, kind: str) -> list[str]:
    """The contents of the fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_tutorial(tmp_path):
    text = (DOCS / "tutorial.md").read_text("utf-8")
    (script,) = blocks(text, "python")
    (tmp_path / "pictures.py").write_text(script)
    lines = "".join(blocks(text, "console")).splitlines()
    assert all(line.startswith("$ ") for line in lines)
    commands = "\n".join(line.removeprefix("$ ") for line in lines)
    for pattern, smaller in SMALLER:
        commands, count = re.subn(pattern, smaller, commands)
        assert count == 1, pattern
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-exuo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = result.stdout
    assert "25 pictures for training and 7 for tests, of 4 classes" in found
    assert "runs/mine: 1 of 1 epochs" in found
    names = re.findall(r"^(\S+/000\.png) .* yes$", found, re.MULTILINE)
    assert names == ["circle/000.png", "cross/000.png"], found
    for name in ("build/zynq/hiddenfold.v", "mine.hfp", "out/report/index.html"):
        assert (tmp_path / name).is_file(), name
