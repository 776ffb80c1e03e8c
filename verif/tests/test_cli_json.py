# SPDX-License-Identifier: Apache-2.0
"""What the commands print: one JSON object with the promised fields, and tables for people."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from hiddenfold.hw import regmap
from hiddenfold.sw.cli import main
from hiddenfold.sw.colour import good, plain
from hiddenfold.sw.commands.common import format_bytes, format_table, top5
from hiddenfold.sw.model import Model
from hiddenfold.verif.golden.model import Golden

IMAGE_FIELDS = {
    "image",
    "top5",
    "logits",
    "bit_exact",
    "cycles",
    "ideal_cycles",
    "utilization",
    "bytes_read",
    "bytes_written",
    "sim_cycles_per_second",
}


def run_json(capsys, *arguments, code: int = 0) -> dict:
    """Run a command with ``--json`` and return the one object it prints."""
    assert main([*(str(argument) for argument in arguments), "--json"]) == code
    data = json.loads(capsys.readouterr().out)
    assert isinstance(data, dict)
    return data


def test_inspect(capsys, tiny_hfn):
    data = run_json(capsys, "inspect", tiny_hfn)
    assert set(data) == {
        "name",
        "dataset",
        "classes",
        "top_k",
        "act_bits",
        "folded_stages",
        "layers",
        "mask_bits",
        "total_bytes",
        "mask_bytes",
        "affine_bytes",
        "other_bytes",
        "dense_fp32_bytes",
        "compression",
        "paper_bytes",
        "paper_compression",
        "top1_float",
        "top1_golden",
    }
    assert data["total_bytes"] == tiny_hfn.stat().st_size
    assert data["classes"] == 7
    # Weights: stem 27 x 5, 3x3 5 x 5, 1x1 5 x 5, head 5 x 7.
    assert data["mask_bits"] == 135 + 225 + 25 + 35
    assert (data["top1_float"], data["top1_golden"]) == (61.5, 61.25)


def test_inspect_for_people(capsys, tiny_hfn):
    assert main(["inspect", str(tiny_hfn)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tiny: animals, 7 classes")
    assert re.search(r"^a +conv +12x10x5 +3x3/1 +3 +225 +81,000$", text, re.MULTILINE)


def test_run_on_the_golden_model(capsys, tiny_hfn, tiny_png):
    data = run_json(capsys, "run", tiny_hfn, tiny_png, tiny_png, "--backend", "golden")
    first, second = data["images"]
    assert set(first) == IMAGE_FIELDS
    assert first == second
    model = Model.load(tiny_hfn)
    pixels = np.array(Image.open(tiny_png))[np.newaxis]
    logits = Golden(model).run(pixels)[0].tolist()
    assert first["logits"] == logits
    assert first["top5"] == top5(logits, model.classes)
    assert first["bit_exact"] is None
    assert first["cycles"] is None


def test_compile(capsys, tmp_path, tiny_hfn):
    output = tmp_path / "tiny.hfp"
    data = run_json(capsys, "compile", tiny_hfn, "--target", "sim-tiny", "-o", output)
    assert set(data) == {
        "instructions",
        "mask_bytes",
        "affine_bytes",
        "total_bytes",
        "predicted_cycles",
        "ideal_cycles",
        "predicted_bytes_read",
        "predicted_bytes_written",
    }
    assert data["total_bytes"] == output.stat().st_size
    arguments = (tiny_hfn, "--target", "sim-tiny", "--batch", "4", "-o", output)
    batch = run_json(capsys, "compile", *arguments)
    assert batch["ideal_cycles"] == data["ideal_cycles"]
    assert batch["predicted_cycles"] < data["predicted_cycles"]
    assert batch["predicted_bytes_written"] == data["predicted_bytes_written"]


def test_generate(capsys, tmp_path):
    data = run_json(capsys, "generate", "--target", "sim-tiny", "-o", tmp_path / "hw")
    assert set(data) == {
        "target",
        "verilog",
        "rows",
        "lanes",
        "planes",
        "macs_per_cycle",
        "address_map",
    }
    assert (data["rows"], data["lanes"], data["planes"], data["macs_per_cycle"]) == (4, 16, 2, 16)
    assert data["address_map"]["STATUS"] == regmap.REGISTERS["STATUS"].offset
    assert "endmodule" in (tmp_path / "hw" / "hiddenfold.v").read_text()


@pytest.mark.parametrize("batch", (1, 2))
def test_run_on_the_accelerator(capsys, tiny_hfn, tiny_png, batch):
    data = run_json(
        capsys,
        "run",
        tiny_hfn,
        *[tiny_png] * 3,
        "--batch",
        batch,
        "--backend",
        "rtl",
        "--target",
        "sim-tiny",
        "--check",
    )
    golden = run_json(capsys, "run", tiny_hfn, tiny_png, "--backend", "golden")["images"][0]
    assert data["first_mismatch"] is None
    assert len(data["images"]) == 3
    for entry in data["images"]:
        assert set(entry) == IMAGE_FIELDS
        assert entry["bit_exact"] is True
        assert entry["logits"] == golden["logits"]
        assert entry["cycles"] > 0
        assert entry["utilization"] == entry["ideal_cycles"] / entry["cycles"]
        assert entry["bytes_read"] > 0
        assert entry["bytes_written"] > 0


def test_a_wrong_golden_model_is_noticed(capsys, monkeypatch, tiny_hfn, tiny_png):
    """The comparison compares: a golden model that is off by one in one layer gives exit code 1."""
    right = Golden.trace

    def wrong(self, images):
        layers = right(self, images)
        values = layers[3].values.copy()
        values[0, 4, 5, 2] ^= 1
        layers[3] = layers[3]._replace(values=values)
        return layers

    monkeypatch.setattr(Golden, "trace", wrong)
    arguments = (tiny_hfn, tiny_png, "--backend", "rtl", "--target", "sim-tiny", "--check")
    data = run_json(capsys, "run", *arguments, code=1)
    assert data["images"][0]["bit_exact"] is False
    # Execution 3 is the second convolution of the loop's first iteration.
    assert "layer 'b', iteration 0, image 0, channel 2, y 4, x 5" in data["first_mismatch"]


def test_verify(capsys):
    data = run_json(capsys, "verify", "--target", "sim-tiny", "--seed", "3", "--count", "2")
    assert set(data) == {
        "networks",
        "layers",
        "values_compared",
        "mismatches",
        "first_mismatch",
        "seed",
    }
    assert (data["networks"], data["mismatches"], data["seed"]) == (2, 0, 3)
    assert data["values_compared"] > 0


def test_report(capsys, tmp_path, tiny_hfn):
    data = run_json(capsys, "report", tiny_hfn, "--target", "sim-tiny", "-o", tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert data == {"page": str(tmp_path / "index.html")}
    assert "<h1>tiny</h1>" in page
    assert "3 iterations" in page
    assert "made without running the accelerator" in page
    # Self-contained: nothing is loaded from anywhere.
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page


def test_measured_report_says_what_was_compared(capsys, tmp_path, tiny_hfn):
    run_json(capsys, "report", tiny_hfn, "--target", "sim-tiny", "-o", tmp_path, "--measure")
    page = (tmp_path / "index.html").read_text()
    assert "made without running the accelerator" not in page
    (row,) = re.findall(r"every output of every layer and iteration</td>(.*?)</tr>", page, re.S)
    compared, mismatches = re.findall(r">([\d,]+)</td>", row)
    assert int(compared.replace(",", "")) > 100 and mismatches == "0"
    assert "1 picture, " in row
    assert "cycles a picture, measured" in page


def test_pictures_of_a_measured_report_are_the_golden_models(capsys, tmp_path):
    run_json(capsys, "report", "--target", "ulx3s-85f", "-o", tmp_path, "--measure")
    page = (tmp_path / "index.html").read_text()
    assert "cycles a picture, measured" in page
    assert "Classified by the golden model." in page


def test_table_aligns_numbers_right():
    table = format_table(("name", "n"), [[good("a"), "1,000"], ["long", "2"]])
    assert plain(table).splitlines() == [
        "name      n",
        "----  -----",
        "a     1,000",
        "long      2",
    ]


@pytest.mark.parametrize(
    "count, text", [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (2_345_678, "2.35 MB")]
)
def test_bytes_for_people(count, text):
    assert format_bytes(count) == text


def test_top5_breaks_ties_by_label():
    assert top5([3, 7, 7, 1], ("a", "b", "c", "d")) == [["b", 7], ["c", 7], ["a", 3], ["d", 1]]
