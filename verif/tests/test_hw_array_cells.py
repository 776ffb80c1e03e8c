# SPDX-License-Identifier: Apache-2.0
"""Rows of vendor cells: proven to make the row sum, simulated next to the portable array."""

import pytest
from amaranth.hdl import Cat

from hiddenfold.gen.tools import ToolError
from hiddenfold.hw import array_ecp5, array_row, array_xc7, requant
from hiddenfold.hw.array import MAPPINGS, partial_bits
from hiddenfold.hw.array_ecp5 import Ecp5Row
from hiddenfold.verif.bench.array_pair import ArrayPair, ChannelPair, agree
from hiddenfold.verif.formal import weights
from hiddenfold.verif.formal.__main__ import LANES
from hiddenfold.verif.formal.weights import Unproven, prove_cells, prove_row


def wrong_table(patch):
    """The first carry of each three is lost."""
    patch.setattr(array_ecp5, "CARRY", array_ecp5.SUM)


def late_lane(patch):
    """A group of lanes is taken a cycle after its values come."""
    stage_of = Ecp5Row.stage_of
    patch.setattr(Ecp5Row, "stage_of", lambda row, lane: stage_of(row, lane) - (lane == 15))


def wrong_carry(patch):
    """Adders forget their carry in."""
    add = array_ecp5.CarryChain.add
    patch.setattr(
        array_ecp5.CarryChain,
        "add",
        lambda chain, terms, carry_in=None, **options: add(chain, terms, None, **options),
    )


def swapped_bits(patch):
    """Sums of groups are passed on with two bits exchanged."""

    def register(m, value, name, cycles=1):
        if len(value) == 8:
            value = Cat(value[1], value[0], value[2:])
        return array_row.register(m, value, name, cycles)

    patch.setattr(array_ecp5, "register", register)


def wrong_pair(patch):
    """Two lanes of a pair exchange their signs."""
    look_up = array_xc7.look_up2

    def exchanged(m, contents, a, b, c, d, e, f):
        if contents == array_xc7.PAIR:
            c, e = e, c
        return look_up(m, contents, a, b, c, d, e, f)

    patch.setattr(array_xc7, "look_up2", exchanged)


def lost_number(patch):
    """The last of three numbers is added one bit too high."""
    add = array_xc7.add_three
    patch.setattr(array_xc7, "add_three", lambda m, n, width=0: add(m, [*n[:2], n[2] << 1], width))


WRONG = {
    "ecp5": [wrong_table, late_lane, wrong_carry, swapped_bits],
    "xc7": [wrong_pair, lost_number],
}


@pytest.mark.parametrize("family", MAPPINGS)
def test_equations_of_the_cells(family, tmp_path):
    prove_cells(family, tmp_path)


@pytest.mark.parametrize(
    ("family", "name", "bit"),
    [("ecp5", name, 1) for name in ("ADD", "CUT", "SUM", "CARRY", "TERM")]
    + [("xc7", "PAIR", 63), ("xc7", "THREE", 35)],
)
def test_wrong_equation_is_found(family, name, bit, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, name, getattr(weights, name) ^ 1 << bit)
    with pytest.raises(ToolError, match="sat -verify"):
        prove_cells(family, tmp_path)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("family", MAPPINGS)
def test_row_is_the_row_sum(family, lanes, tmp_path):
    correction = {"ecp5": lanes.bit_length(), "xc7": partial_bits(lanes)}[family]
    assert prove_row(family, lanes, tmp_path) == 8 * lanes + correction


@pytest.mark.parametrize(
    ("family", "change"), [(family, change) for family in WRONG for change in WRONG[family]]
)
def test_wrong_row_is_found(family, change, tmp_path, monkeypatch):
    change(monkeypatch)
    with pytest.raises(Unproven):
        prove_row(family, 16, tmp_path)


@pytest.mark.parametrize("family", MAPPINGS)
def test_arrays_agree(family, tmp_path):
    pair = ArrayPair(family=family, rows=2, lanes=16, load_rows=2)
    assert agree(pair, family, tmp_path, cycles=5000)


@pytest.mark.parametrize("acc_bits", [12, 24])
def test_requantization_agrees(acc_bits, tmp_path):
    assert agree(ChannelPair(family="ecp5", acc_bits=acc_bits), "ecp5", tmp_path, cycles=50_000)


def test_wrong_requantization_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(requant, "PICK", array_ecp5.ADD)
    assert not agree(ChannelPair(family="ecp5", acc_bits=24), "ecp5", tmp_path, cycles=5000)
