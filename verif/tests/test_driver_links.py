# SPDX-License-Identifier: Apache-2.0
"""The driver's links to boards: right results, and every fault ends in time with a remedy."""

import contextlib
import socket
import struct
import sys
import threading
import time
import types

import numpy as np
import pytest

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.hw import regmap
from hiddenfold.sw.driver import litex, uart, uio
from hiddenfold.sw.driver.accelerator import Accelerator, AcceleratorError
from hiddenfold.sw.driver.device import DeviceError, open_device
from hiddenfold.sw.driver.litex import HEADER, LitexLink
from hiddenfold.sw.driver.rtl import MEMORY_BASE, RtlDevice
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.verif.bench.boards import EtherboneBoard, MappedBoard, SerialBoard
from hiddenfold.verif.bench.case import HEIGHT, WIDTH, small_model
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image

TARGET = Target.load("sim-tiny")
MODEL = small_model()
MEMORY_BYTES = 1 << 18
#: Where the simulated core has its memory, how much of it there is, and how fast it is at least.
PLACE = f"base={MEMORY_BASE:#x}&size=256k&clock=0.1"


@pytest.fixture(scope="module")
def library():
    return simulator_library(
        target_verilog(TARGET, print), bus_bits=TARGET.bus_bits, trace=False, log=print
    )


@pytest.fixture
def core(library):
    device = RtlDevice(library, memory_size=MEMORY_BYTES)
    yield device
    device.close()


@pytest.fixture(scope="module")
def program():
    return compile_model(MODEL, TARGET)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(4)
    return np.stack([random_image(rng, HEIGHT, WIDTH) for _ in range(2)])


@pytest.fixture(scope="module")
def logits(images):
    return Golden(MODEL).run(images)


@pytest.fixture
def impatient(monkeypatch):
    """Times out soon."""
    monkeypatch.setattr(uart.UartLink.__init__, "__kwdefaults__", {"baud": 10**6, "timeout": 0.5})
    monkeypatch.setattr(litex.LitexLink.__init__, "__kwdefaults__", {"timeout": 0.5})


def serial_url(board: SerialBoard, more: str = "") -> str:
    return f"serial:{board.path}?{PLACE}{more}"


@pytest.mark.parametrize("fault", ["unplugged", "slow", "corrupt", "busy"])
@pytest.mark.parametrize("scheme", ["serial", "litex", "uio"])
def test_every_fault_of_every_link_has_a_test(scheme, fault):
    assert callable(globals()[f"test_{scheme}_{fault}"])


def test_serial(core, program, images, logits):
    with SerialBoard(core) as board, Accelerator.open(serial_url(board)) as accelerator:
        accelerator.load(program)
        assert np.array_equal(accelerator.run(images).logits, logits)
        # The next host program finds the program there: only registers and images are sent.
        accelerator.close()
        before = board.received
        with Accelerator.open(serial_url(board)) as again:
            again.load(program)
            assert board.received - before < 500
            assert np.array_equal(again.run(images[:1], timeout=30).logits, logits[:1])
    found = core.read_memory(MEMORY_BASE, len(program.memory))
    assert found.tobytes() == program.memory


def test_serial_errors_of_the_hardware(core, program, images, logits):
    with SerialBoard(core) as board, Accelerator.open(serial_url(board)) as accelerator:
        accelerator.load(program)
        core.add_fault(MEMORY_BASE, 1, "SLVERR")
        with pytest.raises(AcceleratorError, match=r"BUS_READ \(5\)"):
            accelerator.run(images)
        core.clear_faults()
        assert np.array_equal(accelerator.run(images).logits, logits)


def test_serial_corrupt(core, program, images, logits, impatient):
    """Some accesses of a noisy line fail; those that do not are right."""
    with SerialBoard(core) as board:
        with Accelerator.open(serial_url(board)) as accelerator:
            board.flip = 2e-5
            accelerator.load(program)
            assert np.array_equal(accelerator.run(images).logits, logits)
            board.flip = 0.02
            with pytest.raises((DeviceError, AcceleratorError), match="check|compile the model"):
                accelerator.load(compile_model(MODEL, TARGET, trace=True))
            board.flip = 0.0
            time.sleep(uart.FORGET)
            accelerator.load(program)
            assert np.array_equal(accelerator.run(images).logits, logits)


def test_serial_slow(core, program, images, logits):
    with SerialBoard(core, baud=500_000) as board:
        with Accelerator.open(serial_url(board, "&baud=500000")) as accelerator:
            accelerator.load(program)
            assert np.array_equal(accelerator.run(images).logits, logits)


