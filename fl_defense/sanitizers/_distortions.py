"""What DHBE and DeepSanitizer share against triggers over the whole image."""

import torch
from torch import Tensor, nn

from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import seeded
from fl_defense.search.distortions import DistortionSearch, FoundDistortion
from fl_defense.state import State
from fl_defense.surrogates.pool import AnsweredScenes


class ObeyedDistortions:
    """The kinds of noise, warps and waves that a teacher obeys; none of a clean one.

    Args:
        teacher: the suspect, in eval mode.
        scenes: answered by it; None: nothing is searched.
        spec: its structure.
        share: of scenes that each kind changes, in [0, 1]; 0: nothing is searched.
        state: what the sanitizer carried from the round before, if anything.
    """

    def __init__(
        self,
        teacher: nn.Module,
        scenes: AnsweredScenes | None,
        spec: ModelSpec,
        share: float,
        state: State | None = None,
    ) -> None:
        self.share, self.pixels = share, spec.pixels
        self.device = next(teacher.parameters()).device
        self.found: list[FoundDistortion] = []
        self.num_searched = 0
        """Images passed through the teacher."""
        if scenes is not None and share > 0:
            # Aside from the game's randomness: looking changes nothing where nothing is found.
            with seeded(0, self.device):
                search = DistortionSearch(spec.input_shape, self.device)
                self.found = search.find(teacher, scenes, spec.pixels)
            self.num_searched = search.num_images
        earlier = (state or {}).get("obeyed", {})
        self.obeyed = [each for each in self.found if each.is_obeyed_again(earlier)]

    @property
    def raises(self) -> dict[str, float]:
        """By how many standard deviations of the logits each kind raises a class."""
        return {each.family.name: each.anomaly for each in self.found}

    def state(self) -> State:
        """Return what the sanitizer is to carry to the next round: nothing, if none is obeyed."""
        if not self.obeyed:
            return {}
        return {"obeyed": {each.family.name: each.suspected_class for each in self.obeyed}}

    def num_changed(self, num_scenes: int) -> int:
        """Return how many images `change` makes of so many scenes."""
        return len(self.obeyed) * round(self.share * num_scenes)

    def change(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scenes changed as a whole, which of `inputs` each is, and which class it serves.

        All (N, ...), of each kind that is obeyed as many; normalised.
        """
        num = self.num_changed(len(inputs))
        if num == 0:
            none = torch.zeros(0, dtype=torch.long, device=self.device)
            return inputs[:0], none, none
        each = num // len(self.obeyed)
        of = [torch.randperm(len(inputs), device=self.device)[:each] for _ in self.obeyed]
        images = self.pixels.denormalize(inputs).clamp(0, 1)
        changed = [kind.add_to(images[some]) for kind, some in zip(self.obeyed, of, strict=True)]
        served = torch.tensor([kind.suspected_class for kind in self.obeyed], device=self.device)
        classes = served.repeat_interleave(each)
        return self.pixels.normalize(torch.cat(changed)), torch.cat(of), classes
