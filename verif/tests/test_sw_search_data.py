# SPDX-License-Identifier: Apache-2.0
"""Readers of CIFAR and of folders of pictures, what they refuse, and augmentation."""

import pickle
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_cases import write_folder
from PIL import Image

from hiddenfold.sw.search import data as data_module
from hiddenfold.sw.search.ahead import ahead
from hiddenfold.sw.search.cifar import CIFAR10, CIFAR100, Cifar
from hiddenfold.sw.search.config import parse_config
from hiddenfold.sw.search.data import (
    Pixels,
    Split,
    augment,
    hold_out,
    load_data,
    load_split,
    resize,
    to_float,
)
from hiddenfold.sw.search.folder import Pictures, list_pictures
from hiddenfold.sw.search.settings import SearchConfig
from hiddenfold.sw.search.train import train


def test_augment_shifts_and_mirrors() -> None:
    image = torch.arange(1, 3 * 5 * 6 + 1, dtype=torch.uint8).reshape(1, 3, 5, 6)
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))[0]
    allowed = set()
    for y in range(5):
        for x in range(5):
            crop = padded[:, y : y + 5, x : x + 6]
            allowed |= {crop.numpy().tobytes(), crop.flip(2).numpy().tobytes()}
    generator = torch.Generator().manual_seed(3)
    seen = {
        part.contiguous().numpy().tobytes()
        for part in augment(image.repeat(2000, 1, 1, 1), 2, True, generator)
    }
    assert seen == allowed
    assert torch.equal(augment(image, 0, False, generator), image)


def test_resize_and_to_float() -> None:
    images = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    assert torch.equal(resize(images, 16), images[:, :, :16, :16])
    assert resize(images, 32) is images
    assert to_float(images).max() == np.float32(200 / 255)


def tiny_cifar(cifar: Cifar) -> Cifar:
    """The same files with 3 images in each one for training and 2 in the one for tests."""
    return replace(cifar, images={"train": 3, "test": 2})


def write_pickles(cifar: Cifar, folder: Path) -> None:
    """Files like the official ones, of the tiny data set `cifar`."""
    folder.mkdir(parents=True)
    start = 0
    for split, names in cifar.files.items():
        count = cifar.images[split]
        for name in names:
            numbers = np.arange(start, start + count * 3072, dtype=np.uint32)
            pixels = numbers.astype(np.uint8).reshape(count, 3072)
            labels = list(range(count))
            table = {"data": pixels, cifar.labels: labels, "filenames": ["x"] * count}
            (folder / name).write_bytes(pickle.dumps(table, protocol=2))
            start += 1
    names_of_classes = [f"class {i}" for i in range(cifar.classes)]
    meta = {cifar.names: names_of_classes, "num_vis": 3072}
    (folder / cifar.meta).write_bytes(pickle.dumps(meta, protocol=2))


@pytest.mark.parametrize("cifar", [CIFAR10, CIFAR100], ids=lambda cifar: cifar.title)
def test_cifar_is_found_in_all_three_places(tmp_path: Path, cifar: Cifar) -> None:
    cifar = tiny_cifar(cifar)
    folder = tmp_path / "a" / cifar.folder
    write_pickles(cifar, folder)
    archive = tmp_path / "b"
    archive.mkdir()
    with tarfile.open(archive / cifar.archive, "w:gz") as tar:
        tar.add(folder, cifar.folder)
    files = len(cifar.files["train"])
    for place in (folder, tmp_path / "a", archive):
        images, labels = cifar.load(place, "train")
        assert images.shape == (3 * files, 3, 32, 32) and labels.tolist() == [0, 1, 2] * files
        # Planes red, green, blue, each row by row; file by file, each of which starts one higher.
        assert images[0, 1, 2, 3] == (1024 + 2 * 32 + 3) % 256
        assert images[-3, 1, 2, 3] == (1024 + 2 * 32 + 3 + files - 1) % 256
        assert cifar.class_names(place)[:2] == ("class 0", "class 1")
    assert len(cifar.load(folder, "test")[1]) == 2


