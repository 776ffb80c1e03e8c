# SPDX-License-Identifier: Apache-2.0
"""Data loading, augmentation, a tiny search on synthetic data, and exact resuming."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hiddenfold.sw.search import data
from hiddenfold.sw.search.activation import Quantizer
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.search.data import Split, to_float
from hiddenfold.sw.search.export import export_run
from hiddenfold.sw.search.loss import Loss
from hiddenfold.sw.search.measure import batches, refresh_batch_norms
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers
from hiddenfold.sw.search.optimizer import learning_rate_factor, make_optimizer
from hiddenfold.sw.search.precision import resolve
from hiddenfold.sw.search.run_directory import load_run
from hiddenfold.sw.search.settings import SearchConfig, TrainConfig
from hiddenfold.sw.search.state import Search
from hiddenfold.sw.search.train import train

SOFT = {"model": {"magnitude": False}, "optimizer": "adam", "lr": 0.03, "norm_lr": 0.01}
SOFT |= {"weight_decay": 0.0, "soft": 0.4, "harden": 0.4}
TRAINED = {"weights": "trained", "top_k": 1.0, "affine": "all"}


def tiny_config(model: dict | None = None, **changes) -> SearchConfig:
    settings = {
        "phases": [{"epochs": 3, "size": 8}, {"epochs": 2, "size": 16}],
        "batch": 32,
        "lr": 0.5,
        "warmup": 0.5,
        "crop_padding": 2,
    }
    return parse_config(
        {
            "dataset": "cifar100",
            "model": {
                "name": "tiny",
                "classes": 100,
                "top_k": 0.5,
                "stem": {"channels": 16},
                "stages": [
                    {"blocks": 3, "channels": 32, "stride": 2, "folded": True},
                ],
                **(model or {}),
            },
            "train": {**settings, **changes},
        }
    )


def synthetic(count: int, seed: int) -> Split:
    """Two classes told apart by colour, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = torch.randint(0, 120, (count, 3, 16, 16), generator=generator)
    images[:, 0] += 100 * labels[:, None, None]
    return Split(images.to(torch.uint8), labels)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"optimizer": "adam", "lr": 0.02, "norm_lr": 0.005, "weight_decay": 0.0},
        {"model": TRAINED, "lr": 0.05, "nesterov": False},
        SOFT,
        {"mixup": 0.2},
        {"cutmix": 0.5},
        {"average": 0.8},
        {"model": {"scope": "network"}},
    ],
    ids=["sgd", "bf16", "adam", "trained weights", "soft", "mixup", "cutmix", "average", "network"],
)
def test_search_learns(tmp_path: Path, changes: dict) -> None:
    split = synthetic(256, 1), synthetic(100, 2)
    row = train(tiny_config(**changes), "", tmp_path / "run", data=split)
    config, model, log = load_run(tmp_path / "run")
    assert config == tiny_config(**changes)
    assert [line["size"] for line in log] == [8, 8, 8, 16, 16]
    assert log[-1] == row
    assert log[-1]["train_loss"] < 0.5 * log[0]["train_loss"]
    assert row["top1"] > 90.0
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,size,lr,") and len(lines) == 6
    assert not model.training


def test_trained_weights_are_all_used_and_not_exported(tmp_path: Path) -> None:
    split = synthetic(64, 1), synthetic(20, 2)
    train(tiny_config(model=TRAINED), "", tmp_path, data=split)
    network = load_run(tmp_path)[1]
    before = FoldedResNet(tiny_config(model=TRAINED).model)
    for (_, layer), (_, new) in zip(conv_layers(network), conv_layers(before), strict=True):
        weight = layer.effective_weight()
        assert weight.numel() == layer.scores.numel() and not torch.equal(layer.scores, new.scores)
        assert float((weight == 0).float().mean()) < 0.01 and len(weight.unique()) > 100
    message = (
        f"{tmp_path}: key 'model.weights' must be 'signs' for a model file, whose weights are made "
        "from a seed, not 'trained'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        export_run(tmp_path, tmp_path)


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum(nesterov: bool) -> None:
    config = tiny_config(nesterov=nesterov)
    optimizer = make_optimizer(FoldedResNet(config.model), config.train)
    assert [group["nesterov"] for group in optimizer.param_groups] == [nesterov] * len(
        optimizer.param_groups
    )


MIXED = {"mixup": 0.5, "cutmix": 0.5, "average": 0.9}


@pytest.mark.parametrize("changes", [{}, SOFT, MIXED], ids=["masks", "soft masks", "mixed"])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, changes: dict) -> None:
    split = synthetic(96, 1), synthetic(20, 2)
    config = tiny_config(**changes)
    train(config, "", tmp_path / "whole", data=split)

    # Stop in the middle of the third epoch, and later, after a crash, between two epochs.
    answers = iter([False] * 6 + [True])
    with pytest.MonkeyPatch.context() as patch:
        # Asked after each of the three steps of an epoch.
        patch.setattr("hiddenfold.sw.search.train._deadline", lambda _: lambda: next(answers, True))
        row = train(config, "", tmp_path / "parts", data=split, minutes=1.0)
    assert row["epoch"] == 2
    assert torch.load(tmp_path / "parts" / "checkpoint.pt")["step"] == 1

    class Crash(Exception):
        pass

    calls = 0
    original = data.augment

    def crash_later(*args):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Crash
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hiddenfold.sw.search.data.augment", crash_later)
        with pytest.raises(Crash):
            train(config, "", tmp_path / "parts", resume=True, data=split)
    torch.manual_seed(99)
    train(config, "", tmp_path / "parts", resume=True, data=split)
    whole, parts = load_run(tmp_path / "whole"), load_run(tmp_path / "parts")
    for key, value in whole[1].state_dict().items():
        assert torch.equal(value, parts[1].state_dict()[key]), key
    for a, b in zip(whole[2], parts[2], strict=True):
        assert {**a, "seconds": 0.0} == {**b, "seconds": 0.0}


