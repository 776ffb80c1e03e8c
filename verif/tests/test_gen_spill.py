# SPDX-License-Identifier: Apache-2.0
"""Programs whose tensors do not fit on chip, on the interpreter, which sees missing fences."""

from dataclasses import replace

import numpy as np
import pytest

from hiddenfold.gen.actions import Region, actions
from hiddenfold.gen.compile import CompileError, compile_model
from hiddenfold.gen.graph import build
from hiddenfold.gen.limits import largest_batch, place
from hiddenfold.gen.mask_cache import cache_places
from hiddenfold.gen.plan import ConvPlan
from hiddenfold.gen.spill import plan
from hiddenfold.gen.streams import MaskStreams
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


def images_for(model, seed, count=2):
    rng = np.random.default_rng(seed)
    return np.stack([random_image(rng, *model.image) for _ in range(count)])


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
    # What a batch reads may not be a multiple of its images.
    rounding = (program.batch - 1) / program.batch
    assert abs(result.bytes_read / count - program.predicted_bytes_read) <= rounding
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


def test_instructions_know_all_words_that_they_read_and_write():
    """What no fence and no later LOAD may disturb, whether one would or not."""
    residuals = stored = 0
    for seed in SPILLED:
        graph = build(random_model(seed, LIMITS), SMALL.lanes)
        for action in actions(graph, plan(graph, SMALL), SMALL, trace=True):
            assert all(region.start < region.end for region in (*action.reads, *action.writes))
            if action.opcode == Opcode.STORE:
                assert action.reads == (Region(action.src, action.src + action.count),)
                stored += 1
            elif action.node is not None and action.node.res is not None:
                (written,) = action.writes
                words = written.end - written.start
                assert written.start == action.dst
                assert Region(action.res, action.res + words) in action.reads
                residuals += 1
    assert residuals and stored


def test_masks_that_an_instruction_needs_again_are_cached():
    """Outside of loops each convolution has the whole cache, before loops, too."""
    seen = set()
    for seed in (*SPILLED, 12):
        model = random_model(seed, LIMITS)
        graph, masks = build(model, TINY.lanes), MaskStreams(model, TINY)
        program = actions(graph, place(graph, TINY, 1), TINY, trace=False)
        loops = [pc for pc, action in enumerate(program) if action.opcode == Opcode.LOOP]
        ends = [pc for pc, action in enumerate(program) if action.opcode == Opcode.ENDLOOP]
        alone: dict[str, list[int]] = {}
        for pc, action in enumerate(program):
            inside = sum(loop < pc for loop in loops) > sum(end < pc for end in ends)
            if action.opcode == Opcode.CONV and not inside:
                alone.setdefault(action.execution.name, []).append(pc)
        cached = cache_places(program, masks, TINY)
        for name, pcs in alone.items():
            convs = [program[pc] for pc in pcs]
            stream = convs[0].execution.stream
            assert stream is not None
            plans = [ConvPlan.make(c.execution, TINY, len(c.images), c.stripe) for c in convs]
            again = any(len(plan.tiles) > 1 for plan in plans)
            if again and masks.bytes(stream) <= TINY.mask_cache:
                assert name in cached, (seed, name)
                seen.add("before a loop" if loops and pcs[0] < loops[0] else "elsewhere")
    assert seen == {"before a loop", "elsewhere"}


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


#: Seeds of networks with short tails and long ones, loops in the head, and banks of memory.
BATCHES = ((1, 64), (6, 64), (12, 32), (13, 32), (24, 32), (31, 16), (39, 16))


@pytest.mark.parametrize(("seed", "bank_words"), BATCHES)
def test_spilled_batches_are_the_golden_models(seed, bank_words):
    batch = 2 + seed % 3
    target = replace(TINY, act_bank_words=bank_words)
    model = random_model(seed, replace(LIMITS, max_macs=100_000, frozen=True))
    images = images_for(model, seed, 2 * batch)
    golden = Golden(model).trace(images)
    program = Program.from_bytes(compile_model(model, target, trace=True, batch=batch).to_bytes())
    assert program.predicted_bytes_spilled and program.batch == batch
    assert first_mismatch(golden, execute(program, images)) is None
    plain = compile_model(model, target, batch=batch)
    assert first_mismatch(golden[-1:], execute(plain, images)) is None
    convs = [f["images"] for _, f in instructions(plain.memory) if f["opcode"] == Opcode.CONV]
    assert set(convs) == {1, batch}
    for layer in program.layers:
        assert {layer_at(program, place) for place in layer["pcs"]} == {layer["name"]}


def loads_of_all_images(program, batch):
    """How many LOADs stand between the last image's work and that on all images."""
    together = next(i for i, action in enumerate(program) if len(action.images) == batch)
    return sum(a.opcode == Opcode.LOAD and a.turn == program[together].turn for a in program)


def test_what_a_head_leaves_is_kept_on_chip_or_loaded():
    """It is spilled where memory is short, and then loaded for each image."""
    model = random_model(24, replace(LIMITS, max_macs=100_000, frozen=True))
    for bank_words, spilled in ((64, False), (32, True)):
        target = replace(TINY, act_bank_words=bank_words)
        graph = build(model, target.lanes)
        layout = plan(graph, target, 2)
        program = actions(graph, layout, target, trace=False)
        assert bool(layout.loaded) == spilled
        assert loads_of_all_images(program, 2) == 2 * len(layout.loaded)


def test_masks_are_read_once_for_a_batch_behind_a_spilled_head():
    model = random_model(31, replace(LIMITS, max_macs=100_000, frozen=True))
    target = replace(TINY, act_bank_words=64, mask_cache=0)
    one, three = (compile_model(model, target, batch=batch) for batch in (1, 3))
    assert three.predicted_bytes_spilled
    pairs = [
        (alone["mask_bytes"], shared["mask_bytes"])
        for alone, shared in zip(one.layers, three.layers, strict=True)
        if len(shared["pcs"]) == 1 and shared["mask_bytes"]
    ]
    assert len(pairs) > 1
    assert all(alone == pytest.approx(3 * shared) for alone, shared in pairs)


def test_the_largest_batch_that_fits_in_stripes_is_named():
    model = random_model(19, LIMITS)
    graph = build(model, SMALL.lanes)
    largest = largest_batch(graph, SMALL, 255)
    assert 1 < largest < 255
    compile_model(model, SMALL, batch=largest)
    with pytest.raises(
        CompileError, match=f"for a batch of {largest + 1}.*compile with --batch {largest},"
    ):
        compile_model(model, SMALL, batch=largest + 1)
