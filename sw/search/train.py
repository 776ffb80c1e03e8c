# SPDX-License-Identifier: Apache-2.0
"""The supermask search, from a configuration to a run directory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hiddenfold.sw.search.data import Split, hold_out, load_data
from hiddenfold.sw.search.distributed import start
from hiddenfold.sw.search.loss import Loss
from hiddenfold.sw.search.memory import keep_freed_memory
from hiddenfold.sw.search.nets import FoldedResNet
from hiddenfold.sw.search.run_directory import RunDirectory, load_run
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.state import Row, Search
from hiddenfold.sw.search.warm_start import warm_start

__all__ = ["train"]


def train(
    config: SearchConfig,
    data_dir: str | Path,
    out_dir: str | Path,
    resume: bool = False,
    device: str = "cpu",
    data: tuple[Split, Split] | None = None,
    start_from: str | Path | None = None,
    minutes: float | None = None,
) -> Row:
    """Run a search and return the last line of the log (empty before the first epoch's end).

    With `resume` a run continues from its last checkpoint and gives the same result as one that
    was never interrupted (on the same machine); without it, a directory that already holds a
    checkpoint is refused. A new run starts from the model or run `start_from`, when one is given
    (see `warm_start`). After `minutes` the search stops, within an epoch if need be, with a
    checkpoint, but not before its first step. `data` (training and test split) replaces the data
    of `data_dir`. Under `torchrun` the processes share every batch, and the first one writes the
    run.
    """
    stop = _deadline(minutes)
    if resume and start_from is not None:
        raise ValueError(
            f"a run that is resumed has its own scores: resume it, or start one from {start_from}"
        )
    run = RunDirectory(out_dir, resume)
    ranks, device = start(device)
    if device == "cpu":
        keep_freed_memory()
    if data is None:
        data = load_data(config, data_dir)
        if config.train.held_out:
            data = hold_out(data[0], config.train.held_out)
    training, test = (split.to(device) for split in data)
    search = Search(config, device, ranks)
    if config.train.teacher:
        search.loss = Loss(config.train, _teacher(config, search.device))
    if resume:
        search.load(run.checkpoint)
    elif start_from is not None:
        warm_start(search, start_from, training)
    # Nobody goes on before all have seen whether there is a checkpoint.
    ranks.wait()
    writes = ranks.rank == 0
    if writes:
        run.open(config)
    stopped = False
    while search.epoch < config.train.epochs and not stopped:
        row = search.run_epoch(training, test, stop)
        if writes:
            run.write(search)
            if row is not None:
                run.chart(row)
        stopped = row is None or ranks.agreed(stop(), search.device)
    # Nobody returns, and reads the run again, before it is written.
    ranks.wait()
    run.close()
    return dict(search.log[-1]) if search.log else {}


def _deadline(minutes: float | None) -> Callable[[], bool]:
    """Whether `minutes` have passed since this call; never, for None."""
    end = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    return lambda: time.monotonic() >= end


def _teacher(config: SearchConfig, device: torch.device) -> FoldedResNet:
    """The network of the run `train.teacher`."""
    found, network, _ = load_run(config.train.teacher)
    if found.model.classes != config.model.classes:
        raise ValueError(
            f"{config.train.teacher}: key 'model.classes' of a teacher must be "
            f"{config.model.classes}, not {found.model.classes}"
        )
    return network.to(device)
