# SPDX-License-Identifier: Apache-2.0
"""The board without DRAM as Verilog, with its flash, behind the driver's serial link."""

import json

import numpy as np
import pytest
from PIL import Image

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.flash_top import PROTECT, flash_verilog
from hiddenfold.gen.target import Target
from hiddenfold.sw.cli import main
from hiddenfold.sw.commands.common import MODELS
from hiddenfold.sw.driver.accelerator import Accelerator, AcceleratorError
from hiddenfold.sw.driver.device import DeviceError, open_device
from hiddenfold.sw.driver.flash_store import FLASH_BYTES, SECTOR, FlashStore
from hiddenfold.sw.driver.resident import store_image
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.bench.flash_board import FlashBoard, flash_library
from hiddenfold.verif.golden.model import Golden

TARGET = Target.load("sim-tiny")
MODEL = small_model()
#: The board's; the driver's own limit does not matter on a pseudo-terminal.
BAUD = 12_500_000


@pytest.fixture(scope="module")
def library():
    return flash_library(TARGET, baud=BAUD, mode="quad", log=print)


@pytest.fixture
def board(library):
    with FlashBoard(library, TARGET, baud=BAUD) as board:
        yield board


@pytest.fixture(scope="module")
def program():
    return compile_model(MODEL, TARGET)


@pytest.fixture(scope="module")
def pictures():
    """Four of the shipped photographs, in the size of the small network."""
    photos = []
    for path in sorted((MODELS / "samples").glob("*.png"))[:4]:
        with Image.open(path) as photo:
            photos.append(np.asarray(photo.convert("RGB").resize((WIDTH, HEIGHT))))
    return np.stack(photos)


def url(board: FlashBoard) -> str:
    # The simulation is some hundred times slower than a board.
    return f"serial:{board.path}?baud=12000000&flash={PROTECT}&clock=0.1&timeout=100"


def flash_image(*programs) -> bytes:
    memories = [program.memory for program in programs]
    return store_image(memories, unit=SECTOR, first=SECTOR, limit=FLASH_BYTES)


def test_load_writes_the_flash_and_pictures_are_classified(board, program, pictures):
    logits = Golden(MODEL).run(pictures)
    with Accelerator.open(url(board)) as accelerator:
        accelerator.load(program)
        result = accelerator.run(pictures)
        assert np.array_equal(result.logits, logits)
        assert result.bytes_read == 4 * program.predicted_bytes_read
        image = flash_image(program)
        assert board.flash[PROTECT : PROTECT + len(image)].tobytes() == image
        assert np.all(board.flash[:PROTECT] == 0xFF)
        assert np.all(board.flash[PROTECT + len(image) :] == 0xFF)


def test_flash_written_before(board, program, pictures):
    """By another tool, from the file of `hiddenfold flash`: nothing is written again."""
    other = compile_model(small_model(2), TARGET)
    image = flash_image(other, program)
    board.flash[PROTECT : PROTECT + len(image)] = np.frombuffer(image, np.uint8)
    with Accelerator.open(url(board)) as accelerator:
        accelerator.load(program)
        accelerator.load(other)
        accelerator.load(program)
        assert board.flash[PROTECT : PROTECT + len(image)].tobytes() == image
        assert np.array_equal(accelerator.run(pictures[:1]).logits, Golden(MODEL).run(pictures[:1]))
        # A flash that forgets is noticed by the accelerator, and written again.
        board.flash[accelerator.program_address + 70] ^= 1
        with pytest.raises(AcceleratorError, match=r"INSTRUCTION_SIGNATURE \(2\)"):
            accelerator.run(pictures[:1])
        accelerator.load(program)
        assert np.array_equal(accelerator.run(pictures[:1]).logits, Golden(MODEL).run(pictures[:1]))


def test_the_begin_of_the_flash_is_protected(board):
    board.flash[:] = 0x55
    low = f"serial:{board.path}?baud=12000000&flash={PROTECT - SECTOR}&timeout=100"
    with open_device(low) as device:
        with pytest.raises(DeviceError, match=r"does not keep what is written, 3 times: .* design"):
            device.store.write_memory(PROTECT - SECTOR, bytes(8))
    assert np.all(board.flash == 0x55)


@pytest.mark.parametrize("begin", [5, (16 << 20) - SECTOR])
def test_illegal_begin_of_the_flash(begin):
    with pytest.raises(ValueError, match=r"^flash must be a multiple of 4096 below 0xfff000, not"):
        FlashStore(None, begin)


def test_images_of_a_flash_have_programs():
    with pytest.raises(ValueError, match=r"^a flash image must have 1\.\.15 programs, not 0$"):
        flash_image()


def test_images_of_a_flash_fit_it(program):
    with pytest.raises(ValueError, match=r"^a flash image must have at most 4096 bytes, not 8192:"):
        store_image([program.memory], unit=SECTOR, first=SECTOR, limit=SECTOR)


def test_flash_command(program, tmp_path, capsys):
    program.save(tmp_path / "net.hfp")
    out = tmp_path / "flash.bin"
    assert main(["flash", str(tmp_path / "net.hfp"), "-o", str(out), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == {"flash": str(out), "programs": 1, "bytes": 2 * SECTOR}
    assert out.read_bytes() == flash_image(program)
    compile_model(MODEL, Target.load("peer-64")).save(tmp_path / "other.hfp")
    files = [str(tmp_path / name) for name in ("net.hfp", "other.hfp")]
    assert main(["flash", *files, "-o", str(out)]) == 2
    assert "the programs of a flash must be for one target" in capsys.readouterr().err


def test_bit_rate_must_fit_the_clock():
    with pytest.raises(ValueError, match=r"^clock_mhz of the target must be a multiple of "):
        flash_verilog(TARGET, baud=30_000_000)
