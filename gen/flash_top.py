# SPDX-License-Identifier: Apache-2.0
"""The board without DRAM (docs/boards.md): its Verilog, and the contents of its flash."""

from __future__ import annotations

from pathlib import Path

from hiddenfold.gen.emit import component_verilog
from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.flash_store import PROGRAMS_AT

__all__ = ["BAUD", "TOP", "flash_verilog"]

#: Name of the Verilog module.
TOP = "hiddenfold_flash"
BAUD = 1_000_000
#: Seconds after which the bridge drops an incomplete command.
TIMEOUT = 0.1
#: Bytes at the flash's begin for the FPGA's configuration: more than that of an LFE5U-85F.
PROTECT = PROGRAMS_AT
#: Largest deviation of the serial line's bit rate.
_TOLERANCE = 0.02
#: Megahertz up to which a flash and its pins answer within a cycle of the system clock.
_FULL_SPEED_MHZ = 60


def flash_verilog(
    target: Target,
    *,
    baud: int = BAUD,
    buffer_bytes: int = 16384,
    mode: str = "quad",
    portable: bool = False,
    protect: int = PROTECT,
    timeout: float = TIMEOUT,
) -> str:
    """Verilog text of the top for a target at its `clock_mhz`; raises `ValueError`."""
    from hiddenfold.hw.top_flash import FlashTop

    clock = target.clock_mhz * 1e6
    bit_cycles = round(clock / baud)
    if bit_cycles < 4 or abs(clock / baud / bit_cycles - 1) > _TOLERANCE:
        raise ValueError(
            f"clock_mhz of the target must be a multiple of {baud / 1e6:g}, the bit rate of the "
            f"serial line in MHz, within 2 % and at least {4 * baud / 1e6:g}, not "
            f"{target.clock_mhz:g}"
        )
    component = FlashTop(
        bit_cycles=bit_cycles,
        timeout_cycles=round(timeout * clock),
        buffer_bytes=buffer_bytes,
        mode=mode,
        protect=protect,
        half_period=1 if target.clock_mhz <= _FULL_SPEED_MHZ else 2,
        **target.hardware_parameters(),
    )
    return component_verilog(component, TOP, target, "sim" if portable else target.family)


def write_flash_verilog(target: Target, path: Path, **options) -> None:
    """Write `flash_verilog` to a file."""
    path.write_text(flash_verilog(target, **options), encoding="utf-8", newline="\n")