def test_serial_silence(core, impatient):
    with SerialBoard(core) as board, open_device(serial_url(board)) as device:
        board.mute = True
        with pytest.raises(
            DeviceError,
            match=r"^serial port .* did not answer within 0\.5 s, 3 times \(0 of 4 bytes came\): "
            r"check that the board .* \(reading register STATUS at 0x14\)$",
        ):
            device.read32(0x14)
        board.mute = False
        assert device.read32(0) == regmap.ID_VALUE


def test_serial_unplugged(core, program, images):
    with SerialBoard(core) as board, Accelerator.open(serial_url(board)) as accelerator:
        accelerator.load(program)
        before = board.received
        future = accelerator.submit(np.repeat(images, 500, axis=0))
        while board.received - before < 100_000:
            time.sleep(0.001)
        board.unplug()
        with pytest.raises(DeviceError, match=r"has gone: plug it in and open it again"):
            future.result(30)


def test_serial_busy(core):
    with SerialBoard(core) as board, open_device(serial_url(board)):
        with pytest.raises(DeviceError, match="is in use by another program: close that first$"):
            open_device(serial_url(board))


def test_serial_that_takes_nothing(core, impatient):
    board = SerialBoard(core)  # not started
    with open_device(serial_url(board, "&check=off")) as device:
        with pytest.raises(
            DeviceError, match=r"takes no data for 0\.5 s: .*bus address 0x40000000"
        ):
            device.write_memory(MEMORY_BASE, bytes(1 << 17))
    board.unplug()


def test_serial_without_port_or_pyserial(monkeypatch):
    with pytest.raises(DeviceError, match="^serial port /dev/nothing cannot be opened: plug"):
        open_device("serial:/dev/nothing")
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(DeviceError, match="pip install 'hiddenfold"):
        open_device("serial:/dev/ttyUSB0")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("serial:", r"^serial: URL must name a port, as in serial:/dev/ttyUSB0$"),
        ("serial:x?speed=3", r"^option of a serial: URL must be one of baud, .*not 'speed=3'$"),
        ("serial:x?baud", r"have a value, as in serial:x\?baud=\.\.\., not 'baud'$"),
        ("serial:x?baud=fast", r"^option baud of a serial: URL must be a number .*not 'fast'$"),
        ("serial:x?timeout=0", r"^option timeout of a serial: URL must be a time .*not '0'$"),
        ("serial:x?baud=5", r"^baud must be in 300\.\.12000000, not 5$"),
        ("serial:x?check=1", r"^option check of a serial: URL must be on or off, not '1'$"),
        (
            "litex:h?clock=0",
            r"^option clock of a litex: URL must be a frequency above 0 and below 100000, in MHz, "
            r"not '0'$",
        ),
        ("litex:h:x", r"^litex: URL must have a port in 1\.\.65535, not 'x'$"),
        ("uio:x?baud=1", r"^option of a uio: URL must be one of registers, .*not 'baud=1'$"),
    ],
)
def test_wrong_urls(url, text):
    with pytest.raises(ValueError, match=text):
        open_device(url)


def test_wrong_options_of_the_call():
    with pytest.raises(ValueError, match=r"^option of a serial: device must be one of .*'speed'$"):
        open_device("serial:x", speed=3)


def test_litex(core, program, images, logits):
    with EtherboneBoard(core) as board:
        with Accelerator.open(litex_url(board)) as accelerator:
            accelerator.load(program)
            assert np.array_equal(accelerator.run(images).logits, logits)


def litex_url(board: EtherboneBoard) -> str:
    return f"litex:localhost:{board.port}?{PLACE}"


def test_litex_unplugged(core):
    with EtherboneBoard(core, greeting=b"") as board:
        with open_device(litex_url(board)) as device:
            assert device.read32(0) == regmap.ID_VALUE
            board.unplug()
            with pytest.raises(DeviceError, match=r"has gone: start it again"):
                device.read32(0)
    with pytest.raises(DeviceError, match=r"does not answer: start it .* litex_server --uart"):
        open_device(litex_url(board))


def test_litex_slow(core, program, images, logits):
    """A server that takes its time is waited for; one that takes too long is not."""
    with EtherboneBoard(core) as board, open_device(litex_url(board) + "&timeout=2") as device:
        accelerator = Accelerator(device)
        board.delay = 0.05
        accelerator.load(program)
        assert np.array_equal(accelerator.run(images).logits, logits)
        board.delay = 2.5
        with pytest.raises(DeviceError, match=r"did not answer within 2 s: check its link to"):
            accelerator.registers()


