# SPDX-License-Identifier: Apache-2.0
"""Two processes search the same masks as one with the same batch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_sw_search_train import synthetic, tiny_config

from hiddenfold.sw.search.data import Split
from hiddenfold.sw.search.distributed import ALONE, Ranks
from hiddenfold.sw.search.nets import conv_layers
from hiddenfold.sw.search.run_directory import load_run
from hiddenfold.sw.search.state import Search
from hiddenfold.sw.search.train import train

SECONDS = 400

# Searches until it is stopped in the middle of the second epoch, then resumes.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_sw_search_distributed import config, data
from hiddenfold.sw.search import state, train
from hiddenfold.sw.search.distributed import finish

state._SHOW_EVERY = 2
answers = iter([False, False, True])  # after step 2 and the end of an epoch, and step 2
train._deadline = lambda minutes: lambda: next(answers, True)
row = train.train(config(), "", sys.argv[2], data=data(), minutes=1.0)
assert row["epoch"] == 1, row
train._deadline = lambda minutes: lambda: False
train.train(config(), "", sys.argv[2], resume=True, data=data())
finish()
"""


def config():
    # In bf16 the rounding of parts and wholes would differ by more than what is compared.
    changes = {"phases": [{"epochs": 2, "size": 16}], "warmup": 0.0, "precision": "fp32"}
    return tiny_config(**changes, lr=0.1, mixup=0.5, average=0.5)


def data() -> tuple[Split, Split]:
    return synthetic(96, 1), synthetic(21, 2)


def test_two_processes_search_the_same_masks(tmp_path: Path) -> None:
    train(config(), "", tmp_path / "one", data=data())
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [sys.executable, *launch, program, Path(__file__).parent, tmp_path / "two"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    # Whole: what went wrong first says more than the launcher's summary at the end.
    assert result.returncode == 0, result.stderr
    one, two = load_run(tmp_path / "one"), load_run(tmp_path / "two")
    start = Search(config(), "cpu").model
    for (name, a), (_, b), (_, c) in zip(
        conv_layers(one[1]), conv_layers(two[1]), conv_layers(start), strict=True
    ):
        assert torch.allclose(a.scores, b.scores, atol=1e-5), name
        assert float((a.mask() != b.mask()).float().mean()) < 0.002, name
        # That is much closer than where they came from.
        assert float((a.scores - c.scores).detach().abs().max()) > 1e-3, name
    for a, b in zip(one[1].buffers(), two[1].buffers(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-4, rtol=1e-4)
    assert len(two[2]) == 2
    for a, b in zip(one[2], two[2], strict=True):
        for key in ("epoch", "size", "lr", "train_loss", "train_top1", "top1", "top5"):
            assert a[key] == pytest.approx(b[key], rel=1e-3), key
    lines = (tmp_path / "two" / "log.csv").read_text().splitlines()
    assert len(lines) == 3


def test_parts_of_a_batch() -> None:
    assert ALONE.part(32) == slice(0, 32)
    assert [Ranks(rank, 4).part(32) for rank in (0, 1, 3)] == [
        slice(0, 8),
        slice(8, 16),
        slice(24, 32),
    ]
    message = "Key 'train.batch' must be a multiple of 3, the number of processes, not 32"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Search(config(), "cpu", Ranks(0, 3))
    message = (
        "Key 'train.batch' must be a multiple of 64, twice the number of processes as images are "
        "mixed in pairs, not 32"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Search(config(), "cpu", Ranks(0, 32))
