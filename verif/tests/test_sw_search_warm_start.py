# SPDX-License-Identifier: Apache-2.0
"""A search that starts from a model file or a run begins with that network."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from hiddenfold.sw.model import Model
from hiddenfold.sw.search.activation import Quantizer
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.search.data import Split, to_float
from hiddenfold.sw.search.export import build_model, fold_batch_norms, quantize
from hiddenfold.sw.search.float_network import save_constants
from hiddenfold.sw.search.nets import conv_layers
from hiddenfold.sw.search.run_directory import load_run, origin
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.state import Search
from hiddenfold.sw.search.train import train
from hiddenfold.sw.search.warm_start import warm_start


def configuration(
    epochs: int = 1, lr: float = 0.02, harden: float = 0.0, **changes
) -> SearchConfig:
    model = {
        "name": "tiny",
        "classes": 100,
        "top_k": 0.4,
        "stem": {"channels": 16},
        "stages": [
            {"blocks": 1, "channels": 24, "stride": 2},
            {"blocks": 3, "channels": 32, "block": "bottleneck", "mid": 16, "folded": True},
        ],
    }
    settings = {
        "phases": [{"epochs": epochs, "size": 16}],
        "batch": 32,
        "optimizer": "adam",
        "lr": lr,
        "norm_lr": 0.01,
        "weight_decay": 0.0,
        "crop_padding": 0,
        "flip": False,
        "harden": harden,
        "precision": "fp32",
    }
    return parse_config({"dataset": "cifar100", "model": {**model, **changes}, "train": settings})


def smooth(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=generator).float()
    images = torch.nn.functional.interpolate(small, (16, 16), mode="bilinear")
    return Split(images.to(torch.uint8), torch.randint(0, 4, (count,), generator=generator))


def trained(tmp_path: Path, **changes) -> tuple[Path, Path]:
    """A run, and the model file it gives."""
    run, path = tmp_path / "run", tmp_path / "tiny.hfn"
    train(configuration(2, **changes), "", run, data=(smooth(128, 1), smooth(20, 2)))
    network = load_run(run)[1]
    labels = tuple(f"class {i}" for i in range(100))
    constants = fold_batch_norms(network)
    model = quantize(
        build_model(network, "cifar100", labels, (16, 16), 8), constants, smooth(32, 3).images
    )
    model.save(path)
    save_constants(path, constants)
    return run, path


@pytest.mark.parametrize(
    "changes",
    [
        {"affine": "all", "magnitude": False},
        {"affine": "all", "magnitude": False, "harden": 0.5},
        {"affine": "recurrent"},
        {"affine": "none"},
    ],
    ids=["all", "soft", "published", "none"],
)
def test_search_begins_with_the_network(tmp_path: Path, changes: dict) -> None:
    run, path = trained(tmp_path, **changes)
    network = load_run(run)[1]
    images = smooth(128, 1).images
    with torch.no_grad():
        expected = network(to_float(images))
    for source in (run, path):
        search = Search(configuration(**changes), "cpu")
        fresh = {name: layer.scores.detach().clone() for name, layer in conv_layers(search.model)}
        warm_start(search, source, smooth(128, 1))
        assert search.model.training and (search.epoch, search.step, search.log) == (0, 0, [])
        for (name, layer), (_, old) in zip(
            conv_layers(search.model), conv_layers(network), strict=True
        ):
            assert torch.equal(layer.mask(), old.mask()), name
            if source == path and search.config.train.harden:
                # Soft masks near the model's: weights take part by nearly 0 or nearly 1.
                scores = layer.scores.detach()
                shares = scores.where(old.mask(), 1.0 - scores)
                assert float(shares.min()) >= 0.5 and float(shares.mean()) > 0.85
            elif source == path:
                # The same values as in a new search, in another order.
                assert torch.equal(
                    layer.scores.flatten().sort().values, fresh[name].flatten().sort().values
                )
                assert not torch.equal(layer.scores, fresh[name])
            else:
                assert torch.equal(layer.scores, old.scores)
        with torch.no_grad():
            found = search.model.eval()(to_float(images))
            assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
            if source == path and changes["affine"] == "all":
                # In training, with the statistics of a batch, it is nearly the same network.
                found = search.model.train()(to_float(images))
                pair = torch.stack([found.flatten(), expected.flatten()])
                assert torch.corrcoef(pair)[0, 1] > 0.99


def test_training_goes_on_from_a_model(tmp_path: Path) -> None:
    _, path = trained(tmp_path, affine="all")
    data = smooth(128, 1), smooth(20, 2)
    config = configuration(lr=1e-4, affine="all")
    cold = train(config, "", tmp_path / "cold", data=data)
    warm = train(config, "", tmp_path / "warm", data=data, start_from=path)
    assert warm["train_loss"] < 0.8 * cold["train_loss"]


def test_model_says_what_its_search_started_from(tmp_path: Path) -> None:
    run, path = trained(tmp_path)
    noted = {"epochs": "2", "from": "an older one"}
    dataclasses.replace(Model.load(path), provenance=noted).save(path)
    search = Search(configuration(), "cpu")
    for source, expected in (
        (run, "tiny of 2 epochs"),
        (path, "tiny of 2 epochs, from an older one"),
    ):
        warm_start(search, source, smooth(128, 1))
        assert search.origin == expected
    # It is in the checkpoint, and from there in the model.
    data = smooth(128, 1), smooth(20, 2)
    train(configuration(), "", tmp_path / "next", data=data, start_from=run)
    assert origin(tmp_path / "next") == "tiny of 2 epochs" and origin(run) == ""


def test_quantization_begins_from_real_numbers(tmp_path: Path) -> None:
    run, path = trained(tmp_path)
    images = smooth(128, 1).images
    with torch.no_grad():
        expected = load_run(run)[1](to_float(images))
    for source in (run, path):
        search = Search(configuration(act_bits=4), "cpu")
        warm_start(search, source, smooth(128, 1))
        with torch.no_grad():
            found = search.model.eval()(to_float(images))
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
        search.run_epoch(smooth(128, 1), smooth(20, 2), lambda: False)
        assert all(m.ready for m in search.model.modules() if isinstance(m, Quantizer))


def test_lower_top_k_thins_the_masks(tmp_path: Path) -> None:
    run, path = trained(tmp_path)
    network = load_run(run)[1]
    search = Search(configuration(top_k=0.2), "cpu")
    warm_start(search, path, smooth(64, 1))
    for (_, layer), (_, old) in zip(conv_layers(search.model), conv_layers(network), strict=True):
        assert not (layer.mask() & ~old.mask()).any()


def test_other_networks_are_refused(tmp_path: Path) -> None:
    run, path = trained(tmp_path)
    images = smooth(32, 1)

    def refuse(source: Path, message: str, **changes) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(str(source))}: {re.escape(message)}"):
            warm_start(Search(configuration(**changes), "cpu"), source, images)

    refuse(run, "key 'model.seed' must be as in the configuration, 7, not 1", seed=7)
    refuse(path, "seed state must be 0x", seed=7)
    wider = {"stem": {"channels": 24}}
    refuse(
        path,
        "operation must be 'stem' with 24 channels, kernel 1, stride 1, as in the configuration, "
        "not 'stem' with 16 channels, kernel 1, stride 1",
        **wider,
    )
    message = "'free' of stream 2 must be 4, as in the configuration, not 8"
    refuse(path, message, free_eighths=4, free_from=24 * 16 * 9)
    shorter = {"stages": [{"blocks": 1, "channels": 24, "stride": 2}]}
    refuse(path, "operation must be 'classifier' with 100 channels", **shorter)
    with pytest.raises(ValueError, match="is not a run directory"):
        warm_start(Search(configuration(), "cpu"), tmp_path, images)
    refuse(path, "key 'model.scope' must be 'layer' for a start from a model", scope="network")
    path.with_suffix(".float.npz").unlink()
    with pytest.raises(ValueError, match=r"tiny\.float\.npz not found"):
        warm_start(Search(configuration(), "cpu"), path, images)
    message = "^a run that is resumed has its own scores: resume it, or start one from "
    with pytest.raises(ValueError, match=message):
        train(configuration(), "", run, resume=True, start_from=path)


def test_quantizers_of_another_width_begin_anew(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, act_bits=8)
    search = Search(configuration(act_bits=4), "cpu")
    warm_start(search, run, smooth(128, 1))
    quantizers = [m for m in search.model.modules() if isinstance(m, Quantizer)]
    assert quantizers and not any(m.ready for m in quantizers)


def test_soft_masks_begin_near_the_hard_ones_of_a_run(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, magnitude=False)
    network = load_run(run)[1]
    search = Search(configuration(harden=1.0, magnitude=False), "cpu")
    warm_start(search, run, smooth(128, 1))
    for (_, layer), (_, old) in zip(conv_layers(search.model), conv_layers(network), strict=True):
        assert torch.equal(layer.mask(), old.mask())
        assert float((layer.scores.detach() - old.mask().float()).abs().mean()) < 0.15


def test_a_negative_scale_needs_a_learned_one(tmp_path: Path) -> None:
    run, path = trained(tmp_path, affine="all")
    network = load_run(run)[1]
    network.stem_norm.weight.data[0] = -1.0
    save_constants(path, fold_batch_norms(network))
    search = Search(configuration(affine="none"), "cpu")
    with pytest.raises(ValueError, match=r"'model\.affine' must be 'all' .*stream 0, not 'none'"):
        warm_start(search, path, smooth(128, 1))
