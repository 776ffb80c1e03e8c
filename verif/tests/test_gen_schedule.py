# SPDX-License-Identifier: Apache-2.0
"""Batches whose first operations run image by image because memory is short."""

from dataclasses import replace

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.graph import build
from hiddenfold.gen.limits import CompileError, largest_batch, place
from hiddenfold.gen.schedule import schedule
from hiddenfold.gen.target import Target
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.driver.locate import layer_at
from hiddenfold.sw.instructions import instructions
from hiddenfold.verif.golden.interpreter import run
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

TINY = Target.load("sim-tiny")
BATCH = 3


def short_of_memory(graph):
    """The lengths of heads that less and less memory needs, and the targets with that memory."""
    targets = [replace(TINY, act_banks=1, act_bank_words=1 << bits) for bits in range(16, 3, -1)]
    plans = [(schedule(graph, target, BATCH), target) for target in targets]
    return [(plan.head, target) for plan, target in plans if plan and plan.head]


@pytest.mark.parametrize("seed", (2, 6, 13, 17, 24, 46, 52))
def test_a_head_runs_image_by_image(seed):
    model = random_model(seed, Limits.of(TINY, max_macs=100_000))
    graph = build(model, TINY.lanes)
    heads = short_of_memory(graph)
    assert heads, "choose another seed"
    head, target = heads[-1]
    rng = np.random.default_rng(seed)
    images = np.stack([random_image(rng, *model.image) for _ in range(2 * BATCH)])
    golden = Golden(model)
    program = compile_model(model, target, batch=BATCH, trace=True)
    result = run(
        program.memory, program.target_parameters, program.target_id, program.pack_images(images)
    )
    outputs = program.unpack_output(result.output, len(images))
    assert np.array_equal([output.logits for output in outputs], golden.run(images))
    for index, layer in enumerate(golden.trace(images)[:-1]):
        entry = program.image_trace[index]
        assert (entry["name"], entry["iteration"]) == (layer.name, layer.iteration)
        assert np.array_equal([output.trace[index] for output in outputs], layer.values)
    # Each instruction of the head comes once for each image, and belongs to its layer.
    names = {node.execution.name for node in graph.nodes[:head]}
    for layer in program.layers:
        places = layer["pcs"]
        alone = layer["name"] in names or layer["op"] in ("unfold", "maxpool")
        assert len(places) == (BATCH if alone else 1)
        assert {layer_at(program, place) for place in places} == {layer["name"]}
    images_of = [f["images"] for _, f in instructions(program.memory) if f["opcode"] == Opcode.CONV]
    assert set(images_of) == {1, BATCH}


def test_the_head_is_as_short_as_memory_allows():
    model = random_model(6, Limits.of(TINY, max_macs=100_000))
    graph = build(model, TINY.lanes)
    plan = schedule(graph, replace(TINY, act_bank_words=1 << 16), BATCH)
    assert plan.head == 0
    lengths = [head for head, _ in short_of_memory(graph)]
    assert lengths and lengths == sorted(lengths)
    assert schedule(graph, replace(TINY, act_bank_words=16), BATCH) is None


def test_the_largest_batch():
    graph = build(random_model(6, Limits.of(TINY, max_macs=100_000)), TINY.lanes)
    target = replace(TINY, act_banks=1, act_bank_words=256)
    largest = largest_batch(graph, target, 200)
    assert 1 <= largest < 200
    place(graph, target, largest)
    with pytest.raises(CompileError, match=f"compile with --batch {largest},"):
        place(graph, target, largest + 1)
    assert largest_batch(graph, replace(TINY, act_bank_words=16), 200) == 0
