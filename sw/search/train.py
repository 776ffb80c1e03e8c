# SPDX-License-Identifier: Apache-2.0
"""The supermask search: training loop, log and checkpoints.

A run directory holds `config.json` (the configuration), `log.csv` (a line per epoch), TensorBoard
events when TensorBoard is installed, and `checkpoint.pt` (after every epoch, replaced atomically).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from hiddenfold.sw.search.config import SearchConfig, TrainConfig, parse_config
from hiddenfold.sw.search.data import Split, augment, batches, load_split, resize, to_float
from hiddenfold.sw.search.nets import FoldedResNet
from hiddenfold.sw.search.supermask import MaskedConv2d

__all__ = ["accuracy", "learning_rate_factor", "load_run", "refresh_batch_norms", "train"]

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.json"
LOG = "log.csv"
# Training images for `refresh_batch_norms`.
REFRESH_IMAGES = 5120
_COLUMNS = ["epoch", "size", "lr", "train_loss", "train_top1", "top1", "top5", "seconds"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def learning_rate_factor(config: TrainConfig, progress: float) -> float:
    """Factor on the learning rate after `progress` epochs: linear warm-up, then a cosine to 0."""
    if progress < config.warmup:
        return progress / config.warmup
    span = max(config.epochs - config.warmup, 1e-9)
    return 0.5 + 0.5 * math.cos(math.pi * min((progress - config.warmup) / span, 1.0))


def accuracy(
    model: nn.Module, split: Split, batch: int = 500, dtype: torch.dtype = torch.float32
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy, in percent, in evaluation mode."""
    was_training = model.training
    model.eval()
    hits = torch.zeros(2)
    with torch.no_grad():
        for start in range(0, len(split), batch):
            chosen = slice(start, start + batch)
            best = model(to_float(split.images[chosen], dtype)).topk(5).indices
            match = best.eq(split.labels[chosen, None])
            hits += torch.tensor([match[:, 0].sum(), match.sum()])
    model.train(was_training)
    top1, top5 = (100.0 * hits / len(split)).tolist()
    return top1, top5


def refresh_batch_norms(
    model: nn.Module,
    images: Tensor,
    padding: int,
    settings: TrainConfig,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Measure the statistics of all batch norms anew on uint8 `images`, averaged over batches.

    The running averages of the search lag behind while masks still change: before the learning
    rate has come down they cost several points of accuracy. The images are augmented as in
    training, with `padding` pixels around the crop; with statistics of plain training images the
    network of configs/cifar100-hfn16-demo.toml is 4 points worse on the (plain) test images.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    images = augment(images, padding, settings.flip, generator)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average of all batches
    with torch.no_grad():
        for part in images.split(settings.batch):
            model(to_float(part, dtype))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)


