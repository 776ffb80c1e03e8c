# SPDX-License-Identifier: Apache-2.0
"""Compiler: programs do what the golden model does, and what cannot run is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from hiddenfold.gen.compile import CompileError, compile_model
from hiddenfold.gen.target import Target
from hiddenfold.hw import lfsr
from hiddenfold.hw.isa import Error, Opcode
from hiddenfold.sw.driver.locate import layer_at
from hiddenfold.sw.instructions import encode, instructions
from hiddenfold.sw.model import Affine, Classifier, Conv, Loop, MaxPool, Model, Unfold
from hiddenfold.sw.program import Program
from hiddenfold.sw.signs import pack
from hiddenfold.verif.golden.compare import Layer, first_mismatch
from hiddenfold.verif.golden.interpreter import Fault, run
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

TINY = Target.load("sim-tiny")
#: Few planes, many rows, a wide bus, a shallow partial-sum memory: the corners of section 6.
TARGETS = {
    "sim-tiny": TINY,
    "peer-64": Target.load("peer-64"),
    "ulx3s-85f": Target.load("ulx3s-85f"),
    "bit-serial": replace(TINY, rows=8, lanes=64, planes=1, psum_depth=64, bus_bits=128),
    "square": replace(TINY, rows=32, lanes=32, planes=4, act_banks=1, act_bank_words=8192),
}


def random_images(model, seed, count=2):
    rng = np.random.default_rng(seed)
    return np.stack([random_image(rng, *model.image) for _ in range(count)])


def interpret(program, images):
    """The trace of the interpreter in the form of the golden model's."""
    result = run(
        program.memory,
        program.target_parameters,
        program.target_id,
        program.pack_images(images),
        program.scratch_bytes,
    )
    assert result.bytes_saved + len(result.output) == len(images) * program.predicted_bytes_written
    assert len(result.output) == len(images) * program.output_bytes
    assert abs(result.bytes_read / len(images) - program.predicted_bytes_read) <= 0.5
    outputs = program.unpack_output(result.output, len(images))
    layers = [
        Layer(entry["name"], entry["iteration"], np.stack([o.trace[index] for o in outputs]))
        for index, entry in enumerate(program.image_trace)
    ]
    name = program.layers[-1]["name"]
    return [*layers, Layer(name, 0, np.stack([o.logits for o in outputs]))]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("seed", range(12))
def test_every_layer_is_the_golden_models(name, seed):
    target = TARGETS[name]
    model = random_model(seed, Limits.of(target, max_macs=200_000, frozen=True))
    images = random_images(model, seed)
    program = Program.from_bytes(compile_model(model, target, trace=True).to_bytes())
    assert first_mismatch(Golden(model).trace(images), interpret(program, images)) is None


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch", (2, 3, 4))
@pytest.mark.parametrize("seed", range(300, 304))
def test_a_batch_is_the_golden_models(name, batch, seed):
    """Two batches, so that pointers go on."""
    target = TARGETS[name]
    model = random_model(seed, Limits.of(target, max_macs=100_000))
    images = random_images(model, seed, 2 * batch)
    program = compile_model(model, target, trace=True, batch=batch)
    assert program.batch == batch
    assert first_mismatch(Golden(model).trace(images), interpret(program, images)) is None


@pytest.mark.parametrize("seed", range(100, 106))
def test_logits_without_a_trace(seed):
    model = random_model(seed, Limits.of(TINY, max_macs=300_000, frozen=True))
    images = random_images(model, seed, 3)
    program = compile_model(model, TINY)
    assert program.trace is None
    assert program.output_bytes == 4 * program.logits
    (logits,) = interpret(program, images)
    assert np.array_equal(logits.values, Golden(model).run(images))


# One operation after the other, made by hand.


def make(*ops, image=(8, 8), classes=5, keep=0.5, shift=4):
    """A model of these operations with random masks and constants."""
    model = Model(
        name="made",
        dataset="none",
        classes=tuple(f"label {i}" for i in range(classes)),
        image=image,
        seed=lfsr.seed_state(1),
        top_k=keep,
        act_bits=8,
        ops=ops,
        masks={},
        affine=[],
    )
    rng = np.random.default_rng(0)
    masks = {}
    for stream, shape in sorted(model.weight_shapes().items()):
        size = (shape.out_channels, shape.in_channels, shape.kernel, shape.kernel)
        masks[stream] = pack(rng.random(size) < keep).reshape(shape.words)
    affine = []
    for execution in model.executions():
        if execution.affine is not None:
            channels = execution.out_shape.channels
            multiplier = rng.integers(-99, 100, channels).astype(np.int16)
            bias = rng.integers(0, 1 << 15, channels).astype(np.int32)
            affine.append(Affine(shift, 77, multiplier, bias))
    return replace(model, masks=masks, affine=affine)


