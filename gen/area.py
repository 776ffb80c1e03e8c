# SPDX-License-Identifier: Apache-2.0
"""Rough size of a target on an FPGA, without synthesis.

Block RAMs follow from the shapes of the memories. LUTs are a sum over the parts whose size grows
with the array's; the factors are fitted to what Yosys reports (`hiddenfold synth`). Use them to
compare targets, and `hiddenfold synth` to know.
"""

from __future__ import annotations

from hiddenfold.gen.target import Target

__all__ = ["block_rams", "luts"]

#: Width and depth of the shapes that a memory of 16 or 18 kbit takes, with one read and one write
#: port.
_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
#: Depth of the FIFO of the mask stream, the only one in block RAM.
_MASK_FIFO = 256

#: LUTs of a bit plane's lane in a row, of a row, of a lane, and of the rest, by kind of LUT.
_LUT4 = (2.4, 300, 40, 7000)
_LUT6 = (1.8, 220, 30, 5000)


def luts(target: Target) -> int:
    """LUT4 of a target for ECP5 or for simulation, LUT6 of one for a Xilinx family."""
    cell, row, lane, rest = _LUT6 if target.family in ("xc7", "xcup") else _LUT4
    cells = target.rows * target.lanes * target.planes
    return round(cell * cells + row * target.rows + lane * target.lanes + rest)


def block_rams(target: Target) -> int:
    """Memories of 16 or 18 kbit."""
    words = 8 * target.lanes
    sums = target.rows * target.acc_bits
    lines = 24 * (target.stem_kernel - 1)
    return (
        target.act_banks * _memory(words, target.act_bank_words)
        + 2 * _memory(sums, target.psum_depth)
        + _memory(target.bus_bits, _MASK_FIFO)
        + _memory(lines, target.image_width)
    )


def _memory(bits: int, depth: int) -> int:
    """Block RAMs of a memory of `depth` words of `bits` bits."""
    if bits == 0:
        return 0
    return min(-(-bits // width) * -(-depth // height) for width, height in _SHAPES)
