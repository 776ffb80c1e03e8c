# SPDX-License-Identifier: Apache-2.0
"""Every message of docs/driver.md, section "Errors", is what a failing accelerator or link says."""

import ast
import contextlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import serial
from driver_cases import (
    BASE,
    REGISTER_NAMES,
    SIZE,
    ScriptedDevice,
    Words,
    make_images,
    make_program,
    opened,
)

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error
from hiddenfold.sw.driver import control, flash_store
from hiddenfold.sw.driver.accelerator import Accelerator, AcceleratorError
from hiddenfold.sw.driver.bridge import BridgeDevice
from hiddenfold.sw.driver.device import Device, DeviceError, open_device
from hiddenfold.sw.driver.flash_store import FlashStore
from hiddenfold.sw.driver.resident import MemoryStore, Resident
from hiddenfold.verif.bench.boards import EtherboneBoard, SerialBoard

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "sw" / "driver"


def documented() -> list[str]:
    """The messages in the first column of the table, in order."""
    section = (ROOT / "docs" / "driver.md").read_text().split("\n## Errors\n")[1]
    rows = re.findall(r"^\| (`.*?) \| ", section.split("\n## ")[0], re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]*)`", row)]


def pattern(message: str) -> str:
    """A regular expression for a message: ``...`` stands for anything, as NAME and code do."""
    text = r".*".join(re.escape(part) for part in message.split("..."))
    return text.replace("NAME", "[A-Z_]+").replace(r"\(code\)", r"\(\d+\)")


#: What raises a message, by the message; several of them where several links say it.
SCENARIOS: dict[str, list[Callable[..., object]]] = {}


def says(message: str) -> Callable:
    """Add a scenario."""

    def add(scenario: Callable[..., object]) -> Callable[..., object]:
        SCENARIOS.setdefault(message, []).append(scenario)
        return scenario

    return add


@says("device URL must start with one of ...")
def unknown_scheme() -> None:
    open_device("usb:1")


@says("option of a serial: URL must be one of ...")
def unknown_option() -> None:
    open_device("serial:x?speed=3")


def identified(register: str, value: int) -> None:
    device = ScriptedDevice()
    device.values[register] = value
    Accelerator(device)


@says("the device is no Hiddenfold accelerator: ID must be ...")
def wrong_id() -> None:
    identified("ID", 0)


@says("the accelerator's major version must be ...")
def wrong_version() -> None:
    identified("VERSION", regmap.VERSION_VALUE + (1 << 16))


@says("program ... was compiled for target ...")
def other_target() -> None:
    opened()[0].load(make_program(target="x", target_id=7))


@says("program ... needs ... bytes of memory")
def little_memory() -> None:
    opened()[0].load(make_program(output_bytes=SIZE))


@says("program ... does not read back as written")
def forgetful_memory() -> None:
    opened(damage=True)[0].load(make_program())


@says("no program is loaded: call load() first")
def nothing_loaded() -> None:
    Accelerator(ScriptedDevice()).run(make_images(1))


def run(*endings: object, change: Callable[[ScriptedDevice], object] | None = None, **limits):
    accelerator, device = opened(*endings)
    if change is not None:
        change(device)
    accelerator.run(make_images(1), **limits)


@says("the accelerator finished ... of ... images without an error")
def unfinished() -> None:
    def forget(device: ScriptedDevice) -> None:
        read = device.read32
        at = regmap.REGISTERS["IMAGES_DONE"].offset
        device.read32 = lambda offset: 0 if offset == at else read(offset)

    run(change=forget)


@says("register ... reads ... after ... was written")
def register_that_forgets() -> None:
    def forget(device: ScriptedDevice) -> None:
        write = device.write32
        device.write32 = lambda offset, value: write(offset, value & ~64)

    run(change=forget)


@says("register STATUS keeps DONE or ERROR")
def memory_for_registers() -> None:
    def plain(device: ScriptedDevice) -> None:
        device.write32 = lambda offset, value: device.values.update({REGISTER_NAMES[offset]: value})

    run(change=plain)


@says("register CONTROL took START")
def in_reset() -> None:
    run(change=lambda device: setattr(device, "_start", lambda: None))


@says("accelerator error NAME (code) at program offset ..., layer ...")
def hardware_error() -> None:
    run((Error.BUS_READ, 128))


@says("program ... has ... bytes, and there is room for ...")
def full_store() -> None:
    device = ScriptedDevice()
    Resident(MemoryStore(device)).add(bytes(SIZE), 0, "net", None)


@says("the accelerator has been closed")
def closed_accelerator() -> None:
    accelerator, _ = opened()
    accelerator.close()
    accelerator.run(make_images(1))


@says("aborted by the host between two starts")
def aborted_in_a_transfer() -> None:
    accelerator, device = opened()
    write = device.write_memory

    def stop(address: int, data: np.ndarray | bytes) -> None:
        accelerator._control.stop.set()
        write(address, data)

    device.write_memory = stop
    accelerator.run(make_images(1))


@says("the run was aborted by the host")
def aborted() -> None:
    accelerator, device = opened("abortable")
    wait = device.wait

    def stop(cycles: int) -> int:
        accelerator._control.stop.set()
        return wait(cycles)

    device.wait = stop
    accelerator.run(make_images(1))


@says("the accelerator did not finish within ... s")
def timeout() -> None:
    run("abortable", timeout=1e-9)


@says("the accelerator did not finish, nor did its watchdog stop it")
def dead_clock() -> None:
    run("hang", watchdog=5000)


@says("did not stop after an abort ...")
def dead_memory() -> None:
    def no_reset(device: ScriptedDevice) -> None:
        device.reset = lambda: BridgeDevice(Words()).reset()

    run("hang", change=no_reset, watchdog=5000)


@says("... cannot reset the accelerator")
def no_wire() -> None:
    BridgeDevice(Words()).reset()


@says("... cannot reset the accelerator")
def no_wire_of_uio(files: str) -> None:
    with open_device(files) as device:
        device.reset()


@says("serial: devices need the package pyserial")
def no_pyserial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    open_device("serial:x")


@says("memory=pynq needs the package pynq")
def no_pynq(monkeypatch: pytest.MonkeyPatch, files: str) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    open_device(files.partition("?")[0] + "?memory=pynq&size=8k")


@says("serial port ... may not be opened")
def no_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **options: object) -> None:
        raise serial.SerialException(13, "could not open port x: [Errno 13] Permission denied: 'x'")

    monkeypatch.setattr(serial, "serial_for_url", refuse)
    open_device("serial:x")


@says("serial port ... cannot be opened")
def no_port() -> None:
    open_device("serial:/dev/nothing")


@contextlib.contextmanager
def serial_board(**options: object) -> Iterator[tuple[SerialBoard, Device]]:
    with SerialBoard(ScriptedDevice()) as board:
        with open_device(serial_url(board), timeout=0.1, **options) as device:
            yield board, device


def serial_url(board: SerialBoard) -> str:
    return f"serial:{board.path}?base={BASE}&size={SIZE}"


@says("... is in use by another program")
def port_in_use() -> None:
    with serial_board() as (board, _):
        open_device(serial_url(board))


@says("... is in use by another program")
def uio_in_use(files: str) -> None:
    with open_device(files):
        open_device(files)


@says("serial port ... did not answer within ... s, 3 times")
def mute_board() -> None:
    with serial_board() as (board, device):
        board.mute = True
        device.read32(0)


@says("serial port ... takes no data")
def full_adapter() -> None:
    board = SerialBoard(ScriptedDevice())  # not started
    try:
        with open_device(serial_url(board), timeout=0.1, check=False) as device:
            device.write_memory(BASE, bytes(SIZE))
    finally:
        board.unplug()


@says("... has gone")
def serial_unplugged() -> None:
    with serial_board() as (board, device):
        board.unplug()
        device.read32(0)


@says("... has gone")
def serial_unplugged_while_writing() -> None:
    with serial_board() as (board, device):
        board.unplug()
        device.write32(regmap.REGISTERS["IMAGES"].offset, 1)


@says("... has gone")
def uio_unloaded(files: str) -> None:
    with open_device(files) as device, socket.socket() as closed:
        device._file, device._interrupts = closed.fileno(), True
        device.wait(1)


@contextlib.contextmanager
def litex_board() -> Iterator[tuple[EtherboneBoard, Device]]:
    with EtherboneBoard(ScriptedDevice()) as board:
        with open_device(f"litex:localhost:{board.port}", timeout=0.1) as device:
            yield board, device


@says("... has gone")
def server_ended() -> None:
    with litex_board() as (board, device):
        board.unplug()
        device.read32(0)


@says("litex_server at ... does not answer")
def no_server() -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    open_device(f"litex:localhost:{port}")


@says("did not answer within")
def mute_server() -> None:
    with litex_board() as (board, device):
        board.mute = True
        device.read32(0)


@says("does not speak Etherbone")
def other_server() -> None:
    with socket.create_server(("localhost", 0)) as server:

        def chat() -> None:
            with server.accept()[0] as host, contextlib.suppress(OSError):
                host.sendall(b"220 mail\r\n")
                host.recv(4096)
                host.sendall(b"500 unknown command\r\n")
                host.recv(4096)

        thread = threading.Thread(target=chat)
        thread.start()
        try:
            with open_device(f"litex:localhost:{server.getsockname()[1]}") as device:
                device.read32(0)
        finally:
            thread.join(10)


@says("bus address ... does not keep what is written")
def no_memory() -> None:
    link = Words()
    link.stuck = 9
    BridgeDevice(link, memory=0, size=1 << 16).write_memory(0, b"\1" * 400)


@says("reads differently each of 3 times")
def noisy_line() -> None:
    link = Words()
    link.moody = 5
    BridgeDevice(link, memory=0, size=1 << 16).read_memory(0, 400)


@says("reads differently each of 3 times")
def noisy_registers() -> None:
    link = Words()
    link.moody = 0
    BridgeDevice(link, registers=0, memory=0, size=1 << 16).read32(0)


class NoFlash(Words):
    """A bus without a flash: it reads as ``value`` everywhere."""

    def __init__(self, value: int):
        super().__init__()
        self.value = value

    def read(self, address: int, count: int) -> np.ndarray:
        return np.full(count, self.value, np.uint32)

    def write(self, address: int, words: np.ndarray) -> None:
        pass


@says("flash at ... does not keep what is written")
def protected_flash() -> None:
    FlashStore(BridgeDevice(NoFlash(0)), 0).write_memory(0, b"\1" * 8)


@says("flash at ... is busy for ... s")
def no_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_store, "_ERASE_SECONDS", 0.01)
    FlashStore(BridgeDevice(NoFlash(0xFFFFFFFF)), 0).write_memory(0, b"\1" * 8)


@says("flash must be written from a multiple of ...")
def half_sector() -> None:
    FlashStore(BridgeDevice(Words()), 0).write_memory(8, bytes(8))


@says("... cannot be opened")
def no_overlay() -> None:
    open_device("uio:/dev/nothing?base=0&size=4k")


@says("cannot be mapped")
def wrong_size(files: str) -> None:
    open_device(files.replace("size=4k", "size=1M"))


@says("the uio: device has been closed")
def closed(files: str) -> None:
    device = open_device(files)
    device.close()
    device.read32(0)


@says("memory access must lie in ...")
def outside() -> None:
    ScriptedDevice().read_memory(BASE + SIZE - 4, 8)


MESSAGES = documented()
CASES = [
    pytest.param(message, scenario.__name__, id=f"{message} {scenario.__name__}")
    for message, scenarios in SCENARIOS.items()
    for scenario in scenarios
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each scenario raises, by its name."""
    found = {}
    for scenarios in SCENARIOS.values():
        for scenario in scenarios:
            folder = tmp_path_factory.mktemp(scenario.__name__)
            for name in ("registers", "memory"):
                (folder / name).write_bytes(bytes(4096))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(control, "_REACTION_SECONDS", 0.01)
                given = {
                    "monkeypatch": patch,
                    # The URL of a UIO device made of files.
                    "files": f"uio:{folder}/registers?memory={folder}/memory&base=0&size=4k",
                }
                wanted = {name: given[name] for name in signature(scenario).parameters}
                with pytest.raises((AcceleratorError, DeviceError, ValueError)) as caught:
                    scenario(**wanted)
            found[scenario.__name__] = str(caught.value)
    return found


def test_every_message_has_a_scenario() -> None:
    assert len(MESSAGES) > 30
    assert set(MESSAGES) == set(SCENARIOS)


@pytest.mark.parametrize(("message", "scenario"), CASES)
def test_message_is_what_is_said(said: dict[str, str], message: str, scenario: str) -> None:
    assert re.search(pattern(message), said[scenario])


def raised() -> Iterator[tuple[str, str]]:
    """File of each message of the driver's exceptions, and a regular expression for it."""
    for path in sorted(DRIVER.glob("*.py")):
        # What the simulator says of itself is not about a board.
        if path.name == "rtl.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            name = getattr(node.exc.func, "id", "")
            if name not in ("AcceleratorError", "AcceleratorTimeout", "DeviceError"):
                continue
            parts = getattr(node.exc.args[0], "values", node.exc.args)
            texts = [
                re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in parts
            ]
            # An outer layer may add the place.
            yield path.name, "^" + "".join(texts) + r"($| \()"


def test_no_message_is_missing(said: dict[str, str]) -> None:
    """All that the driver raises is said by a scenario, so it is in the table."""
    found = set(raised())
    assert len(found) > 30
    missing = {
        (file, text)
        for file, text in found
        if not any(re.search(text, message) for message in said.values())
    }
    assert missing == set()
