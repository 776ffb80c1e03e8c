# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.signoff.mutation``: how many mutants of the RTL the checks find.

Each mutant runs through the bench of :mod:`.scenarios` until a check fails. A mutant that no check
finds is a *survivor*. It is either explained in ``survivors.toml`` (why it changes nothing that the
specification promises), or it is a hole in the checks.
"""

import argparse
import multiprocessing
import sys
import time
import tomllib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.errors import AcceleratorError
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.verif.signoff.campaign import TARGET
from hiddenfold.verif.signoff.mutants import Mutant, make_mutants
from hiddenfold.verif.signoff.outcome import write_outcome
from hiddenfold.verif.signoff.rig import Failure
from hiddenfold.verif.signoff.scenarios import Bench, open_devices

SURVIVORS = Path(__file__).with_name("survivors.toml")
#: Only the design's own cycle counts have changed: slower or faster, but right.
ONLY_CYCLES = "cycle counts"
STOPPED = "the simulator stopped"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the scenario that found it and its words, both empty if none did."""

    number: int
    where: str
    scenario: str
    text: str


@dataclass
class Mutation:
    """Outcome of all mutants."""

    seed: int
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def survivors(self) -> list[Verdict]:
        """Mutants that no check has found."""
        return [verdict for verdict in self.verdicts if not verdict.scenario]

    def summary(self, explained: dict[str, str]) -> dict:
        """Counts for the report."""
        by = Counter(verdict.scenario.rstrip(" 0123456789") for verdict in self.verdicts)
        survivors = self.survivors
        harmless = [verdict for verdict in survivors if verdict.where in explained]
        total = len(self.verdicts)
        found = total - len(survivors)
        return {
            "mutants": total,
            "found": found,
            "found_by": dict(by),
            "survivors": len(survivors),
            "harmless": len(harmless),
            "share": found / max(total, 1),
            "share_of_harmful": found / max(total - len(harmless), 1),
            "unexplained": [asdict(v) for v in survivors if v.where not in explained],
            "seconds": self.seconds,
            "seed": self.seed,
        }


def explanations() -> dict[str, str]:
    """Reasons why survivors are harmless, by mutant."""
    with SURVIVORS.open("rb") as file:
        entries = tomllib.load(file).get("survivor", [])
    return {entry["where"]: entry["reason"] for entry in entries}


_bench: Bench | None = None


def judge(library: Path, mutant: Mutant) -> Verdict:
    """Run one mutant through the bench."""
    global _bench  # noqa: PLW0603 (made once in each process, before the mutants)
    if _bench is None:
        _bench = Bench.make()
        for _, scenario in _bench.scenarios(open_devices(library, 0)):
            scenario()
    current = "identification"
    try:
        for name, scenario in _bench.scenarios(open_devices(library, mutant.number)):
            current = name
            scenario()
    except (Failure, DeviceError, AcceleratorError) as error:
        return Verdict(mutant.number, mutant.where, current, str(error).splitlines()[0][:300])
    return Verdict(mutant.number, mutant.where, "", "")


def run_mutation(library: Path, mutants: list[Mutant], *, seed: int, log=print) -> Mutation:
    """Judge all mutants, in a process that may die of them."""
    outcome, began = Mutation(seed), time.monotonic()
    context = multiprocessing.get_context("spawn")
    left = list(mutants)
    while left:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                while left:
                    verdict = pool.submit(judge, library, left[0]).result()
                    outcome.verdicts.append(verdict)
                    what = f"found by {verdict.scenario}" if verdict.scenario else "SURVIVES"
                    log(f"mutant {verdict.number} {what}: {verdict.where}")
                    del left[0]
            except BrokenProcessPool:
                mutant = left.pop(0)
                outcome.verdicts.append(Verdict(mutant.number, mutant.where, STOPPED, ""))
    outcome.seconds = time.monotonic() - began
    return outcome


def main() -> int:
    """Make mutants, judge them, print the outcome; exit status 1 below 98 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the mutants to judge")
    parser.add_argument("--folder", type=Path, default=Path("out/signoff/mutants"))
    parser.add_argument("--json", type=Path, help="write the outcome here")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    target = Target.load(TARGET)
    verilog = target_verilog(target, print)
    mutants = make_mutants(verilog, arguments.folder, count=arguments.count, seed=arguments.seed)
    library = simulator_library(
        arguments.folder / "mutants.v",
        bus_bits=target.bus_bits,
        trace=False,
        log=print,
        flags=("-O1",),
        mutants=True,
    )
    if arguments.only:
        mutants = [mutant for mutant in mutants if mutant.number in arguments.only]
    outcome = run_mutation(
        library, mutants, seed=arguments.seed, log=lambda x: print(x, flush=True)
    )
    summary = outcome.summary(explanations())
    verdicts = [asdict(verdict) for verdict in outcome.verdicts]
    write_outcome(arguments.json, summary | {"verdicts": verdicts})
    print(
        f"{summary['mutants']} mutants, {summary['found']} found, {summary['harmless']} explained, "
        f"{len(summary['unexplained'])} not: {summary['share_of_harmful']:.1%} of those that do "
        f"harm, {summary['share']:.1%} of all, {summary['seconds']:.0f} s (seed {outcome.seed})"
    )
    return int(summary["share_of_harmful"] < 0.98)


if __name__ == "__main__":
    sys.exit(main())