def stem(channels=6, **changes):
    fields = {"kernel": 1, "bits": 8, "stream": 0, "out_channels": channels} | changes
    return (
        Unfold(name="unfold", output="u", kernel=3, stride=1),
        Conv(name="stem", input="u", output="x", **fields),
    )


def conv(name, source, output, stream, **changes):
    fields = {"kernel": 3, "bits": 8, "out_channels": 6} | changes
    return Conv(name=name, input=source, output=output, stream=stream, **fields)


def opcodes(program):
    return [Opcode(fields["opcode"]).name for _, fields in instructions(program.memory)]


def convs(program):
    return [f for _, f in instructions(program.memory) if f["opcode"] == Opcode.CONV]


def agrees(model, target=TINY, batch=1):
    """Compile, interpret and compare; return the program."""
    images = random_images(model, 5, 2 * batch)
    program = compile_model(model, target, trace=True, batch=batch)
    assert first_mismatch(Golden(model).trace(images), interpret(program, images)) is None
    return program


def test_a_residual_is_overwritten_in_place():
    block = (conv("a", "x", "y", 1), conv("b", "y", "z", 2, residual="x"))
    program = agrees(make(*stem(), *block, Classifier(name="fc", input="z", stream=3)))
    last = convs(program)[2]
    assert last["residual"] and last["dst"] == last["res"]


def test_a_residual_that_is_read_later_is_kept():
    block = (
        conv("a", "x", "y", 1),
        conv("b", "y", "z", 2, residual="x"),
        conv("c", "z", "z", 3, residual="x"),
    )
    program = agrees(make(*stem(), *block, Classifier(name="fc", input="z", stream=4)))
    second, third = convs(program)[2:4]
    assert second["dst"] != second["res"]
    assert third["dst"] == third["res"]


def test_a_loop_carries_its_state_in_place():
    body = (conv("a", "x", "y", 1), conv("b", "y", "x", 2, residual="x"))
    model = make(*stem(), Loop(count=3, body=body), Classifier(name="fc", input="x", stream=3))
    program = agrees(model)
    assert "POOL" not in opcodes(program)
    assert opcodes(program).count("LOOP") == opcodes(program).count("ENDLOOP") == 1
    assert convs(program)[2]["dst"] == convs(program)[2]["res"] == convs(program)[1]["src"]
    # Unfold, stem and the body's convolutions, each with a STORE; BEGIN, LOOP, ENDLOOP, fc, END.
    assert program.instructions == len(opcodes(program)) == 2 * 4 + 5
    assert [entry["iteration"] for entry in program.trace] == [0, 0, 0, 0, 1, 1, 2, 2]


def test_a_state_that_is_its_own_input_is_copied():
    body = (conv("a", "x", "x", 1, residual="x"),)
    model = make(*stem(), Loop(count=3, body=body), Classifier(name="fc", input="x", stream=2))
    program = agrees(model)
    (copy,) = [f for _, f in instructions(program.memory) if f["opcode"] == Opcode.POOL]
    assert (copy["kernel"], copy["stride"]) == (1, 1)
    assert copy["dst"] == convs(program)[1]["src"]
    assert [layer["op"] for layer in program.layers].count("maxpool") == 0
    # Errors in the copy, and in what stores the trace, are the convolution's.
    for opcode, name in ((Opcode.POOL, "a"), (Opcode.STORE, "unfold"), (Opcode.ENDLOOP, None)):
        pc = next(pc for pc, f in instructions(program.memory) if f["opcode"] == opcode)
        assert layer_at(program, pc) == name
    assert layer_at(program, 1) is layer_at(program, 1 << 30) is None


def test_two_states_that_change_places():
    body = (conv("a", "x", "t", 2), conv("b", "y", "x", 3), conv("c", "t", "y", 4))
    loop = Loop(count=4, body=body)
    model = make(
        *stem(), conv("before", "x", "y", 1), loop, Classifier(name="fc", input="y", stream=5)
    )
    assert "POOL" not in opcodes(agrees(model))


