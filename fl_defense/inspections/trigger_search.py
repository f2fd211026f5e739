"""Trigger search: does some trigger take this model over, which, and towards which class?

Idea: in a backdoored model one patch at one place lifts one class far beyond what patches do in
any network. So the strongest patch is searched for each place on procedural scenes (`PatchSearch`),
and what it does is measured on scenes that the search has not seen. The patch found is as good a
trigger as the attacker's, and often resembles it. Of triggers over the whole image, noise, warps
and waves are tried beside it (`DistortionSearch`); an active one is reported instead of the patch.

Reference: ours. It asks what Neural Cleanse asks (Wang et al., IEEE S&P 2019), which optimises a
mask per class over the whole image and needs clean images.

Limit: other triggers over the whole image are not seen; a patch that turns one class alone is
mostly missed; in images above 80 pixels or so the places of small patches do not touch. What is
found is a fact about the model, not about its clients: it does not tell a planted patch from one
that the data taught.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.inspections.base import Inspection
from fl_defense.model.batches import in_chunks
from fl_defense.model.batchnorm import keeps_statistics
from fl_defense.model.precision import Execution
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import frozen_copy, require_image_gradient, seeded
from fl_defense.progress import counted
from fl_defense.search.distortions import (
    DistortionSearch,
    DistortionSettings,
    FoundDistortion,
    Measurement,
)
from fl_defense.search.effects import flip_rate, gain_over_mean
from fl_defense.search.family import FamilyName
from fl_defense.search.patches import PatchSearch, PatchSearchSettings, searched_side
from fl_defense.search.probe import NetworkProbe
from fl_defense.state import State
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import ScenePool
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import require, require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class TriggerFinding:
    """The strongest trigger in a model, and what it does to scenes that it was not searched on."""

    anomaly: float
    """By how much its class gains on the others, in standard deviations of the logits of a scene: 1
    to 3 in clean models of images of 28 pixels and more, 3.4 to 13 in models in which a small patch
    turns every class. The strongest of several, each measured on scenes of its own. Of noise, a
    warp or a wave: its gain against the bar of its kind, times that of patches."""
    kind: Literal["patch"] | FamilyName = "patch"
    """What the trigger is."""
    suspected_class: int
    """The class that it lifts."""
    flip_rate: float
    """Share of the scenes of other classes that it turns into this class."""
    place: tuple[int, int]
    """Row and column of its upper left corner; (0, 0) of what covers the whole image."""
    patch: Tensor
    """(C, side, side) in [0, 1], on the CPU: what it shows at its place. Of noise, a warp or a
    wave: what it changed in one of the scenes, (C, H, W) in [-1, 1]."""

    @property
    def is_certain(self) -> bool:
        """True of noise, warps and waves, which are reported only above their own bar."""
        return self.kind != "patch"

    @property
    def state(self) -> State:
        """Nothing: each round is searched afresh."""
        return {}


@dataclass(frozen=True, kw_only=True)
class TriggerSearch(Inspection):
    """The inspection's settings.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> quick = TriggerSearch(num_scenes=32, steps=2, num_candidates=2, patch_size=3)
        >>> found = quick.inspect(spec.build().eval(), spec)
        >>> found.patch.shape, found.suspected_class in range(3)
        (torch.Size([1, 3, 3]), True)
    """

    patch_size: int = 5
    """Side of the searched patch in pixels, 3 to the whole image."""
    num_scenes: int = 512
    """Scenes to search on; as many others are kept to measure on."""
    candidates_per_image: int = 4
    """Scenes made for each one kept; those most familiar to the model's BatchNorm are kept."""
    steps: int = 20
    """Search steps at the strongest places, after the first ones everywhere."""
    batch_size: int = 96
    """Images in each of them."""
    num_candidates: int = 8
    """Strongest patches that are measured at the end."""
    images_per_candidate: int = 128
    """Scenes, not searched on, on which each of them is measured."""
    patch_bar: float = 3.0
    """Anomaly that no patch reaches in a clean model of images of 28 pixels and more: that of
    noise, a warp or a wave at the bar of its kind."""
    bar_of_small_images: float = 6.0
    """The same for smaller images, of which a patch covers more: 1 of 20 clean networks of 16x16
    digits exceeds it."""
    bar_without_statistics: float = 18.0
    """The same for models without BatchNorm statistics, to which any scene is as familiar as
    another: clean ones reach 16.6."""
    clear_bar: float = 2.0
    """Anomaly up to which a model of images of 28 pixels and more, with BatchNorm, is like clean
    ones: what is left between it and `patch_bar` is told as "not verified"."""
    small_below: int = 28
    """Side in pixels below which an image is small. Of small images, and of models that the
    settings below leave out, the verdict is "not verified" below the bar."""
    large_above: int = 80
    """Side in pixels above which the places of a patch no longer touch."""
    calibrated_classes: tuple[int, int] = (10, 43)
    """Fewest and most classes of the models that the bars were compared with."""
    places: PatchSearchSettings = PatchSearchSettings()
    """How a patch is searched for each place."""
    distortions: DistortionSettings = DistortionSettings()
    """How whole-image triggers are searched."""

    facts: ClassVar[Facts] = Facts(
        cost="some 20,000 forward passes",
        paper="ours; asks what Neural Cleanse asks (Wang et al., IEEE S&P 2019)",
        limits="other triggers over the whole image; a patch that turns one class alone",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, patch_size=3, num_scenes=1, candidates_per_image=1, steps=0)
        require_at_least(self, batch_size=1, num_candidates=1, images_per_candidate=1)
        require_at_least(self, small_below=1)
        require_positive(self, "patch_bar", "bar_of_small_images", "bar_without_statistics")
        require(
            0 < self.clear_bar <= self.patch_bar, "clear_bar", "in (0, patch_bar]", self.clear_bar
        )
        require_at_least(self, large_above=self.small_below)
        fewest, most = self.calibrated_classes
        wanted = "two numbers from 2 on, ascending"
        require(2 <= fewest <= most, "calibrated_classes", wanted, self.calibrated_classes)

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse images that are too small, and networks that gradients do not pass.

        Raises:
            ValueError: if the patch is larger than the image, or no gradient comes back to images.
        """
        searched_side(self.patch_size, spec.input_shape)
        require_image_gradient(model, spec.input_shape)

    def bar_for(self, model: nn.Module, spec: ModelSpec) -> float:
        """Return the bar of small images, of models without statistics, or `patch_bar`.

        docs/results.md says how many clean networks of which kinds exceed it.
        """
        if not keeps_statistics(model):
            return max(self.bar_without_statistics, self.patch_bar)
        is_small = min(spec.input_shape[1:]) < self.small_below
        return self.bar_of_small_images if is_small else self.patch_bar

    def clear_for(self, model: nn.Module, spec: ModelSpec) -> float:
        """Return `clear_bar`; `blind_to` says of which models it is not."""
        del model, spec
        return self.clear_bar

    def blind_to(self, model: nn.Module, spec: ModelSpec) -> str | None:
        """Say so of images too small or too large, few or many classes, and without BatchNorm."""
        _, height, width = spec.input_shape
        fewest, most = self.calibrated_classes
        reasons = []
        if min(height, width) < self.small_below:
            reasons.append(f"images of {height}x{width}, below {self.small_below} pixels")
        if max(height, width) > self.large_above:
            reasons.append(f"images of {height}x{width}, above {self.large_above} pixels")
        if not fewest <= spec.num_classes <= most:
            reasons.append(f"{spec.num_classes} classes, not {fewest} to {most}")
        if not keeps_statistics(model):
            reasons.append("no BatchNorm that tells which scenes are familiar")
        if not reasons:
            return None
        return "the search is not calibrated for such a model: " + ", ".join(reasons)

    def inspect(
        self, model: nn.Module, spec: ModelSpec, *, seed: int = 0, state: State | None = None
    ) -> TriggerFinding:
        """Inspect a model, which stays untouched, on its own device.

        Args:
            model: the suspect.
            spec: its structure.
            seed: of all that is drawn; the global random state stays as it is.
            state: not used.

        Raises:
            ValueError: if the patch is larger than the image, or an answer is not finite.
        """
        del state
        suspect = frozen_copy(model)
        self.check(suspect, spec)
        device = next(model.parameters()).device
        with seeded(seed, device):
            computation = Execution("float32", suspect, spec.input_shape)
            return self._search(computation.of(suspect), spec, device)

    def _search(self, model: nn.Module, spec: ModelSpec, device: torch.device) -> TriggerFinding:
        inputs = draw_familiar(
            Scenes(), model, spec, 2 * self.num_scenes, self.candidates_per_image
        )
        # The most familiar come first: dealt out in turn, both halves are alike.
        logits = in_chunks(model, inputs)
        search_pool, held_out = (ScenePool(inputs[i::2], logits[i::2]) for i in (0, 1))
        if not logits.isfinite().all():
            raise ValueError("the model's answers to scenes are not finite")
        probe = NetworkProbe(model, search_pool, spec.pixels)
        patches = PatchSearch(self.places, spec.input_shape, self.patch_size, device)
        patches.search_everywhere(probe)
        for _ in counted("looking closer at patches", range(self.steps)):
            patches.step(probe, patches.choose(self.batch_size))
        order = patches.effects.argsort(descending=True, stable=True)
        judge = NetworkProbe(model, held_out, spec.pixels)
        found = [
            self._of_patch(patches, place, judge) for place in order[: self.num_candidates].tolist()
        ]
        distortions = DistortionSearch(self.distortions, spec.input_shape, device)
        measured = distortions.find(Measurement(probe, search_pool.spread()))
        found += [self._of_distortion(each, judge) for each in measured if each.is_active]
        return max(found, key=lambda each: (each.is_certain, each.anomaly))

    @torch.no_grad()
    def _of_distortion(self, found: FoundDistortion, judge: NetworkProbe) -> TriggerFinding:
        """Report an active whole-image trigger in the terms of a patch."""
        scenes = judge.draw(self.images_per_candidate)
        images = judge.images(scenes)
        changed = found.add_to(images, self.distortions.strengths)
        logits, plain = judge.logits(changed), judge.pool.logits[scenes]  # (N, K)
        label = found.suspected_class
        return TriggerFinding(
            anomaly=self.patch_bar * found.gain / found.bar,
            kind=found.family.name,
            suspected_class=label,
            flip_rate=flip_rate(logits, plain, label),
            place=(0, 0),
            patch=(changed - images)[0].cpu(),
        )

    @torch.no_grad()
    def _of_patch(self, patches: PatchSearch, place: int, judge: NetworkProbe) -> TriggerFinding:
        """Measure the patch of a place on scenes that it was not searched on."""
        scenes = judge.draw(self.images_per_candidate)
        places = torch.full_like(scenes, place)
        patched = patches.paste(judge.images(scenes), patches.patches[places], places)
        logits, plain = judge.logits(patched), judge.pool.logits[scenes]  # (N, K)
        gains = gain_over_mean(logits - plain).mean(0)  # (K,)
        label = int(gains.argmax())
        row, column = patches.places[place].tolist()
        return TriggerFinding(
            anomaly=float(gains[label]) / judge.pool.spread(),
            suspected_class=label,
            flip_rate=flip_rate(logits, plain, label),
            place=(row, column),
            patch=patches.patches[place].cpu(),
        )
