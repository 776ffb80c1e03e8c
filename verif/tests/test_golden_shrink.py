# SPDX-License-Identifier: Apache-2.0
"""Networks that fail are shrunk to small ones that fail in the same way."""

import numpy as np
import pytest

from hiddenfold.gen.target import Target
from hiddenfold.sw import verify as verify_module
from hiddenfold.sw.model import Model
from hiddenfold.sw.operations import Conv, Loop, MaxPool
from hiddenfold.sw.verify import network_limits
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import Limits, random_model
from hiddenfold.verif.golden.shrink import shrink, smaller

TARGET = Target.load("sim-tiny")
LIMITS = Limits(max_macs=200_000, frozen=True)


def convs(model):
    return [execution for execution in model.executions() if isinstance(execution.op, Conv)]


@pytest.mark.parametrize("seed", range(6))
def test_every_step_is_a_legal_network_that_keeps_what_it_had(seed):
    model = random_model(seed, LIMITS)
    image = np.random.default_rng(seed).integers(0, 256, (1, *model.image, 3), np.uint8)
    layers = {(e.name, e.iteration): e.values for e in Golden(model).trace(image)}
    for candidate in smaller(model):
        try:
            candidate.validate()
        except ValueError:
            continue
        cropped = image[:, : candidate.image[0], : candidate.image[1]]
        for layer in Golden(candidate).trace(cropped)[:-1]:
            if candidate.image == model.image and layer.iteration == 0:
                assert (layer.name, layer.iteration) in layers
        if candidate.image == model.image and not any(isinstance(op, Loop) for op in model.ops):
            *same, _ = Golden(candidate).trace(cropped)
            assert all(np.array_equal(layers[e.name, e.iteration], e.values) for e in same)


def test_only_what_fails_is_left():
    """A mistake of one kind of convolution on maps of at least 3 rows."""

    def fails(model):
        return any(e.op.kernel == 3 and e.out_shape.height >= 3 for e in convs(model))

    shrunk = 0
    for seed in range(12):
        model = random_model(seed, LIMITS)
        if not fails(model):
            continue
        small = shrink(model, fails)
        small.validate()
        assert fails(small)
        assert len(convs(small)) <= len(convs(model))
        # No operation after the first that fails, unless a loop's body goes on.
        first = next(
            number
            for number, op in enumerate(small.ops)
            if any(c.kernel == 3 for c in (op.body if isinstance(op, Loop) else [op])
                   if isinstance(c, Conv))
        )  # fmt: skip
        assert first <= len(small.ops) - 2
        shrunk += len(small.ops) < len(model.ops) or small.image < model.image
    assert shrunk >= 2


def test_loops_are_shortened():
    model = next(
        m
        for m in map(lambda seed: random_model(seed, LIMITS), range(60))
        if any(isinstance(op, Loop) and op.count > 3 for op in m.ops)
    )
    small = shrink(model, lambda m: any(isinstance(op, Loop) and op.count >= 2 for op in m.ops))
    assert max(op.count for op in small.ops if isinstance(op, Loop)) == 2


def test_nothing_is_changed_if_only_the_whole_fails():
    model = random_model(3, LIMITS)
    assert shrink(model, lambda m: m is model) is model


def test_tries_are_limited():
    model, seen = random_model(5, LIMITS), []

    def fails(candidate):
        seen.append(candidate)
        return False

    shrink(model, fails, tries=4)
    assert len(seen) == 4


def test_what_is_refused_is_passed_over():
    model = random_model(3, LIMITS)

    def fails(candidate):
        if any(isinstance(op, MaxPool) for op in candidate.ops):
            raise ValueError("does not fit")
        return True

    assert len(shrink(model, fails).executions()) <= len(model.executions())


def test_verify_keeps_the_smallest(tmp_path, monkeypatch):
    """A golden model that is wrong about pooling: what is kept repeats it, and is right without."""

    class Wrong(Golden):
        def trace(self, images):
            layers = super().trace(images)
            wrong = any(isinstance(e.op, MaxPool) for e in self.model.executions())
            return [*layers[:-1], layers[-1]._replace(values=layers[-1].values + wrong)]

    seed = next(
        seed
        for seed in range(100)
        if any(isinstance(op, MaxPool) for op in random_model(seed, network_limits(TARGET)).ops)
    )
    with monkeypatch.context() as patch:
        patch.setattr(verify_module, "Golden", Wrong)
        data = verify_module.verify(TARGET, seed, count=1, failures=tmp_path)
        assert data["mismatches"] == 1
        [file] = tmp_path.iterdir()
        assert data["first_mismatch"].endswith(
            f"(smallest: hiddenfold verify --target sim-tiny --seed {seed} --model {file})"
        )
        again = verify_module.verify(TARGET, seed, model=file)
        assert again["mismatches"] == 1
        assert f"--model {file}" in again["first_mismatch"]
    small = Model.load(file)
    assert any(isinstance(op, MaxPool) for op in small.ops)
    assert small.image < random_model(seed, network_limits(TARGET)).image
    assert verify_module.verify(TARGET, seed, model=file)["mismatches"] == 0