def train(
    config: SearchConfig,
    data_dir: str | Path,
    out_dir: str | Path,
    resume: bool = False,
    device: str = "cpu",
    data: tuple[Split, Split] | None = None,
) -> dict[str, float]:
    """Run a search and return the last line of the log as a dict.

    With `resume` a run continues from its last checkpoint and gives the same result as one that
    was never interrupted (on the same machine); without it, a directory that already holds a
    checkpoint is refused. `data` (training and test split) replaces the data of `data_dir`.
    """
    out = Path(out_dir)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise ValueError(f"{out} already holds a run; resume it or choose another directory")
    if resume and not checkpoint.exists():
        raise ValueError(f"{out} holds no checkpoint to resume from")
    if data is None:
        train_split, test_split = (
            load_split(config.dataset, data_dir, split) for split in ("train", "test")
        )
        data = train_split, test_split
    training, test = (Split(s.images.to(device), s.labels.to(device)) for s in data)
    out.mkdir(parents=True, exist_ok=True)
    search = _Search(config, device)
    if resume:
        search.load(checkpoint)
    else:
        _write_atomically(out / CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")
    writer = _summary_writer(out)
    row: dict[str, float] = dict(search.log[-1]) if search.log else {}
    while search.epoch < config.train.epochs:
        row = search.run_epoch(training, test)
        search.log.append(row)
        search.save(checkpoint)
        _write_log(out / LOG, search.log)
        if writer is not None:
            for key in _COLUMNS[2:]:
                if not math.isnan(row[key]):
                    writer.add_scalar(key, row[key], search.epoch)
    if writer is not None:
        writer.close()
    return row


def load_run(run_dir: str | Path) -> tuple[SearchConfig, FoldedResNet, list[dict[str, float]]]:
    """Configuration, trained network (evaluation mode, float32, CPU) and log of a run."""
    run = Path(run_dir)
    for name in (CONFIG, CHECKPOINT):
        if not (run / name).is_file():
            raise ValueError(f"{run} is not a run directory: it has no {name}")
    config = parse_config(json.loads((run / CONFIG).read_text()))
    search = _Search(config, "cpu")
    search.load(run / CHECKPOINT)
    return config, search.model.eval(), search.log


class _Search:
    """State of a search: model, optimizer, epoch and log."""

    def __init__(self, config: SearchConfig, device: str) -> None:
        self.config = config
        self.device = torch.device(device)
        torch.manual_seed(config.train.seed)
        self.model = FoldedResNet(config.model).to(self.device)
        self.epoch = 0
        self.log: list[dict[str, float]] = []
        self.optimizer = _optimizer(self.model, config.train)
        self._resized: tuple[int, Split] | None = None

    def run_epoch(self, training: Split, test: Split) -> dict[str, float]:
        """Train one epoch, evaluate when due, and return a line of the log."""
        settings = self.config.train
        start = time.monotonic()
        size = settings.size_of(self.epoch)
        split = self._at_size(training, size)
        # The generator depends on seed and epoch only: a resumed run draws the same numbers.
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.epoch + 1)
        steps = len(split) // settings.batch
        if steps == 0:
            raise ValueError(
                f"Batch must be at most {len(split)}, the images, not {settings.batch}"
            )
        padding = round(settings.crop_padding * size / split_size(training))
        self.model.train()
        total = torch.zeros(2, device=self.device)
        bar = tqdm(
            batches(split, settings.batch, generator),
            total=steps,
            desc=f"epoch {self.epoch + 1}/{settings.epochs} ({size} px)",
            mininterval=2.0,
            file=sys.stderr,
        )
        rate = 0.0
        for step, (images, labels) in enumerate(bar):
            rate = self._set_rate(self.epoch + (step + 0.5) / steps)
            moved = augment(images, padding, settings.flip, generator)
            total += self._step(to_float(moved, _DTYPES[settings.precision]), labels)
            if step % 20 == 19:
                loss, hits = (total / (step + 1)).tolist()
                bar.set_postfix_str(
                    f"loss {loss:.3f}, top1 {100 * hits / settings.batch:.1f} %", refresh=False
                )
        self.epoch += 1
        top1 = top5 = math.nan
        if self.epoch % settings.eval_every == 0 or self.epoch == settings.epochs:
            chosen = split.images[:REFRESH_IMAGES]
            refresh_batch_norms(self.model, chosen, padding, settings, _DTYPES[settings.precision])
            resized = Split(resize(test.images, size), test.labels)
            top1, top5 = accuracy(self.model, resized, dtype=_DTYPES[settings.precision])
        loss, hits = (total / steps).tolist()
        return {
            "epoch": self.epoch,
            "size": size,
            "lr": rate,
            "train_loss": loss,
            "train_top1": 100.0 * hits / settings.batch,
            "top1": top1,
            "top5": top5,
            "seconds": time.monotonic() - start,
        }

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.train.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        hits = (logits.detach().argmax(1) == labels).sum()
        return torch.stack([loss.detach(), hits.float()])

    def _set_rate(self, progress: float) -> float:
        factor = learning_rate_factor(self.config.train, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        return self.optimizer.param_groups[0]["lr"]

    def _at_size(self, split: Split, size: int) -> Split:
        if self._resized is None or self._resized[0] != size:
            self._resized = size, Split(resize(split.images, size), split.labels)
        return self._resized[1]

    def save(self, path: Path) -> None:
        """Write a checkpoint, complete or not at all."""
        state = {
            "config": self.config.to_dict(),
            "epoch": self.epoch,
            "log": self.log,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_name(path.name + ".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; `ValueError` when it is of another configuration."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if parse_config(state["config"]) != self.config:
            raise ValueError(f"{path} was made with another configuration than the one given")
        self.epoch = state["epoch"]
        self.log = state["log"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def _optimizer(model: FoldedResNet, settings: TrainConfig) -> torch.optim.Optimizer:
    """One group per layer's scores and one for the batch norms; "base" is the peak rate."""
    scores = [m.scores for m in model.modules() if isinstance(m, MaskedConv2d)]
    norms = [p for name, p in model.named_parameters() if not name.endswith("scores")]
    adam = settings.optimizer == "adam"
    groups: list[dict[str, Any]] = []
    for tensor in scores:
        unit = float(tensor.detach().abs().mean()) if adam else 1.0
        groups.append(
            {
                "params": [tensor],
                "base": settings.lr * unit,
                "weight_decay": settings.weight_decay,
            }
        )
    if norms:
        groups.append({"params": norms, "base": settings.norm_lr, "weight_decay": 0.0})
    if adam:
        return torch.optim.Adam(groups, lr=0.0, betas=(settings.momentum, 0.99))
    return torch.optim.SGD(
        groups, lr=0.0, momentum=settings.momentum, nesterov=settings.momentum > 0.0
    )


def split_size(split: Split) -> int:
    """Width of a split's images in pixels."""
    return split.images.shape[-1]


def _write_log(path: Path, log: list[dict[str, float]]) -> None:
    lines = [",".join(_COLUMNS)]
    for row in log:
        lines.append(",".join(f"{row[key]:.6g}" for key in _COLUMNS))
    _write_atomically(path, "\n".join(lines) + "\n")


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _summary_writer(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out))
