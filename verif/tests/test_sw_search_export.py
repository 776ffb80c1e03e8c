# SPDX-License-Identifier: Apache-2.0
"""Export: the float network is the trained one, and the integers approximate it."""

import dataclasses
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hiddenfold.sw.affine import SHIFTS, Affine
from hiddenfold.sw.model import Execution, Model
from hiddenfold.sw.search import data as data_module
from hiddenfold.sw.search.cifar import CIFAR100
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.search.data import to_float
from hiddenfold.sw.search.export import (
    build_model,
    export_model,
    export_run,
    fold_batch_norms,
    quantize,
)
from hiddenfold.sw.search.float_network import (
    FloatConstants,
    FloatNetwork,
    constants_path,
    float_logits,
    load_constants,
    save_constants,
)
from hiddenfold.sw.search.nets import FoldedResNet
from hiddenfold.sw.search.quantize import (
    Scale,
    affine_constants,
    choose_scale,
    residual_multiplier,
    short_constants,
)
from hiddenfold.sw.search.recalibrate import recalibrate
from hiddenfold.sw.search.settings import ModelConfig, StageConfig, StemConfig
from hiddenfold.sw.search.train import train
from hiddenfold.verif.golden.model import Golden


def network(**changes) -> FoldedResNet:
    """A small untrained net whose batch norms have seen some images and are not trivial."""
    torch.manual_seed(1)
    settings = {
        "name": "small",
        "stem": StemConfig(channels=16),
        "stages": (
            StageConfig(blocks=2, channels=32, stride=2),
            StageConfig(blocks=3, channels=64, block="bottleneck", mid=32, folded=True),
        ),
        "classes": 10,
        "affine": "all",
        "top_k": 0.5,
    }
    net = FoldedResNet(ModelConfig(**{**settings, **changes}))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.affine:
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    for seed in range(20):
        net(to_float(images(32, seed)))
    return net.eval()


def images(count: int, seed: int = 5) -> torch.Tensor:
    """Smooth random pictures."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=generator).float()
    return torch.nn.functional.interpolate(small, (16, 16), mode="bilinear").to(torch.uint8)


def build(net: FoldedResNet, bits: int = 8) -> Model:
    labels = tuple(f"class {i}" for i in range(net.config.classes))
    return build_model(net, "cifar100", labels, (16, 16), bits)


SHAPES = {
    "folded": {},
    "plain": {"stages": (StageConfig(blocks=2, channels=32), StageConfig(blocks=1, channels=40))},
    "paper affine": {"affine": "recurrent"},
    "imagenet stem": {"stem": StemConfig(channels=16, kernel=7, stride=2, pool=True)},
    "by magnitude": {"magnitude": True},
    "frozen": {"free_eighths": 2, "free_from": 1000},
}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_float_network_is_the_trained_network(changes: dict) -> None:
    net = network(**changes)
    batch = images(20)
    with torch.no_grad():
        expected = net(to_float(batch))
    found = FloatNetwork(build(net), fold_batch_norms(net)).logits(batch, batch=7)
    # Sums instead of means, and weights without their scale.
    ratio = (found * expected).sum() / expected.square().sum()
    assert torch.allclose(found / ratio, expected, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_integers_approximate_the_float_network(changes: dict) -> None:
    net = network(**changes)
    constants = fold_batch_norms(net)
    model = quantize(build(net), constants, images(64, 6))
    # What is saved and loaded again is legal and the same.
    model = Model.from_bytes(model.to_bytes())
    batch = images(50)
    expected = FloatNetwork(model, constants).logits(batch).double()
    found = torch.from_numpy(
        np.asarray(Golden(model).run(batch.numpy().transpose(0, 2, 3, 1)), dtype=np.float64)
    )
    correlation = torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1]
    assert correlation > 0.999
    assert (expected.argmax(1) == found.argmax(1)).double().mean() > 0.9


@pytest.mark.parametrize("bits", [8, 4])
def test_short_constants_hardly_change_the_network(bits: int) -> None:
    net = network()
    constants = fold_batch_norms(net)
    pixels = images(50).numpy().transpose(0, 2, 3, 1)
    logits = []
    sizes = []
    for form in ("full", "short"):
        model = dataclasses.replace(build(net, bits), constants=form)
        model = quantize(model, constants, images(64, 6))
        model = Model.from_bytes(model.to_bytes())
        assert model.constants == form
        sizes.append(model.summary()["affine_bytes"])
        logits.append(Golden(model).run(pixels).astype(np.float64))
    channels = sum(len(affine.bias) for affine in model.affine)
    assert sizes == [
        5 * channels + 3 * len(model.affine),
        3 * channels + 4 * len(model.affine),
    ]
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.995
    assert (logits[0].argmax(1) == logits[1].argmax(1)).mean() > 0.8


def test_fewer_bits_cost_accuracy_gradually() -> None:
    net = network()
    constants = fold_batch_norms(net)
    batch = images(50)
    expected = FloatNetwork(build(net), constants).logits(batch).double().flatten()
    agreement = []
    for bits in (8, 6, 4, 2):
        model = quantize(build(net, bits), constants, images(64, 6))
        assert {op.bits for op in model.ops if hasattr(op, "bits")} <= {bits, 8}
        found = Golden(model).run(batch.numpy().transpose(0, 2, 3, 1))
        found = torch.from_numpy(np.asarray(found, dtype=np.float64)).flatten()
        agreement.append(float(torch.corrcoef(torch.stack([expected, found]))[0, 1]))
    assert agreement == sorted(agreement, reverse=True)
    assert agreement[2] > 0.9


def test_rounding_does_not_move_means_and_spreads() -> None:
    """Batch norms are measured anew: each channel's moments are those without rounding."""
    net = network()
    constants = fold_batch_norms(net)
    model, batch = build(net, 3), images(200, 6)
    scales = [Scale(0.5) if c.relu else Scale(0.7, 4) for c in constants]

    def moments(found: list[FloatConstants]) -> list[torch.Tensor]:
        seen = []

        def observe(execution: Execution, normalized: torch.Tensor, output: torch.Tensor) -> None:
            seen.append(torch.stack(torch.std_mean(normalized, (0, 2, 3), correction=0)))

        FloatNetwork(model, found).forward(batch, observe)
        return seen

    wanted = moments(constants)
    made = recalibrate(model, constants, scales, batch)
    assert [c.output for c in made] == [None] * len(made)
    worst = []
    for tried in (constants, made):
        rounded = [dataclasses.replace(c, output=s) for c, s in zip(tried, scales, strict=True)]
        pairs = zip(wanted, moments(rounded), strict=True)
        worst.append(max(float((a - b).abs().max()) for a, b in pairs))
    assert worst[0] > 0.1 and worst[1] < 0.001


