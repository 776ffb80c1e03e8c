# SPDX-License-Identifier: Apache-2.0
"""Hostile files: a fixed part of the campaign, and what it has found so far."""

import io
import json
import zipfile
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from model_cases import sealed, small_model, with_header
from PIL import Image

from hiddenfold.gen.target import Target
from hiddenfold.sw import pictures
from hiddenfold.sw.model import Model
from hiddenfold.sw.pictures import read_picture
from hiddenfold.sw.program import Program
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.toml import MAX_BYTES, parse_toml
from hiddenfold.verif.fuzz import campaign as campaigns
from hiddenfold.verif.fuzz.campaign import campaign
from hiddenfold.verif.fuzz.kinds import KINDS, Kind


@pytest.mark.parametrize("name", KINDS)
def test_hostile_files(name):
    findings = campaign(name, KINDS[name], 0, 500)
    assert findings.found == []
    # Neither all nor nothing: damage must get past the checksums, and not be everywhere.
    assert 10 < findings.accepted < 400


class Odd(Kind):
    """A reader that copes with nothing."""

    def make(self, rng):
        return rng.randrange(6)

    def read(self, data):
        match data:
            case 0:
                raise KeyError("header")
            case 1:
                raise ValueError("two\nlines")
            case 2:
                raise ValueError("x" * 10_000)
            case 3:
                bytearray(1 << 36)  # more than a heap that earlier tests have left could hold
            case 4:
                while True:
                    pass
        raise ValueError("as it should be")


def test_a_campaign_sees_what_is_wrong(monkeypatch):
    monkeypatch.setattr(campaigns, "SECONDS", 0.05)
    findings = campaign("odd", Odd(), 0, 40)
    kinds = {number: Random(f"odd {number}").randrange(6) for number in range(40)}
    texts = {text.split(":")[0]: text.split(": ", 1)[1] for text in findings.found}
    expected = [
        "KeyError",
        "error text of 9 c",
        "error text of 10000",
        "MemoryError",
        "longer than",
    ]
    for number, kind in kinds.items():
        if kind < 5:
            assert texts.pop(f"odd {number}").startswith(expected[kind])
    assert not texts and set(kinds.values()) == set(range(6))


def test_an_input_has_a_number():
    for kind in KINDS.values():
        assert kind.make(Random("hfn 7")) == kind.make(Random("hfn 7"))


# What has been found.


@pytest.mark.parametrize("value", [10**400, "1e999"])
def test_numbers_beyond_all_floats(value):
    data = small_model().to_bytes()
    text = json.dumps(value).strip('"')
    changed = with_header(
        data,
        lambda header: json.dumps(header | {"top_k": 7}).replace('"top_k": 7', f'"top_k": {text}'),
    )
    with pytest.raises(
        ValueError, match=r"^Model: top_k must be a number above 0, at most 1, not "
    ):
        Model.from_bytes(changed)


def test_no_key_twice():
    data = small_model().to_bytes()
    changed = with_header(data, lambda header: '{"name": "x", ' + json.dumps(header)[1:])
    with pytest.raises(ValueError, match="each key must be there once, not 'name' twice$"):
        Model.from_bytes(changed)


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\ud800", "a\u202eb"])
def test_names_do_not_act_on_a_terminal(name):
    changed = dict(name=name), dict(dataset=name), dict(classes=("cat", name))
    for change in changed:
        with pytest.raises(
            ValueError, match="must have printable characters and spaces only, not "
        ):
            small_model(**change).validate()
    with pytest.raises(ValueError, match="must have printable characters and spaces only, not "):
        replace(small_model().ops[0], name=name)


def test_long_keys_are_shortened():
    data = small_model().to_bytes()
    changed = with_header(data, lambda header: json.dumps(header | {"k" * 5000: 1}))
    with pytest.raises(ValueError, match="not 'kkk.*kkk'$") as caught:
        Model.from_bytes(changed)
    assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="not 'kkk.*kkk'$") as caught:
        Target.parse("k" * 5000 + " = 1")
    assert len(str(caught.value)) < 500


def test_long_values_are_shortened():
    data = small_model().to_bytes()
    for image in ([1, "a" * 5000], [1, *range(300)]):
        changed = with_header(
            data, lambda header, image=image: json.dumps(header | {"image": image})
        )
        with pytest.raises(ValueError, match="image .*not ") as caught:
            Model.from_bytes(changed)
        assert len(str(caught.value)) < 500


def test_deep_and_long_toml():
    with pytest.raises(ValueError, match=r"^TOML file must not be nested so deep$"):
        parse_toml(b"a = " + b"[" * 100_000)
    with pytest.raises(ValueError, match=rf"^TOML file must be at most {MAX_BYTES} bytes, not "):
        parse_toml(b"#" * (MAX_BYTES + 1))


def test_more_epochs_than_floats_can_count():
    tree = KINDS["config"].trees[0]
    phases = [{"epochs": 10**400, "size": 32}]
    with pytest.raises(
        ValueError, match=r"^Key 'train.phases.epochs' must be 1 to 100000, not 1000"
    ):
        parse_config(tree | {"train": {"phases": phases}})


def test_a_picture_that_claims_to_be_huge(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 29)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="is damaged: it must have at most 29 pixels, not 5x6$"):
        read_picture(buffer, 6, 5)


def test_archives_of_something_else(tmp_path):
    from hiddenfold.sw.search.float_network import load_constants

    kind = KINDS["npz"]
    path = tmp_path / "m.float.npz"
    with zipfile.ZipFile(io.BytesIO(kind.seeds[0])) as valid, zipfile.ZipFile(path, "w") as odd:
        for name in valid.namelist():
            odd.writestr(name, b"no array" if name == "scale0.npy" else valid.read(name))
    with pytest.raises(ValueError, match=r"constants: ValueError\('scale0 is not an array'\)$"):
        load_constants(tmp_path / "m.hfn", kind.model)


def test_program_files_are_not_endless(monkeypatch):
    from hiddenfold.sw import program

    monkeypatch.setattr(program, "MAX_FILE_BYTES", 99)
    with pytest.raises(ValueError, match=r"^Program file must be at most 99 bytes, not more$"):
        Program.from_bytes(sealed(b"HFP1" + bytes(100)))
