# SPDX-License-Identifier: Apache-2.0
"""Register map (docs/spec.md section 8): one table for hardware, drivers and documents."""

from typing import NamedTuple


class Register(NamedTuple):
    """A 32-bit register, or the low word of a 64-bit one (``wide``)."""

    offset: int
    access: str
    text: str
    wide: bool = False


ID_VALUE = int.from_bytes(b"HFN1", "little")
VERSION_VALUE = 2 << 16

REGISTERS = {
    "ID": Register(0x00, "RO", "ASCII HFN1"),
    "VERSION": Register(0x04, "RO", "[31:16] major, [15:0] minor"),
    "TARGET": Register(0x08, "RO", "target identifier"),
    "SHAPE": Register(0x0C, "RO", "[7:0] rows, [15:8] lanes, [23:16] planes, [31:24] bus bytes"),
    "CONTROL": Register(0x10, "W1/RW", "[0] START, [1] ABORT, [8] IRQ_ENABLE"),
    "STATUS": Register(0x14, "RO/W1C", "[0] BUSY, [1] DONE, [2] ERROR"),
    "ERROR": Register(0x18, "RO", "[7:0] error code of the last run"),
    "ERROR_PC": Register(0x1C, "RO", "offset of the instruction that failed"),
    "PROGRAM": Register(0x20, "RW", "address of the memory image, multiple of 64"),
    "PROGRAM_SIZE": Register(0x24, "RW", "bytes of the memory image"),
    "IMAGE": Register(0x28, "RW", "address of the first image, multiple of 16"),
    "IMAGE_SIZE": Register(0x2C, "RW", "bytes of all images"),
    "OUTPUT": Register(0x30, "RW", "address of the output, multiple of 16"),
    "OUTPUT_SIZE": Register(0x34, "RW", "bytes reserved for the output"),
    "IMAGES": Register(0x38, "RW", "[15:0] number of images to process, whole batches"),
    "WATCHDOG": Register(0x3C, "RW", "error after that many cycles; 0 = never"),
    "IMAGES_DONE": Register(0x40, "RO", "images finished in this run"),
    "CYCLES": Register(0x48, "RO", "clock cycles from START to the end", True),
    "READ_BYTES": Register(0x50, "RO", "bytes read over AXI", True),
    "WRITE_BYTES": Register(0x58, "RO", "bytes written over AXI", True),
    "ARRAY_CYCLES": Register(0x60, "RO", "cycles in which the array worked on a pixel", True),
    "TILE_STALLS": Register(0x68, "RO", "cycles in which a pixel waited for a tile", True),
    "DRAIN_STALLS": Register(0x70, "RO", "cycles in which a pixel waited for a psum bank", True),
    "BUS_STALLS": Register(0x78, "RO", "cycles with a read outstanding and no data beat", True),
    "SCRATCH": Register(0x80, "RW", "address of the memory for spilled tensors, multiple of 64"),
    "SCRATCH_SIZE": Register(0x84, "RW", "bytes reserved for spilled tensors"),
    "TRANSFER_STALLS": Register(0xC0, "RO", "cycles that waited for loads and saves", True),
}

CONTROL_START = 1 << 0
CONTROL_ABORT = 1 << 1
CONTROL_IRQ_ENABLE = 1 << 8
STATUS_BUSY = 1 << 0
STATUS_DONE = 1 << 1
STATUS_ERROR = 1 << 2
