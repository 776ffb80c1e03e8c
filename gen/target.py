# SPDX-License-Identifier: Apache-2.0
"""Targets: the parameters of one hardware configuration (docs/spec.md section 6).

A target is a TOML file. The generator turns it into hardware, the compiler into limits, and its
identifier keeps a program from running on hardware that it was not compiled for.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from hiddenfold.sw.operations import check_printable, shorten
from hiddenfold.sw.toml import parse_toml

__all__ = ["FAMILIES", "TARGETS", "Target"]

#: Folder of the targets that come with Hiddenfold, in the source tree and in an installed wheel.
TARGETS = Path(__file__).resolve().parent.parent / "targets"

#: What `family` may be: simulation only, or a device family that Yosys has a flow for.
FAMILIES = ("sim", "ecp5", "xc7", "xcup")

_POWERS = tuple(1 << n for n in range(32))
_LANES = (8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One hardware configuration; every value is checked when it is made.

    Parameters
    ----------
    name
        Lower-case letters, digits, `.`, `_` and `-`.
    description
        One line for people.
    family
        One of `FAMILIES`.
    clock_mhz
        Clock that the target is meant to run at: for time in reports, and for what is made around
        the accelerator (constraints, PLLs, UARTs). Its Verilog does not depend on it.
    rows, lanes, planes
        Output channels, input channels and bit planes that the array works on in one cycle.
    act_banks, act_bank_words
        Activation memory: banks x words of `lanes` bytes.
    psum_depth
        Output pixels of one pixel tile.
    acc_bits
        Width of a partial sum.
    bus_bits
        Width of the AXI bus.
    image_width
        Largest width of an image.
    stem_kernel
        Largest kernel of `unfold`.
    load_rows
        Rows of a weight tile that are made in one cycle.
    mask_cache
        Bytes of the mask cache, 0 for none.
    drain_rows
        Rows of a pixel that are requantized in one cycle; 0, the default, stands for all of them.
        With fewer of them pools and loads write parts of words, too.

    Raises
    ------
    TypeError, ValueError
        With the key, what is allowed and what was found.
    """

    name: str
    description: str
    family: str
    clock_mhz: float
    rows: int
    lanes: int
    planes: int
    act_banks: int
    act_bank_words: int
    psum_depth: int
    acc_bits: int
    bus_bits: int
    image_width: int
    stem_kernel: int
    load_rows: int
    mask_cache: int
    drain_rows: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Target: name must be a string, not {shorten(self.name)}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise ValueError(
                "Target: name must be lower-case letters, digits, '.', '_' and '-', "
                f"not {shorten(self.name)}"
            )
        if not isinstance(self.description, str):
            raise TypeError(
                f"{self._key('description')} must be a string, not {shorten(self.description)}"
            )
        check_printable(self._key("description"), self.description)
        self._check_choice("family", FAMILIES)
        clock = self.clock_mhz
        if isinstance(clock, bool) or not isinstance(clock, int | float):
            raise TypeError(f"{self._key('clock_mhz')} must be a number, not {shorten(clock)}")
        if not 0 < clock <= 1000:
            raise ValueError(
                f"{self._key('clock_mhz')} must be above 0 and up to 1000, not {shorten(clock)}"
            )
        for key in (*PARAMETERS, "drain_rows"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{self._key(key)} must be an integer, not {shorten(value)}")
        self._check_choice("lanes", _LANES)
        self._check_choice("rows", tuple(n for n in _POWERS if 4 <= n <= self.lanes))
        self._check_choice("planes", (1, 2, 4, 8))
        self._check_choice("bus_bits", (64, 128))
        self._check_choice("act_banks", _POWERS[:7])
        self._check_choice("act_bank_words", _POWERS[4:19])
        self._check_choice("psum_depth", _POWERS[4:17])
        self._check_range("acc_bits", 12, 32)
        self._check_range("image_width", 1, 1024)
        self._check_choice("stem_kernel", (1, 3, 5, 7))
        self._check_choice("load_rows", (1, 2))
        self._check_choice("mask_cache", (0, *_POWERS[10:23]))
        self._check_choice("drain_rows", (0, *(n for n in _POWERS if 2 <= n <= self.rows)))
        for product, factor in (("rows x lanes", self.rows), ("8 x lanes", 8)):
            if factor * self.lanes < self.bus_bits:
                raise ValueError(
                    f"{self._key('bus_bits')} must be at most {product} = {factor * self.lanes}, "
                    f"not {self.bus_bits}"
                )

    @classmethod
    def load(cls, name_or_path: str | Path) -> Target:
        """Load a target by its name in `TARGETS` or by the path of a TOML file.

        Raises `ValueError` for an unknown target and for a file that is not a legal target.
        """
        text = str(name_or_path)
        path = TARGETS / f"{text}.toml"
        if re.fullmatch(r"[\w.-]+", text) is None or not path.is_file():
            path = Path(text)
        if not path.is_file():
            raise ValueError(
                f"Target must be one of {', '.join(cls.names())} or the path of a TOML file, "
                f"not {text!r}"
            )
        try:
            return cls.parse(path.read_bytes())
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, text: str | bytes) -> Target:
        """Make a target from the text of a TOML file; all keys but those with a default."""
        return cls.build(parse_toml(text.encode() if isinstance(text, str) else text))

    @classmethod
    def build(cls, data: Any) -> Target:
        """Make a target from what a TOML file holds."""
        if not isinstance(data, dict):
            raise TypeError(f"Target must be a table, not {shorten(data)}")
        allowed = [field.name for field in fields(cls)]
        required = [field.name for field in fields(cls) if field.default is MISSING]
        for key in data:
            if key not in allowed:
                raise ValueError(
                    f"Target: key must be one of {', '.join(allowed)}, not {shorten(key)}"
                )
        for key in required:
            if key not in data:
                raise ValueError(
                    f"Target: key {shorten(key)} is missing, found {', '.join(data) or '-'}"
                )
        return cls(**data)

    @staticmethod
    def names() -> list[str]:
        """Names of the targets that come with Hiddenfold."""
        return sorted(path.stem for path in TARGETS.glob("*.toml"))

    def parameters(self) -> dict[str, int]:
        """The numbers that a program depends on, in the order in which the identifier has them."""
        return {key: getattr(self, key) for key in PARAMETERS}

    def hardware_parameters(self) -> dict[str, int]:
        """Keyword arguments of `hiddenfold.hw.core.Accelerator`."""
        rows = self.drain_rows or self.rows
        return self.parameters() | {"drain_rows": rows, "target_id": self.identifier}

    @property
    def identifier(self) -> int:
        """CRC-32 of the parameters (docs/spec.md section 7); register TARGET has it."""
        numbers = " ".join(f"{key}={value}" for key, value in self.parameters().items())
        return zlib.crc32(f"hiddenfold 2 {numbers}".encode("ascii"))

    @property
    def macs_per_cycle(self) -> float:
        """8-bit multiply-accumulates by a ternary weight per cycle."""
        return self.rows * self.lanes * self.planes / 8

    @property
    def act_words(self) -> int:
        """Words of activation memory."""
        return self.act_banks * self.act_bank_words

    @property
    def part_lanes(self) -> int:
        """Lanes of a word that pools write at once, and loads at least."""
        return self.lanes if self.drain_rows in (0, self.rows) else self.drain_rows

    @property
    def tile_bits(self) -> int:
        """Mask bits of one tile; a multiple of 64."""
        return self.rows * self.lanes

    @property
    def mask_bits(self) -> int:
        """Bits of the mask stream that the tile loader takes at once; a multiple of 64."""
        return max(self.bus_bits, self.load_rows * self.lanes)

    def _key(self, key: str) -> str:
        return f"Target {shorten(self.name)}: {key}"

    def _check_choice(self, key: str, allowed: tuple) -> None:
        value = getattr(self, key)
        if value not in allowed:
            options = ", ".join(map(str, allowed))
            raise ValueError(f"{self._key(key)} must be one of {options}, not {shorten(value)}")

    def _check_range(self, key: str, low: int, high: int) -> None:
        value = getattr(self, key)
        if not low <= value <= high:
            raise ValueError(f"{self._key(key)} must be in {low}..{high}, not {shorten(value)}")


#: Parameters that a program depends on.
PARAMETERS = (
    "rows",
    "lanes",
    "planes",
    "act_banks",
    "act_bank_words",
    "psum_depth",
    "acc_bits",
    "bus_bits",
    "image_width",
    "stem_kernel",
    "load_rows",
    "mask_cache",
)