def test_litex_corrupt(core, program, images, logits):
    """The server's own link may flip bits, which it does not notice."""
    with EtherboneBoard(core) as board, Accelerator.open(litex_url(board)) as accelerator:
        board.flip_every = 499
        accelerator.load(program)
        assert np.array_equal(accelerator.run(images).logits, logits)
        assert board.flipped > 2
        board.flip_every = 5
        with pytest.raises((DeviceError, AcceleratorError), match="check|compile the model"):
            accelerator.load(compile_model(MODEL, TARGET, trace=True))
        board.flip_every = 0
        accelerator.load(program)
        assert np.array_equal(accelerator.run(images).logits, logits)


def test_litex_busy(core):
    """litex_server has one client at a time; the next one waits, and is served afterwards."""
    with EtherboneBoard(core) as board:
        with open_device(litex_url(board)) as first:
            assert first.read32(0) == regmap.ID_VALUE
            with open_device(litex_url(board) + "&timeout=0.5") as second:
                with pytest.raises(DeviceError, match="that no other program uses the server"):
                    second.read32(0)
        with open_device(litex_url(board)) as third:
            assert third.read32(0) == regmap.ID_VALUE


def test_litex_that_is_another_server():
    def chat(server):
        with server, server.accept()[0] as host:
            host.sendall(b"220 mail\r\n")
            host.recv(4096)
            host.sendall(b"500 unknown command\r\n")
            with contextlib.suppress(ConnectionResetError):
                while host.recv(4096):
                    pass

    server = socket.create_server(("localhost", 0))
    thread = threading.Thread(target=chat, args=(server,))
    thread.start()
    with open_device(f"litex:localhost:{server.getsockname()[1]}") as device:
        with pytest.raises(DeviceError, match="does not speak Etherbone: check host and port"):
            device.read32(0)
    thread.join(10)


def uio_url(board: MappedBoard) -> str:
    return f"uio:{board.registers}?memory={board.memory}&{PLACE}"


def test_uio(core, program, images, logits, tmp_path):
    with MappedBoard(core, tmp_path) as board:
        with Accelerator.open(uio_url(board)) as accelerator:
            accelerator.load(program)
            for _ in range(2):
                assert np.array_equal(accelerator.run(images).logits, logits)
            with pytest.raises(DeviceError, match="cannot reset the accelerator"):
                accelerator.device.reset()
        with pytest.raises(DeviceError, match="^the uio: device has been closed$"):
            accelerator.device.read32(0)


def test_uio_unplugged(core, program, images, tmp_path, monkeypatch):
    """The bitstream goes while it runs: registers read as 0, and no interrupt comes any more."""
    with MappedBoard(core, tmp_path) as board, Accelerator.open(uio_url(board)) as accelerator:
        accelerator.load(program)
        board.gone = True
        with pytest.raises(AcceleratorError, match="^register .* check the link"):
            accelerator.run(images)
        with pytest.raises(AcceleratorError, match="ID must be 0x314e4648, not 0x00000000; check"):
            accelerator.load(program)
        host, kernel = socket.socketpair()
        with host, kernel:
            device = accelerator.device
            monkeypatch.setattr(device, "_file", host.fileno())
            monkeypatch.setattr(device, "_interrupts", True)
            # An interrupt ends the wait, which would take 100 s.
            kernel.send(bytes(4))
            started = time.monotonic()
            device.wait(10**7)
            assert time.monotonic() - started < 10
            kernel.close()
            with pytest.raises(DeviceError, match="registers has gone: load the bitstream and "):
                device.wait(10**7)


def test_uio_slow(core, program, images, logits, tmp_path):
    """A slow accelerator is waited for, up to the time-out."""
    with MappedBoard(core, tmp_path) as board, open_device(uio_url(board), clock=0.01) as device:
        accelerator = Accelerator(device)
        accelerator.load(program)
        board.delay = 0.05
        assert np.array_equal(accelerator.run(images).logits, logits)
        with pytest.raises(AcceleratorError, match=r"did not finish within 0\.2 s"):
            accelerator.run(np.repeat(images, 10, axis=0), timeout=0.2)
        board.delay = 0.0
        assert np.array_equal(accelerator.run(images).logits, logits)


def test_uio_corrupt(core, program, images, logits, tmp_path):
    """Memory that changes by itself: found by load or by the accelerator, and written again."""
    with MappedBoard(core, tmp_path) as board, Accelerator.open(uio_url(board)) as accelerator:
        device, write = accelerator.device, accelerator.device.write_memory
        bad = [True]

        def spoil(address, data):
            write(address, data)
            if bad and len(data) > 256:
                device._memory[address - device.memory_base + 70] ^= 1

        device.write_memory = accelerator._resident._store.write_memory = spoil
        with pytest.raises(AcceleratorError, match="does not read back as written from memory at"):
            accelerator.load(program)
        bad.clear()
        accelerator.load(program)
        device._memory[accelerator.program_address - device.memory_base + 70] ^= 1
        with pytest.raises(AcceleratorError, match=r"INSTRUCTION_SIGNATURE \(2\)"):
            accelerator.run(images)
        accelerator.load(program)
        assert np.array_equal(accelerator.run(images).logits, logits)


