# SPDX-License-Identifier: Apache-2.0
"""A scripted accelerator with a program for it, and a scripted bus."""

import numpy as np

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Error, Opcode
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.bridge import Link
from hiddenfold.sw.driver.device import Device
from hiddenfold.sw.instructions import encode
from hiddenfold.sw.program import Program

BASE, SIZE = 0x8000, 1 << 16
TARGET = 0x12345678
REGISTER_NAMES = {register.offset: name for name, register in regmap.REGISTERS.items()}


class ScriptedDevice(Device):
    """A memory and registers; each start ends as ``endings`` says.

    An ending is ``"good"``, ``"hang"`` (BUSY until a reset), ``"abortable"`` (BUSY until ABORT) or
    (error code, ERROR_PC).
    """

    def __init__(self, endings=(), *, damage=False):
        self.memory_base, self.memory_size = BASE, SIZE
        self.memory = np.zeros(SIZE, np.uint8)
        self.values = dict.fromkeys(regmap.REGISTERS, 0)
        self.values |= {
            "ID": regmap.ID_VALUE,
            "VERSION": regmap.VERSION_VALUE,
            "TARGET": TARGET,
            "SHAPE": 0x08021004,
        }
        self.endings = list(endings)
        self.ending = None
        self.damage = damage
        self.starts, self.memory_writes, self.resets, self.waited = [], [], 0, 0
        self.closed = False

    def read32(self, offset):
        if offset in REGISTER_NAMES:
            return self.values[REGISTER_NAMES[offset]] & 0xFFFFFFFF
        # The high word of a wide register, or a reserved offset.
        name = REGISTER_NAMES.get(offset - 4)
        return 0 if name is None else self.values[name] >> 32

    def write32(self, offset, value):
        name = REGISTER_NAMES[offset]
        if name == "STATUS":
            value = self.values[name] & ~value
        self.values[name] = value
        if name == "CONTROL" and value & regmap.CONTROL_START:
            self._start()
            self.values[name] &= regmap.CONTROL_IRQ_ENABLE
        if name == "CONTROL" and value & regmap.CONTROL_ABORT and self.ending == "abortable":
            self.values |= {"STATUS": regmap.STATUS_ERROR, "ERROR": Error.ABORTED}

    def _start(self):
        self.starts.append(dict(self.values))
        self.ending = self.endings.pop(0) if self.endings else "good"
        images = self.values["IMAGES"]
        if self.ending == "good":
            # Logit k of an image is k plus the red of its first pixel.
            for n in range(images):
                red = self.memory[self.values["IMAGE"] - BASE + 32 * n]
                logits = (np.arange(4) + red).astype("<i4")
                at = self.values["OUTPUT"] - BASE + 16 * n
                self.memory[at : at + 16] = logits.view(np.uint8)
            self.values |= {"STATUS": regmap.STATUS_DONE, "IMAGES_DONE": images, "ERROR": 0}
            self.values |= {"CYCLES": (1 << 33) + 10 * images, "READ_BYTES": 7 * images}
        elif isinstance(self.ending, tuple):
            code, pc = self.ending
            self.values |= {"STATUS": regmap.STATUS_ERROR, "ERROR": code, "ERROR_PC": pc}
        else:
            self.values["STATUS"] = regmap.STATUS_BUSY

    def read_memory(self, address, size):
        self.check_range(address, size)
        data = self.memory[address - BASE : address - BASE + size].copy()
        if self.damage and address == BASE:
            data[5] ^= 1
        return data

    def write_memory(self, address, data):
        data = np.frombuffer(data, np.uint8)
        self.check_range(address, len(data))
        self.memory_writes.append((address, len(data)))
        self.memory[address - BASE : address - BASE + len(data)] = data

    def wait(self, cycles):
        self.waited += cycles
        return cycles

    def reset(self):
        self.resets += 1
        self.values["STATUS"] = 0

    def close(self):
        self.closed = True


def make_program(**changes) -> Program:
    image = encode(Opcode.BEGIN, seed=TARGET) + encode(Opcode.IMAGE, dst=3, kernel=1)
    image += encode(Opcode.CONV, kernel=1, logits=1) + encode(Opcode.END, images=1)
    fields = {
        "model": "net",
        "target": "here",
        "target_id": TARGET,
        "target_parameters": {"rows": 4, "lanes": 16},
        "classes": ["a", "b", "c"],
        "image": (2, 3),
        "batch": 1,
        "logits": 4,
        "output_bytes": 16,
        "macs": 1,
        "ideal_cycles": 1.0,
        "predicted_cycles": 100,
        "predicted_bytes_read": 1,
        "predicted_bytes_written": 1,
        "predicted_bytes_spilled": 0,
        "instructions": 4,
        "mask_bytes": 0,
        "affine_bytes": 0,
        "layers": [{"name": "unfold", "pcs": [64]}, {"name": "classifier", "pcs": [128]}],
        "trace": None,
        "trace_order": None,
        "scratch_bytes": 0,
        "memory": image,
    }
    return Program(**fields | changes)


OTHER = make_program(memory=make_program().memory + bytes(64))
#: Where the list of programs is written to.
DIRECTORY = (BASE + SIZE - 256, 256)


def make_images(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, 2, 3, 3), np.uint8)


def opened(*endings, **options) -> tuple[Accelerator, ScriptedDevice]:
    device = ScriptedDevice(endings, **options)
    accelerator = Accelerator(device)
    if not options:
        accelerator.load(make_program())
    return accelerator, device


class Words(Link):
    """A small memory; reads of word ``moody`` count up."""

    name, lossy = "the words", True

    def __init__(self):
        self.words = np.zeros(1 << 14, np.uint32)
        self.moody, self.stuck = None, None
        self.reads = self.writes = 0

    def read(self, address, count):
        self.reads += count
        if self.moody is not None:
            self.words[self.moody] += 1
        return self.words[address // 4 : address // 4 + count].copy()

    def write(self, address, words):
        self.writes += len(words)
        self.words[address // 4 : address // 4 + len(words)] = words
        if self.stuck is not None:
            self.words[self.stuck] = 0

    def close(self):
        pass
