# SPDX-License-Identifier: Apache-2.0
"""Reading of search configurations, and the messages for everything that is wrong in them."""

import copy
import re
from pathlib import Path

import pytest

from hiddenfold.sw.search.config import load_config, parse_config
from hiddenfold.sw.search.settings import StemConfig, TrainConfig

GOOD = {
    "dataset": "cifar100",
    "model": {
        "name": "tiny",
        "classes": 100,
        "stem": {"channels": 64},
        "stages": [
            {"blocks": 1, "channels": 64},
            {
                "blocks": 3,
                "channels": 128,
                "block": "bottleneck",
                "mid": 32,
                "stride": 2,
                "folded": True,
            },
        ],
    },
    "train": {"phases": [{"epochs": 2, "size": 16}, {"epochs": 3, "size": 32}], "lr": 1},
}

CONFIGS = Path(__file__).parents[2] / "configs"


def test_values_and_defaults() -> None:
    config = parse_config(GOOD)
    assert config.model.stages[1].mid == 32 and config.model.stages[0].stride == 1
    assert config.model.top_k == 0.3 and config.model.magnitude
    assert config.train.lr == 1.0 and isinstance(config.train.lr, float)
    assert config.train.epochs == 5
    assert [config.train.size_of(epoch) for epoch in range(5)] == [16, 16, 32, 32, 32]


def test_dict_round_trip() -> None:
    config = parse_config(GOOD)
    assert parse_config(config.to_dict()) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_configurations_are_good(path: Path) -> None:
    config = load_config(path)
    assert config.model.name == path.stem
    assert parse_config(config.to_dict()) == config


def test_architecture_stands_for_stages_and_stem() -> None:
    model = {"name": "x", "architecture": "wideresnet50", "folded": [2, 4]}
    config = parse_config(GOOD | {"model": model}).model
    assert config.classes == 100 and config.stem == StemConfig(channels=64)
    assert [s.folded for s in config.stages] == [False, True, False, True]
    assert [(s.blocks, s.mid, s.channels, s.stride) for s in config.stages] == [
        (3, 128, 256, 1),
        (4, 256, 512, 2),
        (6, 512, 1024, 2),
        (3, 1024, 2048, 2),
    ]
    config = parse_config(GOOD | {"model": model, "dataset": "imagenet"}).model
    assert config.classes == 1000
    assert config.stem == StemConfig(channels=64, kernel=7, stride=2, pool=True)
    model = model | {"architecture": "resnet18", "stem": {"channels": 16}, "classes": 100}
    config = parse_config(GOOD | {"model": model}).model
    assert config.stem == StemConfig(channels=16)
    assert [(s.block, s.blocks, s.mid) for s in config.stages] == [("basic", 2, 0)] * 4


def test_size_of_pictures_chooses_the_stem() -> None:
    model = {"name": "x", "architecture": "resnet18", "classes": 7}
    for image, stride in ((16, 1), (64, 1), (96, 2), (224, 2)):
        config = parse_config(GOOD | {"dataset": "folder", "image": image, "model": model})
        assert (config.image, config.model.classes) == (image, 7)
        assert config.model.stem.stride == stride and config.model.stem.pool == (stride == 2)
    for image in (15, 225):
        message = f"^Key 'image' must be 16 to 224 for dataset 'folder', not {image}$"
        with pytest.raises(ValueError, match=message):
            parse_config(GOOD | {"dataset": "folder", "image": image, "model": model})
    del model["classes"]
    with pytest.raises(ValueError, match=r"^Key 'model\.classes' is missing$"):
        parse_config(GOOD | {"dataset": "folder", "image": 64, "model": model})


def test_base_holds_where_the_file_has_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "base.toml").write_text(
        'dataset = "cifar100"\n[model]\narchitecture = "resnet18"\ntop_k = 0.25\n'
        "[train]\nphases = [{ epochs = 3, size = 32 }, { epochs = 1, size = 32 }]\nlr = 0.5\n"
    )
    path = tmp_path / "own.toml"
    path.write_text(
        'base = "recipes/base.toml"\n[model]\nname = "own"\ntop_k = 0.75\n'
        "[train]\nphases = [{ epochs = 7, size = 32 }]\n"
    )
    config = load_config(path)
    assert (config.model.name, config.model.top_k, len(config.model.stages)) == ("own", 0.75, 4)
    assert (config.train.lr, config.train.epochs) == (0.5, 7)