def test_uio_busy(core, tmp_path):
    with MappedBoard(core, tmp_path) as board:
        with open_device(uio_url(board)):
            with pytest.raises(DeviceError, match="is in use by another program: close it first$"):
                open_device(uio_url(board))
        with open_device(uio_url(board)) as device:
            assert device.read32(0) == regmap.ID_VALUE


def test_uio_that_cannot_be_opened(core, tmp_path):
    board = MappedBoard(core, tmp_path)  # not started
    with pytest.raises(DeviceError, match="cannot be opened: load the bitstream"):
        open_device("uio:/dev/nothing?base=0&size=4k")
    with pytest.raises(ValueError, match="^uio: URL must have base and size of the memory /dev/x"):
        open_device(f"uio:{board.registers}?memory=/dev/x")
    with pytest.raises(DeviceError, match=r"cannot be mapped: check address and size"):
        open_device(f"uio:{board.registers}?memory={board.memory}&base=0&size=1M")
    with pytest.raises(ValueError, match=r"^memory must lie below 2\^32"):
        open_device(f"uio:{board.registers}?memory={board.memory}&base=0xffffffff&size=4k")


def test_uio_asks_udmabuf(tmp_path, monkeypatch):
    monkeypatch.setattr(uio, "_SYSTEM", tmp_path)
    (tmp_path / "udmabuf0").mkdir()
    (tmp_path / "udmabuf0" / "phys_addr").write_text("0x1f000000\n")
    (tmp_path / "udmabuf0" / "size").write_text("8192\n")
    memory = tmp_path / "dev" / "udmabuf0"
    memory.parent.mkdir()
    memory.write_bytes(bytes(8192))
    (tmp_path / "uio0").write_bytes(bytes(4096))
    with open_device(f"uio:{tmp_path / 'uio0'}?memory={memory}") as device:
        assert (device.memory_base, device.memory_size) == (0x1F00_0000, 8192)
        device.write_memory(0x1F00_0010, b"abc")
    assert memory.read_bytes()[16:19] == b"abc"


def test_uio_with_memory_of_pynq(tmp_path, monkeypatch):
    class Buffer(np.ndarray):
        physical_address = 0x1800_0000

    def allocate(shape, kind, *, cacheable):
        assert not cacheable
        return np.zeros(shape, kind).view(Buffer)

    (tmp_path / "uio0").write_bytes(bytes(4096))
    url = f"uio:{tmp_path / 'uio0'}?memory=pynq"
    monkeypatch.setitem(sys.modules, "pynq", types.SimpleNamespace(allocate=allocate))
    with open_device(url + "&size=8k") as device:
        assert (device.memory_base, device.memory_size) == (0x1800_0000, 8192)
        device.write_memory(0x1800_0004, b"abc")
        assert device.read_memory(0x1800_0003, 5).tobytes() == b"\0abc\0"
    with pytest.raises(ValueError, match="^uio: URL must have the size of the memory: uio:"):
        open_device(url)
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(DeviceError, match="^memory=pynq needs the package pynq"):
        open_device(url + "&size=8k")


def test_litex_late_answers_are_not_taken_for_others() -> None:
    """An answer that comes after its time-out ends with the connection it came on."""
    answers = threading.Semaphore(0)

    def word(request: bytes) -> bytes:
        record = struct.pack(">BBBBI", 0, 0x0F, 1, 0, 0)
        return HEADER + record + request[-4:]  # of each word its address

    def serve(server: socket.socket) -> None:
        late = True
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"hello")
                while request := connection.recv(20):
                    if late:
                        answers.acquire(timeout=5)
                        late = False
                    with contextlib.suppress(OSError):
                        connection.sendall(word(request))

    with socket.create_server(("localhost", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        link = LitexLink("localhost", server.getsockname()[1], timeout=0.2)
        with pytest.raises(DeviceError, match=r"did not answer within 0\.2 s"):
            link.read(0x14, 1)
        answers.release()
        assert link.read(0x18, 1).tolist() == [0x18]
        assert link.read(0x1C, 1).tolist() == [0x1C]
        link.close()
        with pytest.raises(DeviceError, match="has been closed"):
            link.read(0, 1)