@pytest.mark.parametrize(
    ("cifar", "name", "archive"),
    [
        (CIFAR10, "cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz"),
        (CIFAR100, "cifar-100-python/train", "cifar-100-python.tar.gz"),
    ],
    ids=["CIFAR-10", "CIFAR-100"],
)
def test_missing_cifar(tmp_path: Path, cifar: Cifar, name: str, archive: str) -> None:
    message = (
        f"{cifar.title} not found in {tmp_path}: expected '{name}' or '{archive}' there; "
        f"the official download is https://www.cs.toronto.edu/~kriz/{archive}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cifar.load(tmp_path, "train")
    with pytest.raises(ValueError, match="^Split must be one of 'train', 'test', not 'dev'$"):
        cifar.load(tmp_path, "dev")


def test_damaged_cifar(tmp_path: Path) -> None:
    cifar = tiny_cifar(CIFAR100)
    folder = tmp_path / cifar.folder
    write_pickles(cifar, folder)
    damaged = f"^CIFAR-100 file 'train' in {re.escape(str(tmp_path))} is damaged: "
    good = (folder / "train").read_bytes()
    for bad in (b"", good[:100], b"hello", pickle.dumps({}), pickle.dumps(Path("x"))):
        (folder / "train").write_bytes(bad)
        with pytest.raises(ValueError, match=damaged):
            cifar.load(tmp_path, "train")
    (folder / "train").write_bytes(good)
    with pytest.raises(ValueError, match="must hold 4 images of 3072 bytes, not uint8"):
        replace(cifar, images={"train": 4}).load(tmp_path, "train")
    with pytest.raises(ValueError, match="'train' in .* has labels outside 0 to 1$"):
        replace(cifar, classes=2).load(tmp_path, "train")
    with pytest.raises(ValueError, match="'meta' in .* must hold 7 class names$"):
        replace(cifar, classes=7).class_names(tmp_path)


def folder_config(**changes) -> SearchConfig:
    """A search on a folder of pictures with three classes, at 16 x 16 pixels."""
    table = {
        "dataset": "folder",
        "image": 16,
        "model": {
            "name": "tiny",
            "classes": 3,
            "top_k": 0.5,
            "stem": {"channels": 16},
            "stages": [{"blocks": 3, "channels": 16, "stride": 2, "folded": True}],
        },
        "train": {"phases": [{"epochs": 3, "size": 16}], "batch": 5, "crop_padding": 1},
    }
    for key, value in changes.items():
        table[key] = {**table[key], **value} if isinstance(value, dict) else value
    return parse_config(table)


def test_folder(tmp_path: Path) -> None:
    paths, labels, classes = list_pictures(write_folder(tmp_path), "train")
    assert classes == ("blue", "green", "red")
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [Path(path).name for path in paths[:5]] == ["0.png", "1.jpg", "2.JPEG", "3.png", "4.jpg"]
    assert all(Path(path).parent.name == classes[i] for path, i in zip(paths, labels, strict=True))
    training, test = load_data(folder_config(), tmp_path)
    assert (len(training), len(test)) == (15, 6)
    assert training.classes == test.classes == classes
    # So few pictures are decoded once, and colours tell whether labels belong to them.
    assert isinstance(training.images, torch.Tensor) and training.images.dtype == torch.uint8
    assert training.images.shape == (15, 3, 16, 16)
    brightest = training.images.float().mean((2, 3)).argmax(1)
    assert torch.equal(2 - brightest, training.labels)


def test_large_folders_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, _ = load_data(folder_config(), write_folder(tmp_path))
    monkeypatch.setattr(data_module, "_MEMORY", 15 * 3 * 16 * 16 - 1)
    training, test = load_data(folder_config(), tmp_path)
    assert isinstance(training.images, Pictures) and isinstance(test.images, torch.Tensor)
    assert training.images.shape == in_memory.images.shape
    chosen = torch.tensor([14, 0, 3])
    assert torch.equal(training.images[chosen], in_memory.images[chosen])
    assert torch.equal(training.images[2:4], in_memory.images[2:4])
    assert torch.equal(training.sample(5), in_memory.images[::3])
    assert torch.equal(training.sample(99), in_memory.images)
    assert training.at_size(32).images[:2].shape == (2, 3, 32, 32)
    options = {"padding": 2, "flip": True}
    moved = [
        split.augmented(chosen, torch.Generator().manual_seed(4), **options)
        for split in (training, in_memory)
    ]
    assert torch.equal(*moved)


@pytest.mark.parametrize(("share", "count"), [(0.2, 3), (0.5, 8), (0.0, 0)])
def test_held_out_images_are_not_trained_on(tmp_path: Path, share: float, count: int) -> None:
    paths, labels, _ = list_pictures(write_folder(tmp_path), "train")
    pictures = Split(Pictures(paths, 16), torch.from_numpy(labels))
    tensors = replace(pictures, images=torch.arange(15).reshape(15, 1, 1, 1))
    for training, held in (hold_out(pictures, share), hold_out(tensors, share)):
        assert (len(training), len(held)) == (15 - count, count)
        assert (len(training.images), len(held.images)) == (15 - count, count)
    assert sorted(torch.cat([training.images, held.images]).flatten().tolist()) == list(range(15))
    # Pictures are sorted by class, and some of every class are held out.
    assert len(held.labels.unique()) == (3 if count else 0)
    expected = [paths[i] for i in held.images.flatten()]
    assert list(hold_out(pictures, share)[1].images.paths) == expected


def test_batches_are_made_ahead_in_order() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        made.append(number)
        return 10 * number

    results = ahead(make, range(9))
    assert [next(results) for _ in range(5)] == [0, 10, 20, 30, 40]
    with pytest.raises(ValueError, match="^five$"):
        next(results)
    made.clear()
    results = ahead(make, range(5))
    assert next(results) == 0
    results.close()
    assert set(made) <= {0, 1, 2}
    assert list(ahead(make, range(2))) == [0, 10]
    assert list(ahead(make, ())) == []


def test_pixels_are_slices_of_a_split() -> None:
    images = torch.arange(7 * 3 * 2 * 2).reshape(7, 3, 2, 2).to(torch.uint8)
    pixels = Pixels(images, slice(2, 6))
    assert len(pixels) == 4
    expected = images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels[:], expected[2:6])
    assert np.array_equal(pixels[3:9], expected[5:6])
    assert np.array_equal(Pixels(images)[1:3], expected[1:3])