def change(path: str, value: object) -> dict:
    data = copy.deepcopy(GOOD)
    *tables, key = path.split("/")
    table = data
    for name in tables:
        table = table[int(name) if isinstance(table, list) else name]
    if value is KeyError:
        del table[key]
    else:
        table[key] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        (
            "datset",
            "x",
            ValueError,
            "Key 'datset' is unknown; allowed: dataset, image, model, train",
        ),
        (
            "model/stem/width",
            3,
            ValueError,
            "Key 'model.stem.width' is unknown; allowed: channels, kernel, stride, pool",
        ),
        (
            "dataset",
            "mnist",
            ValueError,
            "Key 'dataset' must be one of 'cifar10', 'cifar100', 'imagenet', 'folder', not 'mnist'",
        ),
        ("dataset", "folder", ValueError, "Key 'image' is missing"),
        ("image", 64, ValueError, "Key 'image' must be 32 for dataset 'cifar100', not 64"),
        ("image", "32", TypeError, "Key 'image' must be of type int, not '32'"),
        (
            "train/crop",
            "resized",
            ValueError,
            "Key 'train.crop' must be 'padded' for dataset 'cifar100', not 'resized'",
        ),
        (
            "train/crop",
            "random",
            ValueError,
            "Key 'train.crop' must be one of 'padded', 'resized', not 'random'",
        ),
        ("dataset", KeyError, ValueError, "Key 'dataset' is missing"),
        ("model/name", KeyError, ValueError, "Key 'model.name' is missing"),
        ("model/name", "", ValueError, "Key 'model.name' must be a non-empty string, not ''"),
        (
            "model/classes",
            10,
            ValueError,
            "Key 'model.classes' must be 100 for dataset 'cifar100', not 10",
        ),
        (
            "model/architecture",
            "vgg",
            ValueError,
            "Key 'model.architecture' must be one of 'resnet18', 'resnet34', 'resnet50', "
            "'resnet101', 'resnet152', 'resnet200', 'wideresnet50', not 'vgg'",
        ),
        (
            "model/architecture",
            "resnet18",
            ValueError,
            "Key 'model.stages' must be left out where 'model.architecture' is",
        ),
        (
            "model/architecture",
            18,
            TypeError,
            "Key 'model.architecture' must be of type str, not 18",
        ),
        (
            "model/folded",
            [2],
            ValueError,
            "Key 'model.folded' is for 'model.architecture'; a stage has its own key 'folded'",
        ),
        (
            "model/dense_reference",
            "vgg",
            ValueError,
            "Key 'model.dense_reference' must be one of '', 'resnet18', 'resnet34', 'resnet50', "
            "'resnet101', 'resnet152', 'resnet200', 'wideresnet50', not 'vgg'",
        ),
        ("model/top_k", 1.5, ValueError, "Key 'model.top_k' must be above 0 and up to 1, not 1.5"),
        (
            "model/weights",
            "trained",
            ValueError,
            "Keys 'model.top_k' and 'model.free_eighths' must be 1.0 and 8 for trained weights, "
            "which have no masks, not 0.3 and 8",
        ),
        (
            "model/weights",
            "dense",
            ValueError,
            "Key 'model.weights' must be one of 'signs', 'trained', not 'dense'",
        ),
        ("model/top_k", "x", TypeError, "Key 'model.top_k' must be of type float, not 'x'"),
        ("model/seed", True, TypeError, "Key 'model.seed' must be of type int, not True"),
        ("model/seed", -1, ValueError, "Key 'model.seed' must be 0 to 2**64 - 1, not -1"),
        (
            "model/affine",
            "some",
            ValueError,
            "Key 'model.affine' must be one of 'recurrent', 'all', 'none', not 'some'",
        ),
        (
            "model/stem/kernel",
            4,
            ValueError,
            "Key 'model.stem.kernel' must be one of 1, 3, 5, 7, not 4",
        ),
        ("model/stem", 64, TypeError, "Key 'model.stem' must be a table, not 64"),
        ("model/stages", 3, TypeError, "Key 'model.stages' must be a list of tables, not 3"),
        ("model/stages", [], ValueError, "Key 'model.stages' must list at least 1 stage, not 0"),
        (
            "model/stages/1/stride",
            3,
            ValueError,
            "Key 'model.stages.stride' must be one of 1, 2, not 3",
        ),
        ("model/stages/1/mid", 0, ValueError, "Key 'model.stages.mid' must be 1 or more, not 0"),
        (
            "model/stages/0/mid",
            8,
            ValueError,
            "Key 'model.stages.mid' is for bottleneck blocks only, not 8 in a basic block",
        ),
        ("train/phases", [], ValueError, "Key 'train.phases' must list at least 1 phase, not 0"),
        (
            "train/phases/0/size",
            4,
            ValueError,
            "Key 'train.phases.size' must be 8 or more, not 4",
        ),
        ("train/batch", 1, ValueError, "Key 'train.batch' must be 2 or more, not 1"),
        ("train/lr", -0.5, ValueError, "Key 'train.lr' must be 0 to 1e+06, not -0.5"),
        ("train/lr", float("nan"), ValueError, "Key 'train.lr' must be 0 to 1e+06, not nan"),
        ("train/soft", 1.5, ValueError, "Key 'train.soft' must be 0 to 1, not 1.5"),
        (
            "train/soft",
            0.5,
            ValueError,
            "Keys 'train.soft' and 'train.harden' must be 0 unless 'model.weights' is 'signs', "
            "'model.magnitude' is false, 'model.free_eighths' is 8 and 'model.scope' is 'layer', "
            "not 0.5 and 0.0",
        ),
        ("train/mixup", -1.0, ValueError, "Key 'train.mixup' must be 0 to 100, not -1.0"),
        ("train/cutmix", 1.5, ValueError, "Key 'train.cutmix' must be 0 to 1, not 1.5"),
        ("train/average", 1.0, ValueError, "Key 'train.average' must be 0 to 0.999999, not 1.0"),
        (
            "model/scope",
            "stage",
            ValueError,
            "Key 'model.scope' must be one of 'layer', 'network', not 'stage'",
        ),
        ("train/warmup", 6.0, ValueError, "Key 'train.warmup' must be 0 to 5, not 6.0"),
        (
            "train/precision",
            "fp16",
            ValueError,
            "Key 'train.precision' must be one of 'auto', 'fp32', 'bf16', not 'fp16'",
        ),
    ],
)
def test_errors(path: str, value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        parse_config(change(path, value))


@pytest.mark.parametrize(
    ("folded", "error", "message"),
    [
        ([0], ValueError, "Key 'model.folded' must list stages 1 to 4, not [0]"),
        ([3, "4"], ValueError, "Key 'model.folded' must list stages 1 to 4, not [3, '4']"),
        (3, TypeError, "Key 'model.folded' must be of type list, not 3"),
    ],
)
def test_folded_stages_are_checked(folded: object, error: type[Exception], message: str) -> None:
    model = {"name": "x", "architecture": "resnet50", "folded": folded}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        parse_config(GOOD | {"model": model})


def test_stages_and_architecture_replace_those_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "published.toml").write_text(
        'dataset = "cifar100"\n[model]\nname = "a"\narchitecture = "resnet18"\nfolded = [3, 4]\n'
        "[train]\nphases = [{ epochs = 1, size = 32 }]\n"
    )
    (tmp_path / "mine.toml").write_text(
        'base = "published.toml"\n[model]\nstem = { channels = 8 }\n'
        "stages = [{ blocks = 2, channels = 16 }]\n"
    )
    mine = load_config(tmp_path / "mine.toml").model
    assert [stage.channels for stage in mine.stages] == [16] and mine.stem.channels == 8
    text = (tmp_path / "mine.toml").read_text().replace('base = "published.toml"\n', "")
    (tmp_path / "small.toml").write_text(
        'dataset = "cifar100"\n'
        + text.replace("[model]", '[model]\nname = "b"')
        + "[train]\nphases = [{ epochs = 1, size = 32 }]\n"
    )
    (tmp_path / "large.toml").write_text(
        'base = "small.toml"\n[model]\narchitecture = "resnet34"\n'
    )
    large = load_config(tmp_path / "large.toml").model
    assert len(large.stages) == 4 and large.stem.channels == 64


