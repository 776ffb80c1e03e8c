# SPDX-License-Identifier: Apache-2.0
"""The formats: valid files to start from, how they are damaged, and the readers that must cope."""

from __future__ import annotations

import io
import tempfile
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
from PIL import Image

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.affine import SHORT
from hiddenfold.sw.driver.locate import instruction_at, layer_at
from hiddenfold.sw.model import Model
from hiddenfold.sw.pictures import read_picture
from hiddenfold.sw.program import Program
from hiddenfold.sw.search.config import load_config, parse_config
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.toml import parse_toml
from hiddenfold.verif.fuzz.files import change_container, change_png
from hiddenfold.verif.fuzz.mutate import change_bytes, change_tree, dump_toml
from hiddenfold.verif.golden.random_networks import Limits, random_model

__all__ = ["KINDS", "Kind"]

_TARGET = Target.load("sim-tiny")
_LIMITS = Limits.of(
    _TARGET, max_macs=1500, max_channels=9, max_classes=3, max_side=5, max_iterations=2, frozen=True
)
_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
#: What a program may say that it writes, so that reading its output is tried.
_OUTPUT = 1 << 16


class Kind(ABC):
    """A file format."""

    #: The documented errors of the reader.
    errors: tuple[type[Exception], ...] = (ValueError,)

    @abstractmethod
    def make(self, rng: Random) -> Any:
        """An input, mostly a bad one."""

    @abstractmethod
    def read(self, data: Any) -> None:
        """Read an input and use what was read; raises one of `errors` for a bad one."""


class ModelFile(Kind):
    """`.hfn`."""

    @cached_property
    def seeds(self) -> list[bytes]:
        """Small models; each third one has short constants."""
        models = [random_model(seed, _LIMITS) for seed in range(12)]
        models[::3] = [
            replace(m, constants=SHORT, affine=[a.shortened() for a in m.affine])
            for m in models[::3]
        ]
        return [model.to_bytes() for model in models]

    def make(self, rng: Random) -> bytes:
        return change_container(rng, rng.choice(self.seeds), 8)

    def read(self, data: bytes) -> None:
        model = Model.from_bytes(data)
        model.summary()
        again = model.to_bytes()
        assert Model.from_bytes(again).to_bytes() == again
        if len(data) % 16 == 0:
            # Now and then, since compiling takes longer than all else.
            compile_model(model, _TARGET)


class ProgramFile(Kind):
    """`.hfp`."""

    @cached_property
    def seeds(self) -> list[bytes]:
        """Programs with and without a trace, of one image and of two."""
        return [
            compile_model(
                random_model(seed, _LIMITS),
                _TARGET,
                trace=bool(seed & 1),
                batch=1 + (seed >> 1 & 1),
            ).to_bytes()
            for seed in range(12)
        ]

    def make(self, rng: Random) -> bytes:
        return change_container(rng, rng.choice(self.seeds), 64)

    def read(self, data: bytes) -> None:
        program = Program.from_bytes(data)
        program.disassemble()
        assert all(f"{e['name']} {e['iteration']:d}" for e in program.image_trace)
        layer_at(program, 128)
        instruction_at(program, 128)
        assert Program.from_bytes(program.to_bytes()).memory == program.memory
        if program.output_bytes * program.batch <= _OUTPUT:
            program.unpack_output(bytes(program.output_bytes * program.batch), program.batch)


class _Toml(Kind):
    """TOML, damaged as what it holds and, less often since reading it takes longer, as text."""

    errors = (ValueError, TypeError)

    @property
    @abstractmethod
    def trees(self) -> list[dict[str, Any]]:
        """What valid files hold."""

    def make(self, rng: Random) -> bytes | dict[str, Any]:
        tree, choice = rng.choice(self.trees), rng.randrange(16)
        if choice == 0:
            return change_bytes(rng, dump_toml(tree))
        tree = change_tree(rng, tree)
        return dump_toml(tree) if choice == 1 and isinstance(tree, dict) else tree

    def read(self, data: bytes | dict[str, Any]) -> None:
        self.build(parse_toml(data) if isinstance(data, bytes) else data)

    @abstractmethod
    def build(self, tree: Any) -> None:
        """Read what a file holds."""