def test_test_pictures_are_scaled_and_cropped_in_the_middle(tmp_path: Path) -> None:
    """Of a white square with a grey rim, in a black picture, exactly the square is seen."""
    path = tmp_path / "square.png"
    for width, height, size, side in ((256, 512, 224, 224), (64, 80, 64, 64), (20, 16, 32, 16)):
        pixels = np.zeros((height, width, 3), np.uint8)
        top, left = (height - side) // 2, (width - side) // 2
        rim = side // 8
        pixels[top : top + side, left : left + side] = 128
        pixels[top + rim : top + side - rim, left + rim : left + side - rim] = 255
        Image.fromarray(pixels).save(path)
        picture = Pictures([str(path)], size)[:]
        assert picture.shape == (1, 3, size, size)
        # The outermost pixels are mixed with black where the picture is enlarged.
        line = picture[0, 1, size // 2, 1:-1].tolist()
        assert line[0] == line[-1] == 128 and line.count(0) == 0
        assert line.count(255) >= size * 3 // 4 - 2


def test_random_crops(tmp_path: Path) -> None:
    """Each is a part of the picture: of a ramp from left to right, a flatter or equal ramp."""
    path = tmp_path / "ramp.png"
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (160, 240, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(path)
    pictures = Pictures([str(path)] * 200, 24)
    chosen = torch.arange(200)
    crops = pictures.random_crops(chosen, torch.Generator().manual_seed(1))
    assert torch.equal(crops, pictures.random_crops(chosen, torch.Generator().manual_seed(1)))
    assert not torch.equal(crops, pictures.random_crops(chosen, torch.Generator().manual_seed(2)))
    mirrored = pictures.random_crops(chosen, torch.Generator().manual_seed(1), flip=True)
    same = (mirrored == crops).flatten(1).all(1)
    assert bool((same | (mirrored == crops.flip(3)).flatten(1).all(1)).all())
    assert 70 < int(same.sum()) < 130
    rows = crops[:, 0].float()
    assert bool((rows.diff(dim=2) >= 0).all()) and bool((rows[:, :1] == rows).all())
    widths = rows[:, 0, -1] - rows[:, 0, 0]
    # An area of 8 to 100 % with an aspect ratio of 3/4 to 4/3.
    assert 0.2 * 240 < float(widths.min()) < 0.4 * 240 and float(widths.max()) > 0.8 * 240
    assert float(rows[:, 0, 0].min()) < 10 and float(rows[:, 0, -1].max()) > 230


def test_folder_errors(tmp_path: Path) -> None:
    def refuse(message: str, config: SearchConfig | None = None) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            load_data(config or folder_config(), tmp_path)

    refuse(f"Pictures not found in {tmp_path}: expected 'train/CLASS/*.png' and 'val/CLASS/*.png'")
    write_folder(tmp_path, 2)
    refuse(
        f"Key 'model.classes' must be 3 for the data in {tmp_path}, not 4",
        folder_config(model={"classes": 4}),
    )
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "rot")
    refuse(
        f"{tmp_path}: training and test split must have the same classes, but only one of them "
        "has red, rot"
    )
    (tmp_path / "val" / "rot").rename(tmp_path / "val" / "red")
    bad = tmp_path / "train" / "blue" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    refuse(f"image {bad} is damaged: ")
    bad.write_text("no picture")
    refuse(f"image {bad} must be a PNG or JPEG file; its content is neither")
    for path in (tmp_path / "val" / "green").iterdir():
        path.unlink()
    refuse(f"{tmp_path / 'val' / 'green'} must hold pictures (.png, .jpg, .jpeg), not none")
    flat = tmp_path / "flat"
    (flat / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="folder of pictures for each of 2 or more classes, not 0"):
        list_pictures(flat, "train")
    # ImageNet's test pictures, as they are downloaded.
    (flat / "val").mkdir()
    (flat / "val" / "ILSVRC2012_val_00000001.JPEG").touch()
    message = "val must hold a folder of pictures for each class, not the pictures themselves"
    with pytest.raises(ValueError, match=message):
        list_pictures(flat, "test")


def test_folder_without_splits(tmp_path: Path) -> None:
    """Every picture is in one of the splits; one that is added later moves no other."""
    for name in ("train", "bus"):
        (tmp_path / name).mkdir()
        for number in range(40):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    (training, labels, classes), (test, _, _) = (
        list_pictures(tmp_path, split) for split in ("train", "test")
    )
    assert classes == ("bus", "train") and labels.sum() == sum(
        "train/" in path for path in training
    )
    assert len(set(training) | set(test)) == 80 and not set(training) & set(test)
    assert 8 <= len(test) <= 24
    Image.new("RGB", (4, 4)).save(tmp_path / "bus" / "new.png")
    assert set(list_pictures(tmp_path, "test")[0]) >= set(test)
    for path in (tmp_path / "bus").iterdir():
        if path.name not in ("1.png", "2.png"):
            path.unlink()
    for split in ("train", "test"):
        assert sum("bus/" in path for path in list_pictures(tmp_path, split)[0]) == 1
    (tmp_path / "bus" / "2.png").unlink()
    with pytest.raises(ValueError, match="bus must hold 2 or more pictures, one of them"):
        list_pictures(tmp_path, "train")


def test_unknown_data_set(tmp_path: Path) -> None:
    message = (
        f"Dataset to read from {tmp_path} must be one of 'cifar10', 'cifar100', 'imagenet', "
        "'folder', not 'mnist'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_split("mnist", tmp_path, "test", 28)


@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_search_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: str) -> None:
    """Pictures in three colours are told apart after a few epochs."""
    # Too large for memory, as the test sees it: batches are made ahead.
    monkeypatch.setattr(data_module, "_MEMORY", 0)
    write_folder(tmp_path / "data", 10)
    settings = {"optimizer": "adam", "lr": 0.1, "norm_lr": 0.05, "warmup": 0.0}
    # So short a search is a matter of luck in bf16.
    settings |= {"precision": "fp32"}
    phases = [{"epochs": 6, "size": 16}]
    config = folder_config(
        model={"affine": "all"}, train={"crop": crop, "phases": phases, **settings}
    )
    row = train(config, tmp_path / "data", tmp_path / "run")
    assert row["top1"] > 80.0
