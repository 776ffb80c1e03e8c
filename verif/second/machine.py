# SPDX-License-Identifier: Apache-2.0
"""The accelerator of spec 6 and 7 without time: a program and images in, output bytes out.

What the specification leaves open is made as bad as it allows: memories start with noise, lanes
beyond a tensor's channels get noise, and with `late` a transfer in the background happens at the
last moment that the fences allow (without it, at once). A legal program gives the same output both
ways.
"""

import numpy as np

from . import domains
from .engine import Engine
from .memory import Memory, Stop
from .program_file import Instruction


class Machine:
    """Executes a `program_file.Program`.

    After `run`, `output` is the bytearray of the output window. `Stop` carries the error of
    section 9 by name.
    """

    def __init__(self, program, late=False, noise=1):
        self.program, self.late = program, late
        self.memory = Memory(program, noise)
        self.engine = Engine(self.memory, program.target, noise)
        self.unfinished: dict[str, list] = {"LOAD": [], "SAVE": []}

    def run(self, images):
        """Classify `images` uint8 [n, height, width, 3]; n is a multiple of the batch."""
        self.memory.set_images(images)
        self.pc = self.done = self.iteration = self.iterations = 0
        self.body = None  # where the loop that runs begins
        while self.done < len(images):
            instruction = Instruction(self.memory.program(self.pc, 64))
            if not instruction.intact:
                raise Stop("INSTRUCTION_SIGNATURE", self.pc)
            if instruction.name is None or (instruction.name == "BEGIN") != (self.pc == 0):
                raise Stop("OPCODE", self.pc)
            domains.check(instruction, self.program.target, len(self.memory.spill))
            self.fence("LOAD", instruction.fence_loads)
            self.fence("SAVE", instruction.fence_saves)
            self.pc += 64
            if instruction.name in self.unfinished:
                self.transfer(instruction)
            else:
                self.ACTIONS[instruction.name](self, instruction)
        return self.memory.output

    def begin(self, instruction):
        """BEGIN."""
        if instruction.seed != self.program.header["target_id"]:
            raise Stop("TARGET")
        self.engine.affine = instruction.offset

    def end(self, instruction):
        """END."""
        self.fence("LOAD", 1)
        self.fence("SAVE", 1)
        if self.body is not None:
            raise Stop("LOOP")
        self.done += instruction.images
        if self.done > self.memory.count:
            raise Stop("FIELD", "more images than there are")
        self.pc = 0

    def loop(self, instruction):
        """LOOP."""
        if self.body is not None or not 1 <= instruction.count <= 255:
            raise Stop("LOOP")
        self.body, self.iteration, self.iterations = self.pc, 0, instruction.count

    def endloop(self, _):
        """ENDLOOP."""
        if self.body is None:
            raise Stop("LOOP")
        self.iteration += 1
        if self.iteration < self.iterations:
            self.pc = self.body
        else:
            self.body, self.iteration = None, 0

    def store(self, instruction):
        """STORE."""
        words = self.memory.read(instruction.src, instruction.count)
        self.memory.append(words.tobytes())

    ACTIONS = {
        "BEGIN": begin,
        "END": end,
        "LOOP": loop,
        "ENDLOOP": endloop,
        "STORE": store,
        "IMAGE": lambda self, instruction: self.engine.image(instruction),
        "POOL": lambda self, instruction: self.engine.pool(instruction),
        "CONV": lambda self, instruction: self.engine.conv(instruction, self.iteration),
    }

    def fence(self, kind, limit):
        """Finish transfers until fewer than `limit` are unfinished; 0 = no fence."""
        queue = self.unfinished[kind]
        while limit and len(queue) >= limit:
            self.move(queue.pop(0))

    def transfer(self, instruction):
        """Begin a LOAD or SAVE."""
        self.fence(instruction.name, 3)
        self.unfinished[instruction.name].append(instruction)
        if not self.late:
            self.fence(instruction.name, 1)

    def move(self, instruction):
        """Do what a LOAD or SAVE does."""
        memory, size = self.memory, instruction.count * self.program.target["lanes"]
        if instruction.name == "LOAD":
            words = np.frombuffer(memory.scratch(instruction.offset, size), np.uint8)
            memory.write(instruction.dst, words.reshape(instruction.count, -1))
        else:
            words = memory.read(instruction.src, instruction.count)
            memory.save(instruction.offset, words.tobytes())
