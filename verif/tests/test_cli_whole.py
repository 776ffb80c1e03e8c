# SPDX-License-Identifier: Apache-2.0
"""Commands that put several parts together: evaluate on every backend, the demo."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from conftest import tiny_model

from hiddenfold.sw.cli import main
from hiddenfold.sw.search.float_network import FloatConstants, save_constants

EVALUATE_FIELDS = {"backend", "images", "top1", "top5", "seconds", "images_per_second"}
COUNT = 10_000


@pytest.fixture(scope="module")
def wide_hfn(tmp_path_factory):
    """The tiny network for 32 x 32 pictures, with float constants beside it."""
    model = dataclasses.replace(tiny_model(), dataset="cifar100", image=(32, 32))
    path = tmp_path_factory.mktemp("wide") / "wide.hfn"
    model.save(path)
    constants = [
        FloatConstants(
            affine.multiplier.astype(np.float32) / 4096, affine.bias.astype(np.float32), True
        )
        for affine in model.affine
    ]
    save_constants(path, constants)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set with the form of CIFAR-100's test split and seven kinds of labels."""
    rng = np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("data")
    table = {
        "data": rng.integers(0, 256, (COUNT, 3072), dtype=np.uint8),
        "fine_labels": rng.integers(0, 7, COUNT).tolist(),
    }
    (folder / "test").write_bytes(pickle.dumps(table, protocol=4))
    meta = {"fine_label_names": [f"label {i}" for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=4))
    return folder


def run_json(capsys, *arguments) -> dict:
    assert main([*(str(argument) for argument in arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_golden_and_accelerator_have_the_same_accuracy(capsys, wide_hfn, data):
    arguments = ("evaluate", wide_hfn, "--data", data, "-n", 4, "--offset", 9000)
    golden = run_json(capsys, *arguments, "--backend", "golden")
    device = ("--backend", "rtl", "--target", "sim-tiny", "--batch", 3)
    rtl = run_json(capsys, *arguments, *device)
    for found, backend in ((golden, "golden"), (rtl, "rtl")):
        assert set(found) == EVALUATE_FIELDS
        assert (found["backend"], found["images"]) == (backend, 4)
        assert found["images_per_second"] == 4 / found["seconds"]
    assert (golden["top1"], golden["top5"]) == (rtl["top1"], rtl["top5"])


def test_float(capsys, wide_hfn, data):
    found = run_json(capsys, "evaluate", wide_hfn, "--data", data, "-n", 30, "--backend", "float")
    assert set(found) == EVALUATE_FIELDS
    assert (found["backend"], found["images"]) == ("float", 30)
    assert 0 <= found["top1"] <= found["top5"] <= 100


def test_images_beyond_the_split(capsys, wide_hfn, data):
    arguments = ["evaluate", wide_hfn, "--data", data, "-n", 2, "--offset", COUNT - 1]
    assert main([*map(str, arguments), "--backend", "golden"]) == 2
    assert capsys.readouterr().err == (
        "hiddenfold evaluate: error: offset + count must be at most 10000, the images of the test "
        "split, not 10001\n"
    )


def test_demo(capsys, tmp_path, wide_hfn):
    arguments = ["demo", "--model", str(wide_hfn), "--target", "sim-tiny", "-n", "2"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "0000_willow_tree.png" in text
    assert "bit-exact: " in text
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert page.count('<span class="good">bit-exact</span>') == 2
    assert "every output of every layer and iteration" in page


def test_demo_refuses_a_model_of_other_pictures(capsys, tmp_path, tiny_hfn):
    assert main(["demo", "--model", str(tiny_hfn), "-o", str(tmp_path)]) == 2
    assert "must take 32x32 pictures" in capsys.readouterr().err
