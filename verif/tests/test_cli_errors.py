# SPDX-License-Identifier: Apache-2.0
"""Bad input on the command line: exit code 2, no output, one line that says what is wrong."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiddenfold.gen.tools import ToolError
from hiddenfold.sw.cli import main
from hiddenfold.sw.commands.reference import markdown
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.errors import AcceleratorError
from hiddenfold.sw.model import Model

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "init",
    "train",
    "export",
    "import",
    "onnx",
    "inspect",
    "evaluate",
    "generate",
    "flash",
    "package",
    "compile",
    "synth",
    "build",
    "explore",
    "run",
    "verify",
    "report",
    "demo",
    "doctor",
    "completion",
)


def refuse(capsys, *arguments) -> str:
    """Run a command that must be refused; return its message."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err.rstrip("\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"^examples?:\n  hiddenfold {command}", text, re.MULTILINE)
    assert "--json" in text
    for name in re.findall(r"(?:configs|models)/[-\w./]+", text.partition("\nexample")[2]):
        assert (ROOT / name).exists(), name


def test_top_level_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^    {command}\b", text, re.MULTILINE)


def test_reference_has_every_command():
    text = markdown()
    for command in COMMANDS:
        assert f"usage: hiddenfold {command} " in text


def test_unknown_command(capsys):
    assert "invalid choice: 'bild'" in refuse(capsys, "bild")


def test_no_command(capsys):
    assert "COMMAND" in refuse(capsys)


def test_missing_argument(capsys):
    message = refuse(capsys, "inspect")
    assert message.startswith("hiddenfold inspect: error: ")
    assert "M.hfn" in message


@pytest.mark.parametrize("command", ["inspect", "report"])
def test_missing_model_file(capsys, tmp_path, command):
    arguments = ["-o", tmp_path] if command == "report" else []
    message = refuse(capsys, command, tmp_path / "none.hfn", *arguments)
    assert message == f"hiddenfold {command}: error: {tmp_path}/none.hfn: No such file or directory"


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["inspect", str(tmp_path / "none.hfn"), "--debug"])


@pytest.mark.parametrize("size", [0, 3, 7, 100])
def test_truncated_model(capsys, tmp_path, tiny_hfn, size):
    path = tmp_path / "short.hfn"
    path.write_bytes(tiny_hfn.read_bytes()[:size])
    assert str(path) in refuse(capsys, "inspect", path)


def test_corrupted_model(capsys, tmp_path, tiny_hfn):
    data = bytearray(tiny_hfn.read_bytes())
    data[-20] ^= 1
    path = tmp_path / "bad.hfn"
    path.write_bytes(data)
    message = refuse(capsys, "inspect", path)
    assert str(path) in message
    assert "CRC" in message


def test_image_of_another_size(capsys, tmp_path, tiny_hfn):
    path = tmp_path / "wide.png"
    Image.new("RGB", (40, 24)).save(path)
    message = refuse(capsys, "run", tiny_hfn, path, "--backend", "golden")
    assert message == (
        f"hiddenfold run: error: image {path} must be 10x12 pixels, the size of the model's "
        "images, not 40x24: --fit scales its middle to that"
    )


def test_image_that_is_none(capsys, tmp_path, tiny_hfn):
    path = tmp_path / "text.png"
    path.write_text("no picture")
    message = refuse(capsys, "run", tiny_hfn, path, "--backend", "golden")
    assert message == (
        f"hiddenfold run: error: image {path} must be a PNG or JPEG file; its content is neither"
    )


def test_image_of_a_refused_format(capsys, tmp_path, tiny_hfn):
    path = tmp_path / "picture.bmp"
    Image.new("RGB", (10, 12)).save(path)
    assert "must be a PNG or JPEG file" in refuse(
        capsys, "run", tiny_hfn, path, "--backend", "golden"
    )


def test_damaged_image(capsys, tmp_path, tiny_hfn):
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    path = tmp_path / "short.png"
    path.write_bytes(buffer.getvalue()[:150])
    message = refuse(capsys, "run", tiny_hfn, path, "--backend", "golden")
    assert message.startswith(f"hiddenfold run: error: image {path} is damaged: ")


def test_unknown_target(capsys, tmp_path):
    message = refuse(capsys, "generate", "--target", "ulx4s", "-o", tmp_path)
    assert "ulx3s-85f" in message
    assert "'ulx4s'" in message


