# SPDX-License-Identifier: Apache-2.0
"""Import of checkpoints of the reference implementation: names, masks, batch norms, refusals."""

import json
import pickle
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_cases import ReferenceNetwork

from hiddenfold.sw.cli import main
from hiddenfold.sw.model import Model
from hiddenfold.sw.search.config import load_config, parse_config
from hiddenfold.sw.search.data import Split
from hiddenfold.sw.search.export import build_model, fold_batch_norms
from hiddenfold.sw.search.float_network import FloatNetwork, float_logits
from hiddenfold.sw.search.nets import conv_layers
from hiddenfold.sw.search.reference import Checkpoint, import_network, import_run, reference_signs
from hiddenfold.sw.search.run_directory import load_run
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.state import Search
from hiddenfold.sw.search.supermask import kept_weights
from hiddenfold.sw.search.warm_start import warm_start

TOML = """
dataset = "folder"
image = 16
[model]
name = "tiny"
classes = 3
seed = 5
[model.stem]
channels = 10
[[model.stages]]
blocks = 2
channels = 12
stride = 2
[[model.stages]]
blocks = 4
channels = 20
block = "bottleneck"
mid = 8
stride = 2
folded = true
[train]
phases = [{ epochs = 1, size = 16 }]
batch = 8
"""


def configuration(**changes) -> SearchConfig:
    tables = tomllib.loads(TOML)
    tables["model"] |= changes
    return parse_config(tables)