def test_run_directory_errors(tmp_path: Path) -> None:
    split = synthetic(64, 1), synthetic(20, 2)
    run = tmp_path / "run"
    message = f"{run} holds no checkpoint to resume from"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(tiny_config(), "", run, resume=True, data=split)
    message = f"{run} is not a run directory: it has no config.json"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_run(run)
    train(tiny_config(), "", run, data=split)
    message = f"{run} already holds a run; resume it or choose another directory"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(tiny_config(), "", run, data=split)
    message = (
        f"{run / 'checkpoint.pt'}: key 'train.lr' must be as in the configuration that is given, "
        f"0.25, not {tiny_config().train.lr}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(tiny_config(lr=0.25), "", run, resume=True, data=split)
    message = "Key 'train.batch' must be at most 64, the number of training images, not 65"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(tiny_config(batch=65), "", tmp_path / "other", data=split)
    (run / "checkpoint.pt").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a checkpoint of a search \("):
        train(tiny_config(), "", run, resume=True, data=split)
    with pytest.raises(ValueError, match="device must be 'cpu', for PyTorch finds no GPU here"):
        train(tiny_config(), "", tmp_path / "other", data=split, device="cuda")


def test_a_search_that_diverges_says_so() -> None:
    search = Search(tiny_config(), "cpu")
    search.loss = lambda images, logits, labels, share: logits.sum() * float("nan")
    with pytest.raises(ValueError, match="^the loss must be a number, not nan, in epoch 1: the"):
        search.run_epoch(synthetic(256, 1), synthetic(20, 2), lambda: False)


def test_precision_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for features, expected in (
        ({"avx2": True, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=features: found)
        assert resolve("auto", cpu) == expected
        assert resolve("fp32", cpu) == torch.float32 and resolve("bf16", cpu) == torch.bfloat16
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert resolve("auto", cuda) == expected


def test_learning_rate() -> None:
    config = TrainConfig(phases=tiny_config().train.phases, warmup=1.0)
    factors = [learning_rate_factor(config, x) for x in (0.0, 0.5, 1.0, 3.0, 5.0)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("everything", [False, True])
def test_weight_decay(everything: bool) -> None:
    config = tiny_config(model={"affine": "all"}, weight_decay=0.25, decay_norms=everything)
    *scores, norms = make_optimizer(FoldedResNet(config.model), config.train).param_groups
    assert {group["weight_decay"] for group in scores} == {0.25}
    assert norms["weight_decay"] == (0.25 if everything else 0.0)
    assert len(norms["params"]) == 2 * len(list(batch_norms(FoldedResNet(config.model))))


def test_steps_of_quantizers_do_not_decay() -> None:
    config = tiny_config(
        model={"affine": "all", "act_bits": 4}, weight_decay=0.25, decay_norms=True
    )
    network = FoldedResNet(config.model)
    *_, norms, steps = make_optimizer(network, config.train).param_groups
    assert norms["weight_decay"] == 0.25 and steps["weight_decay"] == 0.0
    quantizers = [m for m in network.modules() if isinstance(m, Quantizer)]
    assert [p is q.log_step for p, q in zip(steps["params"], quantizers, strict=True)]


def batch_norms(network: FoldedResNet) -> Iterator[torch.nn.BatchNorm2d]:
    return (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_softness() -> None:
    settings = tiny_config(**SOFT).train
    found = [settings.softness(x) for x in (0.0, 1.9, 2.0, 3.0, 4.0, 5.0)]
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0, 0.0])
    assert tiny_config().train.softness(0.0) == 0.0


def test_soft_search_ends_with_masks(tmp_path: Path) -> None:
    """A network that is loaded from a run has masks, also while the search is soft."""
    split = synthetic(64, 1), synthetic(20, 2)
    train(tiny_config(**SOFT), "", tmp_path, data=split, minutes=1e-9)
    for _, layer in conv_layers(load_run(tmp_path)[1]):
        weight = layer.effective_weight().detach()
        kept = weight[weight != 0]
        assert len(kept) == round(0.5 * weight.numel()) and len(kept.abs().unique()) == 1


def test_refreshed_batch_norms_are_the_averages_over_batches() -> None:
    norm = torch.nn.BatchNorm2d(3, momentum=0.3)
    model = torch.nn.Sequential(norm).eval()
    images = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8)
    settings = TrainConfig(phases=tiny_config().train.phases, batch=4, flip=False)
    for _ in range(2):
        refresh_batch_norms(model, images, 0, settings)
    values = to_float(images)
    assert torch.allclose(norm.running_mean, values.mean((0, 2, 3)))
    variances = [part.var((0, 2, 3)) for part in values.split(4)]
    assert torch.allclose(norm.running_var, (variances[0] + variances[1]) / 2)
    assert norm.momentum == 0.3 and not model.training


def test_the_result_is_the_average_of_the_steps() -> None:
    search = Search(tiny_config(average=0.75, warmup=0.0), "cpu")
    search.model.train()
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = None
    for _ in range(4):
        search._set_rate(1.0)
        search.train_batch(images, torch.arange(8))
        now = search.model.stem.scores.detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    assert torch.allclose(search.result.stem.scores, expected)
    assert not torch.allclose(search.result.stem.scores, search.model.stem.scores)
    assert Search(tiny_config(), "cpu").result.config == search.config.model
    # Before the first step there is none.
    new = Search(tiny_config(average=0.75), "cpu")
    assert new.result is new.model


def test_the_average_of_a_step_begins_where_the_quantizer_does() -> None:
    search = Search(tiny_config(average=0.9, model={"act_bits": 4}), "cpu")
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    search._calibrate(images)
    for ours, theirs in zip(search._averaged.module.modules(), search.model.modules(), strict=True):
        if isinstance(theirs, Quantizer):
            assert theirs.ready and torch.equal(ours.log_step, theirs.log_step)


def test_full_batches_count_the_same() -> None:
    images = torch.arange(10)
    assert [len(part) for part in batches(images, 4)] == [4, 4]
    assert [len(part) for part in batches(images, 16)] == [10]
    assert [len(part) for part in batches(images, 5)] == [5, 5]


def test_distillation(tmp_path: Path) -> None:
    """The loss by hand, and a student that learns a teacher's answers without labels."""
    settings = TrainConfig(
        phases=tiny_config().train.phases, label_smoothing=0.0, distill=0.25, temperature=2.0
    )
    generator = torch.Generator().manual_seed(1)
    logits, answers = torch.randn(2, 6, 10, generator=generator)
    labels = torch.randint(0, 10, (6,), generator=generator)
    seen = []

    class Teacher(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((images, self.training, torch.is_grad_enabled()))
            return answers

    images = torch.zeros(1)
    p, q = (answers / 2.0).softmax(1), (logits / 2.0).softmax(1)
    apart = (p * (p / q).log()).sum(1).mean()
    hard = torch.nn.functional.cross_entropy(logits, labels)
    expected = 0.75 * hard + 0.25 * 4.0 * apart
    assert torch.allclose(Loss(settings, Teacher())(images, logits, labels), expected)
    assert seen == [(images, False, False)]
    assert torch.allclose(Loss(settings)(images, logits, labels), hard)

    split = synthetic(256, 1), synthetic(100, 2)
    train(tiny_config(), "", tmp_path / "teacher", data=split)
    wrong = Split(split[0].images, 1 - split[0].labels), split[1]
    config = tiny_config(teacher=str(tmp_path / "teacher"), distill=1.0)
    assert train(config, "", tmp_path / "student", data=wrong)["top1"] > 90.0


def test_teacher_must_fit(tmp_path: Path) -> None:
    split = synthetic(64, 1), synthetic(20, 2)
    config = tiny_config(teacher=str(tmp_path / "none"))
    message = f"{tmp_path / 'none'} is not a run directory: it has no config.json"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train(config, "", tmp_path / "run", data=split)
    for key, value, text in (
        ("distill", 1.5, "must be 0 to 1, not 1.5"),
        ("temperature", 0.0, "must be above 0, not 0.0"),
    ):
        with pytest.raises(ValueError, match=f"^Key 'train.{key}' {re.escape(text)}$"):
            tiny_config(**{key: value})
