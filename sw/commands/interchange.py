# SPDX-License-Identifier: Apache-2.0
"""``import`` and ``onnx``: networks from other tools, and for them."""

import argparse
from pathlib import Path
from typing import Any

from hiddenfold.sw.commands.common import Outcome, add_command, at_least
from hiddenfold.sw.commands.search import add_data, add_export_options, finish_export

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "import",
        import_,
        "take over a checkpoint of the reference implementation of Hidden-Fold Networks",
        example=[
            "hiddenfold import model_best.pth --config mine.toml -o mine.hfn --data data",
            "hiddenfold import model_best.pth --config mine.toml --research runs/start",
        ],
        detail="Masks are made from the scores, batch norms are mapped. Weights whose signs are "
        "not those that the accelerator makes are refused; --research then keeps scores and batch "
        "norms as the start of a search over the accelerator's signs.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="file of torch.save")
    parser.add_argument("--config", metavar="CONFIG.toml", type=Path, required=True)
    add_export_options(parser, required=False)
    parser.add_argument(
        "--research", metavar="RUN", type=Path, help="write a run for `train --from`, not a model"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure the batch norms anew on training images, for a search whose images were not "
        "0 to 1 but normalized",
    )
    add_data(parser)

    parser = add_command(
        commands,
        "onnx",
        onnx,
        "write a model as an ONNX graph that computes the same bits",
        example="hiddenfold onnx models/hfn-cifar100.hfn -o hfn.onnx",
        detail="Standard integer operators only (opset 13): image uint8 [N, height, width, 3] to "
        "logits int64 [N, classes]. With --check it is run in onnxruntime on random images and "
        "compared with the golden model.",
    )
    parser.add_argument("model", metavar="M.hfn", type=Path)
    parser.add_argument("-o", "--output", metavar="M.onnx", type=Path, required=True)
    parser.add_argument(
        "--check",
        metavar="N",
        type=at_least(1),
        help="compare N random images in onnxruntime with the golden model",
    )


def import_(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold import``."""
    from hiddenfold.sw.search.config import load_config
    from hiddenfold.sw.search.export import export_network
    from hiddenfold.sw.search.reference import Checkpoint, import_network, import_run, provenance

    if (args.output is None) == (args.research is None):
        raise ValueError("import must have either -o M.hfn or --research RUN, not both or none")
    config = load_config(args.config)
    checkpoint = Checkpoint(args.checkpoint)
    if args.research is not None:
        import_run(config, checkpoint, args.research)
        text = f"wrote {args.research}: scores and batch norms of {args.checkpoint}\n"
        text += f"Next: hiddenfold train {args.config} --from {args.research} --data {args.data}"
        return Outcome({"run": str(args.research), "epochs": checkpoint.epochs}, text)
    model = export_network(
        config,
        import_network(config, checkpoint),
        args.data,
        provenance(config, checkpoint),
        args.act_bits,
        args.output,
        args.constants,
        measure=args.measure,
    )
    return finish_export(model, args)


def onnx(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold onnx``."""
    from hiddenfold.gen.onnx_graph import onnx_model
    from hiddenfold.sw.files import write_atomically
    from hiddenfold.sw.model import Model

    model = Model.load(args.model)
    data = onnx_model(model).SerializeToString()
    write_atomically(args.output, data)
    found: dict[str, Any] = {"onnx": str(args.output), "bytes": len(data), "images": 0}
    text = f"wrote {args.output}"
    if args.check is None:
        return Outcome(found | {"mismatches": None}, text)
    import numpy as np
    import onnxruntime

    from hiddenfold.verif.golden.model import Golden

    shape = (args.check, *model.image, 3)
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images})
    wrong = int((logits != Golden(model).run(images)).any(axis=1).sum())
    text += f"; {args.check} random images in onnxruntime: {wrong} differ from the golden model"
    return Outcome(found | {"images": args.check, "mismatches": wrong}, text, int(wrong > 0))
