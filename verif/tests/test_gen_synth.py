# SPDX-License-Identifier: Apache-2.0
"""Resource figures from Yosys."""

import json
from dataclasses import replace

import pytest

from hiddenfold.gen.synth import count_cells, synthesize
from hiddenfold.gen.target import Target
from hiddenfold.sw.cli import main

#: The smallest array there is.
TINY = """
name = "tiny"
description = "smallest array"
family = "sim"
clock_mhz = 1
rows = 4
lanes = 16
planes = 1
act_banks = 1
act_bank_words = 64
psum_depth = 16
acc_bits = 16
bus_bits = 64
image_width = 8
stem_kernel = 3
load_rows = 1
mask_cache = 0
"""

#: Array of 4 rows x 64 lanes x 8 planes, by the Yosys in constraints.txt.
SIZES = {
    "ecp5": {"lut": 3036, "ff": 3668, "carry": 1328, "dsp": 0},
    "xc7": {"lut": 1849, "ff": 3815, "carry": 468, "dsp": 0},
}


def test_counts():
    ecp5 = {"LUT4": 10, "CCU2C": 3, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 7, "DP16KD": 4, "PFUMX": 9}
    assert count_cells(ecp5, "ecp5") == {"lut": 28, "ff": 7, "bram": 4, "dsp": 0}
    xc7 = {
        "LUT2": 1,
        "LUT6": 4,
        "LUT6_2": 1,
        "CARRY4": 9,
        "FDRE": 2,
        "FDSE": 1,
        "RAMB36E1": 2,
        "DSP48E1": 3,
    }
    assert count_cells(xc7, "xc7") == {"lut": 6, "ff": 3, "bram": 4, "dsp": 3}


def test_array_has_no_multiplier_and_registers_for_two_tiles(capsys, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    arguments = ["synth", "--target", str(path), "--family", "ecp5", "--top", "array", "--json"]
    assert main(arguments) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data) == [
        "family",
        "top",
        "lut",
        "ff",
        "bram",
        "dsp",
        "macs_per_cycle",
        "lut_per_mac",
        "carry",
    ]
    assert (data["family"], data["top"], data["dsp"], data["bram"]) == ("ecp5", "array", 0, 0)
    # Mask and negative bit of 4 x 16 codes, in the active and in the shadow tile.
    assert data["ff"] >= 2 * 2 * 4 * 16
    assert data["lut"] >= 4 * 16
    assert data["macs_per_cycle"] == 8
    assert data["lut_per_mac"] == data["lut"] / 8


@pytest.mark.parametrize(("family", "goal"), [("ecp5", 14), ("xc7", 12)])
def test_size_of_an_array_of_vendor_cells(family, goal):
    target = replace(Target.parse(TINY), lanes=64, planes=8)
    counts = synthesize(target, family, "array")
    assert counts["lut_per_mac"] <= goal
    # Exact, so that no change of size goes unnoticed: another Yosys or another circuit.
    assert {key: counts[key] for key in SIZES[family]} == SIZES[family]


@pytest.mark.parametrize("arguments", [("ice40", "core"), ("ecp5", "adder")])
def test_unknown_choice(arguments):
    with pytest.raises(ValueError, match=r"^(family|top) must be one of .*, not '(ice40|adder)'$"):
        synthesize(Target.parse(TINY), *arguments)