def test_dead_channel_does_not_spoil_the_others() -> None:
    """A channel that is always 0 has a batch norm gain of 1 / sqrt(eps) or so."""
    net = network()
    norm = net.stages[0][0].norms[0][0]
    with torch.no_grad():
        norm.running_var[3] = 0.0
        norm.weight[3] = 1e-3
        net.stages[0][0].convs[0].weights[3] = 0.0
        net.stages[0][0].convs[0].scores[3] = 0.0
        norm.running_mean[3] = 0.0
    model = build(net)
    stream = net.stages[0][0].convs[0].stream
    model.masks[stream][3] = 0
    constants = fold_batch_norms(net)
    result = quantize(model, constants, images(16))
    affine = result.affine[2]
    assert affine.multiplier[3] == 0
    assert np.abs(affine.multiplier.astype(int)).max() >= 1 << 11


def test_choose_scale() -> None:
    generator = np.random.default_rng(0)
    uniform = generator.uniform(0.0, 3.0, 20000).astype(np.float32)
    scale = choose_scale(uniform, 8, signed=False)
    assert scale.zero == 0 and scale.step == pytest.approx(3.0 / 255, rel=0.02)
    # Rare large values are clipped when there are few levels.
    tailed = np.abs(generator.standard_normal(20000)).astype(np.float32)
    tailed[0] = 20.0
    assert choose_scale(tailed, 4, signed=False).step * 15 < 5.0
    scale = choose_scale(uniform - 1.0, 8, signed=True)
    assert scale.zero == pytest.approx(85, abs=2)
    assert choose_scale(np.zeros(5, np.float32), 8, signed=True) == Scale(1.0, 0)


def test_residual_multiplier_is_exact() -> None:
    multiplier, scale = residual_multiplier("a", Scale(0.03, 7), Scale(0.047, 0))
    assert multiplier * scale.step == pytest.approx(256 * 0.03, rel=1e-12)
    assert scale.step == pytest.approx(0.047, rel=0.01) and scale.zero == 0
    message = "Operation 'a': residual multiplier must be 1 to 65535, not 0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        residual_multiplier("a", Scale(1e-6), Scale(1.0))


@pytest.mark.parametrize("gain", [100.0, 1.0, 1e-3, 1e-5])
def test_affine_constants_use_the_multiplier_well(gain: float) -> None:
    affine = affine_constants("a", np.array([gain, -gain / 3]), np.array([5.0, -2.0]), 300, 10)
    largest = int(np.abs(affine.multiplier.astype(int)).max())
    assert affine.shift in SHIFTS and affine.shift == 28 or (1 << 11) <= largest < 1 << 15
    assert affine.multiplier[0] / 2**affine.shift / 256 == pytest.approx(gain, rel=2**-11)
    # Half a step and half a fraction for rounding; the residual's zero point is taken out.
    assert affine.bias.tolist() == [1280 + 128 - 3000, -512 + 128 - 3000]


