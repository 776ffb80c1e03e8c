# SPDX-License-Identifier: Apache-2.0
"""Functional coverage: instructions, constants, results and circumstances of a regression.

A *bin* is a text such as ``3, 2, 4`` in a *group* such as ``conv: kernel, stride, passes``.
:func:`all_bins` lists those a regression of a target has to fill; a :class:`Collector` counts them
in what has been run and compared.
"""

from collections import Counter
from itertools import product

import numpy as np

from hiddenfold.gen.target import Target
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.result import RunResult
from hiddenfold.sw.program import Program
from hiddenfold.verif.signoff.layout import executed

_KERNELS = (1, 3, 5, 7)
_STRIDES = (1, 2)
_FOLDING = ("outside loops", "first iteration", "later iteration")
_FREE = ("all masks stored", "frozen, 8 of 8", "4 of 8", "2 of 8", "1 of 8")
_TILES = ("one pixel tile", "several pixel tiles")
_FEW = ("1", "2", "3 or more")
_MULTIPLIERS = ("smallest", "negative", "zero", "positive", "largest")
_LATENCIES = (0, 3, 40, 150)
_STALLS = (0.0, 0.1, 0.5, 0.9)


def _named(group: str, *axes) -> list[tuple[str, str]]:
    return [(group, ", ".join(map(str, point))) for point in product(*axes)]


