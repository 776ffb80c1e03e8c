# SPDX-License-Identifier: Apache-2.0
"""Images that are mixed with their neighbours, and their labels by the same share."""

import pytest
import torch
from test_sw_search_train import tiny_config

from hiddenfold.sw.search.loss import Loss
from hiddenfold.sw.search.mixing import Mix, draw

PARTNER = torch.tensor([1, 0, 3, 2, 4])


def _images(size: int) -> torch.Tensor:
    return torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_blended_images() -> None:
    images = _images(2)
    assert torch.allclose(
        Mix(0.75).images(images), 0.75 * images + 0.25 * images[PARTNER], atol=1e-6
    )
    assert Mix().images(images) is images


def test_the_box_is_the_neighbours() -> None:
    images = _images(6)
    before = images.clone()
    mixed = Mix(1.0 - 8 / 36, (slice(0, 4), slice(3, 5))).images(images)
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[0:4, 3:5] = True
    assert torch.equal(mixed[..., inside], images[PARTNER][..., inside])
    assert torch.equal(mixed[..., ~inside], images[..., ~inside])
    assert torch.equal(images, before)


def test_labels_have_the_same_shares() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 10, generator=generator)
    labels = torch.randint(0, 10, (5,), generator=generator)
    error = torch.nn.functional.cross_entropy
    expected = 0.75 * error(logits, labels) + 0.25 * error(logits, labels[PARTNER])
    loss = Loss(tiny_config(label_smoothing=0.0).train)
    assert torch.allclose(loss(_images(2), logits, labels, 0.75), expected)


def test_shares_of_blended_images() -> None:
    settings = tiny_config(mixup=0.3).train
    shares = [draw(settings, 16, seed).share for seed in range(200)]
    assert len(set(shares)) == 200 and all(0.0 <= share <= 1.0 for share in shares)
    # The variance of the beta distribution with both parameters 0.3.
    assert torch.tensor(shares).var().item() == pytest.approx(0.25 / 1.6, rel=0.25)
    assert draw(tiny_config().train, 16, 1) == Mix()


def test_shares_of_boxes() -> None:
    settings = tiny_config(cutmix=0.25).train
    mixes = [draw(settings, 16, seed) for seed in range(2000)]
    boxes = [mix for mix in mixes if mix.box is not None]
    assert len(boxes) == pytest.approx(500, abs=80)
    assert all(mix == Mix() for mix in mixes if mix.box is None)
    covered = torch.zeros(16, 16)
    for mix in boxes:
        part = covered[mix.box]
        assert mix.share == pytest.approx(1.0 - part.numel() / 256)
        part += 1
    # Every pixel is the neighbour's in some of them.
    assert covered.min() > 30
    # With `mixup` all others are blended.
    both = [draw(tiny_config(cutmix=0.25, mixup=1.0).train, 16, seed) for seed in range(200)]
    assert all(mix.share < 1.0 or mix.box is not None for mix in both)
