# SPDX-License-Identifier: Apache-2.0
"""The files of a run.

`config.json` (the configuration), `log.csv` (a line per epoch), TensorBoard events when
TensorBoard is installed, and `checkpoint.pt`, replaced atomically.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.search.nets import FoldedResNet
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.state import Row, Search

__all__ = ["RunDirectory", "load_run", "origin"]

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.json"
LOG = "log.csv"
_COLUMNS = ["epoch", "size", "lr", "train_loss", "train_top1", "top1", "top5", "seconds"]


class RunDirectory:
    """Writes the files of a run; `ValueError` when `path` is not as `resume` needs it."""

    def __init__(self, path: str | Path, resume: bool) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / CHECKPOINT
        if self.checkpoint.exists() and not resume:
            raise ValueError(f"{path} already holds a run; resume it or choose another directory")
        if resume and not self.checkpoint.exists():
            raise ValueError(f"{path} holds no checkpoint to resume from")
        self._writer: Any = None

    def open(self, config: SearchConfig) -> None:
        """Make the directory; a new one gets its configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.exists():
            text = json.dumps(config.to_dict(), indent=2) + "\n"
            write_atomically(self.path / CONFIG, text.encode())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(self.path))

    def write(self, search: Search) -> None:
        """Write the checkpoint and the log."""
        search.save(self.checkpoint)
        lines = [",".join(_COLUMNS)]
        lines += [",".join(f"{row[key]:.6g}" for key in _COLUMNS) for row in search.log]
        write_atomically(self.path / LOG, ("\n".join(lines) + "\n").encode())

    def chart(self, row: Row) -> None:
        """Add a line of the log to the TensorBoard events."""
        if self._writer is not None:
            for key in _COLUMNS[2:]:
                if not math.isnan(row[key]):
                    self._writer.add_scalar(key, row[key], row["epoch"])

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if self._writer is not None:
            self._writer.close()


def load_run(run_dir: str | Path) -> tuple[SearchConfig, FoldedResNet, list[Row]]:
    """Configuration, trained network (evaluation mode, float32, CPU) and log of a run."""
    search = _load(Path(run_dir))
    return search.config, search.result.eval(), search.log


def origin(run_dir: str | Path) -> str:
    """What a run started from, in words; "" for a new search."""
    return _load(Path(run_dir)).origin


def _load(run: Path) -> Search:
    for name in (CONFIG, CHECKPOINT):
        if not (run / name).is_file():
            raise ValueError(f"{run} is not a run directory: it has no {name}")
    try:
        config = parse_config(json.loads((run / CONFIG).read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{run / CONFIG}: {error}") from error
    search = Search(config, "cpu")
    search.load(run / CHECKPOINT)
    return search
