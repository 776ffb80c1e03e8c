# SPDX-License-Identifier: Apache-2.0
"""Classifies images on the golden model or on a device, and compares the two bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.sw.images import Images

if TYPE_CHECKING:
    from hiddenfold.gen.target import Target
    from hiddenfold.sw.driver.accelerator import Accelerator
    from hiddenfold.sw.model import Model
    from hiddenfold.sw.program import Program

__all__ = ["Classification", "classify_on_device", "classify_on_golden", "device_url"]

#: Called with a number of steps done.
Tick = Callable[[int], object]


@dataclass(kw_only=True)
class Classification:
    """Results, image by image in the order of the images.

    ``measures`` has the fields of ``hiddenfold run --json`` that a backend measures, None where it
    does not. ``layer_values`` and ``logit_values`` count what was compared, ``mismatches`` the
    images that differ; ``first_mismatch`` says where the first one does.
    """

    logits: NDArray[np.int64]
    measures: list[dict[str, Any]]
    program: Program | None = None
    layer_values: int = 0
    logit_values: int = 0
    mismatches: int = 0
    first_mismatch: str | None = None
    executions: int = field(default=0)
    #: Counters of each layer in the first batch, where the device is a simulator.
    layers: list[dict[str, int]] | None = None


MEASURES = (
    "bit_exact",
    "cycles",
    "ideal_cycles",
    "utilization",
    "bytes_read",
    "bytes_written",
    "sim_cycles_per_second",
)


def device_url(backend: str, target: str) -> str:
    """The device URL that ``--backend`` and ``--target`` stand for."""
    return f"rtl:{target}" if backend == "rtl" else backend


def classify_on_golden(model: Model, images: NDArray[np.uint8]) -> Classification:
    """Classify uint8[N, height, width, 3] with the golden model."""
    from hiddenfold.verif.golden.model import Golden

    logits = Golden(model).run(images)
    return Classification(logits=logits, measures=[dict.fromkeys(MEASURES) for _ in images])


def classify_on_device(
    model: Model,
    target: Target,
    url: str,
    images: Images,
    *,
    batch: int = 1,
    check: bool = False,
    tick: Tick = lambda _: None,
    waves: Path | None = None,
) -> Classification:
    """Classify uint8[N, height, width, 3] on a device.

    With ``check`` the logits, and in a second run the outputs of every layer and iteration, are
    compared with the golden model. ``tick`` is called with the number of images after each step;
    it hears of each image once, with ``check`` twice. ``waves`` is the file of a waveform, for a
    device that is simulated.
    """
    from hiddenfold.gen.compile import compile_model
    from hiddenfold.sw.driver.accelerator import Accelerator

    program = compile_model(model, target, batch=batch)
    traced = compile_model(model, target, trace=True, batch=batch) if check else None
    options = {"trace_file": waves} if waves else {}
    with Accelerator.open(url, **options) as accelerator:
        result = _measure(accelerator, program, images, batch, tick)
        if traced is not None:
            _compare(accelerator, model, traced, images, result, tick=tick)
    return result


def _measure(
    accelerator: Accelerator,
    program: Program,
    images: Images,
    batch: int,
    tick: Tick,
) -> Classification:
    """Run the images, ``batch`` at a time, so that each has its own counters."""
    from hiddenfold.sw.driver.profile import profile

    accelerator.load(program)
    simulated = hasattr(accelerator.device, "advance")
    layers: list[dict[str, int]] | None = None
    logits: list[NDArray[Any]] = []
    measures: list[dict[str, Any]] = []
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        if simulated and first == 0 and len(part) == batch:
            run, layers = profile(accelerator, part)
        else:
            run = accelerator.run(part)
        each = run.per_image()
        logits.extend(run.logits)
        measures.extend(
            {
                "bit_exact": None,
                "cycles": _whole(each["cycles"]),
                "ideal_cycles": _whole(program.ideal_cycles),
                "utilization": program.ideal_cycles / each["cycles"],
                "bytes_read": _whole(each["bytes_read"]),
                "bytes_written": _whole(each["bytes_written"]),
                "sim_cycles_per_second": run.cycles / run.seconds if simulated else None,
            }
            for _ in part
        )
        tick(len(part))
    return Classification(
        logits=np.stack(logits).astype(np.int64),
        measures=measures,
        program=program,
        layers=layers,
    )


def _compare(
    accelerator: Accelerator,
    model: Model,
    traced: Program,
    images: Images,
    result: Classification,
    *,
    tick: Tick,
) -> None:
    """Fill in what the comparison with the golden model finds."""
    from hiddenfold.sw.verify import Comparison, compare_layers
    from hiddenfold.verif.golden.compare import first_mismatch
    from hiddenfold.verif.golden.model import Golden

    golden = Golden(model)
    accelerator.load(traced)
    for first in range(0, len(images), traced.batch):
        run = accelerator.run(images[first : first + traced.batch])
        for offset in range(run.images):
            number = first + offset
            wanted = golden.trace(images[number : number + 1])
            found = Comparison()
            difference = compare_layers(run, slice(offset, offset + 1), wanted, found)
            # The run without a trace is another program: its logits must be right as well.
            plain = wanted[-1]._replace(values=result.logits[number][np.newaxis])
            difference = difference or first_mismatch(wanted[-1:], [plain])
            result.measures[number]["bit_exact"] = difference is None
            result.logit_values += plain.values.size
            result.layer_values += found.values - plain.values.size
            result.executions = len(wanted)
            if difference is not None:
                result.mismatches += 1
                result.first_mismatch = (
                    result.first_mismatch or f"picture {number + 1}: {difference}"
                )
            tick(1)


def _whole(value: float) -> int | float:
    """A mean over images as an integer when it is one."""
    return int(value) if value == int(value) else value


def read_images(paths: Sequence[Any], model: Model, *, fit: bool = False) -> NDArray[np.uint8]:
    """Read picture files as uint8[N, height, width, 3]; ``fit`` scales those of another size."""
    from hiddenfold.sw.pictures import read_picture

    return np.stack([read_picture(path, *model.image, fit=fit) for path in paths])
