"""Data sets of papers, read from tiny made-up files in the true formats."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from simulations.data import CIFAR10, CIFAR100, EMNIST, ByWriter, DataError, TinyImageNet, deal_out
from simulations.scenario import ConfigError, Scenario
from simulations.scenario.load import read_model


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network")


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three training images and two test images; the red channel counts up row by row."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    sums = {}
    for name, labels in (("train", [99, 3, 0]), ("test", [7, 50])):
        pixels = np.zeros((len(labels), 3072), np.uint8)
        pixels[:, :1024] = np.arange(1024) // 32
        content = pickle.dumps({"data": pixels, "fine_labels": labels, "coarse_labels": labels})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"fine_label_names": [str(each) for each in range(100)]})
    (folder / "meta").write_bytes(meta)
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    md5 = hashlib.md5(meta).hexdigest()
    monkeypatch.setattr(
        datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5}
    )


def test_cifar100_has_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100(tmp_path, monkeypatch)
    source = CIFAR100(root=str(tmp_path))
    data = source.load()
    assert data.train_images.shape == (3, *source.input_shape) == (3, 3, 32, 32)
    assert data.train_labels.tolist() == [99, 3, 0]
    assert data.test_labels.tolist() == [7, 50]
    assert data.test_images[0, 0, 5].eq(5).all()
    assert data.test_images[0, 1:].eq(0).all()
    assert (source.num_classes, data.train_images.dtype) == (100, torch.uint8)


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_damaged_cifar_is_one_line_that_says_where_to_get_it(kind: Any, tmp_path: Path) -> None:
    folder = tmp_path / getattr(datasets, kind.__name__).base_folder
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        kind(root=str(tmp_path)).load()
    assert str(caught.value).startswith(f"{folder}: files are missing or damaged; unpack https://")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "EMNIST"])
def test_what_is_nowhere_says_where_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"torchvision.datasets.{name}.__init__", no_network)
    source = {"CIFAR10": CIFAR10, "CIFAR100": CIFAR100, "EMNIST": EMNIST}[name]
    with pytest.raises(DataError, match=rf"{name}: not found in .*no network.*https://"):
        source(root=str(tmp_path / "empty")).load()


UPRIGHT = np.zeros((28, 28), np.uint8)
UPRIGHT[3, 20] = 200  # in the upper right corner


def write_idx(path: Path, values: np.ndarray, *, zipped: bool = False) -> None:
    content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    content += values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_emnist(folder: Path, split: str, labels: list[int], *, zipped: bool = False) -> None:
    for part in ("train", "test"):
        lying = np.stack([UPRIGHT.T] * len(labels))
        stem = f"emnist-{split}-{part}"
        write_idx(folder / f"{stem}-images-idx3-ubyte", lying, zipped=zipped)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", np.array(labels), zipped=zipped)


def write_mat(folder: Path, split: str, labels: list[int], writers: list[int]) -> None:
    part = {
        "images": np.stack([UPRIGHT.flatten(order="F")] * len(labels)),
        "labels": np.array(labels)[:, None],
        "writers": np.array(writers)[:, None],
    }
    folder.mkdir(parents=True, exist_ok=True)
    mapping = np.array([[each, 48 + each] for each in range(10)])
    content = {"train": part, "test": part, "mapping": mapping}
    savemat(str(folder / f"emnist-{split}.mat"), {"dataset": content})


@pytest.mark.parametrize(("place", "zipped"), [("", False), ("gzip", True), ("EMNIST/raw", False)])
def test_emnist_stands_upright_and_letters_begin_with_a(
    place: str, zipped: bool, tmp_path: Path
) -> None:
    write_emnist(tmp_path / place, "letters", [1, 26, 5], zipped=zipped)
    source = EMNIST(root=str(tmp_path), split="letters")
    data = source.load()
    assert data.train_labels.tolist() == [0, 25, 4]
    assert data.test_images.shape == (3, *source.input_shape)
    assert np.array_equal(data.train_images[1, 0].numpy(), UPRIGHT)
    assert data.train_writers is None
    with pytest.raises(ValueError, match=r"emnist with its \.mat files"):
        deal_out(ByWriter(), source, 2, seed=0)


def test_emnist_tells_writers_where_its_files_do(tmp_path: Path) -> None:
    write_mat(tmp_path / "matlab", "byclass", [61, 0, 9, 10], [2200, 5, 2200, 7])
    source = EMNIST(root=str(tmp_path), split="byclass")
    data = source.load()
    assert data.train_labels.tolist() == [61, 0, 9, 10]
    assert data.train_writers is not None
    assert data.train_writers.tolist() == [2200, 5, 2200, 7]
    assert np.array_equal(data.train_images[3, 0].numpy(), UPRIGHT)
    parts = deal_out(ByWriter(), source, 3, seed=0)
    assert sorted(part.tolist() for part in parts) == [[0, 2], [1], [3]]


def test_files_of_another_split_or_none_of_emnist_are_refused(tmp_path: Path) -> None:
    write_emnist(tmp_path, "digits", [10, 0])
    with pytest.raises(DataError, match=r"labels must be in 0..9 for the split digits"):
        EMNIST(root=str(tmp_path), split="digits").load()
    write_emnist(tmp_path, "letters", [0, 26])
    with pytest.raises(DataError, match=r"labels must be in 1..26 for the split letters"):
        EMNIST(root=str(tmp_path), split="letters").load()
    (tmp_path / "emnist-balanced.mat").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"emnist-balanced.mat: not a readable file of EMNIST"):
        EMNIST(root=str(tmp_path)).load()
    with pytest.raises(ValueError, match="split must be one of balanced"):
        EMNIST(split="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("split", "num"), [("balanced", 47), ("byclass", 62), ("letters", 26), ("digits", 10)]
)
def test_emnist_has_the_classes_of_its_split(split: Any, num: int) -> None:
    assert EMNIST(split=split).num_classes == num


WNIDS = ["n03", "n01", "n02"]  # in the file's own order


def write_tiny_imagenet(folder: Path) -> None:
    for value, name in enumerate(WNIDS):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (64, 64), (80 * value, 9, 0)).save(images / f"{name}_{index}.JPEG")
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for index, name in enumerate(("n02", "n03")):
        Image.new("L", (64, 64), 120).save(folder / "val" / "images" / f"val_{index}.JPEG")
        lines.append(f"val_{index}.JPEG\t{name}\t0\t32\t44\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("place", ["", "tiny-imagenet-200"])
def test_tiny_imagenet_is_read_from_its_folders(place: str, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path / place)
    source = TinyImageNet(root=str(tmp_path), size=32)
    data = source.load()
    assert source.folder == tmp_path / place
    assert data.train_images.shape == (6, *source.input_shape) == (6, 3, 32, 32)
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    # Sorted: n01 stands second in the file, and is red by 80.
    assert data.train_images[0, :, 9, 9].tolist() == pytest.approx([80, 9, 0], abs=3)
    assert data.test_labels.tolist() == [1, 2]
    assert data.test_images[0, :, 9, 9].tolist() == pytest.approx([120] * 3, abs=3)


def test_tiny_imagenet_faults_are_one_line(tmp_path: Path) -> None:
    source = TinyImageNet(root=str(tmp_path))
    with pytest.raises(DataError, match=r"tiny-imagenet: not found in .*; unpack http://cs231n"):
        source.load()
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    listed = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    listed.write_text("val_0.JPEG\tn99\t0\n")
    with pytest.raises(DataError, match=r"val_annotations.txt:1: must hold .*got 'val_0.JPEG"):
        source.load()
    listed.unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt: no such file; unpack"):
        source.load()
    (tmp_path / "tiny-imagenet-200" / "wnids.txt").write_text("n01\nn77\n")
    with pytest.raises(DataError, match=r"n77.images: no such folder; unpack"):
        source.load()
    (tmp_path / "tiny-imagenet-200" / "wnids.txt").write_text("n01\n")
    with pytest.raises(DataError, match=r"wnids.txt: must name 2 to 200 classes, got 1"):
        source.load()


def test_scenarios_name_them() -> None:
    for data, shape in (
        ({"name": "cifar100"}, (3, 32, 32)),
        ({"name": "emnist", "split": "byclass"}, (1, 28, 28)),
        ({"name": "tiny-imagenet"}, (3, 64, 64)),
    ):
        scenario = read_model(Scenario, {"name": "x", "data": data})
        assert scenario.model_spec().input_shape == shape
        assert scenario.data.pixels.normalize(torch.zeros(1, *shape)).shape == (1, *shape)
    with pytest.raises(ConfigError, match=r"data: split must be one of balanced|data.split"):
        read_model(Scenario, {"name": "x", "data": {"name": "emnist", "split": "all"}})
