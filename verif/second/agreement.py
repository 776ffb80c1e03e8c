# SPDX-License-Identifier: Apache-2.0
"""Both golden models on the same networks: every weight, layer, iteration and logit must be equal.

The only module of the second golden model that knows the first. A network goes through both as the
bytes of its files: the model file through both readers, and what the compiler makes of it through
the second model's machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.affine import SHORT
from hiddenfold.sw.model import Model
from hiddenfold.sw.verify import network_limits, random_batch, random_memory
from hiddenfold.verif.golden.compare import Layer, Mismatch, first_mismatch
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image, random_model
from hiddenfold.verif.second import (
    inference,
    machine,
    masks,
    model_file,
    output,
    program_file,
    sizes,
)

__all__ = ["Agreement", "check", "check_model", "random_network"]


@dataclass
class Agreement:
    """What was compared, and what differed; `features` counts networks that have one."""

    networks: int = 0
    layers: int = 0
    values: int = 0
    differences: list[str] = field(default_factory=list)
    features: dict[str, int] = field(default_factory=dict)

    def compare(self, where: str, expected: list[Layer], found: list[Layer]) -> None:
        """Count two traces, and keep their first difference."""
        self.layers += len(expected)
        self.values += sum(layer.values.size for layer in expected)
        mismatch: Mismatch | None = first_mismatch(expected, found)
        if mismatch is not None:
            self.differences.append(f"{where}: {mismatch}")

    def count(self, **features: object) -> None:
        """Count the features that are true."""
        for name, present in features.items():
            self.features[name] = self.features.get(name, 0) + bool(present)


def random_network(seed: int, target: Target) -> Model:
    """The network of `verify` for a seed; each third one has short constants."""
    model = random_model(seed, network_limits(target))
    if seed % 3 != 1:
        return model
    short = [affine.shortened() for affine in model.affine]
    return replace(model, affine=short, constants=SHORT)


def check(model: Model, target: Target, seed: int, result: Agreement) -> None:
    """Compare the models, and the output of programs with and without a trace; add to `result`."""
    where = f"{model.name} on {target.name}, seed {seed}"
    batch, images = random_batch(model, target, seed)
    words = random_memory(model, target, seed, batch)
    rng = np.random.default_rng([seed, 7])
    pictures = np.stack([random_image(rng, *model.image) for _ in range(images)])
    expected = check_model(where, model, pictures, result)
    padded = np.resize(pictures, (-(-images // batch) * batch, *pictures.shape[1:]))
    programs = []
    for trace in (True, False):
        program = compile_model(model, target, trace=trace, batch=batch, act_words=words)
        programs.append(program_file.Program(program.to_bytes()))
        for late in (False, True)[: 1 + (program.scratch_bytes > 0)]:
            found = _execute(programs[-1], padded, late, images)
            wanted = expected if trace else expected[-1:]
            result.compare(f"{where}, program, trace {trace}, late {late}", wanted, found)
    _count_features(model, batch, programs, result)
    result.networks += 1


def check_model(
    where: str, model: Model, pictures: NDArray[np.uint8], result: Agreement
) -> list[Layer]:
    """Compare weights, sizes and inference; returns the first golden model's trace."""
    second = model_file.Model(model.to_bytes())
    for number, stream in enumerate(second.streams):
        shape = model.weight_shapes()[number]
        weights = masks.kernel_order(stream.weights, shape.kernel)
        if not np.array_equal(weights, model.weights(number)):
            result.differences.append(f"{where}: weights of stream {number}")
    _compare_sizes(where, model, second, result)
    expected = Golden(model).trace(pictures)
    result.compare(f"{where}, inference", expected, _infer(second, pictures))
    return expected


def _infer(model: model_file.Model, pictures: NDArray[np.uint8]) -> list[Layer]:
    runs = [inference.Inference(model, picture) for picture in pictures]
    traces = [[*run.layers, (model.ops[-1]["name"], 0, run.logits)] for run in runs]
    return _stack(traces)


def _execute(
    program: program_file.Program, pictures: NDArray[np.uint8], late: bool, count: int
) -> list[Layer]:
    data = machine.Machine(program, late=late, noise=1 + late).run(pictures)
    traces, logits = output.read_output(program.header, bytes(data))
    name = program.header["layers"][-1]["name"]
    return [*_stack(traces[:count]), Layer(name, 0, logits[:count])]


def _stack(traces: list[list[tuple[str, int, NDArray]]]) -> list[Layer]:
    """One trace of all images."""
    return [
        Layer(entries[0][0], entries[0][1], np.stack([entry[2] for entry in entries]))
        for entries in zip(*traces, strict=True)
    ]


def _compare_sizes(where: str, model: Model, second: model_file.Model, result: Agreement) -> None:
    """The sizes that section 5 of the specification defines."""
    summary = model.summary()
    for key, value in sizes.sizes(second).items():
        if summary[key] != value:
            result.differences.append(f"{where}: {key} {summary[key]}, second {value}")


def _count_features(
    model: Model, batch: int, programs: list[program_file.Program], result: Agreement
) -> None:
    traced, plain = (program.header for program in programs)
    instructions = [
        program_file.Instruction(program.image[at : at + 64])
        for program in programs
        for at in range(0, 64 * program.header["instructions"], 64)
    ]
    result.count(
        batch=batch > 1,
        frozen=any(m < 8 for m in model.free),
        stored_frozen=any(i.free for i in instructions if i.name == "CONV"),
        short=model.constants == SHORT,
        few_bits=any(e.in_bits < 8 for e in model.executions()),
        cached=any(i.cached for i in instructions if i.name == "CONV"),
        spilled=plain["scratch_bytes"] > 0,
        spilled_batch=batch > 1 and plain["scratch_bytes"] > 0,
        stripes=traced["trace_order"] is not None,
        tile_images=any(i.tile_images > 1 for i in instructions if i.name == "CONV"),
        loop=any(i.name == "LOOP" for i in instructions),
    )
