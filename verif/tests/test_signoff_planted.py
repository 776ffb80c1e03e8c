# SPDX-License-Identifier: Apache-2.0
"""Planted bugs fit the sources, and one is really planted, caught and taken out again."""

from dataclasses import replace

import pytest

from hiddenfold.verif.signoff.planted import ROOT, catches, copy_sources, load_bugs

BUGS = load_bugs()


def test_there_is_one_in_each_part():
    parts = {"generator", "array", "requantizer", "sequencer", "DMA", "compiler", "driver"}
    assert {bug.part for bug in BUGS} == parts


@pytest.mark.parametrize("bug", BUGS, ids=[bug.part for bug in BUGS])
def test_bug_can_be_planted(bug):
    assert (ROOT / bug.file).read_text(encoding="utf-8").count(bug.text) == 1
    assert bug.text != bug.planted
    assert (ROOT / "verif" / "tests" / bug.test).exists()


def test_a_bug_is_caught_and_what_is_none_is_not(tmp_path):
    [bug] = (bug for bug in BUGS if bug.part == "driver")
    copy_sources(tmp_path)
    file = tmp_path / "hiddenfold" / bug.file
    before = file.read_text(encoding="utf-8")
    caught, words = catches(bug, tmp_path)
    assert caught and "test_a_last_batch_is_filled_up" in words
    assert file.read_text(encoding="utf-8") == before
    harmless = replace(bug, planted=bug.text + "  # the same")
    assert catches(harmless, tmp_path, clean=False)[0] is False
    with pytest.raises(ValueError, match=r"^sw/driver/accelerator\.py must have 'no such text'"):
        catches(replace(bug, text="no such text"), tmp_path)
