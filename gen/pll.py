# SPDX-License-Identifier: Apache-2.0
"""Makes the accelerator's clock slower in a design that has been placed and routed.

Place and route takes long and only then tells what clock it reached. The clock comes from a PLL of
its own whose output is a fixed frequency divided by a whole number, so another divider is another
clock and nothing else changes.
"""

from __future__ import annotations

import math
import re

__all__ = ["reachable_clock", "with_clock"]

#: A PLL's settings in nextpnr's configuration: the block of its tiles, numbers less one.
_BLOCK = re.compile(r"^\.tile_group [^\n]*PLL[^\n]*\n(?:[^\n.][^\n]*\n)*", re.MULTILINE)
_WORD = r"^word: {} ([01]+)$"
#: MHz of the board's oscillator, and largest divider.
_INPUT, _LARGEST = 25.0, 128


def reachable_clock(config: str, wanted: float, fmax: float) -> float:
    """The fastest clock in MHz, up to ``wanted``, that the PLL can make and is at most ``fmax``.

    Raises ``ValueError`` when there is none, or no PLL that makes ``wanted``.
    """
    oscillator = _oscillator(_find(config, wanted))
    divider = max(round(oscillator / wanted), math.ceil(oscillator / fmax))
    if divider > _LARGEST:
        raise ValueError(f"{oscillator:g} MHz cannot be divided to {fmax:g} MHz or less")
    return oscillator / divider


def with_clock(config: str, wanted: float, clock: float) -> str:
    """The configuration with ``clock``, one of :func:`reachable_clock`, in place of ``wanted``."""
    block = _find(config, wanted)
    divider = round(_oscillator(block) / clock)
    changed = block
    for name in ("CLKOP_DIV", "CLKOP_CPHASE"):
        changed = re.sub(
            _WORD.format(name), f"word: {name} {divider - 1:07b}", changed, flags=re.MULTILINE
        )
    return config.replace(block, changed)


def _find(config: str, wanted: float) -> str:
    """The block of the PLL whose first output is ``wanted``."""
    found = [
        block
        for block in _BLOCK.findall(config)
        if abs(_oscillator(block) / _value(block, "CLKOP_DIV") - wanted) < 1e-3 * wanted
    ]
    if len(found) != 1:
        raise ValueError(f"one PLL must make {wanted:g} MHz in the configuration, not {len(found)}")
    return found[0]


def _oscillator(block: str) -> float:
    """MHz of what a PLL divides; its feedback is not divided (hw/boards)."""
    return _INPUT * _value(block, "CLKFB_DIV") / _value(block, "CLKI_DIV")


def _value(block: str, name: str) -> int:
    match = re.search(_WORD.format(name), block, re.MULTILINE)
    if match is None:
        raise ValueError(f"PLL without {name} in the configuration")
    return int(match[1], 2) + 1
