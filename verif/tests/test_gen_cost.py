# SPDX-License-Identifier: Apache-2.0
"""Predictions of the compiler against the counters of the generated accelerator."""

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


@pytest.mark.parametrize("trace", (False, True), ids=("logits", "trace"))
@pytest.mark.parametrize("seed", range(200, 208))
def test_bytes_are_exact_and_cycles_are_close(accelerator, seed, trace):
    model = random_model(seed, Limits.of(TARGET, max_macs=300_000, frozen=True))
    program = compile_model(model, TARGET, trace=trace)
    images = np.stack([random_image(np.random.default_rng(seed), *model.image)] * 3)
    accelerator.load(program)
    result = accelerator.run(images)
    assert result.bytes_read == 3 * program.predicted_bytes_read
    # The last beat of all the images may be filled up.
    bus_bytes = TARGET.bus_bits // 8
    written = -(-3 * program.predicted_bytes_written // bus_bytes) * bus_bytes
    assert result.bytes_written == written
    assert abs(result.cycles - 3 * program.predicted_cycles) * 100 < result.cycles * CYCLE_ERROR
