# SPDX-License-Identifier: Apache-2.0
"""The state of a search, and one epoch of it.

Every random number depends on the seed, the epoch and the step only, so that a search which is
resumed from a checkpoint, between two epochs or within one, goes on exactly as it would have.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from hiddenfold.sw.files import write_atomically
from hiddenfold.sw.operations import shorten
from hiddenfold.sw.search import precision
from hiddenfold.sw.search.activation import Quantizer, calibrate
from hiddenfold.sw.search.ahead import ahead
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.search.data import Split, to_float
from hiddenfold.sw.search.distributed import ALONE, Ranks, synchronize
from hiddenfold.sw.search.loss import Loss
from hiddenfold.sw.search.measure import REFRESH_IMAGES, accuracy, refresh_batch_norms
from hiddenfold.sw.search.mixing import Mix, draw
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers
from hiddenfold.sw.search.optimizer import learning_rate_factor, make_optimizer, set_rate
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.supermask import MaskedConv2d

__all__ = ["Row", "Search"]

# A line of the log.
Row = dict[str, float]

# Steps between two updates of the figures in the progress bar: reading them waits for the device.
_SHOW_EVERY = 20

# Steps between two times that soft scores are moved back to where 1/2 is the threshold. In between
# they move by a few learning rates, which the masks do not notice: those are of the largest scores.
_RECENTRE_EVERY = 8

_WHOLE = Mix()


def _multiple(of: int, why: str, batch: int) -> ValueError:
    return ValueError(f"Key 'train.batch' must be a multiple of {of}, {why}, not {batch}")


def _difference(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> str:
    """The first key in which two different configurations differ, in words."""
    key = next(key for key in given if saved[key] != given[key])
    if isinstance(given[key], dict):
        return _difference(saved[key], given[key], f"{prefix}{key}.")
    return (
        f"key '{prefix}{key}' must be as in the configuration that is given, "
        f"{shorten(given[key])}, not {shorten(saved[key])}"
    )


class Search:
    """Model, optimizer, position (`epoch` complete epochs and `step` steps) and log."""

    def __init__(self, config: SearchConfig, device: str, ranks: Ranks = ALONE) -> None:
        if config.train.batch % ranks.count:
            raise _multiple(ranks.count, "the number of processes", config.train.batch)
        in_pairs = ranks.count > 1 and config.train.mixup + config.train.cutmix > 0.0
        if in_pairs and config.train.batch // ranks.count % 2:
            why = "twice the number of processes as images are mixed in pairs"
            raise _multiple(2 * ranks.count, why, config.train.batch)
        self.config = config
        self.ranks = ranks
        self.device = torch.device(device)
        self.dtype = precision.resolve(config.train.precision, self.device)
        torch.manual_seed(config.train.seed)
        self.model = FoldedResNet(config.model).to(self.device)
        if ranks.count > 1:
            synchronize(self.model)
        self._layers = [layer for _, layer in conv_layers(self.model)]
        self._soft = config.train.soft + config.train.harden > 0.0
        if self._soft:
            for layer in self._layers:
                layer.start_soft()
        self.optimizer = make_optimizer(self.model, config.train)
        self._averaged: AveragedModel | None = None
        if config.train.average > 0.0:
            average = get_ema_multi_avg_fn(config.train.average)
            self._averaged = AveragedModel(self.model, multi_avg_fn=average)
        self.loss = Loss(config.train)
        self.epoch = 0
        self.step = 0
        self.log: list[Row] = []
        # What the search started from, in words; "" for a new one.
        self.origin = ""
        # Of the epoch that has begun: loss and right answers (of this process; the mean over
        # processes is that of the batch), seconds.
        self._total = torch.zeros(2, device=self.device)
        self._seconds = 0.0
        self._resized: tuple[int, Split] | None = None

    def run_epoch(self, training: Split, test: Split, stop: Callable[[], bool]) -> Row | None:
        """Finish the current epoch and add a line to the log, which is returned.

        `stop` is asked between steps; when it says so, the epoch stays unfinished and None is
        returned. (Several processes ask each other less often: it makes them wait.)
        """
        settings = self.config.train
        start = time.monotonic() - self._seconds
        size = settings.size_of(self.epoch)
        padding = round(settings.crop_padding * size / training.images.shape[-1])
        steps = len(training) // settings.batch
        if steps == 0:
            raise ValueError(
                f"Key 'train.batch' must be at most {len(training)}, the number of training "
                f"images, not {settings.batch}"
            )
        training = self._at_size(training, size)
        self._set_softness(self.epoch)
        if self.epoch >= settings.quantize_from:
            sample = training.sample(settings.batch).to(self.device)
            self._calibrate(to_float(sample, self.dtype))
        self.model.train()
        order = torch.randperm(len(training), generator=self._generator()).to(self.device)
        bar = tqdm(
            total=steps,
            initial=self.step,
            desc=f"epoch {self.epoch + 1}/{settings.epochs} ({size} px)",
            mininterval=2.0,
            file=sys.stderr,
            disable=self.ranks.rank > 0,
        )
        first, began = self.step, time.monotonic()
        with bar:
            for images, labels in self._batches(training, order, range(self.step, steps), padding):
                progress = self.epoch + (self.step + 0.5) / steps
                self._set_rate(progress)
                self._set_softness(progress)
                self._total += self.train_batch(
                    to_float(images.to(self.device), self.dtype), labels, self._mix(size)
                )
                if self._soft and self.step % _RECENTRE_EVERY == 0:
                    for layer in self._layers:
                        layer.recentre()
                self.step += 1
                bar.update()
                if self.step % min(_SHOW_EVERY, steps) == 0:
                    loss, hits = (self._total / self.step).tolist()
                    if not math.isfinite(loss):
                        raise ValueError(
                            f"the loss must be a number, not {loss}, in epoch {self.epoch + 1}: "
                            f"the learning rates 'train.lr' = {settings.lr:g} or 'train.norm_lr' "
                            f"= {settings.norm_lr:g} may be too high"
                        )
                    shown = f"loss {loss:.3f}, top1 {100 * hits / settings.batch:.1f} %"
                    left = self._seconds_left(began, self.step - first, steps - self.step, steps)
                    shown += f", {tqdm.format_interval(left)} to the last epoch's end"
                    bar.set_postfix_str(shown, refresh=False)
                if self.step < steps and self._agree(stop):
                    self._total = self.ranks.mean(self._total)
                    self._seconds = time.monotonic() - start
                    return None
        rate = self._set_rate(self.epoch + (steps - 0.5) / steps)
        self.epoch += 1
        top1 = top5 = math.nan
        if self.epoch % settings.eval_every == 0 or self.epoch == settings.epochs:
            sample = training.sample(REFRESH_IMAGES).to(self.device)
            result = self.result
            refresh_batch_norms(result, sample, padding, settings, self.dtype)
            top1, top5 = accuracy(result, test.at_size(size), dtype=self.dtype, ranks=self.ranks)
        loss, hits = (self.ranks.mean(self._total) / steps).tolist()
        row = {
            "epoch": self.epoch,
            "size": size,
            "lr": rate,
            "train_loss": loss,
            "train_top1": 100.0 * hits / settings.batch,
            "top1": top1,
            "top5": top5,
            "seconds": time.monotonic() - start,
        }
        self.log.append(row)
        self.step, self._seconds = 0, 0.0
        self._total.zero_()
        return row

    def _agree(self, stop: Callable[[], bool]) -> bool:
        if self.ranks.count > 1 and self.step % _SHOW_EVERY:
            return False
        return self.ranks.agreed(stop(), self.device)

    def _batches(
        self, split: Split, order: Tensor, steps: range, padding: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented images uint8 and labels of some steps of this epoch: this process's part."""
        settings = self.config.train
        part = self.ranks.part(settings.batch)

        def make(step: int) -> tuple[Tensor, Tensor]:
            chosen = order[step * settings.batch :][: settings.batch]
            images = split.augmented(
                chosen,
                self._generator(step),
                padding=padding,
                flip=settings.flip,
                crop=settings.crop,
                part=part,
            )
            return images, split.labels[chosen[part]]

        # Pictures take long to decode, and leave the device idle unless they are made in time.
        return map(make, steps) if isinstance(split.images, Tensor) else ahead(make, steps)

    @property
    def result(self) -> FoldedResNet:
        """What the search has found: the network as it is now, or the average of its steps."""
        if self._averaged is None or not self._averaged.n_averaged:
            return self.model
        averaged = cast(FoldedResNet, self._averaged.module)
        for ours, theirs in zip(averaged.modules(), self.model.modules(), strict=True):
            if isinstance(ours, MaskedConv2d) and isinstance(theirs, MaskedConv2d):
                ours.softness = theirs.softness
            elif isinstance(ours, Quantizer) and isinstance(theirs, Quantizer):
                ours.set_extra_state(theirs.get_extra_state())
        return averaged

    def train_batch(self, images: Tensor, labels: Tensor, mix: Mix = _WHOLE) -> Tensor:
        """One step of the optimizer; returns loss and right answers (see `_total`)."""
        images = mix.images(images)
        logits = self.model(images)
        loss = self.loss(images, logits, labels, mix.share)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(list(self.model.parameters()))
        self.optimizer.step()
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)
        hits = (logits.detach().argmax(1) == labels).sum() * self.ranks.count
        return torch.stack([loss.detach(), hits.float()])

    @torch.no_grad()
    def _calibrate(self, images: Tensor) -> None:
        """Let quantizers that have no step begin, in the average as well, which would lag."""
        for name in calibrate(self.model, images):
            if self._averaged is not None:
                step = cast(Quantizer, self.model.get_submodule(name)).log_step
                cast(Quantizer, self._averaged.module.get_submodule(name)).log_step.copy_(step)

    def _set_rate(self, progress: float) -> float:
        return set_rate(self.optimizer, learning_rate_factor(self.config.train, progress))

    def _set_softness(self, progress: float) -> None:
        softness = self.config.train.softness(progress) if self._soft else 0.0
        for layer in self._layers:
            layer.softness = softness

    def _mix(self, size: int) -> Mix:
        """What this step does to its images."""
        seed = self._generator(self.step).initial_seed() % (1 << 32)
        return draw(self.config.train, size, seed)

    def _generator(self, step: int = -1) -> torch.Generator:
        """Random numbers of a step of this epoch, or of the order of its images."""
        seed = self.config.train.seed
        for number in (self.epoch, step + 1):
            seed = seed * 1_000_003 + number + 1
        return torch.Generator().manual_seed(seed % (1 << 63))

    def _seconds_left(self, began: float, done: int, left: int, steps: int) -> float:
        """Time to the end of the search, if a step takes as long as its pixels are many.

        `done` steps were made since `began`; `left` of the `steps` of this epoch are left.
        """
        settings = self.config.train
        later = sum(
            settings.size_of(number) ** 2 for number in range(self.epoch + 1, settings.epochs)
        )
        pixels = settings.size_of(self.epoch) ** 2
        return (time.monotonic() - began) / done * (left + steps * later / pixels)

    def _at_size(self, split: Split, size: int) -> Split:
        if self._resized is None or self._resized[0] != size:
            self._resized = size, split.at_size(size)
        return self._resized[1]

    def save(self, path: Path) -> None:
        """Write a checkpoint, complete or not at all."""
        state = {
            "config": self.config.to_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "total": self._total,
            "seconds": self._seconds,
            "log": self.log,
            "origin": self.origin,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self._averaged is None else self._averaged.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; `ValueError` when it is of another configuration."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            config = parse_config(state["config"])
        except OSError:
            raise
        except Exception as error:
            # A damaged file makes torch, pickle and zipfile raise many kinds of errors.
            raise ValueError(f"{path} is not a checkpoint of a search ({error!r:.200})") from error
        if config != self.config:
            raise ValueError(f"{path}: {_difference(config.to_dict(), self.config.to_dict())}")
        self.epoch = state["epoch"]
        self.step = state["step"]
        self.log = state["log"]
        self.origin = state.get("origin", "")
        self._total = state["total"]
        self._seconds = state["seconds"]
        self.model.load_state_dict(state["model"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                # The fused step walks through the memory of both: it must have one order.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
