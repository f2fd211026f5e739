from dataclasses import dataclass, field

import pytest
from torch import nn

from fl_defense.inspections import FreeEagle, Inspection, TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.rounds.verdict import RepairVerdict, exceeds, fitting, judge
from fl_defense.state import State


@dataclass(frozen=True, kw_only=True)
class Found:
    anomaly: float
    is_certain: bool = False
    kind: str = "patch"
    suspected_class: int = 3
    state: State = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Weighing(Inspection):
    """Finds the sum of a model's weights; notes its seeds."""

    bar: float | None = 1.0
    clear: float | None = None
    blind: str | None = None
    seeds: list[int] = field(default_factory=list)

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        if self.bar == 0:
            raise ValueError("images of 4x4 are too small")

    def bar_for(self, model: nn.Module, spec: ModelSpec) -> float | None:
        return self.bar

    def clear_for(self, model: nn.Module, spec: ModelSpec) -> float | None:
        return self.clear

    def blind_to(self, model: nn.Module, spec: ModelSpec) -> str | None:
        return self.blind

    def inspect(
        self, model: nn.Module, spec: ModelSpec, *, seed: int = 0, state: State | None = None
    ) -> Found:
        self.seeds.append(seed)
        return Found(anomaly=sum(each.sum().item() for each in model.parameters()))


def weighing(grams: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, grams)
    return model


SPEC = ModelSpec(build=nn.Identity, input_shape=(1, 8, 8), num_classes=10)


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (3.0, 0.5, "repaired"),
        (0.5, 0.5, "nothing found"),
        (3.0, 2.0, "not repaired"),
        (0.5, 2.0, "not repaired"),
        (3.0, 1.0, "repaired"),
    ],
)
def test_the_word_follows_from_what_is_left_and_what_was_there(
    before: float, after: float, word: str
) -> None:
    verdict = judge(Weighing(), SPEC, weighing(before), weighing(after), seed=7)
    assert verdict.word == word


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [(3.0, 0.5, "not verified"), (0.5, 0.5, "not verified"), (0.5, 2.0, "not repaired")],
)
def test_where_the_search_is_blind_nothing_is_called_repaired(
    before: float, after: float, word: str
) -> None:
    verdict = judge(Weighing(blind="too small"), SPEC, weighing(before), weighing(after), seed=7)
    assert verdict.word == word
    assert verdict.reason.startswith("too small; before: ") == (word == "not verified")
    assert verdict.details["not_calibrated"] == "too small"


@pytest.mark.parametrize(
    ("shape", "classes", "norm", "reason"),
    [
        ((1, 28, 28), 10, "batch", None),
        ((3, 80, 80), 43, "batch", None),
        ((1, 28, 27), 10, "batch", "images of 28x27, below 28 pixels"),
        ((3, 32, 81), 10, "batch", "images of 32x81, above 80 pixels"),
        ((3, 32, 32), 9, "batch", "9 classes, not 10 to 43"),
        ((3, 32, 32), 100, "batch", "100 classes, not 10 to 43"),
        ((3, 32, 32), 10, "none", "no BatchNorm that tells which scenes are familiar"),
        ((1, 16, 16), 2, "batch", "images of 16x16, below 28 pixels, 2 classes, not 10 to 43"),
    ],
)
def test_the_trigger_search_says_for_which_models_it_is_not_calibrated(
    shape: tuple[int, int, int], classes: int, norm: str, reason: str | None
) -> None:
    model: nn.Module = nn.BatchNorm2d(shape[0]) if norm == "batch" else nn.GroupNorm(1, shape[0])
    spec = ModelSpec(build=nn.Identity, input_shape=shape, num_classes=classes)
    wanted = reason and f"the search is not calibrated for such a model: {reason}"
    assert TriggerSearch().blind_to(model, spec) == wanted


def test_a_batchnorm_without_statistics_remembers_nothing() -> None:
    spec = ModelSpec(build=nn.Identity, input_shape=(3, 32, 32), num_classes=10)
    model = nn.BatchNorm2d(3, track_running_stats=False)
    assert "no BatchNorm" in str(TriggerSearch().blind_to(model, spec))


def test_a_verdict_that_will_say_nothing_is_told_before_any_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inspection = Weighing(blind="images of 8x8 are too small")
    assert fitting(inspection, weighing(1), SPEC) is inspection
    assert "no repair will count as verified: images of 8x8 are too small" in caplog.text


