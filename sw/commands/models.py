# SPDX-License-Identifier: Apache-2.0
"""``inspect`` and ``evaluate``: what a model is and how good it is."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw.commands.classify import classify_on_device, device_url
from hiddenfold.sw.commands.common import (
    Outcome,
    add_batch,
    add_command,
    at_least,
    format_bytes,
    format_table,
)
from hiddenfold.sw.images import Images
from hiddenfold.sw.progress import progress_bar
from hiddenfold.sw.ranking import ranking

__all__ = ["register", "summarize"]

BACKENDS = ("float", "golden", "rtl")
#: Images that the float network takes at a time.
FLOAT_BATCH = 250


def register(commands: Any) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "inspect",
        inspect,
        "show a model's layers and sizes",
        example="hiddenfold inspect models/hfn-cifar100.hfn",
        detail="Of a configuration (.toml), it shows what training and export will make of it.",
    )
    parser.add_argument("model", metavar="M.hfn|CONFIG.toml", type=Path)

    parser = add_command(
        commands,
        "evaluate",
        evaluate,
        "measure accuracy on the test split",
        example="hiddenfold evaluate models/hfn-cifar100.hfn --data data --backend golden -n 1000",
        detail="Backends: float (the trained network before quantization), golden (integers), rtl "
        "(the generated accelerator in simulation; slow, so choose -n).",
    )
    parser.add_argument("model", metavar="M.hfn", type=Path)
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="the data set")
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument(
        "-n", "--count", metavar="N", type=at_least(1), help="number of images (default: all)"
    )
    parser.add_argument(
        "--offset", metavar="K", type=at_least(0), default=0, help="first image (default: 0)"
    )
    add_batch(parser)
    parser.add_argument(
        "--target", metavar="T", default="ulx3s-85f", help="for rtl (default: ulx3s-85f)"
    )


def inspect(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold inspect``."""
    from hiddenfold.sw.model import Model

    if args.model.suffix.lower() != ".toml":
        return summarize(Model.load(args.model))
    from hiddenfold.sw.model_summary import summary, trained_summary
    from hiddenfold.sw.search.config import load_config
    from hiddenfold.sw.search.plan import plan_search

    search = load_config(args.model)
    model = plan_search(search)
    trained = search.model.weights == "trained"
    return _outcome(model, trained_summary(model) if trained else summary(model))


def summarize(model: Any) -> Outcome:
    """The summary of a model, for ``inspect`` and ``export``."""
    return _outcome(model, model.summary())


def _outcome(model: Any, data: dict[str, Any]) -> Outcome:
    reference = model.dense_reference
    dense = f"dense {reference.name} float32" if reference else "dense float32"
    rows = [
        [
            layer["name"],
            layer["op"],
            "x".join(map(str, layer["shape"])),
            f"{layer['kernel']}x{layer['kernel']}/{layer['stride']}",
            layer["iterations"],
            f"{layer['weights']:,}",
            f"{layer['macs']:,}",
        ]
        for layer in data["layers"]
    ]
    macs = sum(layer["macs"] for layer in data["layers"])
    head = ("layer", "op", "output", "kernel", "runs", "weights", "MACs")
    stages = ", ".join(map(str, data["folded_stages"])) or "none"
    sizes = [
        ("shipped file" if data["mask_bits"] else "float32", data["total_bytes"], _parts(data)),
        (dense, data["dense_fp32_bytes"], f"{data['compression']:.1f} times the file"),
        (
            "formula of the paper",
            data["paper_bytes"],
            f"dense is {data['paper_compression']:.1f} times that",
        ),
    ]
    lines = [
        f"{data['name']}: {data['dataset']}, {data['classes']} classes, "
        f"{macs / 1e9:.3f} G multiply-accumulates a picture",
        f"activations of {data['act_bits']} bits, {100 * data['top_k']:.0f} % of the weights kept, "
        f"folded stages: {stages}",
        "",
        format_table(head, rows),
        "",
        *(f"{name:<22} {format_bytes(size):>9}  {note}" for name, size, note in sizes),
        f"{'top-1':<22} {_percent(data['top1_float']):>9}  float; "
        f"golden {_percent(data['top1_golden'])}",
    ]
    return Outcome(data, "\n".join(lines))


