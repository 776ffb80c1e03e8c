# SPDX-License-Identifier: Apache-2.0
"""What nextpnr's report says: resources, clocks, the slowest paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["core_fmax", "path_text", "read_report", "summary", "wanted_clocks"]

#: Our names of ECP5's resources.
_RESOURCES = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "dsp": "MULT18X18D"}
#: The accelerator's clock. Yosys calls it by its own name or by that of the PLL's output.
_CORE = re.compile("core_clk|pll1_")
_WANTED = re.compile(r"Max frequency for clock +'(.+)': .* at ([\d.]+) MHz\)")


def wanted_clocks(log: str) -> dict[str, float]:
    """The frequency in MHz that nextpnr was told of each clock, from its messages."""
    return {name: float(mhz) for name, mhz in _WANTED.findall(log)}


def core_fmax(report: Mapping[str, Any]) -> float:
    """The highest frequency in MHz of the accelerator's clock, not rounded."""
    return float(report["fmax"][_core_clock(report)]["achieved"])


def _core_clock(report: Mapping[str, Any]) -> str:
    """What nextpnr calls the accelerator's clock."""
    for name in report["fmax"]:
        if _CORE.search(name):
            return str(name)
    names = [_clock(name) for name in report["fmax"]]
    raise ValueError(f"no clock of the accelerator in nextpnr's report, only {names}")


def read_report(report: Mapping[str, Any], clock_mhz: float) -> dict[str, Any]:
    """Return ``lut, ff, bram, dsp`` (used), ``available`` (the same), ``fmax_mhz`` and
    ``clock_mhz`` of the accelerator's clock, ``clocks``, ``timing_met`` and ``critical_paths``.

    ``clock_mhz`` stands for what nextpnr was told of the accelerator's clock. Paths between clocks
    of one PLL count as well: they have a period of the faster one.

    ``lut`` counts every used half slice, those of carry chains and small memories too. A path has
    its clocks, nanoseconds, those of them spent in wires, levels of logic, and what it begins and
    ends at.
    """
    use = report["utilization"]
    name_of_core = _core_clock(report)
    clocks, met = {}, True
    for name, entry in report["fmax"].items():
        wanted = clock_mhz if name == name_of_core else entry["constraint"]
        # Of the numbers themselves; rounded ones are for the eye.
        met &= entry["achieved"] >= wanted * (1 - 1e-9)
        clocks[_clock(name)] = {
            "fmax_mhz": round(entry["achieved"], 2),
            "clock_mhz": round(wanted, 2),
        }
    core = clocks[_clock(name_of_core)]
    paths = [_path(path) for path in report["critical_paths"] if path["path"]]
    late = [path for path in paths if _is_late(path, clocks)]
    return {
        **{ours: use[theirs]["used"] for ours, theirs in _RESOURCES.items()},
        "available": {ours: use[theirs]["available"] for ours, theirs in _RESOURCES.items()},
        "fmax_mhz": core["fmax_mhz"],
        "clock_mhz": core["clock_mhz"],
        "timing_met": not late and met,
        "clocks": clocks,
        "late_crossings": late,
        "critical_paths": paths,
    }


def path_text(path: Mapping[str, Any]) -> str:
    """A critical path in a line."""
    return (
        f"{path['ns']:6.2f} ns ({path['wires_ns']:.2f} in wires, {path['levels']} levels)  "
        f"{path['from_clock']} -> {path['to_clock']}: {path['begin']} -> {path['end']}"
    )


def summary(found: Mapping[str, Any]) -> str:
    """The report of a build for people."""
    names = {"lut": "LUT4", "ff": "flip-flops", "bram": "block RAMs", "dsp": "multipliers"}
    lines = [f"{found['target']} on board {found['board']}: {found['bitstream']}", ""]
    for key, name in names.items():
        used, available = found[key], found["available"][key]
        lines.append(f"{name:<12} {used:>7,} of {available:>7,}  {used / available:4.0%}")
    lines.append("")
    for name, clock in found["clocks"].items():
        best, wanted = clock["fmax_mhz"], clock["clock_mhz"]
        met = "met" if best >= wanted else "NOT MET"
        lines.append(f"clock {name:<12} up to {best:6.1f} MHz, {wanted:5.1f} wanted: {met}")
    lines += [f"too late: {path_text(path)}" for path in found["late_crossings"]]
    if found["clock_mhz"] < found["wanted_mhz"]:
        lines.append(
            f"The bitstream's clock is {found['clock_mhz']:g} MHz, which timing allows, instead of "
            f"{found['wanted_mhz']:g}."
        )
    lines += ["", "slowest paths", *map(path_text, found["critical_paths"]), ""]
    for name, seconds in found["steps"].items():
        kept = " (kept from an earlier build)" if name in found["kept"] else ""
        lines.append(f"{name:<12} {seconds:7.0f} s{kept}")
    return "\n".join(lines)


def _is_late(path: Mapping[str, Any], clocks: Mapping[str, Any]) -> bool:
    """A path between two clocks of a PLL that takes longer than a period."""
    ends = {path["from_clock"], path["to_clock"]}
    if len(ends) == 1 or not ends <= clocks.keys() or any(map(_CORE.search, ends)):
        return False
    return path["ns"] > 1e3 / max(clocks[name]["clock_mhz"] for name in ends)


def _path(path: Mapping[str, Any]) -> dict[str, Any]:
    parts = path["path"]
    return {
        "from_clock": _clock(path["from"]),
        "to_clock": _clock(path["to"]),
        "ns": round(sum(part["delay"] for part in parts), 2),
        "wires_ns": round(sum(part["delay"] for part in parts if part["type"] == "routing"), 2),
        "levels": sum(part["type"] == "logic" for part in parts),
        "begin": parts[0]["from"]["cell"],
        "end": parts[-1]["to"]["cell"],
    }


def _clock(name: str) -> str:
    """``posedge $glbnet$core_clk`` as ``core_clk``."""
    return re.sub(r"^(posedge|negedge) ", "", name).removeprefix("$glbnet$")
