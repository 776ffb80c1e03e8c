# SPDX-License-Identifier: Apache-2.0
"""Random networks on the generated accelerator against the golden model, bit by bit.

Network ``i`` of a run with seed ``S`` is made from ``S + i`` alone, so that ``verify`` with that
seed and a count of 1 repeats it. Each network is compiled twice and run on the simulated
accelerator: with a trace, of which every layer and iteration is compared, and without, of which the
logits are. Many go through in batches, and some batches have to be filled up. Most may use so
little activation memory that they must spill tensors. The memory of every second network pauses at
random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hiddenfold.gen.compile import CompileError, compile_model
from hiddenfold.gen.graph import build
from hiddenfold.gen.limits import largest_batch, place
from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.errors import AcceleratorError
from hiddenfold.sw.driver.result import RunResult
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import Program
from hiddenfold.verif.golden.compare import Layer, Mismatch, first_mismatch
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_constants import random_constants, random_masks
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model
from hiddenfold.verif.golden.shrink import shrink

if TYPE_CHECKING:
    from hiddenfold.sw.search.settings import SearchConfig

__all__ = [
    "Comparison",
    "check_model",
    "compare_layers",
    "compare_run",
    "network_limits",
    "random_batch",
    "random_memory",
    "untrained",
    "verify",
]

#: Multiply-accumulates of a random network, in cycles of the target's array: what the simulator
#: does in about a second.
CYCLES = 25_000
#: Width of the hidden activations of a configured architecture.
ACT_BITS = 8


@dataclass
class Comparison:
    """What has been compared: layers count executions, values count elements of all images."""

    layers: int = 0
    values: int = 0
    mismatches: int = 0
    first: str | None = None

    def fail(self, text: str) -> None:
        """Count a mismatch and keep the first one's description."""
        self.mismatches += 1
        self.first = self.first or text


def verify(
    target: Target | str | Path,
    seed: int,
    *,
    count: int | None = None,
    config: Path | str | None = None,
    model: Path | str | None = None,
    tick: Callable[[int], object] = lambda _: None,
    url: str | None = None,
    failures: Path | str | None = None,
    waves: Path | None = None,
) -> dict[str, Any]:
    """Compare ``count`` random networks, or one architecture, on a target with the golden model.

    Parameters
    ----------
    target
        Name of a target, its TOML file or the target.
    seed
        Integer from 0 on; makes the networks and the memory's pauses.
    count, config, model
        Number of random networks, or a training configuration (TOML) whose architecture gets
        random masks and constants, or a model file. Exactly one of them.
    tick
        Called with 1 after each network.
    url
        Device to run on; default: the simulator of ``target``.
    failures
        Folder for the networks that fail, each made as small as it still fails; default: none.
    waves
        File of a waveform of the simulator (FST).

    Returns
    -------
    dict
        ``networks``, ``layers``, ``values_compared``, ``mismatches``, ``first_mismatch`` (text with
        the command that repeats it, or None) and ``seed``. ``mismatches`` counts networks.
    """
    if sum(what is not None for what in (count, config, model)) != 1:
        raise ValueError(
            "verify needs one of a count of random networks, a configuration and a model"
        )
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer from 0 on, not {seed!r}")
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count!r}")
    name = target.name if isinstance(target, Target) else str(target)
    target = target if isinstance(target, Target) else Target.load(target)
    if model is not None:
        configured, what = Model.load(model), f"--model {model}"
    elif config is not None:
        configured, what = untrained(config, seed), f"--config {config}"
    else:
        configured, what = None, "--count 1"
    if configured is not None:
        # What does not fit is refused before the simulator is built, which takes minutes.
        compile_model(configured, target)
    total = Comparison()
    options = {"trace_file": waves} if waves else {}
    with Accelerator.open(url or f"rtl:{name}", **options) as accelerator:
        for number in range(seed, seed + (count or 1)):
            network = configured or random_model(number, network_limits(target))
            again = f"hiddenfold verify --target {name} --seed {number}"
            one = check_model(accelerator, network, target, number)
            total.layers += one.layers
            total.values += one.values
            if one.mismatches:
                text = f"{one.first} (repeat: {again} {what})"
                if failures is not None:
                    small = _keep_smallest(accelerator, network, target, number, Path(failures))
                    text += f" (smallest: {again} --model {small})"
                total.fail(text)
            tick(1)
    return {
        "networks": count or 1,
        "layers": total.layers,
        "values_compared": total.values,
        "mismatches": total.mismatches,
        "first_mismatch": total.first,
        "seed": seed,
    }


def _keep_smallest(
    accelerator: Accelerator, model: Model, target: Target, seed: int, folder: Path
) -> Path:
    """Shrink a network that fails, write it and return its file."""

    def fails(candidate: Model) -> bool:
        return check_model(accelerator, candidate, target, seed).mismatches > 0

    path = folder / f"network-{target.name}-{seed}.hfn"
    folder.mkdir(parents=True, exist_ok=True)
    shrink(model, fails).save(path)
    return path


