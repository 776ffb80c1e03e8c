# SPDX-License-Identifier: Apache-2.0
"""Search with quantized activations: its values, its gradients, and what the export makes of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hiddenfold.sw.model import Model
from hiddenfold.sw.search.activation import Activation, Quantizer, activation, calibrate
from hiddenfold.sw.search.data import Split, to_float
from hiddenfold.sw.search.export import build_model, fold_batch_norms, quantize
from hiddenfold.sw.search.float_network import FloatNetwork, load_constants, save_constants
from hiddenfold.sw.search.nets import FoldedResNet
from hiddenfold.sw.search.settings import ModelConfig, StageConfig, StemConfig
from hiddenfold.verif.golden.model import Golden

CLASSES = 10


def ready(bits: int, step: float, zero: int = 0) -> Quantizer:
    quantizer = Quantizer(bits, signed=zero != 0)
    quantizer.zero, quantizer.ready = zero, True
    with torch.no_grad():
        quantizer.log_step.fill_(step).log_()
    return quantizer


def network(bits: int) -> FoldedResNet:
    """A residual block with a projection, and a recurrent one."""
    torch.manual_seed(1)
    stages = (
        StageConfig(blocks=1, channels=32, stride=2),
        StageConfig(blocks=4, channels=64, block="bottleneck", mid=32, stride=2, folded=True),
    )
    return FoldedResNet(
        ModelConfig(
            name="small",
            stem=StemConfig(channels=16),
            stages=stages,
            classes=CLASSES,
            affine="all",
            top_k=0.5,
            magnitude=False,
            act_bits=bits,
        )
    )


def pictures(count: int, seed: int) -> Split:
    """Noisy pictures of ten smooth patterns, uint8 [N, 3, 16, 16]."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(CLASSES, 3, 4, 4, generator=generator)
    patterns = torch.nn.functional.interpolate(patterns, (16, 16), mode="bilinear")
    generator.manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    noise = torch.randn(count, 3, 16, 16, generator=generator)
    images = (96.0 + 64.0 * patterns[labels] + 40.0 * noise).clamp(0, 255)
    return Split(images.to(torch.uint8), labels)