def all_bins(target: Target) -> list[tuple[str, str]]:
    """Group and bin of everything that a regression of ``target`` has to fill."""
    passes = range(1, 8 // target.planes + 1)
    cached = ("not cached", "cached") if target.mask_cache else ("not cached",)
    tops = [(kernel, top) for kernel in _KERNELS for top in range((kernel - 1) // 2 + 1)]
    return [
        *_named("opcode", [opcode.name for opcode in Opcode]),
        *_named("conv: kernel, stride, passes", _KERNELS, _STRIDES, passes),
        *_named("conv: kernel, folding, passes", _KERNELS, _FOLDING, passes),
        *_named("conv: output bits, residual", range(1, 9), ("none", "in place", "elsewhere")),
        *_named("conv: folding, cache", _FOLDING, cached, _TILES),
        *_named("conv: masks, cache", _FREE, cached),
        *_named("conv: blocks, input words", _FEW, _FEW),
        *_named("conv: last pixel tile", ("only one", "full", "short")),
        ("conv: images, maps in a tile", "1, one"),
        *_named("conv: images, maps in a tile", (2, 3, 4), ("one", "several")),
        *_named("conv: last group of maps", ("full", "short")),
        *_named("conv: gap, passes", (0, 1), ("one pass", "several passes")),
        *[("conv: kernel, rows above", f"{kernel}, {top}") for kernel, top in tops],
        *_named("classifier: blocks, input words", ("1", "2", "3 or more"), _FEW),
        *_named("image: kernel, stride", _KERNELS, _STRIDES),
        *_named("image: width", ("1", "between", "largest")),
        *_named("image: height", ("1", "more")),
        *_named("pool: kernel, stride", _KERNELS, _STRIDES),
        *_named("pool: input words", _FEW),
        *_named("fence: kind, limit", ("loads", "saves"), (0, 1, 2, 3)),
        *_named("loop: iterations", ("1", "2", "3 to 7", "8")),
        *_named("constants: shift", range(0, 32, 4)),
        *_named("constants: multiplier", _MULTIPLIERS),
        *_named("constants: bias", _MULTIPLIERS),
        *_named("constants: residual multiplier", ("zero", "between", "largest")),
        *_named("result", ("clamped to 0", "between", "clamped to the largest")),
        *_named("logits", ("negative", "zero or more")),
        *_named("run: traced, filled up", ("traced", "not traced"), ("whole batch", "filled up")),
        *_named("memory: pauses, latency", _STALLS, _LATENCIES),
        *_named(
            "run: pauses, batch or spilling, cache",
            ("no pauses", "pauses"),
            ("one image", "batch", "spilled"),
            cached,
        ),
    ]


def _few(number: int) -> str:
    return str(number) if number < 3 else "3 or more"


def _extreme(value: int, bits: int) -> str:
    if value in (-1 << bits - 1, (1 << bits - 1) - 1):
        return "smallest" if value < 0 else "largest"
    return "zero" if value == 0 else "negative" if value < 0 else "positive"


def _signed(value: int, bits: int) -> int:
    return value - (value >> bits - 1 << bits)


class Collector:
    """Counts bins: ``counts`` by (group, bin)."""

    def __init__(self, target: Target):
        self.target = target
        self.counts: Counter[tuple[str, str]] = Counter()

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Bins that have not been seen."""
        return [name for name in all_bins(self.target) if not self.counts[name]]

    def _add(self, group: str, *point) -> None:
        self.counts[group, ", ".join(map(str, point))] += 1

    def run(self, program: Program, images: int, result: RunResult, memory: dict) -> None:
        """Count a run that has ended well; ``memory`` is the configuration of the device."""
        cached = False
        spilled = False
        for _, fields, iteration in executed(program):
            folding = _FOLDING[0 if iteration is None else 1 + (iteration > 0)]
            opcode = Opcode(fields["opcode"])
            self._add("opcode", opcode.name)
            for kind in ("loads", "saves"):
                self._add("fence: kind, limit", kind, fields[f"fence_{kind}"])
            if opcode == Opcode.CONV:
                self._conv(fields, folding)
                cached |= bool(fields["cached"])
            elif opcode == Opcode.IMAGE:
                width = fields["in_w"]
                largest = width == self.target.image_width
                self._add("image: kernel, stride", fields["kernel"], fields["stride"])
                self._add(
                    "image: width", "1" if width == 1 else "largest" if largest else "between"
                )
                self._add("image: height", "1" if program.image[0] == 1 else "more")
            elif opcode == Opcode.POOL:
                self._add("pool: kernel, stride", fields["kernel"], fields["stride"])
                self._add("pool: input words", _few(fields["in_words"]))
            elif opcode == Opcode.LOOP:
                count = fields["count"]
                self._add("loop: iterations", count if count in (1, 2, 8) else "3 to 7")
            spilled |= opcode in (Opcode.LOAD, Opcode.SAVE)
        self._constants(program)
        self._results(program, result)
        traced = "not traced" if program.trace is None else "traced"
        filled = "filled up" if images % program.batch else "whole batch"
        self._add("run: traced, filled up", traced, filled)
        stall, latency = memory.get("stall", 0.0), memory.get("read_latency", 40)
        self._add("memory: pauses, latency", stall, latency)
        self._add(
            "run: pauses, batch or spilling, cache",
            "pauses" if stall else "no pauses",
            "spilled" if spilled else "batch" if program.batch > 1 else "one image",
            "cached" if cached else "not cached",
        )

    def _conv(self, fields: dict[str, int], folding: str) -> None:
        kernel, stride, passes = fields["kernel"], fields["stride"], fields["passes"]
        blocks, words = _few(fields["blocks"]), _few(fields["in_words"])
        cached = "cached" if fields["cached"] else "not cached"
        groups = -(-fields["images"] // fields["tile_images"])
        rows = -(-fields["out_h"] // fields["tile_rows"])
        if fields["logits"]:
            self._add("classifier: blocks, input words", blocks, words)
        else:
            residual = "none"
            if fields["residual"]:
                residual = "in place" if fields["res"] == fields["dst"] else "elsewhere"
            self._add("conv: output bits, residual", fields["out_bits"], residual)
            self._add("conv: blocks, input words", blocks, words)
        self._add("conv: kernel, stride, passes", kernel, stride, passes)
        self._add("conv: kernel, folding, passes", kernel, folding, passes)
        self._add("conv: folding, cache", folding, cached, _TILES[groups * rows > 1])
        free = 1 + fields["free"] if fields["frozen"] else 0
        self._add("conv: masks, cache", _FREE[free], cached)
        short = "short" if fields["out_h"] % fields["tile_rows"] else "full"
        self._add("conv: last pixel tile", "only one" if rows == 1 else short)
        maps = "several" if fields["tile_images"] > 1 else "one"
        self._add("conv: images, maps in a tile", fields["images"], maps)
        if maps == "several" and groups > 1:
            last = fields["images"] % fields["tile_images"]
            self._add("conv: last group of maps", "short" if last else "full")
        self._add(
            "conv: gap, passes", fields["gap"], "one pass" if passes == 1 else "several passes"
        )
        self._add("conv: kernel, rows above", kernel, fields["top"])

    def _constants(self, program: Program) -> None:
        """Read the records of the affine stream in the order of execution."""
        rows, at = program.target_parameters["rows"], 0
        for _, fields, _ in executed(program):
            if fields["opcode"] == Opcode.BEGIN:
                at = fields["offset"]
            if fields["opcode"] != Opcode.CONV or fields["logits"]:
                continue
            words = np.frombuffer(program.memory, "<u8", 2 + fields["blocks"] * rows, at).tolist()
            at += 8 * len(words)
            residual, shift = words[0] & 0xFFFF, words[0] >> 16 & 31
            self._add("constants: shift", shift)
            if fields["residual"]:
                kind = "zero" if residual == 0 else "largest" if residual == 0xFFFF else "between"
                self._add("constants: residual multiplier", kind)
            for word in words[2:]:
                self._add("constants: multiplier", _extreme(_signed(word & 0xFFFF, 16), 16))
                self._add("constants: bias", _extreme(_signed(word >> 16 & (1 << 24) - 1, 24), 24))

    def _results(self, program: Program, result: RunResult) -> None:
        convs = {layer["name"] for layer in program.layers if layer["op"] == "conv"}
        for entries in result.traces or ():
            for entry in entries:
                if entry.name not in convs:
                    continue
                largest = entry.data.max()
                for kind, found in (
                    ("clamped to 0", (entry.data == 0).any()),
                    ("clamped to the largest", largest in _LARGEST),
                    ("between", ((entry.data > 0) & (entry.data < largest)).any()),
                ):
                    if found:
                        self._add("result", kind)
        if (result.logits < 0).any():
            self._add("logits", "negative")
        if (result.logits >= 0).any():
            self._add("logits", "zero or more")


#: The largest values of activations of 1 to 8 bits.
_LARGEST = frozenset((1 << bits) - 1 for bits in range(1, 9))


class RecordingAccelerator(Accelerator):
    """An accelerator that counts the bins of all its good runs in ``collector``."""

    collector: Collector

    def __init__(self, device):
        super().__init__(device)
        configure = device.configure
        self._memory: dict = {}

        def remember(**memory):
            self._memory = memory
            configure(**memory)

        device.configure = remember

    def run(self, images, **options) -> RunResult:
        """Run and count."""
        result = super().run(images, **options)
        assert self.program is not None
        self.collector.run(self.program, len(images), result, self._memory)
        return result
