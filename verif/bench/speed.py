# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.bench.speed [M.hfn]``: how fast search and models are.

Prints images a second of the search (and of a plain implementation of it) and of the golden model,
and clock cycles a second of the simulated accelerator. Other work on the machine spoils the
figures: its load is printed first.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.commands.common import default_model
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.model import Model
from hiddenfold.verif.bench import search_speed
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image

__all__ = ["golden_speed", "simulation_speed"]

GOLDEN_IMAGES = 200
TARGETS = ("sim-tiny", "ulx3s-85f")


def golden_speed(model: Model, images: int = GOLDEN_IMAGES) -> float:
    """Images a second."""
    rng = np.random.default_rng(1)
    batch = np.stack([random_image(rng, *model.image) for _ in range(images)])
    golden = Golden(model)
    golden.run(batch[:1])
    start = time.perf_counter()
    golden.run(batch)
    return images / (time.perf_counter() - start)


def simulation_speed(model: Model, target: Target) -> tuple[float, float]:
    """Clock cycles a second of the simulator, and utilization, on one image."""
    image = random_image(np.random.default_rng(2), *model.image)[np.newaxis]
    program = compile_model(model, target)
    with Accelerator.open(f"rtl:{target.name}") as accelerator:
        accelerator.load(program)
        run = accelerator.run(image)
    return run.cycles / run.seconds, program.ideal_cycles / run.cycles


def main() -> None:
    """Print the table."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default_model()
    model = Model.load(path)
    print(f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads")
    speeds = search_speed.compare()
    print(
        f"search, ResNet18, batch 128: {speeds['ours']:.1f} images/s, plain implementation "
        f"{speeds['plain']:.1f}: {speeds['ratio']:.2f} times ({speeds['cpu_ratio']:.2f} times less "
        "CPU time)"
    )
    print(f"{model.name}: golden model {golden_speed(model):.1f} images/s")
    for name in TARGETS:
        speed, utilization = simulation_speed(model, Target.load(name))
        print(f"{name}: {speed:,.0f} simulated cycles/s, utilization {utilization:.2f}")


if __name__ == "__main__":
    main()
