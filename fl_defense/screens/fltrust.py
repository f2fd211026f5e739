"""FLTrust without data: trust what points like an update that the server makes on scenes.

Idea: the server trains the model sent out on a root data set of its own. A reply is trusted by the
cosine of its update with the server's, nothing where that is negative, and scaled to the server's
norm. The published method needs clean data; this is **our data-free root variant**: the root set is
procedural scenes, labelled by the model sent out.

Reference: Cao, Fang, Liu and Gong, "FLTrust: Byzantine-robust Federated Learning via Trust
Bootstrapping", NDSS 2021, arXiv 2012.13995. The size of the root set is the paper's.

Deviations: the root set. Weights are factors on numbers of examples. The server trains with
BatchNorm's statistics as they were sent, which scenes would spoil. Cosines and norms are over
trained parameters.

Needs: single replies, so no secure aggregation; a model that has learned something, for its answers
are the labels. Cost: a little training on the server, one inner product per reply.

Limits: a baseline, no recommendation. Scenes labelled by the model teach it nothing new, so cosines
are small and say little; where the model is sure of its answers, the server's update and with it
every round's step is tiny. A backdoored model labels as it is.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import trainable
from fl_defense.progress import counted
from fl_defense.screens.base import Reply, Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.updates import (
    cosines_of,
    edited,
    inner_products,
    names_of_weights,
    norms_of,
)
from fl_defense.state import State
from fl_defense.surrogates.base import Surrogate
from fl_defense.surrogates.familiarity import draw_familiar
from fl_defense.surrogates.scenes import Scenes
from fl_defense.validation import require_at_least, require_declared, require_positive


@dataclass(frozen=True, kw_only=True)
class FLTrust(Screen):
    """Weigh replies by their cosine with an update that the server makes on labelled scenes.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> from fl_defense.screens import Reply
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> sent = {name: value.clone() for name, value in spec.build().state_dict().items()}
        >>> reply = Reply(node=7, arrays=sent, num_examples=10.0)
        >>> shown = ScreenedRound(number=1, sent=sent, replies=[reply])
        >>> said = FLTrust(num_images=8).screen(shown, spec, device=torch.device("cpu"))
        >>> said.verdicts[0].score, said.verdicts[0].weight  # it did not move
        (0.0, 0.0)
    """

    surrogate: Surrogate = field(default_factory=Scenes)
    """Where images of the root set come from."""
    num_images: int = 100
    """Images of the root set, drawn anew in each round."""
    candidates_per_image: int = 2
    """Images drawn for each one kept: those most familiar to the model sent out are kept."""
    epochs: int = 1
    """Passes of the server over the root set."""
    batch_size: int = 32
    """Images in one step of the server."""
    learning_rate: float = 0.05
    """Step size of the server's SGD; choose it like the clients', it sets the length of a round's
    step."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; a model that has learned something",
        changes="weights of replies by their direction, and all norms",
        cost="training on a hundred scenes; one inner product per reply",
        paper="Cao et al., NDSS 2021, arXiv 2012.13995; the data-free root is ours",
        limits="a baseline, no recommendation: its labels are the model's own",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, num_images=1, candidates_per_image=1, epochs=1, batch_size=1)
        require_positive(self, "learning_rate")

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the cosine with the server's update."""
        del state
        names = names_of_weights(spec)
        root = self._root(shown, spec, device)
        if not all(bool(value.isfinite().all()) for value in root.values()):
            return Screening.of_nobody(shown, keep_sent="the server's own update is not finite")
        own = Reply(node=-1, arrays=root, num_examples=1.0)
        together = ScreenedRound(
            number=shown.number, sent=shown.sent, replies=[*shown.replies, own]
        )
        products = inner_products(together, names)
        norms, cosines = norms_of(products).tolist(), cosines_of(products)[-1].tolist()
        length = norms[-1]
        if length == 0:
            return Screening.of_nobody(shown, keep_sent="the server's own update is zero")
        verdicts = []
        for reply, norm, cosine in zip(shown.replies, norms, cosines, strict=False):
            reason = f"cosine {cosine:.3g} with the server's update"
            if cosine <= 0:
                verdicts.append(Verdict(weight=0.0, score=cosine, reason=reason))
                continue
            arrays = edited(reply, shown.sent, names, length / norm)
            verdicts.append(
                Verdict(weight=cosine, score=cosine, reason=reason, arrays=arrays, suspects=False)
            )
        return Screening(verdicts=tuple(verdicts), details={"root_norm": length})

    def _root(
        self, shown: ScreenedRound, spec: ModelSpec, device: torch.device
    ) -> dict[str, Tensor]:
        """Return the state dict of the model sent out after training on the root set."""
        model = spec.build()
        model.load_state_dict(dict(shown.sent))
        model.to(device).eval()
        images = draw_familiar(
            self.surrogate, model, spec, self.num_images, self.candidates_per_image
        )
        labels = in_chunks(model, images).argmax(1)
        optimizer = torch.optim.SGD(trainable(model), lr=self.learning_rate)
        for _ in counted("training on scenes", range(self.epochs)):
            for some in torch.randperm(len(images)).to(device).split(self.batch_size):
                optimizer.zero_grad()
                with torch.enable_grad():
                    functional.cross_entropy(model(images[some]), labels[some]).backward()
                optimizer.step()
        return {name: value.detach().cpu() for name, value in model.state_dict().items()}
