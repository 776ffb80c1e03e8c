# SPDX-License-Identifier: Apache-2.0
"""The design of the ULX3S: the driver on its UART, a model of its SDRAM that knows the rules."""

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.hw import regmap
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.resident import MemoryStore, Resident
from hiddenfold.verif.bench.board_simulator import BoardSimulator, loaded
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image

TARGET = Target.load("sim-tiny")


@pytest.fixture(scope="module")
def board():
    with BoardSimulator(TARGET) as board:
        yield board


@pytest.fixture
def accelerator(board):
    with Accelerator.open(board.url) as accelerator:
        yield accelerator
    assert not board.failed


def test_pictures_through_the_uart(accelerator):
    model = small_model()
    rng = np.random.default_rng(4)
    images = np.stack([random_image(rng, HEIGHT, WIDTH) for _ in range(4)])
    accelerator.load(compile_model(model, TARGET))
    result = accelerator.run(images)
    np.testing.assert_array_equal(result.logits, Golden(model).run(images))


def test_memory_keeps_what_is_written(accelerator):
    """All banks, other rows, the last word; the windows do not overlap the registers."""
    device = accelerator.device
    rng = np.random.default_rng(5)
    places = [device.memory_base + n * (8 << 20) + 1024 * n for n in range(4)]
    places += [device.memory_base + 1024, device.memory_base + device.memory_size - 64]
    parts = [rng.integers(0, 256, 64, dtype=np.uint8) for _ in places]
    for place, part in zip(places, parts, strict=True):
        device.write_memory(place, part)
    for place, part in zip(places, parts, strict=True):
        np.testing.assert_array_equal(device.read_memory(place, 64), part)
    assert accelerator.registers()["ID"] == regmap.ID_VALUE


def test_a_program_that_is_there_from_the_beginning():
    model = small_model()
    program = compile_model(model, TARGET)
    image = random_image(np.random.default_rng(6), HEIGHT, WIDTH)[np.newaxis]
    with (
        BoardSimulator(TARGET, memory=loaded(program)) as board,
        Accelerator.open(board.url) as accelerator,
    ):
        assert Resident(MemoryStore(accelerator.device)).end() >= len(program.memory)
        write, written = accelerator.device.write_memory, []
        accelerator.device.write_memory = lambda place, data: written.append(place)
        accelerator.load(program)
        assert written == []
        accelerator.device.write_memory = write
        result = accelerator.run(image)
    np.testing.assert_array_equal(result.logits, Golden(model).run(image))