def test_all_epochs_may_be_soft_or_hardening() -> None:
    phases = load_config(CONFIGS / "cifar100-hfn12.toml").train.phases
    for soft, harden in ((0.9, 0.1), (0.8, 0.2), (0.7, 0.3)):
        assert TrainConfig(phases=phases, soft=soft, harden=harden).harden == harden


def test_base_errors(tmp_path: Path) -> None:
    path, base = tmp_path / "own.toml", tmp_path / "base.toml"

    def message() -> str:
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as caught:
            load_config(path)
        return str(caught.value).removeprefix(f"{path}: ")

    path.write_text("base = 3\n")
    assert message() == "Key 'base' must be of type str, not 3"
    path.write_text('base = "base.toml"\n')
    assert message() == f"Key 'base' must name a file, not {str(base)!r}"
    base.write_text("x = \n")
    assert message().startswith(f"base {base}: Invalid value")
    base.write_text('base = "other.toml"\n')
    assert message() == f"base {base} must not have a base itself, not 'other.toml'"
    base.write_text('dataset = "cifar10"\n')
    assert message() == "Key 'model' is missing"


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('dataset = "cifar10"\n')
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: Key 'model' is missing$"):
        load_config(path)
    path.write_text("dataset = \n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: Invalid value"):
        load_config(path)