def images(count: int, seed: int = 1) -> torch.Tensor:
    """Smooth random pictures, uint8 [N, 3, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=generator).float()
    return torch.nn.functional.interpolate(small, (16, 16), mode="bilinear").to(torch.uint8)


def reference(config: SearchConfig, *, ours: bool = True) -> ReferenceNetwork:
    """A network of the reference, with our signs or with its own."""
    network = ReferenceNetwork(config.model)
    if ours:
        network.set_signs(reference_signs(config.model))
    return network.see(images(64, 2) / 255.0)


def saved(path: Path, state: dict) -> Path:
    """A checkpoint as the reference writes it."""
    torch.save({"epoch": 7, "arch": "tiny", "state_dict": state, "best_acc1": 1.5}, path)
    return path


NETWORKS = {
    "folded": {},
    "basic folded": {"stages": [{"blocks": 3, "channels": 12, "stride": 2, "folded": True}]},
    "not folded": {"stages": [{"blocks": 2, "channels": 12, "stride": 2}]},
    "imagenet stem": {"stem": {"channels": 10, "kernel": 7, "stride": 2, "pool": True}},
    "by score": {"magnitude": False},
    "all batch norms learned": {"affine": "all"},
    "other top_k": {"top_k": 0.45},
}


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS.keys())
def test_imported_network_is_the_reference_network(tmp_path: Path, changes: dict) -> None:
    config = configuration(**changes)
    network = reference(config)
    path = saved(tmp_path / "model_best.pth", network.state_dict())
    found = import_network(config, Checkpoint(path))
    batch = images(12, 3)
    with torch.no_grad():
        expected = network(batch / 255.0)
        assert torch.allclose(found(batch / 255.0), expected, atol=1e-5)
    # The same from the model file's side, where weights are +1 and -1.
    model = build_model(found, "folder", ("a", "b", "c"), (16, 16), 8)
    logits = FloatNetwork(model, fold_batch_norms(found)).logits(batch)
    factor = (logits * expected).sum() / expected.square().sum()
    assert torch.allclose(logits / factor, expected, atol=1e-4)


def test_masks_are_those_of_the_reference(tmp_path: Path) -> None:
    config = configuration()
    network = reference(config)
    path = saved(tmp_path / "c.pth", network.state_dict())
    found = dict(conv_layers(import_network(config, Checkpoint(path))))
    kept = {name: int(layer.mask().sum()) for name, layer in found.items()}
    # floor(0.7 * 270) of 10 x 27 are dropped, and floor(0.7 * 60) of 3 x 20.
    assert kept["stem"] == 270 - 189 and kept["classifier"] == 60 - 42
    # 1728 * 0.3 = 518.4: the reference keeps one weight more than a rounded share.
    wide = configuration(stem={"channels": 64})
    path = saved(tmp_path / "w.pth", reference(wide).state_dict())
    stem = dict(conv_layers(import_network(wide, Checkpoint(path))))["stem"]
    assert int(stem.mask().sum()) == 519 and kept_weights(1728, 0.3) == 518


def renamed(state: dict, *pairs: tuple[str, str]) -> dict:
    for pattern, new in pairs:
        state = {re.sub(pattern, new, name): tensor for name, tensor in state.items()}
    return state


SPELLINGS = {
    "edge-popup, CIFAR": [("^stage_", "layer")],
    "edge-popup, ImageNet": [("^stage_", "layer"), (r"\.shortcut\.", ".downsample.")],
    "DataParallel": [("^", "module.")],
}


@pytest.mark.parametrize("pairs", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_other_spellings(tmp_path: Path, pairs: list) -> None:
    config = configuration(stages=[{"blocks": 2, "channels": 12, "stride": 2}])
    network = reference(config)
    path = tmp_path / "weights.pt"
    # A bare state_dict is as good.
    torch.save(renamed(network.state_dict(), *pairs), path)
    checkpoint = Checkpoint(path)
    assert checkpoint.epochs == "?"
    batch = images(5) / 255.0
    with torch.no_grad():
        found = import_network(config, checkpoint)(batch)
        assert torch.allclose(found, network(batch), atol=1e-5)


def test_shared_batch_norms_of_a_folded_stage(tmp_path: Path) -> None:
    config = configuration(affine="none")
    state = reference(config).state_dict()
    for name in [name for name in state if ".bnorm" in name]:
        tensor = state.pop(name)
        shared = re.sub(r"\.bnorm(\d)_0\.(running_.*)", r".bn\1.\2", name)
        if shared != name:
            state[shared] = tensor
    network = import_network(config, Checkpoint(saved(tmp_path / "c.pth", state)))
    block = list(list(network.stages)[1])[1]
    first, *others = (list(norms) for norms in block.norms)
    assert len(others) == 2
    for norms in others:
        for norm, same in zip(first, norms, strict=True):
            assert torch.equal(norm.running_mean, same.running_mean)
            assert bool(norm.running_mean.any())


def test_other_signs_are_refused(tmp_path: Path) -> None:
    config = configuration()
    path = saved(tmp_path / "c.pth", reference(config, ours=False).state_dict())
    with pytest.raises(
        ValueError,
        match=r"^.*c\.pth: signs of the weights must be those that the accelerator makes from "
        r"'model\.seed' = 5, but \d\d\.\d % of layer 'conv1' are others \((4[5-9]|5[0-5])\.\d % of "
        r"all weights, in 14 of 14 layers\)\. A mask means nothing with other signs: "
        r"--research RUN writes a run from which `hiddenfold train --from RUN` searches on, over "
        "these signs$",
    ):
        import_network(config, Checkpoint(path))
    # A single wrong sign is seen, and named.
    state = reference(config).state_dict()
    state["stage_2.1.conv2.weight"][3, 2, 1, 0] *= -1.0
    path = saved(tmp_path / "one.pth", state)
    message = r"0\.2 % of layer 'stage_2\.1\.conv2' are others \(0\.0 % of all weights, in 1 of 14 "
    with pytest.raises(ValueError, match=message):
        import_network(config, Checkpoint(path))
    # So are the signs of another seed.
    path = saved(tmp_path / "ours.pth", reference(config).state_dict())
    with pytest.raises(ValueError, match=r"'model\.seed' = 6, but \d\d\.\d % of layer 'conv1'"):
        import_network(configuration(seed=6), Checkpoint(path))


def test_research_starts_from_scores_and_batch_norms(tmp_path: Path) -> None:
    config = configuration(act_bits=4)
    network = reference(config, ours=False)
    state = network.state_dict()
    run = tmp_path / "start"
    import_run(config, Checkpoint(saved(tmp_path / "c.pth", state)), run)
    search = Search(config, "cpu")
    warm_start(search, run, Split(images(16), torch.zeros(16, dtype=torch.int64)))
    layers = dict(conv_layers(search.model))
    assert torch.equal(layers["classifier"].scores, state["fc.scores"])
    stem = layers["stem"].scores.reshape(10, 3, 3, 3)
    assert torch.equal(stem, state["conv1.scores"].permute(0, 2, 3, 1))
    block = list(list(search.model.stages)[1])[1]
    for t, norms in enumerate(block.norms):
        for i, norm in enumerate(norms, 1):
            for key, tensor in norm.state_dict().items():
                if key != "num_batches_tracked":
                    assert torch.equal(tensor, state[f"stage_2.1.bnorm{i}_{t}.{key}"])
    assert search.origin.endswith("c.pth of the reference implementation of 7 epochs")
    with pytest.raises(ValueError, match="already holds a run"):
        import_run(config, Checkpoint(tmp_path / "c.pth"), run)


def changed(state: dict, name: str, tensor: torch.Tensor | None = None) -> dict:
    """`state` with another tensor, or with one less."""
    rest = {key: value for key, value in state.items() if key != name}
    return rest if tensor is None else rest | {name: tensor}


def test_what_is_no_such_network_is_refused(tmp_path: Path) -> None:
    config = configuration()
    state = reference(config).state_dict()

    def refuse(message: str, state: object, config: SearchConfig = config) -> None:
        path = tmp_path / "bad.pth"
        torch.save(state, path)
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path}')}:? {re.escape(message)}"):
            import_network(config, Checkpoint(path))

    def without(name: str) -> dict:
        return changed(state, name)

    refuse("must hold a state_dict with 'scores' of convolutions", [1, 2])
    refuse("must hold a state_dict with 'scores' of convolutions", {"weight": torch.zeros(1)})
    message = "the checkpoint must have a tensor 'stage_2.1.bnorm3_2.running_var' for the network"
    refuse(message, without("stage_2.1.bnorm3_2.running_var"))
    refuse("layer 'fc' must have 'scores' and has none, so its weights", without("fc.scores"))
    longer = state | {"stage_2.1.bnorm1_3.running_var": torch.ones(8), "z": torch.ones(1)}
    message = "must have a place for 'stage_2.1.bnorm1_3.running_var' and 1 more tensors"
    refuse(f"the network of the configuration {message}", longer)
    wider = configuration(stem={"channels": 11})
    message = "'conv1.weight' must have the shape [11, 3, 3, 3], as in the configuration, not [10, "
    refuse(message, state, wider)
    bad = changed(state, "fc.scores", torch.full((3, 20, 1, 1), float("nan")))
    refuse("'fc.scores' must be finite numbers", bad)
    refuse("'fc.scores' must have the shape [3, 20, 1, 1], as in", changed(state, "fc.scores", 3))
    random = changed(state, "fc.weight", torch.randn(3, 20, 1, 1))
    refuse("weights of layer 'fc' must have one magnitude", random)
    message = "batch norm 'stage_2.1.bnorm1_0' has a learned scale and shift: key 'model.affine'"
    refuse(message, state, configuration(affine="none"))
    frozen = configuration(free_eighths=4, free_from=0)
    refuse("key 'model.free_eighths' must be 8 for masks of the reference", state, frozen)
    refuse("key 'model.generator' must be 'lfsr'", state, configuration(generator="torch"))
    with pytest.raises(ValueError, match="none must be a checkpoint file, and is none$"):
        Checkpoint(tmp_path / "none")


class Surprise:
    """Runs something when it is unpickled by those who allow it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    surprise = Surprise(tmp_path / "touched")
    torch.save({"state_dict": {"conv1.scores": surprise}}, path)
    for content in (path.read_bytes(), pickle.dumps(surprise, protocol=2), b"", b"PK"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a PyTorch file of tensors and plain values"):
            Checkpoint(path)
    assert not (tmp_path / "touched").exists()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, a configuration and two checkpoints, of our signs and of others."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "tiny.toml").write_text(TOML)
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for number, label in enumerate(("dark", "grey", "light")):
            (folder / "data" / split / label).mkdir(parents=True)
            for index in range(count):
                small = rng.integers(80 * number, 80 * number + 90, (4, 4, 3), dtype=np.uint8)
                picture = Image.fromarray(small).resize((16, 16), Image.Resampling.BILINEAR)
                picture.save(folder / "data" / split / label / f"{index}.png")
    config = load_config(folder / "tiny.toml")
    for ours in (True, False):
        network = reference(config, ours=ours)
        saved(folder / f"{'ours' if ours else 'others'}.pth", network.state_dict())
    return folder


def command(project: Path, checkpoint: str, *options: object) -> list[str]:
    arguments = ["import", project / checkpoint, "--config", project / "tiny.toml"]
    return [str(part) for part in (*arguments, "--data", project / "data", *options)]


def test_from_a_checkpoint_to_the_accelerator(project: Path, capsys) -> None:
    path = project / "ours.hfn"
    assert main([*command(project, "ours.pth", "-o", path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["total_bytes"] == path.stat().st_size and data["top1_golden"] is not None
    model = Model.load(path)
    assert model.provenance == {
        "epochs": "7",
        "config": "tiny",
        "from": "ours.pth of the reference implementation",
    }
    # What lies beside it is the reference network, in floating point.
    batch = images(9, 4)
    with torch.no_grad():
        network = reference(load_config(project / "tiny.toml"))
        expected = network(batch / 255.0)
    found = torch.from_numpy(float_logits(path, model, batch.permute(0, 2, 3, 1).numpy()))
    factor = (found * expected).sum() / expected.square().sum()
    assert torch.allclose(found / factor, expected, atol=1e-4)
    # And the RTL computes what the golden model does of the integers.
    picture = project / "data" / "val" / "grey" / "0.png"
    run = ["run", str(path), str(picture), "--backend", "rtl", "--target", "sim-tiny", "--check"]
    assert main([*run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["bit_exact"] is True


def test_measured_batch_norms_do_not_depend_on_the_images_scale(project: Path) -> None:
    """As it was searched with images of -1 to 1, say, after `--measure` it is as good as ours."""
    state = torch.load(project / "ours.pth", weights_only=True)["state_dict"]
    state["bn1.running_mean"] *= 3.0
    state["bn1.running_var"] *= 9.0
    saved(project / "scaled.pth", state)
    for name in ("ours", "scaled"):
        options = ("-o", project / f"{name}-measured.hfn", "--measure")
        assert main(command(project, f"{name}.pth", *options)) == 0
    files = [project / f"{name}-measured.hfn" for name in ("ours", "scaled")]
    ours, scaled = (Model.load(path) for path in files)
    for a, b in zip(ours.affine, scaled.affine, strict=True):
        assert np.array_equal(a.multiplier, b.multiplier)
        assert np.array_equal(a.bias, b.bias)


def test_research_goes_on_to_a_model(project: Path, capsys) -> None:
    code = main(command(project, "others.pth", "-o", project / "others.hfn"))
    assert code == 2 and not (project / "others.hfn").exists()
    assert "--research RUN" in capsys.readouterr().err
    start, run = project / "start", project / "run"
    assert main([*command(project, "others.pth", "--research", start), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(start), "epochs": "7"}
    places = ["--data", str(project / "data")]
    train = ["train", str(project / "tiny.toml"), *places, "--from", str(start), "--out", str(run)]
    assert main(train) == 0
    assert main(["export", str(run), "-o", str(project / "next.hfn"), *places]) == 0
    assert "others.pth" in Model.load(project / "next.hfn").provenance["from"]
    assert load_run(run)[2][0]["epoch"] == 1


def test_one_output_must_be_named(project: Path, capsys) -> None:
    for options in ((), ("-o", project / "a.hfn", "--research", project / "a")):
        assert main(command(project, "ours.pth", *options)) == 2
        assert "must have either -o M.hfn or --research RUN" in capsys.readouterr().err
