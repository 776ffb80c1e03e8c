# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.signoff.collect``: code and functional coverage of one regression.

Random networks, those of :mod:`.directed` and the scenarios of :mod:`.scenarios` run on a simulator
that counts lines, branches and toggled bits. The networks are small, since that simulator is slow;
nothing here is compared less exactly than elsewhere.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.sw.verify import Comparison, check_model, compare_run, network_limits
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image, random_model
from hiddenfold.verif.signoff.campaign import TARGET
from hiddenfold.verif.signoff.coverage import load_waivers, read, tally
from hiddenfold.verif.signoff.device import ProbeDevice
from hiddenfold.verif.signoff.directed import Directed, directed
from hiddenfold.verif.signoff.functional import Collector, RecordingAccelerator, all_bins
from hiddenfold.verif.signoff.nets import Nets
from hiddenfold.verif.signoff.scenarios import Bench

_FAULTS = 200
_FEW_CYCLES = 60_000
_EMPTY = r"if (\$unused ) begin end"


def collect(
    library: Path, folder: Path, *, seed: int, count: int, size: float = 0.15
) -> tuple[Collector, list[Path], list[str]]:
    """Run; return functional coverage, Verilator's coverage files and descriptions of failures.

    ``size`` is the part of the usual work that a random network may need.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = Target.load(TARGET)
    collector = Collector(target)
    files: list[Path] = []
    devices: list[ProbeDevice] = []
    failures: list[str] = []

    def opened(memory: int = 1 << 20) -> ProbeDevice:
        devices.append(ProbeDevice(library, memory_size=memory))
        return devices[-1]

    bench = Bench.make(networks=0, large=0, faults=_FAULTS)
    for name, scenario in bench.scenarios(opened):
        try:
            scenario()
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    limits = network_limits(target)
    small = replace(limits, max_macs=int(limits.max_macs * size))
    probe = opened(1 << 26)
    accelerator = RecordingAccelerator(probe)
    accelerator.collector = collector
    for number in range(seed, seed + count):
        result = check_model(accelerator, random_model(number, small), target, number)
        failures += [f"network {number}: {result.first}"] * result.mismatches
    for case in directed():
        result = check_directed(accelerator, probe, case)
        failures += [f"network {case.model.name}: {result.first}"] * result.mismatches
    for number, device in enumerate(devices):
        files.append(folder / f"coverage{number}.dat")
        device.write_coverage(files[-1])
        device.close()
    return collector, files, failures


def check_directed(
    accelerator: RecordingAccelerator, device: ProbeDevice, case: Directed
) -> Comparison:
    """Run a directed network, traced, and not traced with many pauses if it is small; compare."""
    target, rng, result = accelerator.collector.target, np.random.default_rng(4), Comparison()
    images = np.stack([random_image(rng, *case.model.image) for _ in range(case.count)])
    golden = Golden(case.model).trace(images)
    for trace in (True, False):
        program = compile_model(case.model, target, trace=trace, **case.options)
        pauses = not trace and program.predicted_cycles * case.count < _FEW_CYCLES
        device.configure(stall=0.9 if pauses else 0.0)
        compare_run(accelerator, program, images, golden, result)
    return result


def annotated(verilog: Path, folder: Path) -> Path:
    """A copy without coverage of the empty ``if`` that begins each process of the Verilog.

    It is there for simulators that would not run the process at the beginning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, copy = verilog.read_text(encoding="utf-8"), folder / "covered.v"
    off, on = (f"/*verilator coverage_{word}*/" for word in ("off", "on"))
    copy.write_text(text.replace(_EMPTY, f"{off} {_EMPTY} {on}"), encoding="utf-8")
    return copy


def main() -> int:
    """Collect, write ``coverage.json``, print a table; exit status 1 if a comparison failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("out/signoff"))
    arguments = parser.parse_args()
    target, began = Target.load(TARGET), time.monotonic()
    verilog = annotated(target_verilog(target, print), arguments.folder / "coverage")
    library = simulator_library(
        verilog,
        bus_bits=target.bus_bits,
        trace=False,
        log=print,
        flags=("-O1",),
        coverage=True,
    )
    collector, files, failures = collect(
        library, arguments.folder / "coverage", seed=arguments.seed, count=arguments.count
    )
    counts, uncounted = Nets.of(verilog).merged(read(files))
    components, unused = tally(counts, load_waivers())
    bins = all_bins(target)
    data = {
        "seed": arguments.seed,
        "networks": arguments.count,
        "seconds": time.monotonic() - began,
        "failures": failures,
        "functional": [
            {"group": group, "bin": name, "count": collector.counts[group, name]}
            for group, name in bins
        ],
        "code": {
            name: {
                kind: {
                    "covered": entry.covered,
                    "total": entry.total,
                    "waived": entry.waived,
                    "missed": entry.missed,
                }
                for kind, entry in kinds.items()
            }
            for name, kinds in sorted(components.items())
        },
        "unused_waivers": [vars(waiver) for waiver in unused],
        "constant_or_unread": uncounted,
    }
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "coverage.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    for failure in failures:
        print(failure)
    print(f"functional: {len(bins) - len(collector.missing)} of {len(bins)} bins")
    for group, name in collector.missing:
        print(f"  not seen: {group}: {name}")
    for kind in ("line", "branch", "toggle"):
        entries = [kinds[kind] for kinds in components.values() if kind in kinds]
        covered, total = sum(e.covered for e in entries), sum(e.total for e in entries)
        waived = sum(e.waived for e in entries)
        print(f"{kind}: {covered} of {total} ({covered / max(total, 1):.2%}), {waived} waived")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
