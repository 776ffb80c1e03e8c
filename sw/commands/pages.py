# SPDX-License-Identifier: Apache-2.0
"""``report`` and ``demo``: pages for people."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiddenfold.sw.colour import bad, good
from hiddenfold.sw.commands.classify import (
    Classification,
    classify_on_device,
    classify_on_golden,
    read_images,
)
from hiddenfold.sw.commands.common import (
    MODELS,
    Outcome,
    add_command,
    add_target,
    at_least,
    default_model,
    format_table,
    installed_version,
    top5,
)
from hiddenfold.sw.progress import progress_bar

if TYPE_CHECKING:
    from hiddenfold.gen.report import Check, Sample
    from hiddenfold.sw.model import Model

__all__ = ["register"]

SAMPLES = MODELS / "samples"


def register(commands: Any) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "report",
        report,
        "write an HTML page about a model on a target",
        example="hiddenfold report --target ulx3s-85f -o out/report",
        detail="One self-contained file: folding, layers, roofline, where the cycles go, memory, "
        "sample pictures. Cycles are the compiler's predictions, unless --measure.",
    )
    parser.add_argument(
        "model", metavar="M.hfn", type=Path, nargs="?", help="default: the shipped model"
    )
    add_target(parser, default="ulx3s-85f")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="run a picture on the simulated accelerator, show its counters, layer by layer, and "
        "compare every layer with the golden model",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)

    parser = add_command(
        commands,
        "demo",
        demo,
        "classify real pictures on the simulated accelerator and check every bit",
        example="hiddenfold demo",
        detail="Loads the shipped network's masks through the driver and leaves an HTML page.",
    )
    parser.add_argument("--model", metavar="M.hfn", type=Path, help="default: the shipped model")
    add_target(parser, default="ulx3s-85f")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("out/demo"),
        help="default: out/demo",
    )
    parser.add_argument(
        "-n", "--count", metavar="N", type=at_least(1), default=8, help="pictures (default: 8)"
    )


def report(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold report``."""
    from hiddenfold.gen.compile import compile_model
    from hiddenfold.gen.report import render, write
    from hiddenfold.gen.target import Target
    from hiddenfold.sw.model import Model

    model = Model.load(args.model or default_model())
    target = Target.load(args.target)
    program = compile_model(model, target)
    pictures = _pictures(model)
    samples = []
    if pictures:
        samples = _samples(model, pictures, classify_on_golden(model, read_images(pictures, model)))
    counters, checks, code = None, [], 0
    if args.measure:
        # Cycles do not depend on what is in a picture.
        images = np.full((1, *model.image, 3), 128, np.uint8)
        if pictures:
            images = read_images(pictures[:1], model)
        result = classify_on_device(model, target, f"rtl:{args.target}", images, check=True)
        counters, checks, code = result.layers, _checks(result, 1), int(result.mismatches > 0)
    html = render(
        model,
        program,
        target,
        samples=samples,
        checks=checks,
        counters=counters,
        version=installed_version(),
    )
    page = write(args.output, html)
    return Outcome({"page": str(page)}, f"wrote {page}", code)


def demo(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold demo``."""
    from hiddenfold.gen.report import render, write
    from hiddenfold.gen.target import Target
    from hiddenfold.sw.model import Model

    path = args.model or default_model()
    model = Model.load(path)
    target = Target.load(args.target)
    pictures = _pictures(model)
    if not pictures:
        raise ValueError(
            f"model {path} must take 32x32 pictures, as those in {SAMPLES} are, "
            f"not {model.image[1]}x{model.image[0]}"
        )
    pictures = pictures[: args.count]
    images = read_images(pictures, model)
    with progress_bar(2 * len(images), "pictures (run, then compare)") as tick:
        result = classify_on_device(
            model, target, f"rtl:{args.target}", images, check=True, tick=tick
        )
    assert result.program is not None
    samples = _samples(model, pictures, result)
    html = render(
        model,
        result.program,
        target,
        samples=samples,
        checks=_checks(result, len(images)),
        counters=result.layers,
        version=installed_version(),
    )
    page = write(args.output, html)
    rows = [
        [
            sample.picture.name,
            sample.label,
            ", ".join(name for name, _ in sample.top5),
            f"{measures['cycles']:,.0f}",
            f"{measures['utilization']:.2f}",
            f"{target.clock_mhz * 1e6 / measures['cycles']:.1f}",
            good("yes") if measures["bit_exact"] else bad("NO"),
        ]
        for sample, measures in zip(samples, result.measures, strict=True)
    ]
    head = ("image", "label", "top-5", "cycles", "utilization", "frames/s", "bit-exact")
    speed = [measures["sim_cycles_per_second"] for measures in result.measures]
    right = sum(sample.right for sample in samples)
    text = f"""\
{model.name} on {target.name} ({target.description}), {target.clock_mhz:g} MHz, in simulation

{format_table(head, rows)}

{right} of {len(samples)} right; simulated at {sum(speed) / len(speed):,.0f} cycles a second
{_verdict(result)}
page: {page}"""
    data = {
        "model": str(path),
        "target": target.name,
        "page": str(page),
        "images": [
            {"image": str(picture), "label": sample.label, "top5": sample.top5} | measures
            for picture, sample, measures in zip(pictures, samples, result.measures, strict=True)
        ],
        "first_mismatch": result.first_mismatch,
    }
    return Outcome(data, text, int(result.mismatches > 0))


def _pictures(model: Model) -> list[Path]:
    """The sample pictures, if the model takes their size."""
    from PIL import Image

    paths = sorted(SAMPLES.glob("*.png"))
    sizes = set()
    for path in paths:
        with Image.open(path) as picture:
            sizes.add(picture.size)
    return paths if sizes == {(model.image[1], model.image[0])} else []


def _samples(model: Model, pictures: Sequence[Path], result: Classification) -> list[Sample]:
    from hiddenfold.gen.report import Sample

    return [
        Sample(
            picture=path,
            top5=top5(logits, model.classes),
            label=_label(path, model.classes),
            cycles=measures["cycles"],
            utilization=measures["utilization"],
            bit_exact=measures["bit_exact"],
        )
        for path, logits, measures in zip(pictures, result.logits, result.measures, strict=True)
    ]


def _label(path: Path, classes: Sequence[str]) -> str | None:
    """The label in a file name such as ``0007_bear.png``, if the model knows it."""
    match = re.fullmatch(r"\d+_(.+)", path.stem)
    return match[1] if match and match[1] in classes else None


def _checks(result: Classification, images: int) -> list[Check]:
    from hiddenfold.gen.report import Check

    pictures = "1 picture" if images == 1 else f"{images} pictures"
    note = f"{pictures}, {result.executions} layers and iterations each"
    return [
        Check(
            what="every output of every layer and iteration",
            compared=result.layer_values,
            mismatches=result.mismatches,
            note=result.first_mismatch or note,
        ),
        Check(
            what="logits",
            compared=result.logit_values,
            mismatches=result.mismatches,
            note=pictures,
        ),
    ]


def _verdict(result: Classification) -> str:
    compared = (
        f"{result.layer_values:,} activations of {result.executions} layers and iterations, "
        f"{result.logit_values:,} logits"
    )
    if result.first_mismatch is None:
        return f"bit-exact: {compared} equal those of the golden model"
    return f"MISMATCH in {result.mismatches} pictures of {compared}: {result.first_mismatch}"
