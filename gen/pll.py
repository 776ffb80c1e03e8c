# SPDX-License-Identifier: Apache-2.0
"""Makes the accelerator's clock slower in a design that has been placed and routed.

Place and route takes long and only then tells what clock it reached. The clock comes from a PLL of
its own whose output is a fixed frequency divided by a whole number, so another divider is another
clock and nothing else changes.
"""

from __future__ import annotations

import math
import re

__all__ = ["reachable_clock", "settable_clock", "with_clock"]

#: A PLL's settings in nextpnr's configuration: the block of its tiles, numbers less one.
_BLOCK = re.compile(r"^\.tile_group [^\n]*PLL[^\n]*\n(?:[^\n.][^\n]*\n)*", re.MULTILINE)
_WORD = r"^word: {} ([01]+)$"
#: MHz of the board's oscillator, and largest divider.
_INPUT, _LARGEST = 25.0, 128
#: What a PLL divides, in MHz: multiples of the oscillator, or of half of it.
_FASTEST, _SLOWEST = 800.0, 400.0
#: MHz of the memory's clock, the second of the PLL that is not the accelerator's.
_MEMORY = 100.0
_LITTLE = 1e-9


def settable_clock(wanted: float) -> float:
    """The fastest clock in MHz, up to ``wanted``, that the accelerator's PLL can make.

    Raises ``ValueError`` for a clock outside the PLL's range.
    """
    if not _SLOWEST / _LARGEST <= wanted <= _SLOWEST:
        raise ValueError(
            f"clock of the accelerator must be in {_SLOWEST / _LARGEST:g}..{_SLOWEST:g} MHz for "
            f"the board's PLL, not {wanted:g}"
        )
    steps = range(round(2 * _SLOWEST / _INPUT), round(2 * _FASTEST / _INPUT) + 1)
    oscillators = [number * _INPUT / 2 for number in steps]
    return max(
        oscillator / divider
        for oscillator in oscillators
        if (divider := math.ceil(oscillator / wanted - _LITTLE)) <= _LARGEST
    )


def reachable_clock(config: str, wanted: float, fmax: float) -> float:
    """The fastest clock in MHz, up to ``wanted``, that the PLL can make and is at most ``fmax``.

    Raises ``ValueError`` when there is none, or no PLL that makes ``wanted``.
    """
    oscillator = _oscillator(_find(config, wanted))
    divider = max(round(oscillator / wanted), math.ceil(oscillator / fmax - _LITTLE))
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
    """The block of the accelerator's PLL, whose first output is ``wanted``."""
    found = [
        block
        for block in _BLOCK.findall(config)
        if abs(_oscillator(block) / _value(block, "CLKOP_DIV") - wanted) < 1e-3 * wanted
        and ("CLKOS_DIV" not in block or _oscillator(block) / _value(block, "CLKOS_DIV") != _MEMORY)
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
