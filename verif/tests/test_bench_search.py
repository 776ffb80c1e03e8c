# SPDX-License-Identifier: Apache-2.0
"""The plain implementation of the benchmark is the network that it is compared with."""

import torch

from hiddenfold.sw.search.config import load_config
from hiddenfold.sw.search.nets import FoldedResNet, conv_layers, macs
from hiddenfold.sw.search.supermask import top_k_mask
from hiddenfold.verif.bench.search_speed import CONFIG, PlainResNet18, _Subnet


def test_plain_network_does_the_same_work() -> None:
    config = load_config(CONFIG).model
    ours = FoldedResNet(config)
    plain = PlainResNet18(config.classes, config.top_k)
    scores = {name: p for name, p in plain.named_parameters() if name.endswith("scores")}
    assert sorted(p.numel() for p in scores.values()) == sorted(
        layer.scores.numel() for _, layer in conv_layers(ours)
    )
    work = 0

    def count(module, _, output) -> None:
        nonlocal work
        work += output.shape[2] * output.shape[3] * module.weight.numel()

    for module in plain.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        plain.eval()(torch.zeros(1, 3, 32, 32))
    assert work == macs(ours, 32)


def test_plain_selection_is_the_same() -> None:
    scores = torch.randperm(1000).float()
    assert torch.equal(_Subnet.apply(scores, 0.3).bool(), top_k_mask(scores, 0.3))
