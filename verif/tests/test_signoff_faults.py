# SPDX-License-Identifier: Apache-2.0
"""A small campaign of injected faults ends well, and the campaign sees what does not."""

import pytest

from hiddenfold.gen.target import Target
from hiddenfold.hw.isa import Error, Opcode
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.simulator import simulator_library, target_verilog
from hiddenfold.verif.signoff import campaign
from hiddenfold.verif.signoff.faults import KINDS, Known
from hiddenfold.verif.signoff.layout import Layout, executed
from hiddenfold.verif.signoff.rig import Failure


@pytest.fixture(scope="module")
def rigs():
    target = Target.load(campaign.TARGET)
    library = simulator_library(
        target_verilog(target, print), bus_bits=target.bus_bits, trace=False, log=print
    )
    return campaign.rigs(library, campaign.cases())


def test_every_fault_ends_as_documented(rigs):
    outcome = campaign.run_campaign(rigs, seed=3, count=100)
    assert outcome.failures == []
    assert outcome.hangs == 0
    assert outcome.faults == sum(sum(ends.values()) for ends in outcome.ends.values()) == 100
    assert len(outcome.ends) > len(KINDS) // 2


def test_a_fault_depends_on_its_number_alone(rigs):
    together = campaign.run_campaign(rigs, seed=4, count=6)
    alone = campaign.run_campaign(rigs, seed=4, first=5, count=1)
    [(kind, ends)] = alone.ends.items()
    assert together.ends[kind][next(iter(ends))] >= 1


def test_a_wrong_answer_is_a_failure(rigs, monkeypatch):
    """The first logit that the rig expects is wrong: the good run after the fault shows it."""
    rig = rigs[0]
    known = Known(rig)
    monkeypatch.setattr(campaign, "Known", lambda rig: known)
    monkeypatch.setattr(campaign, "KINDS", {reset_alone: 1})
    right = rig.case.golden[-1]
    monkeypatch.setattr(rig.case, "golden", [right._replace(values=right.values + 1)])
    outcome = campaign.run_campaign([rig], seed=1, count=2)
    assert len(outcome.failures) == 2
    assert "wrong answer: layer 'classifier'" in outcome.failures[0]
    assert "--seed 1 --first 0 --count 1" in outcome.failures[0]
    assert outcome.ends["reset_alone"]["failure"] == 2


def reset_alone(rig, known, rng):
    rig.device.reset()
    return "reset"


def test_a_hang_is_counted(rigs, monkeypatch):
    """A memory that never answers, and a run that should be good all the same."""

    def never(rig, known, rng):
        rig.device.fault_beat(3, "no answer", read=True)
        rig.expect_good()

    monkeypatch.setattr(campaign, "KINDS", {never: 1})
    outcome = campaign.run_campaign(rigs[:1], seed=1, count=1)
    assert outcome.hangs == 1
    assert "no interrupt within" in outcome.failures[0]
    rigs[0].fill()
    rigs[0].expect_good()


def test_an_undetected_change_is_a_failure(rigs):
    """A rig that is told to expect an error notices that there is none."""
    rigs[0].fill()
    with pytest.raises(Failure, match="^error must be BUS_READ, not NONE$"):
        rigs[0].expect_error(Error.BUS_READ)


def test_programs_are_of_all_kinds(rigs):
    opcodes = [{step.fields["opcode"] for step in executed(rig.case.program)} for rig in rigs]
    assert [Opcode.SAVE in kinds and Opcode.LOAD in kinds for kinds in opcodes] == [0, 0, 1, 0]
    assert [len(rig.case.images) for rig in rigs] == [1, 1, 1, 2]


def test_layout_covers_every_word_that_is_read(rigs):
    program = rigs[0].case.program
    layout = Layout(program)
    masks = set(layout.masks)
    assert not masks & set(layout.constants) and not masks & set(layout.code)
    assert len(masks) * 8 <= program.mask_bytes and len(layout.constants) * 8 <= len(program.memory)
    turns = [step.iteration for step in executed(program) if step.iteration is not None]
    assert max(turns) == 2 and turns == sorted(turns)


def test_this_simulator_has_no_mutants_and_no_coverage(rigs, tmp_path):
    with pytest.raises(DeviceError, match="without mutants"):
        rigs[0].device.select_mutant(1)
    with pytest.raises(DeviceError, match="without coverage"):
        rigs[0].device.write_coverage(tmp_path / "x")
