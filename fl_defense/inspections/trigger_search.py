"""Trigger search: does some trigger take this model over, which, and towards which class?

Idea: in a backdoored model one patch at one place raises one class far beyond what patches do in
any network. So the strongest patch is searched for each place on procedural scenes (`PatchSearch`),
and what it does is measured on scenes that the search has not seen. The patch found is as good a
trigger as the attacker's, and often resembles it. Of triggers over the whole image, noise, warps
and waves are tried beside it (`DistortionSearch`); one that the model obeys is told instead of the
patch.

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
from fl_defense.model.precision import Execution
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import frozen_copy, require_image_gradient, seeded
from fl_defense.search.distortions import DistortionSearch, FoundDistortion
from fl_defense.search.effects import flipped, leads
from fl_defense.search.patches import PatchSearch, searched_side, trial_on
from fl_defense.state import State
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.pool import AnsweredScenes
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import require_at_least, require_declared

PATCH_BAR = 3.0
"""Anomaly that no patch reaches in a clean model of images of 28 pixels and more."""
NUM_FINALISTS = 8
"""Strongest patches that are measured at the end."""
NUM_JUDGES = 128
"""Scenes on which each of them is measured."""


@dataclass(frozen=True, kw_only=True)
class TriggerFinding:
    """The strongest trigger in a model, and what it does to scenes that it was not searched on."""

    anomaly: float
    """By how far it raises its class above the others, in standard deviations of the logits of a
    scene: 1 to 3 in clean models of images of 28 pixels and more, 3.4 to 13 in models in which a
    small patch turns every class. The strongest of eight, each measured on scenes of its own. Of
    noise, a warp or a wave: 3 times what it raises against the bar of its kind."""
    kind: Literal["patch", "noise", "warp", "wave"] = "patch"
    """What the trigger is."""
    suspected_class: int
    """The class that it raises."""
    flipped: float
    """Share of the scenes of other classes that it turns into this class."""
    place: tuple[int, int]
    """Row and column of its upper left corner; (0, 0) of what covers the whole image."""
    patch: Tensor
    """(C, side, side) in [-1, 1], on the CPU, to be added to images in [0, 1]. Of noise, a warp
    or a wave: what it changed in one of the scenes, (C, H, W)."""

    @property
    def is_certain(self) -> bool:
        """True of noise, warps and waves, which are told only if they are beyond their own bar."""
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
    """

    patch_size: int = 5
    """Side of the searched patch in pixels, 3 to the whole image."""
    num_scenes: int = 512
    """Scenes to search on; as many others are kept to measure on."""
    scenes_per_kept: int = 4
    """Scenes made for each one kept; those most familiar to the model's BatchNorm are kept."""
    steps: int = 20
    """Search steps at the strongest places, after the first ones everywhere."""
    batch_size: int = 96
    """Images in each of them."""

    facts: ClassVar[Facts] = Facts(
        cost="some 20,000 forward passes",
        paper="ours; asks what Neural Cleanse asks (Wang et al., IEEE S&P 2019)",
        limits="other triggers over the whole image; a patch that turns one class alone",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, patch_size=3, num_scenes=1, scenes_per_kept=1, steps=0, batch_size=1)

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse images that are too small, and networks that gradients do not pass.

        Raises:
            ValueError: if the patch is larger than the image, or no gradient comes back to images.
        """
        searched_side(self.patch_size, spec.input_shape)
        require_image_gradient(model, spec.input_shape)

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
        inputs = draw_familiar(Scenes(), model, spec, 2 * self.num_scenes, self.scenes_per_kept)
        # The most familiar come first: dealt out in turn, both halves are alike.
        answers = in_chunks(model, inputs)
        searched, judges = (AnsweredScenes(inputs[i::2], answers[i::2]) for i in (0, 1))
        if not all(each.answers.isfinite().all() for each in (searched, judges)):
            raise ValueError("the model's answers to scenes are not finite")
        patches = PatchSearch(spec.input_shape, self.patch_size, device)
        trial = trial_on(model, searched, spec.pixels)
        patches.search_everywhere(trial)
        for _ in range(self.steps):
            patches.search(trial, patches.choose(self.batch_size))
        finalists = patches.effects.argsort(descending=True, stable=True)[:NUM_FINALISTS].tolist()
        found = [_measure(patches, place, model, spec, judges) for place in finalists]
        distortions = DistortionSearch(spec.input_shape, device).find(model, searched, spec.pixels)
        found += [_whole(each, model, spec, judges) for each in distortions if each.is_obeyed]
        return max(found, key=lambda each: (each.is_certain, each.anomaly))


@torch.no_grad()
def _whole(
    found: FoundDistortion, model: nn.Module, spec: ModelSpec, judges: AnsweredScenes
) -> TriggerFinding:
    """Tell of a whole-image change that a model obeys as of a patch."""
    inputs, answers = judges.sample(NUM_JUDGES)
    images = spec.pixels.denormalize(inputs).clamp(0, 1)
    changed = found.add_to(images)
    label = found.suspected_class
    return TriggerFinding(
        anomaly=PATCH_BAR * found.anomaly / found.family.bar,
        kind=found.family.name,
        suspected_class=label,
        flipped=flipped(model(spec.pixels.normalize(changed)), answers, label),
        place=(0, 0),
        patch=(changed - images)[0].cpu(),
    )


@torch.no_grad()
def _measure(
    patches: PatchSearch, place: int, model: nn.Module, spec: ModelSpec, judges: AnsweredScenes
) -> TriggerFinding:
    inputs, answers = judges.sample(NUM_JUDGES)
    at = torch.full((NUM_JUDGES,), place, device=inputs.device)
    images = spec.pixels.denormalize(inputs).clamp(0, 1)
    patched = patches.paste(images, patches.patches[at], at)
    logits = model(spec.pixels.normalize(patched))
    lead = leads(logits - answers).mean(0)
    label = int(lead.argmax())
    row, column = patches.places[place].tolist()
    return TriggerFinding(
        anomaly=float(lead[label]) / judges.spread(),
        suspected_class=label,
        flipped=flipped(logits, answers, label),
        place=(row, column),
        patch=patches.patches[place].cpu(),
    )
