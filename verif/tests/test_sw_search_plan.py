# SPDX-License-Identifier: Apache-2.0
"""What a configuration will be as a model: the published sizes, before any training."""

import json
from pathlib import Path

import pytest

from hiddenfold.sw.cli import main
from hiddenfold.sw.model import Loop
from hiddenfold.sw.model_summary import summary
from hiddenfold.sw.search.config import load_config, parse_config
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers, normalized_layers
from hiddenfold.sw.search.plan import plan_search

CONFIGS = Path(__file__).parents[2] / "configs"


def inspect(capsys, name: str) -> dict:
    assert main(["inspect", str(CONFIGS / f"{name}.toml"), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "megabytes", "compression"),
    [
        # The paper: HFN-ResNet152 against dense ResNet50, HFN-ResNet200 against dense ResNet34.
        ("cifar100-hfn-resnet152", "2.46", "38.5"),
        ("imagenet-hfn-resnet200", "3.25", "26.8"),
        # Its journal version: ResNet50 48.55 times smaller, under 2 MB.
        ("cifar100-hfn-resnet50", "1.95", "48.6"),
    ],
)
def test_published_sizes(capsys, name: str, megabytes: str, compression: str) -> None:
    data = inspect(capsys, name)
    assert f"{data['paper_bytes'] / 1e6:.2f}" == megabytes
    assert f"{data['paper_compression']:.1f}" == compression
    assert data["folded_stages"] == [3, 4]
    assert data["top1_float"] is None and data["top1_golden"] is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Of the published networks, less the bias of the last layer (one value a class).
        ("cifar100-hfn-resnet18", 11_220_132 - 100),
        ("imagenet-hfn-resnet18", 11_689_512 - 1000),
        ("imagenet-hfn-resnet34", 21_797_672 - 1000),
        ("imagenet-hfn-resnet50", 25_557_032 - 1000),
    ],
)
def test_dense_references_have_the_published_size(name: str, parameters: int) -> None:
    data = summary(plan_search(load_config(CONFIGS / f"{name}.toml")))
    assert data["dense_fp32_bytes"] == 4 * parameters


def test_baselines(capsys) -> None:
    """The follow-up of the paper: masks without folding, and folding without masks."""
    data = inspect(capsys, "cifar100-hnn-resnet50")
    assert data["folded_stages"] == [] and f"{data['paper_bytes'] / 1e6:.2f}" == "2.96"
    assert f"{data['paper_compression']:.1f}" == "32.1"
    data = inspect(capsys, "cifar100-dense-resnet50")
    assert data["total_bytes"] == data["paper_bytes"] == data["dense_fp32_bytes"]
    assert (data["mask_bits"], data["act_bits"], data["compression"]) == (0, 32, 1.0)
    assert data["affine_bytes"] == 8 * 26_560
    folded = inspect(capsys, "cifar100-folded-resnet50")
    assert folded["folded_stages"] == [2, 3, 4]
    assert folded["dense_fp32_bytes"] == data["total_bytes"]
    # One of 4, 6 and 3 blocks is not stored again: weights of the blocks that folding saves.
    saved = 2 * (17 * 128**2) + 4 * (17 * 256**2) + 1 * (17 * 512**2)
    assert data["total_bytes"] - folded["total_bytes"] == 4 * saved


def test_small_variant(capsys) -> None:
    """Less than a megabyte with everything, for the network that has two as published."""
    small = inspect(capsys, "cifar100-hfn-resnet50-small")
    data = inspect(capsys, "cifar100-hfn-resnet50")
    assert small["total_bytes"] <= 1_000_000 < data["total_bytes"]
    executions = 53  # convolutions of ResNet50 with a batch norm
    channels = 26_560
    assert data["affine_bytes"] == 5 * channels + 3 * executions
    assert small["affine_bytes"] == 3 * channels + 4 * executions
    assert data["mask_bits"] > 14_000_000 and 2 * small["mask_bits"] < data["mask_bits"] * 1.01


