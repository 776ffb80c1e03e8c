# SPDX-License-Identifier: Apache-2.0
"""Rough size of a target on an FPGA, without synthesis.

Block RAMs follow from the shapes of the memories. LUTs are a sum over the parts: those of the array
are Yosys' for 32 x 64 x 8 (docs/decisions.md), the rest is Yosys' for `ulx3s-85f` (`MEASURED`)
shared out among rows, lanes and what does not grow, and taken as 0.78 LUT6 for a LUT4, as it is
for `zynq-7020`. Good for comparing targets; what a target really takes, `hiddenfold synth` says.
"""

from __future__ import annotations

from hiddenfold.gen.target import Target

__all__ = ["MEASURED", "block_rams", "luts"]

#: Width and depth of the shapes that a memory of 16 or 18 kbit takes, with one read and one write
#: port.
_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
#: Depths of the FIFOs in block RAM: affine stream, masks, image, loads, saves.
_FIFOS = (64, 256, 64, 128, 64)

#: LUT4 and LUT6 of a bit plane of a lane in a row: rows of vendor cells, and portable ones.
_MAPPED = (1.41, 0.84)
_PORTABLE = (3.34, 1.8)
#: LUT4 of a row besides its lanes, of a row that is requantized at once, of a lane besides
#: its rows, and of the rest.
_ROW, _DRAIN_ROW, _LANE, _REST = 46, 144, 90, 8_496
_LUT6_SHARE = 0.78

#: LUTs and block RAMs of whole accelerators as Yosys makes them (`hiddenfold synth --top core`).
MEASURED = {"ulx3s-85f": (39_897, 194), "zynq-7020": (30_069, 232)}


def luts(target: Target) -> int:
    """LUT4 of a target for ECP5 or for simulation, LUT6 of one for a Xilinx family."""
    xilinx = target.family in ("xc7", "xcup")
    # Only for eight planes there are rows of vendor cells.
    cell = (_MAPPED if target.planes == 8 and target.family != "xcup" else _PORTABLE)[xilinx]
    array = cell * target.rows * target.lanes * target.planes
    drain_rows = target.hardware_parameters()["drain_rows"]
    others = _ROW * target.rows + _DRAIN_ROW * drain_rows + _LANE * target.lanes + _REST
    return round(array + others * (_LUT6_SHARE if xilinx else 1))


def block_rams(target: Target) -> int:
    """Memories of 16 or 18 kbit; a few less where small ones become LUTs."""
    drain_rows = target.hardware_parameters()["drain_rows"]
    # What is written apart has write enables of its own, which are there for 9 bits each.
    words = target.lanes // drain_rows * -(-8 * drain_rows // 9) * 9
    sums = target.rows * target.acc_bits
    lines = 24 * (target.stem_kernel - 1)
    return (
        target.act_banks * _memory(words, target.act_bank_words)
        + 2 * _memory(sums, 2 * target.psum_depth)
        + sum(_memory(target.bus_bits, depth) for depth in _FIFOS)
        + _memory(lines, target.image_width)
        + _memory(target.mask_bits, target.mask_cache * 8 // target.mask_bits)
    )


def _memory(bits: int, depth: int) -> int:
    """Block RAMs of a memory of `depth` words of `bits` bits."""
    if bits == 0:
        return 0
    return min(-(-bits // width) * -(-depth // height) for width, height in _SHAPES)
