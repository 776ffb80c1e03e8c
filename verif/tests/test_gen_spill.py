# SPDX-License-Identifier: Apache-2.0
"""Programs whose tensors do not fit on chip, on the interpreter, which sees missing fences."""

from dataclasses import replace

import numpy as np
import pytest

from hiddenfold.gen.actions import Region, actions
from hiddenfold.gen.compile import CompileError, compile_model
from hiddenfold.gen.graph import build
from hiddenfold.gen.spill import plan
from hiddenfold.gen.stripes import Group
from hiddenfold.gen.target import Target
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.driver.locate import layer_at
from hiddenfold.sw.instructions import encode, instructions
from hiddenfold.sw.program import Program
from hiddenfold.verif.golden.compare import Layer, first_mismatch
from hiddenfold.verif.golden.interpreter import run
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

TINY = Target.load("sim-tiny")
SMALL = replace(TINY, act_bank_words=64)
LIMITS = Limits.of(replace(TINY, act_bank_words=1 << 14), max_macs=400_000)
#: Seeds of networks that `SMALL` must spill: loops, copies, projections, chains among them.
SPILLED = (2, 18, 19, 24, 33, 34, 36, 53, 55)


def images_for(model, seed):
    rng = np.random.default_rng(seed)
    return np.stack([random_image(rng, *model.image) for _ in range(2)])


def execute(program, images):
    """The interpreter's trace; all predictions of bytes must be right."""
    count = len(images)
    result = run(
        program.memory,
        program.target_parameters,
        program.target_id,
        program.pack_images(images),
        program.scratch_bytes,
    )
    assert result.bytes_read == count * program.predicted_bytes_read
    assert result.bytes_saved + len(result.output) == count * program.predicted_bytes_written
    outputs = program.unpack_output(result.output, count)
    layers = [
        Layer(entry["name"], entry["iteration"], np.stack([o.trace[index] for o in outputs]))
        for index, entry in enumerate(program.image_trace)
    ]
    name = program.layers[-1]["name"]
    return [*layers, Layer(name, 0, np.stack([o.logits for o in outputs]))]


@pytest.mark.parametrize("seed", SPILLED)
def test_spilled_networks_are_the_golden_models(seed):
    model = random_model(seed, LIMITS)
    images = images_for(model, seed)
    golden = Golden(model).trace(images)
    program = Program.from_bytes(compile_model(model, SMALL, trace=True).to_bytes())
    assert program.predicted_bytes_spilled and program.scratch_bytes
    # Golden executions of a loop come iteration by iteration, like the traced ones.
    assert first_mismatch(golden, execute(program, images)) is None
    plain = compile_model(model, SMALL)
    assert first_mismatch(golden[-1:], execute(plain, images)) is None
    for layer in program.layers:
        assert {layer_at(program, place) for place in layer["pcs"]} == {layer["name"]}


def test_without_its_fences_a_program_is_refused():
    """The interpreter finds each fence that is missing, so all that are there are needed."""
    model = random_model(19, LIMITS)
    images = images_for(model, 19)
    program = compile_model(model, SMALL)
    fences = 0
    for offset, fields in instructions(program.memory):
        if not (fields["fence_loads"] or fields["fence_saves"]):
            continue
        fences += 1
        if fields["opcode"] in (Opcode.LOOP, Opcode.ENDLOOP):
            continue
        opcode = Opcode(fields["opcode"])
        gone = ("opcode", "signature", "fence_loads", "fence_saves")
        kept = {name: value for name, value in fields.items() if name not in gone}
        memory = bytearray(program.memory)
        memory[offset : offset + 64] = encode(opcode, **kept)
        with pytest.raises(AssertionError, match="unfinished"):
            execute(replace(program, memory=bytes(memory)), images)
    assert fences > 3


@pytest.mark.parametrize("seed", (2, 19, 24, 33, 36, 53, 55))
def test_transfers_overlap_with_work(seed):
    """Some LOAD is asked for before the work on the stripe before its own."""
    graph = build(random_model(seed, LIMITS), SMALL.lanes)
    program = actions(graph, plan(graph, SMALL), SMALL, trace=False)
    turns = [a.turn for a in program if a.opcode not in (Opcode.BEGIN, Opcode.END, Opcode.LOAD)]
    assert turns == sorted(turns)
    pairs = zip(program, program[1:], strict=False)
    assert any(a.opcode == Opcode.LOAD and b.turn < a.turn for a, b in pairs)


def test_stripes_read_every_row_once_or_as_halo():
    graph = build(random_model(19, LIMITS), SMALL.lanes)
    for group in plan(graph, SMALL).groups:
        assert isinstance(group, Group)
        for index, node in enumerate(group.nodes):
            stripes = [group.stripe(number)[index] for number in range(group.stripes)]
            height = node.execution.in_shape.height
            assert stripes[0].in_first == 0 and stripes[0].top == 0
            assert stripes[-1].in_first + stripes[-1].in_rows == height
            for before, after in zip(stripes, stripes[1:], strict=False):
                assert after.first <= before.first + before.rows
                assert after.in_first <= before.in_first + before.in_rows


def test_regions():
    assert Region(3, 5).touches(Region(4, 9)) and not Region(3, 5).touches(Region(5, 9))
    assert not Region(3, 5).touches(None)


def test_what_does_not_fit_in_stripes_is_refused():
    model = random_model(32, LIMITS)
    with pytest.raises(CompileError) as refused:
        compile_model(model, SMALL)
    assert str(refused.value) == (
        "Operation 'pool2' does not fit target 'sim-tiny': a row of it needs 297 words of memory "
        "(4752 bytes), the target has 256: raise act_bank_words to 128"
    )


def test_a_batch_is_not_spilled():
    model = random_model(19, LIMITS)
    with pytest.raises(CompileError, match="for a batch of 2.*compile with --batch 1"):
        compile_model(model, SMALL, batch=2)