def test_short_constants_keep_the_mean() -> None:
    """What rounding takes from a multiplier is made up for, for outputs of the mean."""
    full = Affine(4, 9, np.array([1001, -3003, 0, 77], np.int16), np.full(4, 5000, np.int32))
    mean = np.array([100.0, 40.0, 3.0, 50.0])
    short = short_constants(full, mean)
    short.validate("a", 4, "short")
    assert (short.shift, short.residual) == (4, 9)
    assert short.multiplier.tolist() == [1000, -3008, 0, 77]
    # The mean product is that of the exact multiplier, 256 * mean in fractions of a step.
    lost = 256 * mean * [1 / 1001, -5 / 3003, 0, 0]
    assert np.abs(short.bias - (5000 + lost)).max() <= 0.5 + 2
    assert short.bias.tolist() != full.shortened().bias.tolist()


def test_affine_constants_that_do_not_fit() -> None:
    message = "Operation 'a': multiplier must be at most 32767, not 51200"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        affine_constants("a", np.array([200.0]), np.zeros(1), 0, 0)
    message = "Operation 'a': bias must be at most 8388607, not 25600128"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        affine_constants("a", np.ones(1), np.array([1e5]), 0, 0)


def test_float_constants_file(tmp_path: Path) -> None:
    net = network()
    path = tmp_path / "m.hfn"
    constants = fold_batch_norms(net)
    model = quantize(build(net), constants, images(16))
    assert constants_path(path) == tmp_path / "m.float.npz"
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}/m.float.npz not found: it"):
        load_constants(path, model)
    save_constants(path, constants)
    loaded = load_constants(path, model)
    for a, b in zip(constants, loaded, strict=True):
        assert a.relu == b.relu
        assert np.array_equal(a.scale, b.scale) and np.array_equal(a.shift, b.shift)
    batch = images(3)
    found = float_logits(path, model, batch.numpy().transpose(0, 2, 3, 1))
    assert np.array_equal(found, FloatNetwork(model, constants).logits(batch).numpy())
    other = build(network(stem=StemConfig(channels=24)))
    with pytest.raises(ValueError, match=r"m\.float\.npz does not belong to .*m\.hfn: channels"):
        load_constants(path, other)
    constants_path(path).write_bytes(b"no")
    with pytest.raises(ValueError, match=r"m\.float\.npz is not a file of float constants: "):
        load_constants(path, model)


def test_export_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a data directory to a model file, as the command line does it."""
    small = dataclasses.replace(CIFAR100, images={"train": 128, "test": 40})
    monkeypatch.setitem(data_module._CIFAR, "cifar100", small)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 128), ("test", 40)):
        table = {
            "data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": generator.integers(0, 100, count).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(table, protocol=2))
    names = [f"name{i}" for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    config = parse_config(
        {
            "dataset": "cifar100",
            "model": {
                "name": "tiny",
                "classes": 100,
                "act_bits": 4,
                "stem": {"channels": 8, "stride": 2},
                "stages": [{"blocks": 3, "channels": 16, "stride": 2, "folded": True}],
            },
            "train": {"phases": [{"epochs": 1, "size": 16}], "batch": 32},
        }
    )
    train(config, tmp_path, tmp_path / "first")
    train(config, tmp_path, tmp_path / "run", start_from=tmp_path / "first")
    path = tmp_path / "tiny.hfn"
    model = export_run(tmp_path / "run", tmp_path, act_bits=6, output=path)
    loaded = Model.load(path)
    assert loaded.to_bytes() == model.to_bytes()
    assert loaded.classes == tuple(names) and loaded.image == (32, 32)
    assert loaded.folded_stages == (1,) and loaded.act_bits == 6
    assert loaded.accuracy["float"] is not None
    notes = {"epochs": "1", "config": "tiny", "from": "tiny of 1 epochs"}
    assert loaded.provenance == notes
    assert json.dumps(loaded.summary())
    constants = load_constants(path, loaded)
    assert len(constants) == len(loaded.affine)
    # Learned scales are those of 4 bits, which is what the export does when nothing is said.
    assert not any(c.output for c in constants)
    # A model file and its float constants are as good as the run.
    again = export_model(path, tmp_path, output=tmp_path / "again.hfn")
    assert again.to_bytes() == model.to_bytes()
    fewer = export_model(path, tmp_path, act_bits=4)
    with pytest.raises(ValueError, match=r"new file must be another one than .*tiny\.hfn$"):
        export_model(path, tmp_path, output=path)
    model = export_run(tmp_path / "run", tmp_path, output=tmp_path / "learned.hfn")
    assert fewer.ops == model.ops != loaded.ops and fewer.act_bits == 4
    assert model.act_bits == 4
    assert all(c.output for c in load_constants(tmp_path / "learned.hfn", model))
    assert [e.name for e in loaded.executions()] == [
        "unfold",
        "stem",
        *(f"stage1.block1.{part}" for part in ("shortcut", "conv1", "conv2")),
        *(f"stage1.block2.{part}" for part in ("conv1", "conv2") * 2),
        "classifier",
    ]
    with pytest.raises(ValueError, match="^Activation bits must be 1 to 8, not 9$"):
        export_run(tmp_path / "run", tmp_path, act_bits=9)
    dataclasses.replace(loaded, accuracy={}).validate()
