# SPDX-License-Identifier: Apache-2.0
"""Activation memory and the windows of external memory (spec 6)."""

import numpy as np


class Stop(Exception):
    """An error of section 9: `code` is its name."""

    def __init__(self, code, detail=""):
        super().__init__(f"{code} {detail}")
        self.code = code


class Undefined(Exception):
    """The program does what the specification gives no meaning to."""


class Memory:
    """Activation memory uint8 [words, lanes] and the four windows."""

    def __init__(self, program, noise):
        target, header = program.target, program.header
        self.random = np.random.default_rng(noise)
        self.lanes = target["lanes"]
        words = target["act_banks"] * target["act_bank_words"]
        self.activations = self.random.integers(0, 256, (words, self.lanes), np.uint8)
        self.code = program.image
        self.spill = bytearray(self.random.bytes(header["scratch_bytes"]))
        self.per_image = header["output_bytes"]
        self.pointer = 0  # of the next image, in bytes

    def set_images(self, images):
        """Lay pictures out in the window IMAGE and reserve the window OUTPUT."""
        count, height, width, _ = images.shape
        self.count = count
        pitch = -(-4 * width // 16) * 16
        rows = self.random.integers(0, 256, (count, height, pitch), np.uint8)
        for x in range(width):
            rows[:, :, 4 * x : 4 * x + 3] = images[:, :, x]
        self.images, self.pointer = rows.tobytes(), 0
        self.output, self.room = bytearray(), count * self.per_image

    def program(self, offset, size):
        """Bytes of the memory image."""
        return window(self.code, offset, size)

    def picture(self, offset, size):
        """Bytes of the window IMAGE."""
        return window(self.images, offset, size)

    def scratch(self, offset, size):
        """Bytes of the window SCRATCH."""
        return window(self.spill, offset, size)

    def save(self, offset, data):
        """Write to the window SCRATCH."""
        window(self.spill, offset, len(data))
        self.spill[offset : offset + len(data)] = data

    def append(self, data):
        """Append to the output."""
        if len(self.output) + len(data) > self.room:
            raise Stop("WINDOW", "OUTPUT")
        self.output += data

    def read(self, address, count):
        """uint8 [count, lanes]; a copy."""
        if address + count > len(self.activations):
            raise Stop("WINDOW", f"activation word {address + count - 1}")
        return self.activations[address : address + count].copy()

    def write(self, address, words):
        """Write [count, lanes]."""
        if address + len(words) > len(self.activations):
            raise Stop("WINDOW", f"activation word {address + len(words) - 1}")
        self.activations[address : address + len(words)] = words

    def read_map(self, address, height, width, words):
        """uint8 [height, width, words * lanes]."""
        flat = self.read(address, height * width * words)
        return flat.reshape(height, width, words * self.lanes)

    def write_map(self, address, values, words):
        """Write [height, width, channels]; lanes beyond the channels get noise."""
        height, width, channels = values.shape
        out = self.random.integers(0, 256, (height, width, words * self.lanes), np.uint8)
        kept = min(channels, words * self.lanes)
        out[..., :kept] = values[..., :kept]
        self.write(address, out.reshape(-1, self.lanes))


def window(data, offset, size):
    """Bytes of a window; `Stop` when they are not all in it."""
    if offset + size > len(data):
        raise Stop("WINDOW", f"bytes {offset}..{offset + size - 1} of {len(data)}")
    return bytes(data[offset : offset + size])
