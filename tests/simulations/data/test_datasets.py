import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from simulations.data import (
    CIFAR10,
    GTSRB,
    DataError,
    Digits,
    FashionMNIST,
    ImageFolder,
    load_data,
)


def test_digits_are_small_gray_images_of_all_classes() -> None:
    data = Digits().load()
    assert data.train_images.shape == (1437, 1, 16, 16)
    assert data.test_images.shape == (360, 1, 16, 16)
    assert data.train_images.dtype == torch.uint8
    assert data.train_images.max() == 255
    assert data.test_labels.bincount().min() >= 34
    images = data.train_images.float() / 255
    (mean,), (std,) = Digits.pixels.mean, Digits.pixels.std
    assert images.mean().item() == pytest.approx(mean, abs=0.01)
    assert images.std().item() == pytest.approx(std, abs=0.02)


def test_limits_take_a_fixed_subset() -> None:
    few = Digits(max_train=100, max_test=10).load()
    assert len(few.train_images) == len(few.train_labels) == 100
    assert torch.equal(few.test_images, Digits(max_test=10).load().test_images)
    assert len(few.train_labels.unique()) == 10


def test_data_are_read_once_per_process() -> None:
    assert load_data(Digits()) is load_data(Digits())


def write_idx(path: Path, values: np.ndarray, *, zipped: bool) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_fashion(folder: Path, *, zipped: bool = True) -> None:
    for part, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count * 28 * 28).reshape(count, 28, 28) % 256
        write_idx(folder / f"{part}-images-idx3-ubyte", images, zipped=zipped)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count), zipped=zipped)


@pytest.mark.parametrize(
    ("place", "zipped"), [("", True), ("fashion-mnist", True), ("FashionMNIST/raw", False)]
)
def test_fashion_mnist_is_found_under_root(tmp_path: Path, place: str, zipped: bool) -> None:
    write_fashion(tmp_path / place, zipped=zipped)
    data = FashionMNIST(root=str(tmp_path)).load()
    assert data.train_images.shape == (6, 1, 28, 28)
    assert data.test_labels.tolist() == [0, 1, 2, 3]
    assert data.train_images[0, 0, 0, :3].tolist() == [0, 1, 2]


def test_fashion_mnist_is_found_where_debian_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path / "debian")
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "debian")
    assert len(FashionMNIST(root=str(tmp_path / "nowhere")).load().train_labels) == 6


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network")


def test_fashion_mnist_that_is_nowhere_names_places_and_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FashionMNIST, "debian", tmp_path / "debian")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", no_network)
    with pytest.raises(DataError) as caught:
        FashionMNIST(root=str(tmp_path)).load()
    for part in (str(tmp_path), "debian", "no network", "apt-get install dataset-fashion-mnist"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("source", "name"), [(CIFAR10, "CIFAR10"), (GTSRB, "GTSRB")])
def test_other_downloads_fail_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: type, name: str
) -> None:
    monkeypatch.setattr(f"torchvision.datasets.{name}", no_network)
    with pytest.raises(DataError, match=rf"{name}: not found in .*use data.name=image-folder"):
        source(root=str(tmp_path)).load()


def test_a_damaged_idx_file_is_named(tmp_path: Path) -> None:
    write_fashion(tmp_path, zipped=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: not an idx file"):
        FashionMNIST(root=str(tmp_path)).load()


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_fashion(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        FashionMNIST(root=str(tmp_path)).load()


def write_folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for part in ("train", "test"):
        for value, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(2):
                color = (200 * value, 50, 0)
                Image.new("RGB", (20, 14), color).save(folder / f"{index}.png")


def test_image_folder_reads_resizes_and_counts_classes(tmp_path: Path) -> None:
    write_folder(tmp_path)
    source = ImageFolder(root=str(tmp_path), size=16)
    data = source.load()
    assert source.num_classes == 2
    assert source.input_shape == (3, 16, 16)
    assert data.train_images.shape == (4, 3, 16, 16)
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert data.test_images[3, :, 5, 5].tolist() == [200, 50, 0]
    assert ImageFolder(root=str(tmp_path), size=16, channels=1).load().test_images.shape[1] == 1


def test_pictures_stand_upright_as_their_camera_held_them(tmp_path: Path) -> None:
    write_folder(tmp_path)
    picture, turned = Image.new("L", (16, 16)), Image.Exif()
    picture.putpixel((0, 0), 255)
    turned[ExifTags.Base.Orientation] = 3  # upside down
    for file in (tmp_path / "test").glob("*/*.png"):
        picture.save(file, exif=turned)
    images = ImageFolder(root=str(tmp_path), size=16, channels=1).load().test_images
    assert images.flatten(1).argmax(1).eq(16 * 16 - 1).all()


def test_image_folder_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train: no such folder"):
        _ = ImageFolder(root=str(tmp_path / "none")).num_classes
    write_folder(tmp_path)
    (tmp_path / "train" / "cat" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png: not a readable picture"):
        ImageFolder(root=str(tmp_path)).load()
    (tmp_path / "train" / "cat" / "broken.png").unlink()
    Image.new("I;16", (16, 16), 40_000).save(tmp_path / "train" / "cat" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits a pixel"):
        ImageFolder(root=str(tmp_path)).load()
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(DataError, match="must hold the same classes"):
        ImageFolder(root=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 4}, "size must be at least 8"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"mean": (0.1, 0.2)}, "mean must have 1 or 3 numbers"),
        ({"max_train": 0}, "max_train must be at least 1"),
    ],
)
def test_image_folder_refuses(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolder(root="x", **fields)  # type: ignore[arg-type]
