from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from fl_defense.inspections import FreeEagle, TriggerSearch
from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import BCU, CLP, DHBE, DeepCleanse, DeepSanitizer, Pipeline
from fl_defense.surrogates.picture_folder import PictureFolder
from simulations.cli.main import app
from simulations.data import Digits
from simulations.engines import InProcessEngine
from simulations.federation.preflight import check_scenario
from simulations.models.small_cnn import SmallCNN
from simulations.scenario import ConfigError
from simulations.scenario.imports import Factory
from simulations.scenario.scenario import Clients, Repair, Scenario
from simulations.scenario.training import Training
from simulations.training.augmentation import Transform

SCENARIO = Scenario(
    name="tried",
    data=Digits(max_train=80, max_test=40),
    model=SmallCNN(width=4),
    clients=Clients(count=2),
    defense=Pipeline(steps=(CLP(), DHBE(), DeepSanitizer(), BCU(), DeepCleanse())),
    engine=InProcessEngine(),
)
RESNET = "torchvision.models:resnet18"
NO_BATCHNORM = SmallCNN(width=4, norm="none")


class Uncuttable(nn.Module):
    """Decides by its input, which torch.fx cannot follow, and calls no submodule."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        mean = inputs.mean((1, 2, 3))
        return mean[:, None] * (self.weight if mean.sum() > 0 else -self.weight)


class Auxiliary(nn.Module):
    """Answers twice in training, as GoogLeNet does; with `fails`, not at all."""

    def __init__(self, num_classes: int, fails: bool = False) -> None:
        super().__init__()
        self.network, self.fails = SmallCNN(width=4).build((1, 16, 16), num_classes), fails

    def forward(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits: Tensor = self.network(inputs)
        if not self.training:
            return logits
        if self.fails:
            raise RuntimeError("not in training")
        return logits, logits


AUXILIARY = "tests.simulations.federation.test_preflight:Auxiliary"
UNCUTTABLE = Factory(path="tests.simulations.federation.test_preflight:Uncuttable")


def fault_of(**update: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check_scenario(SCENARIO.model_copy(update=update))
    (fault,) = caught.value.faults
    assert "\n" not in fault
    return fault


def test_a_good_scenario_is_taken_and_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert len(check_scenario(SCENARIO).train_labels) == 80
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (Factory(path=RESNET), "model: takes no images of 1x16x16 (RuntimeError: Given groups=1"),
        (Factory(path=RESNET, arguments={"wdth": 3}),
         f"model: {RESNET} cannot be called with {{'num_classes': 10, 'wdth': 3}} (TypeError: "),
        (Factory(path="torch.nn:Identity"),
         "model: must answer one image with logits of shape (1, 10), got (1, 1, 16, 16)"),
        (Factory(path=AUXILIARY), "model: must answer with logits in training, too, got tuple"),
        (Factory(path=AUXILIARY, arguments={"fails": True}),
         "model: fails in training mode (RuntimeError: not in training)"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_the_images_is_refused(model: Factory, fault: str) -> None:
    assert fault_of(model=model).startswith(fault)


@pytest.mark.parametrize(
    ("update", "fault"),
    [
        ({"defense": DHBE(patch_size=20)}, "defense: patch_size must be at most the image's 16, got 20"),
        ({"defense": DeepSanitizer(patch_size=20)}, "defense: patch_size must be at most the image's 16, got 20"),
        ({"defense": CLP(), "model": NO_BATCHNORM}, "defense: CLP measures convolutions followed by BatchNorm"),
        ({"defense": Pipeline(steps=(BCU(), CLP())), "model": NO_BATCHNORM}, "defense: CLP measures"),
        ({"defense": DeepSanitizer(), "model": UNCUTTABLE}, "defense: torch.fx cannot trace Uncuttable"),
        ({"defense": DeepCleanse(), "model": UNCUTTABLE}, "defense: torch.fx cannot trace Uncuttable"),
        ({"defense": DeepSanitizer(), "repair": Repair(inspect_at="99")},
         "defense: the model has no submodule '99'; possible: 0, 1"),
        ({"defense": BCU(surrogate=PictureFolder(root="nowhere"))},
         "defense: surrogate: nowhere: must hold pictures, got none"),
        ({"defense": DHBE(), "model": UNCUTTABLE,
          "repair": Repair(schedule=Schedule(on_suspicion="history"), inspection=FreeEagle())},
         "repair.inspection: torch.fx cannot trace Uncuttable"),
        ({"defense": DeepSanitizer(),
          "repair": Repair(schedule=Schedule(on_suspicion=4), inspection=TriggerSearch(patch_size=17))},
         "repair.inspection: patch_size must be at most the image's 16, got 17"),
    ],
)  # fmt: skip
def test_a_defense_that_cannot_work_is_refused(update: dict[str, Any], fault: str) -> None:
    assert fault_of(**update).startswith(fault)


def test_a_defense_that_needs_no_cut_takes_any_network() -> None:
    check_scenario(SCENARIO.model_copy(update={"defense": DHBE(), "model": UNCUTTABLE}))


def test_the_command_says_it_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    path, out = tmp_path / "x.yaml", tmp_path / "out"
    path.write_text(SCENARIO.to_yaml())
    for setting in (f"model.name={RESNET}", "defense.1.patch-size=20"):
        done = CliRunner().invoke(app, ["run", str(path), "--set", setting, "--out", str(out)])
        assert done.exit_code == 2, done.output
        assert done.stderr.count("\n") == 1
        assert not out.exists()


@dataclass(frozen=True)
class Falling:
    """Learns less and less, and then no more."""

    def factor(self, server_round: int, rounds: int) -> float:
        return 2.0 - server_round


def test_training_that_cannot_work_is_refused() -> None:
    small = Transform(name="CenterCrop", arguments={"size": 8})
    for training, fault in (
        (Training(transforms=(small,)),
         r"training.transforms: must keep the shape \(1, 16, 16\), got \(1, 8, 8\)"),
        (Training(learning_rate_schedule=Falling()),
         "training.learning-rate-schedule: must give a positive rate in every round, got 0.0 in "
         "round 2; change its settings"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=fault):
            check_scenario(SCENARIO.model_copy(update={"training": training}))
