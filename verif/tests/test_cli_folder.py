# SPDX-License-Identifier: Apache-2.0
"""From a folder of pictures to an evaluated model, by the command line alone."""

import json
from pathlib import Path

import pytest
from picture_cases import COLOURS, write_folder

from hiddenfold.sw.cli import main
from hiddenfold.sw.model import Model

CONFIG = """
dataset = "folder"
image = 16

[model]
name = "colours"
classes = 3
top_k = 0.5
affine = "all"
stem = { channels = 16 }
stages = [{ blocks = 3, channels = 16, stride = 2, folded = true }]

[train]
phases = [{ epochs = 6, size = 16 }]
batch = 5
optimizer = "adam"
lr = 0.1
norm_lr = 0.05
warmup = 0.0
crop_padding = 1
precision = "fp32"
"""


def run_json(capsys, *arguments) -> dict:
    assert main([*(str(argument) for argument in arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_folder_to_model(capsys, tmp_path: Path) -> None:
    data, config = write_folder(tmp_path / "data", 10), tmp_path / "colours.toml"
    config.write_text(CONFIG)
    planned = run_json(capsys, "inspect", config)
    run_json(capsys, "train", config, "--data", data, "--out", tmp_path / "run")
    model = tmp_path / "colours.hfn"
    exported = run_json(capsys, "export", tmp_path / "run", "-o", model, "--data", data)
    assert Model.load(model).classes == tuple(COLOURS)
    # What was announced is what came out, but for the header's names and accuracy.
    for key in ("layers", "mask_bytes", "affine_bytes", "paper_bytes", "dense_fp32_bytes"):
        assert planned[key] == exported[key], key
    assert exported["top1_golden"] > 80.0
    for backend in ("golden", "float"):
        found = run_json(capsys, "evaluate", model, "--data", data, "--backend", backend)
        assert (found["images"], found["top1"]) == (6, exported[f"top1_{backend}"])
    # Labels are numbers in the order of the folders' names: others would be counted wrongly.
    for split in ("train", "val"):
        (data / split / "green").rename(data / split / "verde")
    arguments = ["evaluate", str(model), "--data", str(data), "--backend", "golden"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(
        f"error: classes in {data} must be those of the model, blue, green, red, "
        "not blue, red, verde\n"
    )


def test_init_makes_a_configuration(capsys, tmp_path: Path) -> None:
    data, config = write_folder(tmp_path / "data", 10), tmp_path / "mine.toml"
    found = run_json(capsys, "init", data, "-o", config)
    assert found == {
        "config": str(config),
        "training": 30,
        "test": 6,
        "classes": list(COLOURS),
        "image": 20,
        "unused_files": 6,
    }
    planned = run_json(capsys, "inspect", config)
    assert (planned["classes"], planned["folded_stages"]) == (3, [2])
    for size, layers in ((16, 1), (224, 3)):
        path = tmp_path / f"net{size}.toml"
        run_json(capsys, "init", data, "-o", path, "--image", size)
        assert run_json(capsys, "inspect", path)["folded_stages"] == [layers]


def test_init_refuses(capsys, tmp_path: Path) -> None:
    data, config = write_folder(tmp_path / "data"), tmp_path / "mine.toml"

    def refuse(*arguments: object) -> str:
        assert main(["init", *map(str, arguments)]) == 2
        return capsys.readouterr().err.partition("error: ")[2]

    assert refuse(data, "-o", tmp_path / "mine.json").startswith("the configuration's name must")
    bad = data / "val" / "red" / "0.png"
    bad.write_bytes(bad.read_bytes()[:50])
    assert refuse(data, "-o", config).startswith(
        f"1 of 21 pictures in {data} cannot be used: remove or mend {bad} (image {bad} is damaged"
    )
    assert not config.exists()
    config.touch()
    assert refuse(data, "-o", config) == f"{config} exists: name another file, or remove it\n"


@pytest.mark.parametrize("key", ["classes = 3", "image = 16"])
def test_folder_needs_classes_and_size(capsys, tmp_path: Path, key: str) -> None:
    config = tmp_path / "colours.toml"
    config.write_text(CONFIG.replace(key, ""))
    assert main(["inspect", str(config)]) == 2
    name = key.split(" ", maxsplit=1)[0]
    message = f"Key '{'model.' if name == 'classes' else ''}{name}' is missing\n"
    assert capsys.readouterr().err.endswith(message)
