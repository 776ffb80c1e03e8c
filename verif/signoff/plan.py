# SPDX-License-Identifier: Apache-2.0
"""The verification plan and what has been shown of it.

``plan.toml`` names for each testpoint its tests and its coverage; :class:`Evidence` holds what the
last runs have left in a folder. What has not been run is open, never met.
"""

import ast
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

PLAN = Path(__file__).with_name("plan.toml")
STAGES = ("V1", "V2", "V3")
#: Coverage that code of a component must have: lines and branches, toggled bits.
LINES, TOGGLES = 1.0, 0.95
MET, FAILED, OPEN = "met", "failed", "open"
#: What a step of ``make regress`` leaves in a file of its own.
_FILES = (
    "proofs",
    "coverage",
    "faults",
    "mutants",
    "python_mutants",
    "planted",
    "second",
    "fuzz",
)


@dataclass(frozen=True)
class Testpoint:
    """One row of the plan."""

    feature: str
    point: str
    stage: str
    tests: list[str]
    coverage: list[str]


def load_plan(path: Path = PLAN) -> list[Testpoint]:
    """The plan; ``ValueError`` for a stage that there is none of."""
    with path.open("rb") as file:
        points = [Testpoint(**entry) for entry in tomllib.load(file)["testpoint"]]
    for point in points:
        if point.stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, not {point.stage!r}")
        if not point.tests:
            raise ValueError(f"testpoint {point.point!r} has no test")
    return points


def known_tests(folder: Path) -> set[str]:
    """Names ``file::function`` of the tests in a folder, read without running them."""
    return {
        f"{path.stem}::{node.name}"
        for path in folder.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@dataclass
class Evidence:
    """Files of the last runs: ``junit*.xml``, ``coverage.json``, ``faults.json`` and so on."""

    tests: dict[str, bool] = field(default_factory=dict)
    proofs: list[dict] = field(default_factory=list)
    coverage: dict = field(default_factory=dict)
    faults: dict = field(default_factory=dict)
    mutants: dict = field(default_factory=dict)
    python_mutants: dict = field(default_factory=dict)
    planted: list[dict] = field(default_factory=list)
    networks: list[dict] = field(default_factory=list)
    second: dict = field(default_factory=dict)
    fuzz: list[dict] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> "Evidence":
        """Read what is there."""
        found = cls()
        for path in sorted(folder.glob("junit*.xml")):
            for case in ElementTree.parse(path).iter("testcase"):
                name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name', '')}"
                name = name.split("[", maxsplit=1)[0]
                if case.find("skipped") is not None:
                    continue
                bad = any(case.find(kind) is not None for kind in ("failure", "error"))
                found.tests[name] = found.tests.get(name, True) and not bad
        for name in _FILES:
            path = folder / f"{name}.json"
            if path.exists():
                setattr(found, name, json.loads(path.read_text(encoding="utf-8")))
        found.networks = [
            {"target": path.stem.removeprefix("networks-")}
            | json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("networks-*.json"))
            if path.stat().st_size
        ]
        return found

    def test(self, name: str) -> str:
        """Whether a test of the plan is met."""
        kind, _, rest = name.partition(" ")
        if kind == "proof":
            results = [proof["proved"] for proof in self.proofs if proof["name"] == rest]
        elif kind == "faults":
            ends = self.faults.get("ends", {}).get(rest)
            results = [] if ends is None else ["failure" not in ends]
        elif kind == "mutants":
            share = self.mutants.get("share_of_harmful")
            results = [] if share is None else [share >= 0.98]
        elif kind == "python":
            survivors = self.python_mutants.get("survivors")
            results = [] if survivors is None else [all(entry["reason"] for entry in survivors)]
        elif kind == "second":
            results = [not self.second["differences"]] if self.second else []
        elif kind == "fuzz":
            results = [not inputs["found"] for inputs in self.fuzz]
        elif kind == "networks":
            results = [run["mismatches"] == 0 for run in self.networks]
            if self.coverage:
                results.append(not self.coverage["failures"])
        else:
            results = [self.tests[name]] if name in self.tests else []
        if not results:
            return OPEN
        return MET if all(results) else FAILED

    def covered(self, name: str) -> str:
        """Whether an item of coverage is met."""
        if not self.coverage:
            return OPEN
        kind, _, rest = name.partition(" ")
        if kind == "code":
            kinds = self.coverage["code"].get(rest)
            if kinds is None:
                return FAILED
            good = all(
                part["covered"] >= (TOGGLES if kind == "toggle" else LINES) * part["total"]
                for kind, part in kinds.items()
            )
        else:
            counts = [e["count"] for e in self.coverage["functional"] if e["group"] == name]
            good = bool(counts) and all(counts)
        return MET if good else FAILED

    def state(self, point: Testpoint) -> str:
        """Whether a testpoint is met: all of its tests, and all of its coverage."""
        states = [self.test(name) for name in point.tests]
        states += [self.covered(name) for name in point.coverage]
        return FAILED if FAILED in states else OPEN if OPEN in states else MET