class TargetFile(_Toml):
    """Targets."""

    @cached_property
    def trees(self) -> list[dict[str, Any]]:
        return [vars(Target.load(name)) for name in Target.names()]

    def build(self, tree: Any) -> None:
        target = Target.build(tree)
        assert target.identifier >> 32 == 0
        assert Target.build(vars(target)) == target


class ConfigFile(_Toml):
    """Training configurations, as published ones and with all their keys."""

    @cached_property
    def trees(self) -> list[dict[str, Any]]:
        paths = sorted(_CONFIGS.glob("*.toml"))
        full = [load_config(path).to_dict() for path in paths[::4]]
        short = parse_toml((_CONFIGS / "cifar100-hfn16-demo.toml").read_bytes())
        recipe = parse_toml((_CONFIGS / "recipes" / "cifar100.toml").read_bytes())
        recipe["model"] |= {"name": "x", "architecture": "resnet50"}
        return [*full, short, recipe]

    def build(self, tree: Any) -> None:
        config = parse_config(tree)
        assert isinstance(config, SearchConfig)
        assert parse_config(config.to_dict()) == config


class Picture(Kind):
    """PNG and JPEG files."""

    @cached_property
    def seeds(self) -> list[tuple[str, bytes]]:
        """One of each mode."""
        rng = np.random.default_rng(1)
        colours = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6
        result = []
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            result.append(_encoded(colours.convert("L" if mode == "I;16" else mode), mode, "PNG"))
        for mode in ("L", "RGB", "CMYK"):
            result.append(_encoded(colours.convert(mode), mode, "JPEG", exif=exif))
        result.append(_encoded(colours, "RGB", "PNG", exif=exif))
        result.append(_encoded(colours, "RGB", "JPEG", progressive=True, quality=30))
        return result

    def make(self, rng: Random) -> bytes:
        form, data = rng.choice(self.seeds)
        return (
            change_png(rng, data)
            if form == "PNG" and rng.random() < 0.7
            else change_bytes(rng, data)
        )

    def read(self, data: bytes) -> None:
        picture = read_picture(cast(Any, io.BytesIO(data)), 6, 5, fit=True)
        assert picture.shape == (6, 5, 3) and picture.dtype == np.uint8


class Constants(Kind):
    """`.npz`: the batch norms of a model in floating point. PyTorch is imported for these only."""

    @cached_property
    def model(self) -> Model:
        """The model that they belong to."""
        return random_model(3, _LIMITS)

    @cached_property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        """Where the reader finds the file."""
        return tempfile.TemporaryDirectory()

    @cached_property
    def seeds(self) -> list[bytes]:
        """One file of zeros."""
        from hiddenfold.sw.search.float_network import FloatConstants, save_constants
        from hiddenfold.sw.search.quantize import Scale

        path = Path(self.folder.name) / "valid.hfn"
        widths = [e.out_shape.channels for e in self.model.executions() if e.affine is not None]
        constants = [
            FloatConstants(
                np.zeros(width, np.float32), np.zeros(width, np.float32), True, Scale(0.5, width)
            )
            for width in widths
        ]
        return [save_constants(path, constants).read_bytes()]

    def make(self, rng: Random) -> bytes:
        return change_bytes(rng, self.seeds[0])

    def read(self, data: bytes) -> None:
        from hiddenfold.sw.search.float_network import constants_path, load_constants

        path = Path(self.folder.name) / "bad.hfn"
        constants_path(path).write_bytes(data)
        load_constants(path, self.model)


def _encoded(picture: Image.Image, mode: str, form: str, **options: Any) -> tuple[str, bytes]:
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return form, buffer.getvalue()


KINDS: dict[str, Kind] = {
    "hfn": ModelFile(),
    "hfp": ProgramFile(),
    "target": TargetFile(),
    "config": ConfigFile(),
    "picture": Picture(),
    "npz": Constants(),
}
