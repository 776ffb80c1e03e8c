# SPDX-License-Identifier: Apache-2.0
"""The JSON headers of model and program files, which may come from anywhere."""

from __future__ import annotations

import json
from typing import Any

from hiddenfold.sw.operations import shorten

__all__ = ["parse_header"]


def parse_header(subject: str, text: bytes) -> dict[str, Any]:
    """The object in a header. Raises `ValueError`, with `subject` first, when there is none.

    Beyond the JSON that Python reads, numbers are finite and no object has a key twice.
    """
    try:
        header = json.loads(
            text.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object
        )
    except ValueError as error:
        raise ValueError(f"{subject}: header must be a JSON object in UTF-8: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{subject}: header must be a JSON object, not nested so deep") from error
    if not isinstance(header, dict):
        raise ValueError(f"{subject}: header must be a JSON object, not {shorten(header)}")
    return header


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"each key must be there once, not {shorten(twice)} twice")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"numbers must be finite, not {text}")
