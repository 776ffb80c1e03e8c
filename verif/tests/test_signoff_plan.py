# SPDX-License-Identifier: Apache-2.0
"""The verification plan names what exists, and its report says what is met and what is not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hiddenfold.gen.target import Target
from hiddenfold.hw.array import MAPPINGS
from hiddenfold.verif.formal.__main__ import PROOFS
from hiddenfold.verif.signoff.faults import KINDS
from hiddenfold.verif.signoff.functional import all_bins
from hiddenfold.verif.signoff.plan import FAILED, MET, OPEN, Evidence, known_tests, load_plan
from hiddenfold.verif.signoff.report import render

POINTS = load_plan()


def test_every_test_of_the_plan_exists():
    known = known_tests(Path(__file__).parent)
    known |= {f"proof {name}" for name, *_ in PROOFS}
    known |= {f"proof rows of {family} cells" for family in MAPPINGS}
    known |= {f"faults {kind.__name__}" for kind in KINDS}
    known |= {"mutants", "python mutants", "networks", "second", "fuzz"}
    assert {name for point in POINTS for name in point.tests} <= known


def test_every_proof_fault_and_bin_is_in_the_plan():
    tests = {name for point in POINTS for name in point.tests}
    assert {f"proof {name}" for name, *_ in PROOFS} <= tests
    assert {f"faults {kind.__name__}" for kind in KINDS} <= tests
    groups = {group for group, _ in all_bins(Target.load("sim-tiny"))}
    named = {name for point in POINTS for name in point.coverage if not name.startswith("code ")}
    assert named == groups


def test_a_stage_that_there_is_none_of_is_refused(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        '[[testpoint]]\nfeature="f"\npoint="p"\nstage="V4"\ntests=["mutants"]\ncoverage=[]\n'
    )
    with pytest.raises(ValueError, match="^stage must be one of V1, V2, V3, not 'V4'$"):
        load_plan(path)


def evidence() -> Evidence:
    return Evidence(
        tests={"test_a::test_b": True, "test_a::test_c": False},
        proofs=[{"name": "p", "proved": True, "depth": 2, "covers": "3", "seconds": 1.0}],
        coverage={
            "failures": [],
            "functional": [
                {"group": "g", "bin": "1", "count": 3},
                {"group": "g", "bin": "2", "count": 1},
                {"group": "h", "bin": "1", "count": 0},
            ],
            "code": {
                "drain": {"toggle": {"covered": 95, "total": 100, "waived": 1, "missed": ["x"]}},
                "pool": {"branch": {"covered": 99, "total": 100, "waived": 0, "missed": ["<y>"]}},
            },
        },
        faults={
            "faults": 7,
            "seed": 1,
            "hangs": 0,
            "failures": [],
            "ends": {"reset": {"reset": 5}, "abort": {"ABORTED": 1, "failure": 1}},
        },
        mutants={
            "mutants": 100,
            "found": 97,
            "harmless": 2,
            "unexplained": [{}],
            "share_of_harmful": 97 / 98,
            "found_by": {"registers": 97, "": 3},
            "verdicts": [{"where": "somewhere", "scenario": ""}],
        },
        python_mutants={
            "mutants": 50,
            "found": 48,
            "harmless": 1,
            "survivors": [{"where": "a", "reason": "why"}, {"where": "b", "reason": ""}],
        },
        networks=[
            {"target": "t", "seed": 1, "networks": 5, "values_compared": 10**6, "mismatches": 0}
        ],
        second={
            "networks": 3,
            "layers": 20,
            "values": 5000,
            "differences": ["net: <layer>"],
            "features": {"few_bits": 2},
        },
        fuzz=[
            {
                "kind": "hfn",
                "inputs": 2000,
                "accepted": 7,
                "slowest": 0.5,
                "peak": 10**6,
                "found": [],
            }
        ],
    )


@pytest.mark.parametrize(
    ("tests", "coverage", "state"),
    [
        (["test_a::test_b", "proof p", "faults reset", "mutants", "networks"], ["g"], MET),
        (["test_a::test_b", "fuzz"], ["code drain"], MET),
        (["second"], [], FAILED),
        (["python mutants"], [], FAILED),
        (["test_a::test_c"], [], FAILED),
        (["faults abort"], [], FAILED),
        (["test_a::test_b"], ["h"], FAILED),
        (["test_a::test_b"], ["code pool"], FAILED),
        (["test_a::test_b"], ["no such group"], FAILED),
        (["test_x::test_y"], [], OPEN),
        (["proof q"], ["g"], OPEN),
    ],
)
def test_state_of_a_testpoint(tests, coverage, state):
    assert evidence().state(replace(POINTS[0], tests=tests, coverage=coverage)) == state


def test_nothing_run_is_nothing_met():
    assert {Evidence().state(point) for point in POINTS} == {OPEN}


def test_evidence_comes_from_files(tmp_path):
    (tmp_path / "junit.xml").write_text(
        '<testsuites><testsuite><testcase classname="verif.tests.test_a" name="test_b[1]"/>'
        '<testcase classname="verif.tests.test_a" name="test_b[2]"><failure/></testcase>'
        '<testcase classname="verif.tests.test_a" name="test_c"/>'
        '<testcase classname="verif.tests.test_a" name="test_c[2]"><skipped/></testcase>'
        '<testcase classname="verif.tests.test_a" name="test_d"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    (tmp_path / "proofs.json").write_text(json.dumps(evidence().proofs))
    (tmp_path / "networks-t.json").write_text(json.dumps(evidence().networks[0]))
    found = Evidence.load(tmp_path)
    assert found.tests == {"test_a::test_b": False, "test_a::test_c": True}
    assert found.proofs == evidence().proofs and found.networks == evidence().networks


def test_page_shows_everything():
    page = render(evidence(), POINTS)
    for text in (
        "&lt;y&gt;",
        "somewhere",
        "not explained",
        "1,000,000",
        "99.0%",
        "few bits: 2",
        "48/50",
    ):
        assert text in page, text
    assert all(point.feature in page for point in POINTS)
    assert "<script" not in page and "http" not in page
    assert "open" in render(Evidence(), POINTS)