def test_unknown_target_key(capsys, tmp_path, tiny_hfn):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ncolour = "red"\n')
    message = refuse(capsys, "compile", tiny_hfn, "--target", path, "-o", tmp_path / "p.hfp")
    assert str(path) in message
    assert "'colour'" in message


def test_unknown_device(capsys, tiny_hfn, tiny_png):
    message = refuse(capsys, "run", tiny_hfn, tiny_png, "--backend", "board:7")
    assert "rtl" in message
    assert "'board:7'" in message


@pytest.mark.parametrize(
    "error, code", [(ToolError("no compiler"), 2), (AcceleratorError("error WINDOW (7)"), 1)]
)
def test_failing_tools_and_devices_have_one_line(
    capsys, monkeypatch, tiny_hfn, tiny_png, error, code
):
    def fail(url, **options):
        raise error

    monkeypatch.setattr(Accelerator, "open", fail)
    arguments = ["run", tiny_hfn, tiny_png, "--backend", "rtl", "--target", "sim-tiny"]
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"hiddenfold run: error: {error}\n")


def test_mistakes_of_ours_keep_their_traceback(monkeypatch, tiny_hfn):
    def fail(path):
        raise KeyError("layers")

    monkeypatch.setattr(Model, "load", fail)
    with pytest.raises(KeyError):
        main(["inspect", str(tiny_hfn)])


@pytest.mark.parametrize("extra", ["torch", "amaranth"])
def test_a_missing_extra_is_named(capsys, monkeypatch, tiny_hfn, extra):
    def fail(path):
        raise ModuleNotFoundError(f"No module named '{extra}'", name=extra)

    monkeypatch.setattr(Model, "load", fail)
    assert {"torch": "train", "amaranth": "hw"}[extra] in refuse(capsys, "inspect", tiny_hfn)


def test_golden_cannot_be_checked_against_itself(capsys, tiny_hfn, tiny_png):
    message = refuse(capsys, "run", tiny_hfn, tiny_png, "--backend", "golden", "--check")
    assert "--check compares a device with the golden model" in message


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_impossible_count(capsys, value):
    message = refuse(capsys, "verify", "--target", "sim-tiny", "--seed", "1", "--count", value)
    assert f"must be an integer of 1 or more, not '{value}'" in message


def test_missing_data_set(capsys, tmp_path, tiny_hfn):
    message = refuse(
        capsys, "evaluate", tiny_hfn, "--data", tmp_path, "--backend", "golden", "-n", "1"
    )
    assert str(tmp_path) in message


def test_act_bits_out_of_range(capsys, tmp_path):
    message = refuse(capsys, "export", tmp_path, "-o", tmp_path / "m.hfn", "--act-bits", "9")
    assert "--act-bits" in message


def test_run_directory_that_is_none(capsys, tmp_path):
    message = refuse(capsys, "export", tmp_path, "-o", tmp_path / "m.hfn", "--data", tmp_path)
    assert "is not a run directory" in message


def test_unknown_key_in_a_training_config(capsys, tmp_path):
    path = tmp_path / "net.toml"
    path.write_text("speed = 3\n")
    message = refuse(capsys, "train", path, "--data", tmp_path, "--out", tmp_path / "run")
    assert str(path) in message
    assert "'speed'" in message


def test_configured_network_that_does_not_fit(capsys, tmp_path, monkeypatch):
    """An ImageNet stem on a small target: refused at once, not after the simulator is built."""

    def build(url):
        pytest.fail(f"{url} was opened")

    monkeypatch.setattr("hiddenfold.sw.verify.Accelerator.open", build)
    path = tmp_path / "net.toml"
    path.write_text(
        'dataset = "imagenet"\n[model]\nname = "net"\n'
        "stem = { channels = 8, kernel = 7, stride = 2, pool = true }\n"
        "stages = [{ blocks = 1, channels = 8 }]\n"
        "[train]\nphases = [{ epochs = 1, size = 224 }]\n"
    )
    arguments = ("verify", "--target", "sim-tiny", "--seed", "1", "--config", path)
    message = refuse(capsys, *arguments)
    assert "Operation 'unfold' does not fit target 'sim-tiny': image width 224 is above" in message
    path.write_text(
        path.read_text().replace("[model]", '[model]\ntop_k = 1.0\nweights = "trained"')
    )
    assert "net: key 'model.weights' must be 'signs' for a model file" in refuse(capsys, *arguments)