def check_model(accelerator: Accelerator, model: Model, target: Target, seed: int) -> Comparison:
    """Run a model with random images, traced and not, and compare it with the golden model.

    An error of the accelerator counts as a mismatch.
    """
    batch, images = random_batch(model, target, seed)
    act_words = random_memory(model, target, seed, batch)
    rng = np.random.default_rng([seed, 1])
    pictures = np.stack([random_image(rng, *model.image) for _ in range(images)])
    golden = Golden(model).trace(pictures)
    result = Comparison()
    configure = getattr(accelerator.device, "configure", None)
    for trace in (True, False):
        if configure is not None:
            stall = float(rng.choice([0.1, 0.5, 0.9])) if seed % 2 else 0.0
            latency = int(rng.choice([0, 3, 40, 150]))
            configure(read_latency=latency, stall=stall, seed=seed)
        program = compile_model(model, target, trace=trace, batch=batch, act_words=act_words)
        try:
            compare_run(accelerator, program, pictures, golden, result)
        except (AcceleratorError, DeviceError) as error:
            result.fail(f"network {model.name}: {error}")
            if isinstance(error, DeviceError):
                # A broken rule of AXI stays until then.
                accelerator.device.reset()
    return result


def random_batch(model: Model, target: Target, seed: int) -> tuple[int, int]:
    """The batch of a seed, as far as it fits the target, and a number of images to run."""
    rng = np.random.default_rng([seed, 2])
    wanted = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.25, 0.2, 0.15]))
    filled_up = bool(rng.random() < 0.3)
    batch = largest_batch(build(model, target.lanes), target, wanted) or 1
    return batch, 2 if batch == 1 else batch + filled_up


def random_memory(model: Model, target: Target, seed: int, batch: int) -> int | None:
    """Mostly, few words of activation memory: often so few that a batch must spill tensors."""
    rng = np.random.default_rng([seed, 3])
    if rng.random() < 0.3:
        return None
    graph = build(model, target.lanes)
    words = 16
    while words < target.act_words:
        try:
            place(graph, replace(target, act_banks=1, act_bank_words=words), batch)
        except CompileError:
            words *= 2
        else:
            return words << int(rng.integers(0, 2))
    return None


def compare_run(
    accelerator: Accelerator,
    program: Program,
    images: NDArray[np.uint8],
    golden: list[Layer],
    result: Comparison,
) -> None:
    """Run images through a program and add their comparison with a golden trace to ``result``."""
    accelerator.load(program)
    run = accelerator.run(images)
    mismatch = compare_layers(run, slice(None), golden, result)
    if mismatch is not None:
        kind = "traced" if run.traces is not None else "not traced"
        result.fail(f"network {program.model}, {kind}: {mismatch}")


def compare_layers(
    run: RunResult, images: slice, golden: list[Layer], result: Comparison
) -> Mismatch | None:
    """Compare images of a run with their golden trace; count in ``result`` what is compared."""
    found: list[Layer] = []
    for entries in zip(*(run.traces or ())[images], strict=True):
        values = np.stack([entry.data for entry in entries])
        found.append(Layer(entries[0].name, entries[0].iteration, values))
    found.append(Layer(golden[-1].name, golden[-1].iteration, run.logits[images]))
    wanted = golden if run.traces is not None else golden[-1:]
    result.layers += len(wanted)
    result.values += sum(layer.values.size for layer in wanted)
    return first_mismatch(wanted, found)


def untrained(config: Path | str | SearchConfig, seed: int) -> Model:
    """The network of a training configuration, with masks and constants of ``seed``."""
    from hiddenfold.sw.search.config import load_config
    from hiddenfold.sw.search.export import build_model
    from hiddenfold.sw.search.nets import FoldedResNet

    search = load_config(config) if isinstance(config, Path | str) else config
    size = search.image
    labels = tuple(f"label {i}" for i in range(search.model.classes))
    network = FoldedResNet(search.model)
    model = build_model(
        network, search.dataset, labels, (size, size), search.model.act_bits or ACT_BITS
    )
    rng = np.random.default_rng(seed)
    model = replace(model, seed=int(rng.integers(1, 1 << 64, dtype=np.uint64)))
    model = replace(model, masks=random_masks(rng, model, search.model.top_k))
    image = random_image(rng, size, size)
    return replace(model, affine=random_constants(rng, model, image))


def network_limits(target: Target) -> Limits:
    """What a network may need to run on the target, in reasonable time in simulation."""
    return Limits.of(target, max_macs=int(CYCLES * target.macs_per_cycle), frozen=True)
