"""PGD: training that is projected back into a ball around the received model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_defense.validation import require_at_least, require_positive
from simulations.attack.badnets import BadNets
from simulations.attack.context import AttackContext, Steps
from simulations.attack.honest_training import honest_norm


@dataclass(frozen=True, kw_only=True)
class PGD(BadNets):
    """Attackers keep their update within a norm while they train (Wang et al., NeurIPS 2020).

    With the norm estimated from their own honest training no bound on norms tells them from honest
    clients; with a small `norm_share` they plant slowly. `boost` above 1 is the paper's PGD with
    model replacement, and leaves the ball.
    """

    norm: float | None = None
    """Euclidean norm of the update over all weights; null: the median of the attackers' honest
    updates, which they train for it in each round."""
    norm_share: float = 1.0
    """Factor on the norm: below 1 the attack is slower than honest training."""
    project_every: int = 2
    """Steps between two projections; after the last step comes another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "norm_share")
        require_at_least(self, project_every=1)
        if self.norm is not None:
            require_positive(self, "norm")

    def train(
        self, model: nn.Module, images: Tensor, labels: Tensor, context: AttackContext
    ) -> float:
        """Train within the ball."""
        norm = honest_norm(context) if self.norm is None else self.norm
        ball = _Ball(model, self.norm_share * norm, self.project_every)
        loss = context.training.fit(model, images, labels, ball)
        ball.project(model)
        return loss


class _Ball(Steps):
    """Pulls the weights back to where their distance to the first ones is `radius`."""

    def __init__(self, model: nn.Module, radius: float, every: int) -> None:
        self._start = [parameter.detach().clone() for parameter in model.parameters()]
        self._radius, self._every, self._taken = radius, every, 0

    def after_step(self, model: nn.Module) -> None:
        self._taken += 1
        if self._taken % self._every == 0:
            self.project(model)

    @torch.no_grad()
    def project(self, model: nn.Module) -> None:
        """Scale the update over all layers together, if it is too long."""
        pairs = list(zip(model.parameters(), self._start, strict=True))
        squares = torch.stack([(new - old).square().sum() for new, old in pairs])
        factor = self._radius / float(squares.sum().sqrt().clamp_min(1e-12))
        if factor < 1:
            for new, old in pairs:
                new.copy_(old + factor * (new - old))
