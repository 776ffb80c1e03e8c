# SPDX-License-Identifier: Apache-2.0
"""``init``, ``train`` and ``export``: from images to a model file."""

import argparse
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiddenfold.sw.commands.common import Outcome, add_command, at_least, positive
from hiddenfold.sw.commands.models import summarize
from hiddenfold.sw.progress import progress_bar

if TYPE_CHECKING:
    from hiddenfold.sw.model import Model

__all__ = ["add_data", "add_export_options", "finish_export", "register"]


def register(commands: Any) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "init",
        init,
        "write a first configuration for a folder of pictures",
        example="hiddenfold init pictures -o mine.toml",
        detail="The folder holds DIR/CLASS/*.png (or *.jpg), or DIR/train/CLASS and DIR/val/CLASS. "
        "Every picture is decoded, so that a damaged one is found now and not while training.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("-o", "--output", metavar="CONFIG.toml", type=Path, required=True)
    parser.add_argument(
        "--image",
        metavar="N",
        type=at_least(16),
        choices=range(16, 225),
        help="size of the network's images in pixels, 16 to 224 (default: that of the pictures, "
        "at most 64)",
    )

    parser = add_command(
        commands,
        "train",
        train,
        "search the supermask of a folded network",
        example="hiddenfold train configs/cifar100-hfn16-demo.toml --data data --out runs/mine",
        detail="Writes checkpoints, a CSV log and TensorBoard events. "
        "Several processes share the work under torchrun --nproc-per-node N -m hiddenfold.sw.cli.",
    )
    parser.add_argument("config", metavar="CONFIG.toml", type=Path, help="network and training")
    add_data(parser)
    parser.add_argument(
        "--out", metavar="RUN", type=Path, help="run directory (default: runs/NAME of the config)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint of the run"
    )
    parser.add_argument(
        "--from",
        dest="start_from",
        metavar="M.hfn|RUN",
        type=Path,
        help="start from the masks and batch norms of a model or run of the same network",
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=positive,
        help="stop after N minutes with a checkpoint; --resume continues exactly there",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")

    parser = add_command(
        commands,
        "export",
        export,
        "make a model file of a trained run",
        example="hiddenfold export runs/mine -o mine.hfn --act-bits 8 --data data",
        detail="Folds batch norms, calibrates on training images, quantizes, packs. "
        "A model file with its float constants beside it is quantized anew.",
    )
    parser.add_argument(
        "run_dir", metavar="RUN|M.hfn", type=Path, help="run directory of `train`, or a model file"
    )
    add_export_options(parser, required=True)
    add_data(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--data``."""
    parser.add_argument(
        "--data", metavar="DIR", type=Path, default=Path("data"), help="data set (default: data)"
    )


def add_export_options(parser: argparse._ActionsContainer, *, required: bool) -> None:
    """Add the options of every command that makes a model file of a network."""
    parser.add_argument("-o", "--output", metavar="M.hfn", type=Path, required=required)
    parser.add_argument(
        "--act-bits",
        metavar="N",
        type=at_least(1),
        choices=range(1, 9),
        help="bits of the activations, 1 to 8 (default: those of the search, 8 if it had none)",
    )
    parser.add_argument(
        "--constants",
        choices=("full", "short"),
        help="full constants take 5 bytes a channel, short ones 3 (default: as configured)",
    )


def init(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold init``."""
    from hiddenfold.sw.files import write_atomically
    from hiddenfold.sw.search.config import load_config
    from hiddenfold.sw.search.starter import configuration, survey

    if args.output.exists():
        raise ValueError(f"{args.output} exists: name another file, or remove it")
    if args.output.suffix != ".toml":
        raise ValueError(f"the configuration's name must end in .toml, not {args.output.name!r}")
    if not re.fullmatch(r"[\w.-]+", args.output.name):
        raise ValueError(
            "the configuration's name must be letters, digits and any of . _ -, "
            f"not {args.output.name!r}"
        )
    with progress_bar(None, "pictures") as tick:
        found = survey(args.folder, tick)
    image = args.image or found.image
    text = configuration(args.output.stem, args.folder, found, image)
    write_atomically(args.output, text.encode())
    config = load_config(args.output)
    sizes = [f"{width}x{height}" for width, height in found.sizes]
    lines = [
        f"{found.training} pictures for training and {found.test} for tests, of "
        f"{len(found.classes)} classes: {', '.join(found.classes)}",
        f"sizes: {', '.join(sizes[:4])}{', ...' if len(sizes) > 4 else ''}; "
        f"the network takes {image}x{image}",
    ]
    if found.unused:
        lines.append(f"{found.unused} other files are not used: only PNG and JPEG by name")
    if config.train.batch * 2 > found.training:
        lines.append("these are few: do not expect much")
    lines += [
        f"wrote {args.output}",
        f"Next: hiddenfold train {args.output} --data {args.folder}",
    ]
    data = {
        "config": str(args.output),
        "training": found.training,
        "test": found.test,
        "classes": list(found.classes),
        "image": image,
        "unused_files": found.unused,
    }
    return Outcome(data, "\n".join(lines))


def train(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold train``."""
    from hiddenfold.sw.search.config import load_config
    from hiddenfold.sw.search.distributed import finish
    from hiddenfold.sw.search.train import train as search

    config = load_config(args.config)
    out = args.out or Path("runs") / args.config.stem
    try:
        last = search(
            config,
            args.data,
            out,
            resume=args.resume,
            device=args.device,
            start_from=args.start_from,
            minutes=args.minutes,
        )
    finally:
        finish()
    # JSON has no NaN, which stands for "not evaluated".
    figures = {key: None if math.isnan(value) else value for key, value in last.items()}
    data = {"run": str(out), **figures}
    done = int(last.get("epoch", 0))
    text = f"{out}: {done} of {config.train.epochs} epochs"
    if figures.get("top1") is not None:
        text += f", top-1 {figures['top1']:.2f} %"
    if done < config.train.epochs:
        without = " and without --from" if args.start_from else ""
        text += f"\nNext: the same command with --resume{without}"
    elif (config.model.weights, config.model.generator) == ("signs", "lfsr"):
        text += f"\nNext: hiddenfold export {out} -o {out}/{out.name}.hfn --data {args.data}"
    return Outcome(data, text)


def export(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold export``."""
    from hiddenfold.sw.search.export import export_model, export_run

    make = export_model if args.run_dir.is_file() else export_run
    model = make(
        args.run_dir,
        args.data,
        act_bits=args.act_bits,
        output=args.output,
        constants_form=args.constants,
    )
    return finish_export(model, args)


def finish_export(model: "Model", args: argparse.Namespace) -> Outcome:
    """Note the golden model's accuracy in the model file; what `inspect` says of it."""
    from hiddenfold.sw.search.data import Pixels, load_split
    from hiddenfold.verif.golden.evaluate import evaluate

    test = load_split(model.dataset, args.data, "test", model.image[0])
    golden = evaluate(model, Pixels(test.images), test.labels.numpy())
    model = replace(model, accuracy=model.accuracy | {"golden": golden["top1"]})
    model.save(args.output)
    outcome = summarize(model)
    return Outcome(outcome.data, f"wrote {args.output}\n\n{outcome.text}")
