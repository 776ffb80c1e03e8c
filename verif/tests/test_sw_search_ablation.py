# SPDX-License-Identifier: Apache-2.0
"""The generators of the ablation, its resuming, and what the export refuses."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hiddenfold.hw import lfsr
from hiddenfold.sw import signs
from hiddenfold.sw.search import ablation
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.search.data import Split
from hiddenfold.sw.search.export import export_run
from hiddenfold.sw.search.generators import GENERATORS, weight_signs
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers
from hiddenfold.sw.search.run_directory import load_run
from hiddenfold.sw.search.state import Search
from hiddenfold.sw.search.warm_start import warm_start

STATE = signs.splitmix64(5)


def configuration(**changes):
    model = {
        "name": "tiny",
        "classes": 100,
        "stem": {"channels": 8},
        "stages": [{"blocks": 2, "channels": 16, "stride": 2}],
    }
    training = {"phases": [{"epochs": 1, "size": 8}], "batch": 16, "eval_every": 1}
    return parse_config({"dataset": "cifar100", "model": {**model, **changes}, "train": training})


def bits(state: int, count: int) -> list[int]:
    """The sequence, one step of the LFSR at a time."""
    result = []
    for _ in range(count):
        result.append(state & 1)
        state = lfsr.step(state)
    return result


def as_bits(sign: np.ndarray) -> list[int]:
    return ((1 - sign.astype(int)) // 2).flatten().tolist()


def test_lfsr_is_that_of_the_specification() -> None:
    found = weight_signs("lfsr", STATE, 3, 1234, (5, 70, 3))
    assert np.array_equal(found, signs.sign_tensor(STATE, 3, 5, 70, 3))


def test_serial_lfsr_runs_through_the_whole_network() -> None:
    config = configuration(generator="serial-lfsr").model
    network = FoldedResNet(config)
    found = [
        bit for _, layer in conv_layers(network) for bit in as_bits(layer.weights.sign().numpy())
    ]
    assert found == bits(signs.splitmix64(config.seed), len(found))


def test_parallel_lfsr_taps_the_state_at_each_step() -> None:
    found = weight_signs("parallel-lfsr", STATE, 2, 0, (3, 70, 3)).reshape(3, 70, 9)
    state = signs.layer_state(STATE, 2)
    for channel in range(3):
        for tap in signs.tap_order(3):
            for word in range(2):
                expected = [state >> i & 1 for i in range(64)][: 70 - 64 * word]
                assert as_bits(found[channel, 64 * word : 64 * word + 64, tap]) == expected
                state = lfsr.step(state)
    # Every output channel is the one before, shifted.
    rows = weight_signs("parallel-lfsr", STATE, 0, 0, (4, 64, 1)).reshape(4, 64)
    assert np.array_equal(rows[0, 1:], rows[1, :-1]) and np.array_equal(rows[0, 3:], rows[3, :-3])


@pytest.mark.parametrize("generator", GENERATORS)
def test_signs_are_balanced_and_differ_by_seed_and_layer(generator: str) -> None:
    # The sequence of the naive parallel LFSR is short: 4,096 bits for these 262,144 weights.
    shape = (512, 512, 1)
    found = weight_signs(generator, STATE, 1, 1000, shape)
    assert found.dtype == np.int8 and found.shape == (512, 512, 1, 1)
    assert set(np.unique(found)) == {-1, 1} and abs(found.mean()) < 0.06
    assert np.array_equal(found, weight_signs(generator, STATE, 1, 1000, shape))
    other_layer = weight_signs(generator, STATE, 2, 1000 + found.size, shape)
    other_seed = weight_signs(generator, signs.splitmix64(6), 1, 1000, shape)
    for other in (other_layer, other_seed):
        assert abs((found * other).mean()) < 0.06


def test_unknown_generator() -> None:
    with pytest.raises(ValueError, match=r"^Generator must be one of lfsr, .*, not 'x'$"):
        weight_signs("x", STATE, 0, 0, (1, 1, 1))
    message = f"Key 'model.generator' must be one of {', '.join(map(repr, GENERATORS))}, not 'x'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        configuration(generator="x")


def test_other_generators_are_for_the_search_only(tmp_path: Path) -> None:
    config = configuration(generator="torch")
    data = Split(torch.zeros(16, 3, 8, 8, dtype=torch.uint8), torch.zeros(16, dtype=torch.int64))
    ablation.train(config, "", tmp_path, data=(data, data))
    reason = (
        "key 'model.generator' must be 'lfsr' for a model file, whose weights are made from a "
        "seed, not 'torch'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}: {reason}')}$"):
        export_run(tmp_path, tmp_path)
    model = Path(__file__).parents[2] / "models" / "hfn-cifar100.hfn"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{model}: {reason}')}$"):
        warm_start(Search(config, "cpu"), model, data)


def test_ablation_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (64, 3, 8, 8), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(0, 3, (64,), generator=generator))
    variants = {name: configuration(generator=name) for name in GENERATORS}
    started = []
    original = ablation.train

    def stop_at_the_sixth(config, data_dir, directory, **options):
        started.append(directory.name)
        if len(started) == 6:
            raise KeyboardInterrupt
        return original(config, data_dir, directory, **options)

    monkeypatch.setattr(ablation, "train", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        ablation.run(variants, (split, split), tmp_path, (1, 2))
    assert started == [*(f"{name}-1" for name in GENERATORS), "lfsr-2", "torch-2"]
    partial = (tmp_path / ablation.TABLE).read_text().splitlines()
    assert len(partial) == 2 + len(GENERATORS)
    checkpoint = tmp_path / "lfsr-1" / "checkpoint.pt"
    before = torch.load(checkpoint)["model"]
    results = ablation.run(variants, (split, split), tmp_path, (1, 2))
    assert all(list(found) == [1, 2] for found in results.values())
    for key, value in torch.load(checkpoint)["model"].items():
        assert torch.equal(value, before[key])


FILES = sorted((Path(__file__).parents[2] / "configs" / "ablations").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_variants(path: Path) -> None:
    variants = ablation.load_variants(path)
    changed = [{**config.to_dict(), "name": None} for config in variants.values()]
    assert len(variants) > 3
    assert all(one not in changed[:number] for number, one in enumerate(changed))
    # Each network can be made.
    for config in variants.values():
        FoldedResNet(config.model)


def test_generators_are_compared() -> None:
    generators = [c.model.generator for c in ablation.load_variants(FILES[0]).values()]
    assert generators == list(GENERATORS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('bse = "x"', "Key 'bse' is unknown; allowed: base, model, train, variant"),
        ("base = 3", "Key 'base' must name a file, not 3"),
        ('base = "base.toml"', "Key 'variant' must list at least 1 variant"),
        ('base = "base.toml"\nvariant = [1]', "variant must be a table, not 1"),
        ('base = "base.toml"\n[[variant]]', "name of a variant must be lower-case letters, digits"),
        ('base = "base.toml"\n[[variant]]\nname = "../a"', "name of a variant must be lower-case"),
        (
            'base = "base.toml"\n[[variant]]\nname = "a"\n[[variant]]\nname = "a"',
            "name of a variant must be unique, not 'a' twice",
        ),
        (
            'base = "base.toml"\n[[variant]]\nname = "a"\n[[variant]]\nname = "b"\n'
            'dataset = "cifar10"\nmodel = { classes = 10 }',
            "variant b: Keys 'dataset' and 'image' must be those of all variants",
        ),
        (
            'base = "base.toml"\n[[variant]]\nname = "a"\nmodel = { top_k = 2.0 }',
            "variant a: Key 'model.top_k' must be above 0 and up to 1, not 2.0",
        ),
    ],
)
def test_bad_files_of_variants(tmp_path: Path, text: str, message: str) -> None:
    config = Path(__file__).parents[2] / "configs" / "cifar100-hfn-ablation.toml"
    (tmp_path / "base.toml").write_bytes(config.read_bytes())
    path = tmp_path / "variants.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}"):
        ablation.load_variants(path)


def test_a_teacher_is_the_run_with_the_same_seed(tmp_path: Path) -> None:
    images = torch.zeros(32, 3, 8, 8, dtype=torch.uint8)
    split = Split(images, torch.arange(32) % 3)
    variants = {
        "dense": configuration(weights="trained", top_k=1.0),
        "taught": configuration(),
    }
    taught = variants["taught"]
    train = dataclasses.replace(taught.train, teacher="dense")
    variants["taught"] = dataclasses.replace(taught, train=train)
    ablation.run(variants, (split, split), tmp_path, (1, 2))
    for seed in (1, 2):
        config, _, _ = load_run(tmp_path / f"taught-{seed}")
        assert config.train.teacher == str(tmp_path / f"dense-{seed}")


def test_table() -> None:
    results = {"lfsr": {1: 20.0, 2: 22.0, 3: 21.0}, "torch": {1: 20.5}, "serial-lfsr": {}}
    assert ablation.table(results).splitlines() == [
        "| variant | seed 1 | seed 2 | seed 3 | mean | deviation |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `lfsr` | 20.00 | 22.00 | 21.00 | 21.00 | 1.00 |",
        "| `torch` | 20.50 |  |  | 20.50 |  |",
        "| `serial-lfsr` |  |  |  |  |  |",
    ]