def test_layers_of_one_stream_share_their_masks():
    one = (conv("a", "x", "y", 1), conv("b", "y", "z", 1))
    program = agrees(make(*stem(), *one, Classifier(name="fc", input="z", stream=2)))
    assert convs(program)[1]["offset"] == convs(program)[2]["offset"]


def test_small_maps_and_all_sides_of_a_gap():
    for image in ((1, 1), (2, 2), (3, 3), (8, 8)):
        ops = (
            *stem(),
            conv("a", "x", "y", 1, kernel=7),
            Classifier(name="fc", input="y", stream=2),
        )
        program = agrees(make(*ops, image=image))
        assert convs(program)[1]["gap"] == (image[0] < 8)


def test_layer_table():
    ops = (
        *stem(40),
        MaxPool(name="pool", input="x", output="p", kernel=3, stride=2),
        conv("a", "p", "y", 1, out_channels=9, stride=2, bits=3),
        Classifier(name="fc", input="y", stream=2),
    )
    program = agrees(make(*ops, image=(10, 12)))
    assert [layer["name"] for layer in program.layers] == ["unfold", "stem", "pool", "a", "fc"]
    assert [layer["op"] for layer in program.layers] == (
        ["unfold", "conv", "maxpool", "conv", "classifier"]
    )
    assert program.layers[3]["in"] == [5, 6, 40]
    assert program.layers[3]["out"] == [3, 3, 9]
    macs = [0, 120 * 27 * 40, 0, 9 * 9 * 40 * 9, 9 * 5]
    assert [layer["macs"] for layer in program.layers] == macs
    assert program.macs == sum(macs)
    # The classifier reads 3 bits.
    ideal = (8 * (macs[1] + macs[3]) + 3 * macs[4]) / (4 * 16 * 2)
    assert program.ideal_cycles == ideal == sum(layer["ideal_cycles"] for layer in program.layers)
    assert program.predicted_cycles == sum(layer["predicted_cycles"] for layer in program.layers)
    for layer, code in zip(program.layers, ["IMAGE", "CONV", "POOL", "CONV", "CONV"], strict=True):
        (place,) = layer["pcs"]
        fields = dict(instructions(program.memory))[place]
        assert Opcode(fields["opcode"]).name == code
    assert program.logits == 8
    assert program.predicted_bytes_written == program.output_bytes


def test_the_same_model_gives_the_same_bytes():
    model = random_model(3)
    target = TARGETS["square"]
    assert compile_model(model, target).to_bytes() == compile_model(model, target).to_bytes()


# Refusals.


def refusal(model, target=TINY, **options):
    with pytest.raises(CompileError) as caught:
        compile_model(model, target, **options)
    return str(caught.value)


def plain(**changes):
    return make(*stem(**changes), Classifier(name="fc", input="x", stream=1), image=(8, 8))


@pytest.mark.parametrize("batch", (0, 256))
def test_refuses_a_batch(batch):
    with pytest.raises(ValueError, match=rf"^Batch must be in 1\.\.255 images, not {batch}$"):
        compile_model(plain(), TINY, batch=batch)


def test_refuses_a_batch_that_does_not_fit():
    model = make(*stem(100), Classifier(name="fc", input="x", stream=1))
    # The head leaves the stem's 448 words an image.
    target = replace(TINY, act_banks=1, act_bank_words=2048)
    assert refusal(model, target, batch=5) == (
        "Operation 'fc' does not fit target 'sim-tiny': its input needs 2240 words of memory "
        "(35840 bytes) for a batch of 5, the target has 2048: compile with --batch 4, or raise "
        "act_bank_words to 4096"
    )
    agrees(model, target, batch=4)


def test_refuses_a_wide_image():
    assert refusal(plain(), replace(TINY, image_width=7)) == (
        "Operation 'unfold' does not fit target 'sim-tiny': image width 8 is above the target's "
        "image_width 7: scale the images, or raise image_width"
    )


def test_refuses_a_large_stem():
    assert refusal(plain(), replace(TINY, stem_kernel=1)) == (
        "Operation 'unfold' does not fit target 'sim-tiny': kernel 3 is above the target's "
        "stem_kernel 1: train with a smaller kernel, or raise stem_kernel"
    )


