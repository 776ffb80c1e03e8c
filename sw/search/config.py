# SPDX-License-Identifier: Apache-2.0
"""The TOML file of a search, read into its settings.

Every unknown key, missing key and bad value is refused with a `ValueError` (or `TypeError`, for a
value of the wrong kind) that names the key, what is allowed, and what was found.

Two keys save writing: `base` names a file, relative to the one that names it, whose keys hold
where this file has none; `model.architecture` (with `model.folded`) stands for the stages and the
stem of a published network. What is read has neither: the stages are explicit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hiddenfold.sw.operations import shorten
from hiddenfold.sw.search.architectures import ARCHITECTURES, STAGES, stages, stem
from hiddenfold.sw.search.settings import (
    DATASETS,
    ModelConfig,
    PhaseConfig,
    SearchConfig,
    StageConfig,
    StemConfig,
    TrainConfig,
    one_of,
)
from hiddenfold.sw.toml import parse_toml

__all__ = ["load_config", "merge", "parse_config"]

# Keys of the table `model`, and the keys of a base that they stand for.
_RIVALS = {"architecture": ("stages", "stem"), "stages": ("architecture", "folded")}


def load_config(path: str | Path) -> SearchConfig:
    """Read a TOML file; `ValueError` names the file, then what is wrong in it."""
    try:
        data = _load(Path(path))
        if "base" in data:
            base = Path(path).parent / _typed("base", data.pop("base"), str)
            data = merge(_load_base(base), data)
        return parse_config(data)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def parse_config(data: dict[str, Any]) -> SearchConfig:
    """A `SearchConfig` from the tables of a TOML file (without `base`)."""
    config = _build(SearchConfig, _expand(data), "")
    assert isinstance(config, SearchConfig)
    return config


def _load(path: Path) -> dict[str, Any]:
    return parse_toml(path.read_bytes())


def _load_base(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"Key 'base' must name a file, not {str(path)!r}")
    try:
        data = _load(path)
    except ValueError as error:
        raise ValueError(f"base {path}: {error}") from error
    if "base" in data:
        raise ValueError(f"base {path} must not have a base itself, not {shorten(data['base'])}")
    return data


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The tables of both, key by key; where both have a value that of `over` holds.

    An architecture and stages given one by one replace each other.
    """
    replaced = {key for rival, keys in _RIVALS.items() if rival in over for key in keys}
    merged = {key: value for key, value in base.items() if key not in replaced}
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both_tables else value
    return merged


def _expand(data: Any) -> Any:
    """`data` with what the data set tells, and with stages and stem in place of an architecture."""
    if not isinstance(data, dict):
        return data
    dataset = data.get("dataset")
    known: dict[str, int] = {}
    if isinstance(dataset, str):
        one_of("dataset", dataset, tuple(DATASETS))
        known = DATASETS[dataset]
    if "image" in known:
        data = {"image": known["image"], **data}
    if not isinstance(data.get("model"), dict):
        return data
    model = dict(data["model"])
    if "classes" in known:
        model.setdefault("classes", known["classes"])
    if "architecture" in model:
        name = _typed("model.architecture", model.pop("architecture"), str)
        one_of("model.architecture", name, tuple(ARCHITECTURES))
        if "stages" in model:
            raise ValueError("Key 'model.stages' must be left out where 'model.architecture' is")
        model["stages"] = stages(name, _stage_numbers(model.pop("folded", [])))
        if type(data.get("image")) is int:
            model.setdefault("stem", stem(data["image"]))
    elif "folded" in model:
        raise ValueError(
            "Key 'model.folded' is for 'model.architecture'; a stage has its own key 'folded'"
        )
    return {**data, "model": model}


def _stage_numbers(value: Any) -> list[int]:
    allowed = range(1, STAGES + 1)
    _typed("model.folded", value, list)
    if not all(type(item) is int and item in allowed for item in value):
        raise ValueError(f"Key 'model.folded' must list stages 1 to {STAGES}, not {shorten(value)}")
    return value


# Keys that hold a table, or a list of tables.
_TABLES: dict[str, type] = {"model": ModelConfig, "stem": StemConfig, "train": TrainConfig}
_LISTS: dict[str, type] = {"stages": StageConfig, "phases": PhaseConfig}
_KINDS = {"int": int, "float": float, "str": str, "bool": bool}


def _build(cls: type, data: Any, prefix: str) -> Any:
    if not isinstance(data, dict):
        raise TypeError(f"Key {prefix.rstrip('.')!r} must be a table, not {shorten(data)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise ValueError(
                f"Key {shorten(prefix + key)} is unknown; allowed: {', '.join(fields)}"
            )
    values = {}
    for name, field in fields.items():
        key = prefix + name
        if name not in data:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"Key {key!r} is missing")
        elif name in _TABLES:
            values[name] = _build(_TABLES[name], data[name], f"{key}.")
        elif name in _LISTS:
            if not isinstance(data[name], (list, tuple)):
                raise TypeError(f"Key {key!r} must be a list of tables, not {shorten(data[name])}")
            values[name] = tuple(_build(_LISTS[name], item, f"{key}.") for item in data[name])
        else:
            values[name] = _scalar(key, data[name], str(field.type))
    return cls(**values)


def _scalar(key: str, value: Any, kind: str) -> Any:
    if kind == "float" and type(value) is int and abs(value) < 1 << 53:
        value = float(value)
    return _typed(key, value, _KINDS[kind])


def _typed(key: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"Key {key!r} must be of type {kind.__name__}, not {shorten(value)}")
    return value
