# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.signoff.campaign``: faults in random places of runs.

After each fault the next run must be exact again. Fault ``i`` of seed ``S`` depends on nothing
else, so ``--seed S --first i --count 1`` repeats it.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.verif.bench.case import small_model
from hiddenfold.verif.golden.random_networks import random_image
from hiddenfold.verif.signoff.device import ProbeDevice
from hiddenfold.verif.signoff.faults import KINDS, Known
from hiddenfold.verif.signoff.outcome import write_outcome
from hiddenfold.verif.signoff.rig import Case, Failure, Hang, Rig

TARGET = "sim-tiny"
_MEMORY = 1 << 20
#: Memory latency in cycles and probability of a pause.
_TIMINGS = ((0, 0.0), (40, 0.0), (3, 0.3))
#: Height and width of the images (small, since each fault costs two runs) and compiler options of
#: the programs: plain, traced, spilled, in a batch.
_PROGRAMS = (
    ((4, 3), {"trace": False}),
    ((4, 3), {"trace": True}),
    ((5, 4), {"trace": True, "act_words": 32}),
    ((4, 3), {"trace": False, "batch": 2}),
)


@dataclass
class Campaign:
    """Outcome: faults, ends by kind and name, and what went wrong."""

    seed: int
    faults: int = 0
    hangs: int = 0
    ends: dict[str, Counter] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict:
        """The outcome as plain data."""
        return {**vars(self), "ends": {kind: dict(names) for kind, names in self.ends.items()}}


def cases() -> list[Case]:
    """The programs that faults are injected into."""
    target, rng = Target.load(TARGET), np.random.default_rng(5)
    return [
        Case(
            small_model(size=size),
            target,
            np.stack([random_image(rng, *size) for _ in range(options.get("batch", 1))]),
            **options,
        )
        for size, options in _PROGRAMS
    ]


def rigs(library: Path, programs: list[Case]) -> list[Rig]:
    """A rig for each program, each with a device of its own."""
    return [Rig(ProbeDevice(library, memory_size=_MEMORY), case) for case in programs]


def run_campaign(
    stands: list[Rig],
    *,
    seed: int,
    count: int,
    first: int = 0,
    tick: Callable[[int], object] = lambda _: None,
) -> Campaign:
    """Inject faults ``first`` .. ``first + count - 1`` of ``seed``."""
    outcome, began = Campaign(seed), time.monotonic()
    known: dict[tuple[int, int], Known] = {}
    for number in range(first, first + count):
        rng = Random(f"{seed} {number}")
        place, timing = rng.randrange(len(stands)), rng.randrange(len(_TIMINGS))
        rig = stands[place]
        latency, stall = _TIMINGS[timing]
        rig.device.configure(read_latency=latency, stall=stall, seed=number)
        if (place, timing) not in known:
            known[place, timing] = Known(rig)
        [kind] = rng.choices(list(KINDS), list(KINDS.values()))
        name = kind.__name__
        rig.fill()
        try:
            end = kind(rig, known[place, timing], rng)
            rig.device.clear_faults()
            rig.fill()
            rig.expect_good()
        except (Failure, DeviceError) as error:
            outcome.hangs += isinstance(error, Hang)
            outcome.failures.append(
                f"fault {number}, {name}: {error} (repeat: python -m "
                f"hiddenfold.verif.signoff.campaign --seed {seed} --first {number} --count 1)"
            )
            end = "failure"
            rig.device.clear_faults()
            rig.device.reset()
        outcome.ends.setdefault(name, Counter())[end] += 1
        outcome.faults += 1
        tick(1)
    outcome.seconds = time.monotonic() - began
    return outcome


def main() -> int:
    """Run a campaign and print it, or write it as JSON; exit status 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the outcome here")
    arguments = parser.parse_args()
    target = Target.load(TARGET)
    library = simulator_library(
        target_verilog(target, print), bus_bits=target.bus_bits, trace=False, log=print
    )
    outcome = run_campaign(
        rigs(library, cases()), seed=arguments.seed, first=arguments.first, count=arguments.count
    )
    write_outcome(arguments.json, outcome.to_json())
    for kind, ends in sorted(outcome.ends.items()):
        print(f"{kind}: " + ", ".join(f"{end} {n}" for end, n in ends.most_common()))
    for text in outcome.failures[:20]:
        print(text)
    print(
        f"{outcome.faults} faults, {len(outcome.failures)} failures, {outcome.hangs} hangs, "
        f"{outcome.seconds:.0f} s (seed {outcome.seed})"
    )
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main())