def search(net: FoldedResNet, steps: int) -> None:
    net.train()
    scores = [p for n, p in net.named_parameters() if n.endswith("scores")]
    others = [p for n, p in net.named_parameters() if not n.endswith("scores")]
    groups = [{"params": scores, "lr": 2e-3}, {"params": others, "lr": 5e-3}]
    optimizer = torch.optim.Adam(groups)
    for step in range(steps):
        batch = pictures(64, step + 1)
        loss = torch.nn.functional.cross_entropy(net(to_float(batch.images)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for step in range(20):
            net(to_float(pictures(64, step + 1).images))
    net.eval()


def integers(net: FoldedResNet, bits: int, learned: bool = True) -> Model:
    labels = tuple(map(str, range(CLASSES)))
    model = build_model(net, "cifar100", labels, (16, 16), bits)
    constants = fold_batch_norms(net)
    if not learned:
        constants = [dataclasses.replace(c, output=None) for c in constants]
    return quantize(model, constants, pictures(200, 10_000).images)


def hits(model: Model, split: Split) -> float:
    logits = Golden(model).run(split.images.permute(0, 2, 3, 1).numpy())
    return float((torch.from_numpy(logits).argmax(1) == split.labels).double().mean())


def test_values_are_those_of_the_specification() -> None:
    x = torch.linspace(-3.0, 9.0, 4001)
    for bits, step, zero in ((4, 0.25, 0), (2, 1.5, 0), (1, 2.0, 0), (8, 0.03, 100)):
        found = ready(bits, step, zero)(x)
        steps = x.double().numpy() / np.float64(np.float32(step))
        codes = np.clip(np.floor(steps + zero + 0.5), 0, 2**bits - 1)
        close = np.abs(steps - np.round(steps * 2) / 2) < 1e-4
        expected = (codes - zero) * step
        assert np.allclose(found.detach().numpy()[~close], expected[~close], atol=1e-5)
        assert len(np.unique(codes)) == 2**bits or zero


def test_gradients() -> None:
    """Straight through inside the range; the step's is LSQ's."""
    x = torch.tensor([[-1.0, 0.3, 0.6], [2.4, 3.2, 10.0]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0], [5.0, 7.0, 11.0]])
    quantizer = ready(2, 1.0)
    (quantizer(x) * upstream).sum().backward()
    assert x.grad.tolist() == [[0.0, 2.0, 3.0], [5.0, 0.0, 0.0]]
    slopes = torch.tensor([[0.0, -0.3, 0.4], [-0.4, 3.0, 3.0]])
    expected = float((slopes * upstream).sum()) / (3 * 3) ** 0.5
    assert float(quantizer.log_step.grad) == pytest.approx(expected, rel=1e-5)
    # A signed tensor with zero point 1: from -1 to 2.
    x = torch.tensor([-1.6, -0.4, 2.6], requires_grad=True)
    assert ready(2, 1.0, 1)(x).tolist() == [-1.0, 0.0, 2.0]
    ready(2, 1.0, 1)(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_added_tensors_have_exact_multipliers() -> None:
    residual, quantizer = ready(4, 0.3), ready(4, 0.41)
    residual(torch.rand(5))
    quantizer(torch.rand(5), residual)
    scale = quantizer.scale
    assert scale is not None and scale.step == pytest.approx(0.41, rel=0.01)
    assert 256 * 0.3 / scale.step == pytest.approx(round(256 * 0.3 / scale.step), abs=1e-3)


def test_real_numbers_until_calibration() -> None:
    assert type(activation(0)) is Activation and activation(0).scale is None
    net, plain = network(4), network(0)
    plain.load_state_dict(net.state_dict(), strict=False)
    images = to_float(pictures(20, 1).images)
    assert torch.equal(net.eval()(images), plain.eval()(images))
    assert not [name for name, _ in plain.named_parameters() if "step" in name]
    calibrate(net, images)
    quantizers = [m for m in net.modules() if isinstance(m, Quantizer)]
    # Stem, two in the first block and its projection, the projection and 4 x 3 in the second stage.
    assert len(quantizers) == 1 + 3 + 1 + 3 + 3 * 3 and all(q.ready for q in quantizers)
    assert {q.bits for q in quantizers if q.signed} == {8}
    assert all(q.zero > 0 for q in quantizers if q.signed)
    assert not torch.equal(net(images), plain(images))
    # A state that is loaded goes on with the same steps; calibration leaves them alone.
    other = network(4)
    other.load_state_dict(net.state_dict())
    steps = [[c.output for c in fold_batch_norms(n)] for n in (other, net)]
    assert steps[0] == steps[1] and all(scale is not None and scale.step > 0 for scale in steps[0])
    calibrate(other, 0.1 * images)
    assert torch.equal(net(images), other.eval()(images))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_export_is_what_was_trained(bits: int, tmp_path: Path) -> None:
    """Given the same inputs, nearly all outputs of a layer are the same integers.

    Of an output step 8 fraction bits are left, so about 1 value in 500 falls on the other side.
    """
    net = network(bits)
    calibrate(net, to_float(pictures(64, 0).images))
    search(net, 5)
    model = integers(net, bits)
    split = pictures(20, 20_000)
    save_constants(tmp_path / "m.hfn", fold_batch_norms(net))
    constants = load_constants(tmp_path / "m.hfn", model)
    with torch.no_grad():
        trained = net(to_float(split.images))
    found = FloatNetwork(model, constants).logits(split.images)
    pair = torch.stack([trained.flatten(), found.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.999
    traced = Golden(model).trace(split.images.permute(0, 2, 3, 1).numpy())
    golden = {(layer.name, layer.iteration): layer.values for layer in traced}
    real: dict[str, torch.Tensor] = {}
    for execution in model.executions()[:-1]:
        op = execution.op
        codes = golden[execution.name, execution.iteration].astype(np.float32)
        values = torch.from_numpy(codes).permute(0, 3, 1, 2)
        if execution.affine is not None:
            c = constants[execution.affine]
            weight = torch.from_numpy(model.weights(op.stream)).float()
            y = torch.conv2d(real[op.input], weight, None, op.stride, (op.kernel - 1) // 2)
            y = y * torch.from_numpy(c.scale)[:, None, None]
            y += torch.from_numpy(c.shift)[:, None, None]
            if op.residual is not None:
                y += real[op.residual]
            assert c.output is not None
            expected = torch.floor(y / c.output.step + c.output.zero + 0.5)
            difference = (expected.clamp(0, 2**op.bits - 1) - values).abs()
            assert difference.max() <= 1
            assert difference.mean() < 0.004 + 3e-4 * 2**op.bits, execution.name
            values = (values - c.output.zero) * c.output.step
        real[op.output] = values


def test_searching_with_few_bits_beats_quantizing_afterwards() -> None:
    """One bit: from one start, the same number of steps with and without quantization."""
    test = pictures(400, 30_000)
    plain, net = network(0), network(1)
    search(plain, 40)
    net.load_state_dict(plain.state_dict(), strict=False)
    calibrate(net, to_float(pictures(64, 0).images))
    # Batch norms are measured anew when rounding: after a few steps more that is as good.
    search(plain, 120)
    search(net, 120)
    learned = hits(integers(net, 1), test)
    assert learned > hits(integers(plain, 1), test) + 0.08
    assert learned > hits(integers(net, 1, learned=False), test) + 0.05
    with torch.no_grad():
        right = net(to_float(test.images)).argmax(1) == test.labels
    assert learned == pytest.approx(float(right.double().mean()), abs=0.1)