def test_refuses_a_wide_map():
    model = make(*stem(), Classifier(name="fc", input="x", stream=1), image=(3, 20))
    assert refusal(model, replace(TINY, psum_depth=16)) == (
        "Operation 'stem' does not fit target 'sim-tiny': output width 20 is above the target's "
        "psum_depth 16: raise psum_depth to 32"
    )


def test_refuses_large_sums_by_the_masks():
    model = make(
        *stem(90), conv("a", "x", "y", 1, kernel=7), Classifier(name="fc", input="y", stream=2)
    )
    plus, minus = model.kept(1)
    peak = 255 * max(plus.max(), minus.max())
    bits = int(peak).bit_length() + 1
    assert refusal(model, replace(TINY, acc_bits=bits - 1)) == (
        f"Operation 'a' does not fit target 'sim-tiny': its sums reach {peak}, more than the "
        f"target's acc_bits {bits - 1} hold: raise acc_bits to {bits}, or keep fewer weights"
    )
    agrees(model, replace(TINY, acc_bits=bits))


def test_refuses_too_many_activations():
    model = make(*stem(100), Classifier(name="fc", input="x", stream=1))
    # 64 pixels of 2 words that the unfold makes, and of 7 words that the stem makes.
    agrees(model, replace(TINY, act_banks=2, act_bank_words=256))
    # The classifier adds up all pixels at once.
    assert refusal(model, replace(TINY, act_banks=1, act_bank_words=256)) == (
        "Operation 'fc' does not fit target 'sim-tiny': its input needs 448 words of memory (7168 "
        "bytes), the target has 256: raise act_bank_words to 512, or make its input smaller"
    )


def test_refuses_an_illegal_model():
    model = plain()
    with pytest.raises(ValueError, match=r"^Affine tables must be 1, "):
        compile_model(replace(model, affine=[]), TINY)


# The interpreter itself: it must see what is wrong.


def damage(program, offset, mask=1):
    memory = bytearray(program.memory)
    memory[offset] ^= mask
    return replace(program, memory=bytes(memory))


def fault(program):
    images = program.pack_images(random_images(plain(), 1, 1))
    with pytest.raises(Fault) as caught:
        run(program.memory, program.target_parameters, program.target_id, images)
    return caught.value.error, caught.value.pc


def with_instruction(program, pc, opcode, **fields):
    memory = bytearray(program.memory)
    memory[pc : pc + 64] = encode(opcode, **fields)
    return replace(program, memory=bytes(memory))


def test_the_interpreter_finds_damage():
    program = compile_model(plain(), TINY)
    (stem_conv, _) = convs(program)
    begin = next(instructions(program.memory))[1]
    stem_pc = program.layers[1]["pcs"][0]
    assert fault(damage(program, stem_pc)) == (Error.INSTRUCTION_SIGNATURE, stem_pc)
    assert fault(damage(program, stem_conv["offset"])) == (Error.MASK_SIGNATURE, stem_pc)
    assert fault(damage(program, begin["offset"])) == (Error.AFFINE_SIGNATURE, stem_pc)
    assert fault(damage(program, begin["offset"] + 9)) == (Error.AFFINE_SIGNATURE, stem_pc)
    other = replace(program, target_id=program.target_id ^ 1)
    assert fault(other) == (Error.TARGET, 0)
    assert fault(with_instruction(program, 0, Opcode.END)) == (Error.OPCODE, 0)
    assert fault(with_instruction(program, 64, Opcode.ENDLOOP)) == (Error.LOOP, 64)
    assert fault(with_instruction(program, 64, Opcode.LOOP, count=256)) == (Error.LOOP, 64)
    assert fault(with_instruction(program, 64, Opcode.STORE, src=8192, count=1)) == (
        (Error.WINDOW, 64)
    )
    assert fault(with_instruction(program, 64, Opcode.POOL, kernel=2)) == (Error.FIELD, 64)


def test_constants_longer_than_their_fifo() -> None:
    """A block of 64 rows has 66 beats on a bus of 64 bits: they are asked for as room is made."""
    target = replace(Target.load("zu7ev"), bus_bits=64)
    program = compile_model(random_model(3, Limits.of(target, max_macs=400_000)), target)
    assert program.predicted_cycles > 0
