# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.bench.table [PART...]``: cycles and bytes of networks on targets.

Every line is a run of the generated Verilog, one batch of images, from memory that delivers a beat
every ``interval`` cycles after 40 cycles. Networks without a trained model have random masks and
constants, which changes neither cycles nor bytes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hiddenfold.gen.bus import Memory
from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.commands.common import default_model
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.model import Model
from hiddenfold.sw.program import Program
from hiddenfold.sw.search.config import load_config
from hiddenfold.sw.verify import untrained
from hiddenfold.verif.bench import peer_block
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image

__all__ = ["PARTS", "Line", "measure", "supply_target"]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run: everything is per image; ``least`` are bytes that must be read at least."""

    network: str
    target: str
    batch: int
    interval: int
    cycles: float
    predicted: int
    ideal: float
    read: float
    least: float
    clock_mhz: float
    speed: float
    exact: bool

    def __str__(self) -> str:
        return (
            f"{self.network:28} {self.target:14} {self.batch:5} {self.interval:8} "
            f"{self.cycles:11,.0f} {self.predicted / self.cycles:9.3f} "
            f"{self.ideal / self.cycles:11.3f} {self.read:11,.0f} {self.read / self.least:6.2f} "
            f"{1e6 * self.clock_mhz / self.cycles:8,.0f} {self.speed:11,.0f} "
            f"{'yes' if self.exact else 'NO':>5}"
        )


TITLE = (
    f"{'network':28} {'target':14} {'batch':>5} {'interval':>8} {'cycles':>11} {'predicted':>9} "
    f"{'utilization':>11} {'bytes read':>11} {'/least':>6} {'frames/s':>8} {'sim cycle/s':>11} "
    f"{'exact':>5}"
)


def supply_target(bus_bits: int) -> Target:
    """A target of 2,048 multiply-accumulates a cycle that holds a batch of 4 of HFN-ResNet50."""
    base = Target.load("zu7ev")
    return replace(
        base,
        name=f"supply-{bus_bits}",
        description="for measuring how masks keep the array busy",
        rows=32,
        act_banks=4,
        act_bank_words=8192,
        psum_depth=256,
        bus_bits=bus_bits,
        load_rows=bus_bits // 64,
        mask_cache=0,
    )


def measure(
    model: Model, target: Target, *, batch: int = 1, interval: int = 1, name: str | None = None
) -> Line:
    """Run one batch and compare its logits with the golden model."""
    program = compile_model(model, target, batch=batch, external=Memory(interval=interval))
    rng = np.random.default_rng(2)
    images = np.stack([random_image(rng, *model.image) for _ in range(batch)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{target.name}.toml")
        path.write_text(_toml(target), encoding="utf-8")
        with Accelerator.open(f"rtl:{path}", beat_interval=interval) as accelerator:
            accelerator.load(program)
            run = accelerator.run(images)
    return Line(
        network=name or model.name,
        target=target.name,
        batch=batch,
        interval=interval,
        cycles=run.cycles / batch,
        predicted=program.predicted_cycles,
        ideal=program.ideal_cycles,
        read=run.bytes_read / batch,
        least=least_bytes(model, program),
        clock_mhz=target.clock_mhz,
        speed=run.cycles / run.seconds,
        exact=np.array_equal(run.logits, Golden(model).run(images)),
    )


def least_bytes(model: Model, program: Program) -> float:
    """Bytes an image cannot do without: masks and program once a batch, its constants, itself."""
    shared = model.summary()["mask_bytes"] + program.instructions * 64 + program.affine_bytes
    return shared / program.batch + program.image[0] * program.pitch


def _toml(target: Target) -> str:
    lines = []
    for field in fields(target):
        value = getattr(target, field.name)
        lines.append(f"{field.name} = {value!r}" if not isinstance(value, str) else "")
        if isinstance(value, str):
            lines[-1] = f'{field.name} = "{value}"'
    return "\n".join(lines) + "\n"


def _config(name: str, **changes: Any) -> Model:
    """An untrained network; ``changes`` are keys of the configuration's model."""
    search = load_config(CONFIGS / f"{name}.toml")
    return untrained(replace(search, model=replace(search.model, **changes)), 1)


def _shipped() -> Iterator[Line]:
    model = Model.load(default_model())
    for target in ("sim-tiny", "ulx3s-85f", "zu7ev"):
        yield measure(model, Target.load(target))
    yield measure(model, Target.load("ulx3s-85f"), batch=2)


def _supply() -> Iterator[Line]:
    resnet50 = _config("cifar100-hfn-resnet50")
    yield measure(resnet50, supply_target(128))
    yield measure(resnet50, supply_target(64), batch=2)
    yield measure(_config("cifar100-hfn-resnet152"), supply_target(64))
    yield measure(resnet50, supply_target(64), batch=4, interval=4)
    for eighths in (4, 2):
        frozen = _config("cifar100-hfn-resnet50", free_eighths=eighths, top_k=0.5)
        name = f"the same, {100 * eighths // 8} % stored"
        yield measure(frozen, supply_target(64), batch=4, interval=4, name=name)


def _bits() -> Iterator[Line]:
    target = replace(supply_target(128), name="four-planes", planes=4)
    for bits in (8, 4):
        model = _config("cifar100-hfn-resnet50", act_bits=bits)
        yield measure(model, target, name=f"cifar100-hfn-resnet50, {bits} bits")


def _spill() -> Iterator[Line]:
    for depth in (50, 152):
        yield measure(_config(f"cifar100-hfn-resnet{depth}"), Target.load("ulx3s-85f"))
    imagenet = _config("imagenet-hfn-resnet50")
    for target in ("ulx3s-85f", "zynq-7020"):
        yield measure(imagenet, Target.load(target))


def _cache() -> Iterator[Line]:
    yield measure(_config("cifar100-hfn-resnet152"), Target.load("zu7ev"))


def _peer() -> Iterator[Line]:
    one, two = peer_block.peer_network(1), peer_block.peer_network(2)
    for name in ("peer-64", "peer-256"):
        target = Target.load(name)
        first, second = measure(one, target), measure(two, target)
        yield replace(
            second,
            network="block 16x16x64",
            cycles=second.cycles - first.cycles,
            predicted=second.predicted - first.predicted,
            ideal=peer_block.MACS / target.macs_per_cycle,
            read=second.read - first.read,
            least=second.read - first.read,
        )


#: What can be asked for.
PARTS: dict[str, Callable[[], Iterator[Line]]] = {
    "shipped": _shipped,
    "peer": _peer,
    "supply": _supply,
    "cache": _cache,
    "bits": _bits,
    "spill": _spill,
}


def main() -> None:
    """Print the parts that were asked for, or all; exit 1 if a run was not bit-exact."""
    wanted = sys.argv[1:] or list(PARTS)
    for part in wanted:
        if part not in PARTS:
            sys.exit(f"part must be one of {', '.join(PARTS)}, not {part!r}")
    print(TITLE)
    exact = True
    for part in wanted:
        for line in PARTS[part]():
            print(line, flush=True)
            exact = exact and line.exact
    sys.exit(0 if exact else 1)


if __name__ == "__main__":
    main()
