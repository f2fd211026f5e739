"""What DHBE and DeepSanitizer share against triggers over the whole image."""

import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import seeded
from fl_defense.sanitizers._reference import Alone, Comparison
from fl_defense.search.distortions import (
    DistortionSearch,
    DistortionSettings,
    FoundDistortion,
    Measurement,
)
from fl_defense.state import State
from fl_defense.surrogates.pool import ScenePool


class ActiveDistortions:
    """The kinds of noise, warps and waves that a teacher reacts to; none of a clean one.

    Args:
        settings: how they are searched.
        spec: structure of the teacher.
        share: of scenes that each kind changes, in [0, 1]; 0: nothing is searched.
        device: where the images are.
    """

    def __init__(
        self, settings: DistortionSettings, spec: ModelSpec, share: float, device: torch.device
    ) -> None:
        self.settings, self.spec, self.share, self.device = settings, spec, share, device
        self.found: list[FoundDistortion] = []
        """The strongest of each family, active or not."""
        self.active: list[FoundDistortion] = []
        """Those that are to be unlearned."""

    def search(
        self,
        teacher: nn.Module,
        pool: ScenePool,
        comparison: Comparison,
        state: State | None = None,
    ) -> None:
        """Find what a teacher reacts to; nothing, if a logit of the scenes is not finite.

        Args:
            teacher: the suspect, in eval mode.
            pool: scenes with its logits.
            comparison: what of its reaction counts.
            state: what the sanitizer carried from the round before, if anything.
        """
        if self.share == 0 or not pool.logits.isfinite().all():
            return
        # Aside from the repair's randomness: looking changes nothing where nothing is found.
        with seeded(0, self.device):
            search = DistortionSearch(self.settings, self.spec.input_shape, self.device)
            measurement = Measurement(comparison.probe(teacher, pool), comparison.spread(pool))
            alone = isinstance(comparison, Alone)
            bar = None if alone else self.settings.bar_over_reference
            self.found = search.find(measurement, bar=bar)
        earlier = (state or {}).get("active_distortions", {})
        fraction = self.settings.repeat_fraction
        self.active = [each for each in self.found if each.is_still_active(earlier, fraction)]

    def details(self) -> dict[str, float]:
        """Return by how many standard deviations of the logits each kind lifts a class."""
        return {f"{each.family.name}_gain": each.gain for each in self.found}

    def state(self) -> State:
        """Return what the sanitizer is to carry to the next round: nothing, if none is active."""
        if not self.active:
            return {}
        classes = {each.family.name: each.suspected_class for each in self.active}
        return {"active_distortions": classes}

    def change(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scenes changed as a whole, which of `inputs` each is, and the suspected class.

        All (N, ...), of each active kind as many; normalised.
        """
        num = round(self.share * len(inputs))
        if num == 0 or not self.active:
            none = torch.zeros(0, dtype=torch.long, device=self.device)
            return inputs[:0], none, none
        of = [torch.randperm(len(inputs), device=self.device)[:num] for _ in self.active]
        images = self.spec.pixels.denormalize(inputs).clamp(0, 1)
        changed = [
            kind.add_to(images[indices], self.settings.strengths)
            for kind, indices in zip(self.active, of, strict=True)
        ]
        suspected = torch.tensor([kind.suspected_class for kind in self.active], device=self.device)
        classes = suspected.repeat_interleave(num)
        return self.spec.pixels.normalize(torch.cat(changed)), torch.cat(of), classes
