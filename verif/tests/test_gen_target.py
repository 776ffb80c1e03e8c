# SPDX-License-Identifier: Apache-2.0
"""Targets: what a file may say, and the identifier."""

import re
import zlib
from dataclasses import replace

import pytest

from hiddenfold.gen.target import TARGETS, Target

TEXT = (TARGETS / "sim-tiny.toml").read_text()
START = r"^Target 'sim-tiny': "

#: Line to put in place of a key's line, and the message.
WRONG = {
    "rows not a power of two": (
        "rows = 6",
        START + r"rows must be one of 4, 8, 16, not 6$",
    ),
    "rows above lanes": ("rows = 32", START + r"rows must be one of 4, 8, 16, not 32$"),
    "rows below 4": ("rows = 2", START + r"rows must be one of 4, 8, 16, not 2$"),
    "rows a text": ('rows = "4"', START + r"rows must be an integer, not '4'$"),
    "rows a truth value": ("rows = true", START + r"rows must be an integer, not True$"),
    "lanes": ("lanes = 24", START + r"lanes must be one of 8, 16, 32, 64, not 24$"),
    "planes": ("planes = 3", START + r"planes must be one of 1, 2, 4, 8, not 3$"),
    "bus": ("bus_bits = 32", START + r"bus_bits must be one of 64, 128, not 32$"),
    "tile below bus": ("bus_bits = 128", START + r"bus_bits must be at most rows x lanes = 64, "
                       r"not 128$"),
    "banks": ("act_banks = 3", START + r"act_banks must be one of 1, 2, 4, .*, 64, not 3$"),
    "bank words": (
        "act_bank_words = 1000",
        START + r"act_bank_words must be one of 16, .*, 262144, not 1000$",
    ),
    "psum depth": ("psum_depth = 0", START + r"psum_depth must be one of 16, .*, 65536, not 0$"),
    "accumulator": ("acc_bits = 40", START + r"acc_bits must be in 12\.\.32, not 40$"),
    "image width": ("image_width = 0", START + r"image_width must be in 1\.\.1024, not 0$"),
    "load rows": ("load_rows = 3", START + r"load_rows must be one of 1, 2, not 3$"),
    "mask cache": (
        "mask_cache = 3000",
        START + r"mask_cache must be one of 0, 1024, .*, 4194304, not 3000$",
    ),
    "stem": ("stem_kernel = 9", START + r"stem_kernel must be one of 1, 3, 5, 7, not 9$"),
    "family": ('family = "ice40"', START + r"family must be one of sim, .*, xcup, not 'ice40'$"),
    "clock": ("clock_mhz = 0", START + r"clock_mhz must be above 0 and up to 1000, not 0$"),
    "clock a text": ('clock_mhz = "fast"', START + r"clock_mhz must be a number, not 'fast'$"),
    "description": ("description = 1", START + r"description must be a string, not 1$"),
    "name": ('name = "A b"', r"^Target: name must be lower-case letters, .*, not 'A b'$"),
}  # fmt: skip


def changed(line):
    key = line.split(" ")[0]
    return re.sub(rf"^{key} = .*$", lambda _: line, TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize(("line", "message"), WRONG.values(), ids=WRONG)
def test_refuses_impossible_values(line, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Target.parse(changed(line))


def test_refuses_unknown_key():
    allowed = "name, description, family, clock_mhz, rows, lanes, planes, act_banks"
    with pytest.raises(ValueError, match=rf"^Target: key must be one of {allowed}, .*, not 'row'$"):
        Target.parse(TEXT + "row = 3\n")


def test_refuses_missing_key():
    with pytest.raises(ValueError, match=r"^Target: key 'planes' is missing, found name, .*$"):
        Target.parse(re.sub(r"^planes.*$", "", TEXT, flags=re.MULTILINE))


def test_refuses_unknown_name():
    names = ", ".join(Target.names())
    with pytest.raises(
        ValueError,
        match=rf"^Target must be one of {re.escape(names)} or the path of a TOML file, not 'big'$",
    ):
        Target.load("big")


def test_names_the_file_that_is_wrong(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(changed("planes = 5"))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: Target 'sim-tiny': planes "):
        Target.load(path)
    path.write_text("rows = \n")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: Invalid value"):
        Target.load(str(path))


def test_a_path_and_a_name_load_the_same(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    assert Target.load(path) == Target.load("sim-tiny") == Target.parse(TEXT)


def test_shipped_targets():
    assert {"peer-256", "peer-64", "sim-tiny", "ulx3s-85f", "zu7ev", "zynq-7020"} <= set(
        Target.names()
    )
    for name in Target.names():
        assert Target.load(name).name == name
    assert Target.load("ulx3s-85f").macs_per_cycle == 2048
    assert Target.load("ulx3s-2048").macs_per_cycle == 2048
    assert Target.load("ulx3s-1024").macs_per_cycle == 1024
    assert Target.load("peer-64").macs_per_cycle == 64
    # Fewer than 8 planes: bit-serial passes are in the fast tests.
    assert Target.load("sim-tiny").planes < 8


def test_identifier_is_the_one_of_the_specification():
    target = Target.load("ulx3s-85f")
    text = (
        "hiddenfold 2 rows=32 lanes=64 planes=8 act_banks=4 act_bank_words=1024 psum_depth=256 "
        "acc_bits=24 bus_bits=64 image_width=256 stem_kernel=7 load_rows=1 mask_cache=16384"
    )
    assert target.identifier == zlib.crc32(text.encode())
    others = {"drain_rows": 8, "target_id": target.identifier}
    assert target.hardware_parameters() == target.parameters() | others


def test_rows_that_are_requantized_at_once():
    """A program does not depend on them."""
    target = Target.load("sim-tiny")
    assert target.hardware_parameters()["drain_rows"] == target.rows
    half = replace(target, drain_rows=2)
    assert half.hardware_parameters()["drain_rows"] == 2
    assert half.identifier == target.identifier
    with pytest.raises(ValueError, match=r"drain_rows must be one of 0, 2, 4, not 8$"):
        replace(target, drain_rows=8)
    with pytest.raises(TypeError, match="drain_rows must be an integer, not True"):
        replace(target, drain_rows=True)


@pytest.mark.parametrize("key", Target.load("sim-tiny").parameters())
def test_every_parameter_changes_the_identifier(key):
    target = replace(Target.load("zu7ev"), lanes=64, rows=64)
    value = getattr(target, key)
    other = {"rows": 32, "lanes": 32, "bus_bits": 64, "planes": 4}.get(key)
    changes = {key: other or (5 if key == "stem_kernel" else value // 2)}
    if key == "lanes":
        target = replace(target, rows=32)
    assert replace(target, **changes).identifier != target.identifier


def test_name_and_clock_do_not():
    target = Target.load("zynq-7020")
    other = replace(target, name="other", clock_mhz=1, family="sim", description="")
    assert other.identifier == target.identifier
