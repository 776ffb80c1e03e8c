# SPDX-License-Identifier: Apache-2.0
"""The proofs hold, and the prover sees what does not."""

import pytest
from amaranth.hdl import Assert, Assume, Const, Cover, Module, Signal

from hiddenfold.hw import axi_read as read_channel
from hiddenfold.hw import axi_write as write_channel
from hiddenfold.verif.formal import axi_read, axi_write
from hiddenfold.verif.formal.__main__ import PROOFS
from hiddenfold.verif.formal.prover import assert_stable, prove, reach


@pytest.mark.parametrize(("name", "harness", "depth", "cover_depth"), PROOFS)
def test_proof(name, harness, depth, cover_depth, tmp_path):
    result = prove(*harness(), tmp_path, depth=depth)
    assert result.proved, f"{name}: {result.text}"
    result = reach(*harness(), tmp_path, depth=cover_depth)
    assert result.proved, f"{name}: {result.text}"


def counter(limit: int, *, wraps: bool, step: bool = True) -> tuple[Module, list, Signal]:
    """A counter of 4 bits that counts to ``limit`` and then stays there or wraps."""
    m = Module()
    enable, count = Signal(), Signal(4)
    if not step:
        m.d.comb += Assume(~enable)
    with m.If(enable):
        m.d.sync += count.eq(count + 1)
        with m.If(count == limit):
            m.d.sync += count.eq(0 if wraps else limit)
    return m, [enable], count


def test_false_in_the_first_cycles(tmp_path):
    m, ports, count = counter(9, wraps=True)
    m.d.comb += Assert(count != 3)
    result = prove(m, ports, tmp_path, depth=6)
    assert not result.proved and result.text.startswith("first cycles")


def test_true_but_not_by_induction(tmp_path):
    m, ports, count = counter(9, wraps=True)
    m.d.comb += Assert(count != 12)
    result = prove(m, ports, tmp_path, depth=2)
    assert not result.proved and result.text.startswith("induction step")


def test_true_by_induction(tmp_path):
    m, ports, count = counter(9, wraps=True)
    m.d.comb += Assert(count <= 9)
    assert prove(m, ports, tmp_path, depth=1).proved


@pytest.mark.parametrize(("value", "step", "reached"), [(5, True, True), (5, False, False)])
def test_cover(value, step, reached, tmp_path):
    m, ports, count = counter(9, wraps=False, step=step)
    m.d.comb += Cover(count == value)
    assert reach(m, ports, tmp_path, depth=8).proved is reached


@pytest.mark.parametrize("withdrawn", [False, True])
def test_assert_stable(withdrawn, tmp_path):
    m = Module()
    give, ready, valid, payload = Signal(), Signal(), Signal(), Signal(4)
    with m.If(ready | withdrawn):
        m.d.sync += valid.eq(0)
    with m.If(give & ~valid):
        m.d.sync += [valid.eq(1), payload.eq(payload + 1)]
    assert_stable(m, valid, ready, payload)
    assert prove(m, [give, ready], tmp_path, depth=2).proved is not withdrawn


@pytest.mark.parametrize(
    ("proof", "module"), [(axi_read, read_channel), (axi_write, write_channel)]
)
def test_burst_across_4_kib_is_found(proof, module, tmp_path, monkeypatch):
    def forgets_the_boundary(beat, max_burst, beat_bits):
        return Const(max_burst - 1, range(max_burst))

    monkeypatch.setattr(module, "burst_limit", forgets_the_boundary)
    assert not prove(*proof.harness(), tmp_path, depth=4).proved