def test_imagenet_stem() -> None:
    layers = summary(plan_search(load_config(CONFIGS / "imagenet-hfn-resnet50.toml")))["layers"]
    shapes = {layer["name"]: layer["shape"] for layer in layers}
    assert shapes["unfold"] == [112, 112, 147]
    assert shapes["stem"] == [112, 112, 64]
    assert shapes["pool"] == [56, 56, 64]
    assert shapes["stage4.block2.conv3"] == [7, 7, 2048]
    assert round(sum(layer["macs"] for layer in layers) / 1e9, 2) == 4.09
    runs = {layer["name"]: layer["iterations"] for layer in layers}
    assert runs["stage3.block2.conv1"] == 5 and runs["stage2.block2.conv1"] == 1


def test_inspect_of_a_configuration_for_people(capsys) -> None:
    assert main(["inspect", str(CONFIGS / "cifar100-hfn-resnet50.toml")]) == 0
    text = capsys.readouterr().out
    assert "dense resnet50 float32" in text and "dense is 48.6 times that" in text


def test_inspect_refuses_a_bad_configuration(capsys, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('dataset = "cifar10"\n')
    assert main(["inspect", str(path)]) == 2
    assert f"{path}: Key 'model' is missing" in capsys.readouterr().err


def _rows() -> list[list[str]]:
    """The cells of the table in configs/README.md."""
    lines = (CONFIGS / "README.md").read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0])
def test_table_of_configurations(capsys, row: list[str]) -> None:
    data = inspect(capsys, row[0].strip("`"))
    assert row[1:5] == [
        f"{sum(layer['macs'] for layer in data['layers']) / 1e9:.2f}",
        f"{data['total_bytes'] / 1e6:.2f}",
        f"{data['paper_bytes'] / 1e6:.2f}",
        f"{data['paper_compression']:.1f}",
    ]


def test_example_of_a_configuration(tmp_path: Path) -> None:
    text = (CONFIGS / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("recipes", str(CONFIGS / "recipes")))
    model = plan_search(load_config(path))
    assert (model.name, model.image, len(model.classes)) == ("mine", (64, 64), 12)
    assert model.folded_stages == (3, 4)


@pytest.mark.parametrize(
    "model",
    [
        # Folded stages of one, two and three blocks; a first block with and without a projection.
        {
            "stem": {"channels": 8},
            "stages": [
                {"blocks": 1, "channels": 8, "folded": True},
                {"blocks": 2, "channels": 8, "stride": 2, "folded": True},
                {"blocks": 3, "channels": 12, "folded": True},
            ],
        },
        {
            "stem": {"channels": 8, "kernel": 7, "stride": 2, "pool": True},
            "stages": [
                {"blocks": 2, "channels": 16, "block": "bottleneck", "mid": 4},
                {
                    "blocks": 4,
                    "channels": 24,
                    "block": "bottleneck",
                    "mid": 8,
                    "stride": 2,
                    "folded": True,
                },
            ],
        },
    ],
    ids=["basic", "bottleneck"],
)
def test_plan_is_the_network_that_is_searched(model: dict) -> None:
    """Streams, shapes, strides and runs of every layer are those of the PyTorch network."""
    table = {"dataset": "cifar10", "model": {"name": "x", **model}}
    config = parse_config(table | {"train": {"phases": [{"epochs": 1, "size": 32}]}})
    network = FoldedResNet(config.model)
    found: dict[int, list] = {}
    for execution in plan_search(config).executions():
        if execution.stream is not None:
            layer = found.setdefault(
                execution.stream,
                [execution.weight_shape, getattr(execution.op, "stride", 1), 0],
            )
            layer[2] += 1
    runs = {network.classifier.stream: 1}
    for layer, *_ in normalized_layers(network):
        runs[layer.stream] = runs.get(layer.stream, 0) + 1
    assert found == {
        layer.stream: [tuple(layer.scores.shape[:3]), layer.stride, runs[layer.stream]]
        for _, layer in conv_layers(network)
    }
    recurrent = [block.iterations for blocks in network.stages for block in blocks]
    loops = [op.count for op in plan_search(config).ops if isinstance(op, Loop)]
    assert max(loops) == max(recurrent) and len(loops) == len(plan_search(config).folded_stages)