def _parts(data: dict[str, Any]) -> str:
    parts = ("mask", "affine", "other")
    return ", ".join(f"{part} {format_bytes(data[f'{part}_bytes'])}" for part in parts)


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} %"


def evaluate(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold evaluate``."""
    from hiddenfold.sw.model import Model
    from hiddenfold.sw.search.data import Pixels, load_split
    from hiddenfold.sw.search.settings import FOLDERS

    model = Model.load(args.model)
    split = load_split(model.dataset, args.data, "test", model.image[0])
    if model.dataset in FOLDERS and split.classes != model.classes:
        raise ValueError(
            f"classes in {args.data} must be those of the model, {_few(model.classes)}, "
            f"not {_few(split.classes)}"
        )
    count = len(split) - args.offset if args.count is None else args.count
    if args.offset >= len(split):
        raise ValueError(
            f"offset must be at most {len(split) - 1}, the last image of the test split, not "
            f"{args.offset}"
        )
    if args.offset + count > len(split):
        raise ValueError(
            f"offset + count must be at most {len(split)}, the images of the test split, "
            f"not {args.offset + count}"
        )
    chosen = slice(args.offset, args.offset + count)
    images = Pixels(split.images, chosen)
    labels = split.labels[chosen].numpy()
    if args.backend == "golden":
        from hiddenfold.verif.golden.evaluate import evaluate as evaluate_golden

        data = evaluate_golden(model, images, labels)
    elif args.backend == "float":
        data = _score("float", _float_classifier(args.model, model), images, labels)
    else:
        data = _score("rtl", _device_classifier(args.target, model, args.batch), images, labels)
    text = (
        f"{args.backend}: {count} images, top-1 {data['top1']:.2f} %, top-5 {data['top5']:.2f} %, "
        f"{data['images_per_second']:.1f} images/s"
    )
    return Outcome(data, text)


Tick = Callable[[int], object]
#: Ranks the labels of images and reports progress.
Classifier = Callable[[Images, Tick], NDArray[np.int64]]


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")


def _score(
    backend: str, classify: Classifier, images: Images, labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Accuracy and speed of a backend, the fields of ``evaluate --json``."""
    with progress_bar(len(images), "images") as tick:
        start = time.perf_counter()
        best = classify(images, tick)
        seconds = time.perf_counter() - start
    hits = best == labels[:, np.newaxis]
    return {
        "backend": backend,
        "images": len(images),
        "top1": 100 * float(hits[:, 0].mean()),
        "top5": 100 * float(hits.any(axis=1).mean()),
        "seconds": seconds,
        "images_per_second": len(images) / seconds,
    }


def _float_classifier(path: Path, model: Any) -> Classifier:
    """The network in floating point, with the constants that the export left beside the file."""
    import torch

    from hiddenfold.sw.search.float_network import FloatNetwork, load_constants

    network = FloatNetwork(model, load_constants(path, model))

    def classify(images: Images, tick: Tick) -> NDArray[np.int64]:
        best = []
        for first in range(0, len(images), FLOAT_BATCH):
            part = torch.from_numpy(images[first : first + FLOAT_BATCH]).permute(0, 3, 1, 2)
            best.append(network.logits(part).argsort(dim=1, descending=True, stable=True)[:, :5])
            tick(len(part))
        return torch.cat(best).numpy()

    return classify


def _device_classifier(name: str, model: Any, batch: int) -> Classifier:
    """The generated accelerator of a target, in simulation."""
    from hiddenfold.gen.target import Target

    target = Target.load(name)

    def classify(images: Images, tick: Tick) -> NDArray[np.int64]:
        url = device_url("rtl", name)
        result = classify_on_device(model, target, url, images, batch=batch, tick=tick)
        return ranking(result.logits)

    return classify
