# SPDX-License-Identifier: Apache-2.0
"""Exploring targets: tables, fronts, plots, size estimates."""

import csv
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from hiddenfold.gen.area import MEASURED, block_rams, luts
from hiddenfold.gen.compile import compile_model
from hiddenfold.gen.explore import Point, as_csv, explore, front, variants
from hiddenfold.gen.explore_plot import plot
from hiddenfold.gen.target import Target
from hiddenfold.sw.cli import main
from hiddenfold.verif.golden.random_networks import Limits, random_model

TINY = Target.load("sim-tiny")
MODEL = random_model(6, Limits.of(TINY, max_macs=100_000))
SVG = "{http://www.w3.org/2000/svg}"


def test_variants_are_all_combinations():
    found = list(variants(TINY, {"planes": [1, 8], "bus_bits": [64]}))
    assert [target.name for target in found] == [
        "sim-tiny.planes-1.bus_bits-64",
        "sim-tiny.planes-8.bus_bits-64",
    ]
    assert [target.planes for target in found] == [1, 8]
    assert list(variants(TINY, {})) == [TINY]
    with pytest.raises(ValueError, match=r"^Parameter must be one of rows, .*, not 'speed'$"):
        list(variants(TINY, {"speed": [1]}))
    with pytest.raises(ValueError, match=r"planes must be one of 1, 2, 4, 8, not 3$"):
        list(variants(TINY, {"planes": [3]}))


def test_points_are_the_compilers_predictions():
    small = replace(TINY, name="small", act_banks=1, act_bank_words=64)
    steps = []
    points = explore(MODEL, [TINY, small], [1, 200], steps.append)
    assert [(p.target, p.batch) for p in points] == [
        ("sim-tiny", 1),
        ("sim-tiny", 200),
        ("small", 1),
        ("small", 200),
    ]
    assert steps == [1] * 4
    program = compile_model(MODEL, TINY)
    first, last = points[0], points[-1]
    assert first.refused is None
    assert (first.cycles, first.bytes_read) == (
        program.predicted_cycles,
        program.predicted_bytes_read,
    )
    assert first.frames_per_second == 100e6 / program.predicted_cycles
    traffic = program.predicted_bytes_read + program.predicted_bytes_written
    assert first.bytes_per_second == traffic * first.frames_per_second
    assert last.cycles is None and "for a batch of 200" in last.refused
    rows = list(csv.DictReader(as_csv(points).splitlines()))
    assert [row["cycles"] for row in rows] == [
        "" if p.cycles is None else str(p.cycles) for p in points
    ]
    assert rows[0]["lut"] == str(first.lut)


def point(frames, lut, batch=1, **changes):
    return Point(
        target=f"t{lut}",
        batch=batch,
        clock_mhz=100,
        macs_per_cycle=1,
        lut=lut,
        bram=lut,
        frames_per_second=frames,
        bytes_per_second=1e6,
        **changes,
    )


def test_the_front_has_what_no_other_point_beats():
    a, b, c, d = point(10, 1), point(5, 2), point(20, 3), point(30, 3)
    assert front([b, d, c, a, point(None, 0)], "lut") == [a, d]
    assert front([], "lut") == []


def test_plot():
    points = [point(10, 1), point(500, 20, batch=4), point(None, 3, refused="too small")]
    root = ElementTree.fromstring(plot(points, "a < b"))
    panels = root.findall(f"{SVG}g")
    assert len(panels) == 3
    for panel in panels:
        circles = panel.findall(f"{SVG}circle")
        assert [circle.find(f"{SVG}title").text for circle in circles] == [
            "t1, batch 1: 10.0 frames a second",
            "t20, batch 4: 500.0 frames a second",
        ]
        # More frames are higher, and colours tell batches.
        assert float(circles[0].get("cy")) > float(circles[1].get("cy"))
        assert circles[0].get("fill") != circles[1].get("fill")
    lut, _, traffic = (panel.findall(f"{SVG}circle") for panel in panels)
    assert float(lut[0].get("cx")) < float(lut[1].get("cx"))
    assert traffic[0].get("cx") == traffic[1].get("cx")
    assert ElementTree.fromstring(plot([], "nothing")).findall(f"{SVG}g")


def test_sizes_grow_with_the_target():
    for key, value in (("rows", 16), ("lanes", 64), ("planes", 8)):
        assert luts(replace(TINY, **{key: value})) > luts(TINY)
    for key, value in (("act_bank_words", 4096), ("psum_depth", 1024), ("mask_cache", 65536)):
        assert block_rams(replace(TINY, **{key: value})) > block_rams(TINY)


@pytest.mark.parametrize("name", MEASURED)
def test_sizes_are_those_of_synthesis(name):
    target = Target.load(name)
    lut, bram = MEASURED[name]
    assert abs(luts(target) - lut) < 0.02 * lut
    assert bram <= block_rams(target) < 1.03 * bram


def test_the_command(capsys, tmp_path):
    path = tmp_path / "net.hfn"
    MODEL.save(path)
    out = tmp_path / "new" / "folder"
    arguments = ["explore", str(path), "--targets", "sim-tiny,peer-64", "--batches", "1,2"]
    arguments += ["--vary", "planes=1,8", "-o", str(out)]
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["points"]) == 8
    assert json.loads((out / "explore.json").read_text())["points"] == data["points"]
    assert len((out / "explore.csv").read_text().splitlines()) == 9
    assert ElementTree.fromstring((out / "explore.svg").read_text()).tag == f"{SVG}svg"
    assert data["svg"] == str(out / "explore.svg")
    assert main(arguments) == 0
    assert "peer-64.planes-8" in capsys.readouterr().out
    for wrong, text in (
        (["--vary", "planes"], "argument --vary: must be PARAMETER=N,..., not 'planes'"),
        (["--vary", "planes=x"], "argument --vary: must be integers with commas, not 'x'"),
        (["--vary", "speed=1"], "Parameter must be one of rows, "),
        (["--batches", ""], "argument --batches: must be integers with commas, not ''"),
        (["--batches", "0"], "Batch must be in 1..255 images, not 0"),
        (["--targets", "nothing"], "Target must be one of "),
    ):
        try:
            code = main([*arguments, *wrong])
        except SystemExit as exit_:
            code = exit_.code
        assert code == 2
        assert f"error: {text}" in capsys.readouterr().err