def test_both_models_are_inspected_on_the_same_scenes() -> None:
    inspection = Weighing()
    judge(inspection, SPEC, weighing(3), weighing(0), seed=7)
    assert inspection.seeds == [7, 7]


def test_what_is_released_as_it_was_is_inspected_once() -> None:
    inspection, suspect = Weighing(), weighing(3)
    verdict = judge(inspection, SPEC, suspect, suspect, seed=7)
    assert (verdict.word, inspection.seeds) == ("not repaired", [7])


def test_a_certain_finding_counts_below_the_bar() -> None:
    assert exceeds(Found(anomaly=0.1, is_certain=True), 3.0)
    assert not exceeds(Found(anomaly=3.0), 3.0)


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (3.0, 0.4, "repaired"),
        (0.4, 0.4, "nothing found"),
        (0.7, 0.4, "nothing found"),
        (3.0, 0.5, "repaired"),
        (3.0, 0.7, "not verified"),
        (0.7, 0.7, "not verified"),
        (0.4, 0.7, "not verified"),
        (0.7, 1.5, "not repaired"),
    ],
)
def test_what_lies_between_clean_models_and_the_bar_is_neither(
    before: float, after: float, word: str
) -> None:
    verdict = judge(Weighing(clear=0.5), SPEC, weighing(before), weighing(after), seed=7)
    assert verdict.word == word
    told = verdict.reason.startswith("more is left than in clean models, which lie below 0.5; ")
    assert told == (word == "not verified")


def test_a_verdict_says_what_was_there_and_what_is_left() -> None:
    verdict = RepairVerdict(
        found=Found(anomaly=8, suspected_class=2),
        left=Found(anomaly=1.25, kind="wave", suspected_class=5),
        bar=3.0,
        clear=1.5,
    )
    assert verdict.reason == (
        "before: patch to class 2, anomaly 8.00; after: wave to class 5, anomaly 1.25; bar 3"
    )
    assert verdict.details == {
        "bar": 3.0, "clear": 1.5,
        "found_kind": "patch", "found_class": 2, "found_anomaly": 8,
        "left_kind": "wave", "left_class": 5, "left_anomaly": 1.25,
    }  # fmt: skip


def test_an_inspection_without_a_bar_gives_no_verdict() -> None:
    with pytest.raises(ValueError, match="Weighing has no bar for such a model; take another"):
        judge(Weighing(bar=None), SPEC, weighing(3), weighing(0), seed=0)


@pytest.mark.parametrize(
    ("inspection", "reason"),
    [
        (Weighing(bar=None), "repairs are not verified: Weighing has no bar; give another"),
        (Weighing(bar=0), "repairs are not verified: images of 4x4 are too small; give another"),
    ],
)
def test_what_cannot_verify_is_left_out_and_told(
    inspection: Weighing, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert fitting(inspection, weighing(1), SPEC) is None
    assert reason in caplog.text


def test_what_fits_is_kept_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    inspection = Weighing()
    assert fitting(inspection, weighing(1), SPEC) is inspection
    assert fitting(None, weighing(1), SPEC) is None
    assert not caplog.text


def test_freeeagle_knows_no_bar_and_the_trigger_search_one_by_the_kind_of_model() -> None:
    large = ModelSpec(build=nn.Identity, input_shape=(3, 32, 32), num_classes=10)
    remembers, forgets = nn.BatchNorm2d(3), nn.GroupNorm(1, 3)
    assert FreeEagle().bar_for(remembers, large) is None
    assert FreeEagle().clear_for(remembers, large) is None
    search = TriggerSearch()
    assert search.bar_for(remembers, large) == 3.0
    assert search.bar_for(remembers, SPEC) == 6.0
    assert search.bar_for(forgets, large) == search.bar_without_statistics
    assert search.bar_for(forgets, SPEC) == search.bar_without_statistics
    assert search.clear_for(remembers, large) == search.clear_bar
    assert TriggerSearch(patch_bar=4.5).bar_for(remembers, large) == 4.5
    with pytest.raises(ValueError, match=r"clear_bar must be in \(0, patch_bar\], got 4"):
        TriggerSearch(clear_bar=4.0)
