# SPDX-License-Identifier: Apache-2.0
"""Reads TOML files, which may come from anywhere."""

from __future__ import annotations

import tomllib
from typing import Any

__all__ = ["MAX_BYTES", "parse_toml"]

#: No target or configuration is nearly as long.
MAX_BYTES = 1 << 20


def parse_toml(data: bytes) -> dict[str, Any]:
    """What the bytes of a TOML file hold. Raises `ValueError` when they are none."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"TOML file must be at most {MAX_BYTES} bytes, not {len(data)}")
    try:
        return tomllib.loads(data.decode())
    except RecursionError as error:
        raise ValueError("TOML file must not be nested so deep") from error
