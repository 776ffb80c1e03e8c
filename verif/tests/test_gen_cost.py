# SPDX-License-Identifier: Apache-2.0
"""Predictions of the compiler against the counters of the generated accelerator."""

from dataclasses import replace

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.verif.golden.random_networks import Limits, random_image, random_model

TARGET = Target.load("sim-tiny")
#: An estimate of a pipeline: this far it may be off, in percent.
CYCLE_ERROR = 3


@pytest.fixture(scope="module")
def accelerator():
    with Accelerator.open("rtl:sim-tiny") as opened:
        yield opened


@pytest.mark.parametrize("seed", (2, 18, 24, 36, 53))
def test_spilled_bytes_are_exact_and_cycles_are_close(accelerator, seed):
    limits = Limits.of(replace(TARGET, act_bank_words=1 << 14), max_macs=400_000)
    model = random_model(seed, limits)
    program = compile_model(model, TARGET, act_words=256)
    assert program.predicted_bytes_spilled
    images = np.stack([random_image(np.random.default_rng(seed), *model.image)] * 2)
    accelerator.load(program)
    result = accelerator.run(images)
    assert result.bytes_read == 2 * program.predicted_bytes_read
    assert result.bytes_written == 2 * program.predicted_bytes_written
    error = abs(result.cycles - 2 * program.predicted_cycles)
    assert error * 100 < result.cycles * CYCLE_ERROR


@pytest.mark.parametrize("trace", (False, True), ids=("logits", "trace"))
@pytest.mark.parametrize("batch", (1, 4))
@pytest.mark.parametrize("seed", range(200, 208))
def test_bytes_are_exact_and_cycles_are_close(accelerator, seed, batch, trace):
    model = random_model(seed, Limits.of(TARGET, max_macs=300_000, frozen=True))
    program = compile_model(model, TARGET, trace=trace, batch=batch)
    count = 3 if batch == 1 else batch
    images = np.stack([random_image(np.random.default_rng(seed), *model.image)] * count)
    accelerator.load(program)
    result = accelerator.run(images)
    # A batch's bytes may not be a multiple of its images.
    assert abs(result.bytes_read / count - program.predicted_bytes_read) <= (batch > 1) / 2
    # The last beat of all the images may be filled up.
    bus_bytes = TARGET.bus_bits // 8
    written = -(-count * program.predicted_bytes_written // bus_bytes) * bus_bytes
    assert result.bytes_written == written
    error = abs(result.cycles - count * program.predicted_cycles)
    assert error * 100 < result.cycles * CYCLE_ERROR
