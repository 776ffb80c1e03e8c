# SPDX-License-Identifier: Apache-2.0
"""``run``: classify pictures on the golden model, the simulated accelerator or a board."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiddenfold.sw.colour import bad, good
from hiddenfold.sw.commands.classify import (
    classify_on_device,
    classify_on_golden,
    device_url,
    read_images,
)
from hiddenfold.sw.commands.common import (
    Outcome,
    add_batch,
    add_command,
    add_target,
    add_waves,
    format_table,
    top5,
)
from hiddenfold.sw.progress import progress_bar

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the command of this module."""
    parser = add_command(
        commands,
        "run",
        run,
        "classify pictures",
        example="hiddenfold run models/hfn-cifar100.hfn models/samples/*.png --backend rtl "
        "--target ulx3s-85f --check",
        detail="Pictures are PNG or JPEG files of the model's image size, or of any with --fit.",
    )
    parser.add_argument("model", metavar="M.hfn", type=Path)
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+")
    parser.add_argument(
        "--backend",
        metavar="B",
        required=True,
        help="golden (the integer model), rtl (the generated accelerator in simulation) or the "
        "URL of a device",
    )
    add_target(parser, default="ulx3s-85f")
    parser.add_argument(
        "--fit",
        action="store_true",
        help="scale the middle of each picture to the model's image size",
    )
    add_batch(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare logits and every layer and iteration with the golden model, bit by bit",
    )
    add_waves(parser)


def run(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold run``."""
    from hiddenfold.sw.model import Model

    if args.check and args.backend == "golden":
        raise ValueError("--check compares a device with the golden model: use another --backend")
    if args.waves and not args.backend.startswith("rtl"):
        raise ValueError(
            f"--waves is for the simulated accelerator: --backend rtl, not {args.backend!r}"
        )
    model = Model.load(args.model)
    images = read_images(args.images, model, fit=args.fit)
    if args.backend == "golden":
        result = classify_on_golden(model, images)
    else:
        from hiddenfold.gen.target import Target

        target = Target.load(args.target)
        with progress_bar(len(images) * (1 + args.check), "pictures") as tick:
            result = classify_on_device(
                model,
                target,
                device_url(args.backend, args.target),
                images,
                batch=args.batch,
                check=args.check,
                tick=tick,
                waves=args.waves,
            )
    entries = [
        {"image": str(path), "top5": top5(logits, model.classes), "logits": logits.tolist(), **each}
        for path, logits, each in zip(args.images, result.logits, result.measures, strict=True)
    ]
    rows = [
        [
            name,
            ", ".join(label for label, _ in entry["top5"]),
            _cell(entry["cycles"], ",.0f"),
            _cell(entry["utilization"], ".2f"),
            {None: "-", True: good("yes"), False: bad("NO")}[entry["bit_exact"]],
        ]
        for name, entry in zip(_names(args.images), entries, strict=True)
    ]
    text = format_table(("image", "top-5", "cycles", "utilization", "bit-exact"), rows)
    data: dict[str, Any] = {"images": entries}
    if args.check:
        data["first_mismatch"] = result.first_mismatch
        text += (
            f"\n\n{result.layer_values:,} activations of {result.executions} layers and "
            f"iterations and {result.logit_values:,} logits compared with the golden model: "
            f"{result.mismatches} pictures differ"
        )
        if result.first_mismatch:
            text += f"\nfirst mismatch: {result.first_mismatch}"
    return Outcome(data, text, int(result.mismatches > 0))


def _names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many folders as tell them apart."""
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
