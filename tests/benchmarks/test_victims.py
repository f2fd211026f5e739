from pathlib import Path

import pytest
import torch

from benchmarks.controls import OtherData
from benchmarks.victims import Farm, NoImageLeftError, Setting


def test_what_a_victim_was_not_trained_on_is_the_rest(tmp_path: Path) -> None:
    farm = Farm(tmp_path, {}, torch.device("cpu"), max_test=20)
    setting = Setting(data="digits", trigger="clean", seed=0, max_train=1400)
    rest = farm.unlabelled(setting)
    assert len(rest) == 1437 - 1400
    trained_on = farm.sources.source("digits").read().train_images
    order = torch.randperm(1437, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rest, trained_on[order[1400:]])


def test_images_of_another_data_set_fit_the_victim(tmp_path: Path) -> None:
    farm = Farm(tmp_path, {}, torch.device("cpu"))
    images = farm.other(Setting(data="fashion-mnist", trigger="clean", seed=0))
    drawn = OtherData(images=images).draw(5, (3, 32, 32))
    assert drawn.shape == (5, 3, 32, 32)
    assert drawn.max() <= 1


@pytest.mark.parametrize("max_train", [None, 1437, 5000])
def test_a_victim_of_all_images_leaves_none(max_train: int | None, tmp_path: Path) -> None:
    farm = Farm(tmp_path, {}, torch.device("cpu"))
    setting = Setting(data="digits", trigger="clean", seed=0, max_train=max_train)
    with pytest.raises(
        NoImageLeftError, match="trained on all 1437 images of digits; give a lower"
    ):
        farm.unlabelled(setting)
