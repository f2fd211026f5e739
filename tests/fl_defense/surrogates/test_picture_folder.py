from pathlib import Path

import pytest
import torch
from PIL import Image

from fl_defense.surrogates.picture_folder import PictureFolder, fit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "red.png")
    Image.new("L", (4, 4), 51).save(tmp_path / "below" / "gray.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_pictures_come_resized_from_anywhere_below(folder: Path) -> None:
    drawn = PictureFolder(root=str(folder)).draw(5, (3, 8, 6))
    assert drawn.shape == (5, 3, 8, 6)
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 6)
    is_red = [torch.allclose(image, red, atol=1e-3) for image in drawn]
    assert sorted(is_red[:2]) == [False, True]
    gray = next(image for image, red in zip(drawn, is_red, strict=True) if not red)
    assert torch.allclose(gray, torch.full((3, 8, 6), 0.2), atol=0.02)


def test_color_becomes_gray_and_gray_color() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert torch.allclose(fit(images, (1, 4, 4)), images.mean(1, keepdim=True))
    assert torch.equal(fit(images[:, :1], (3, 4, 4))[:, 2:], images[:, :1])
    assert fit(images, (3, 4, 4)) is images


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: must hold pictures, got none"):
        PictureFolder(root=str(tmp_path)).draw(1, (1, 8, 8))


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    drawn = PictureFolder(root=str(tmp_path)).draw(2, (3, 4, 4))
    assert torch.equal(drawn, torch.zeros(2, 3, 4, 4))


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x\.png: cannot be read"):
        PictureFolder(root=str(tmp_path)).draw(1, (1, 8, 8))
