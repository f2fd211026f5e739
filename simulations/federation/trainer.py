"""Local training with a scenario's settings: batches, optimizer, precision, augmentation."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fl_defense.model.precision import fastest_layout
from fl_defense.model.spec import Pixels
from simulations.attack.context import Steps
from simulations.scenario.training import Training
from simulations.training.augmentation import augment, transformed
from simulations.training.optimizers import build_optimizer


class Trainer:
    """Trains as an honest client does; attacks may bend single steps.

    Args:
        settings: the scenario's.
        pixels: how images become inputs.
        draws: shuffles and augments.
        learning_rate: of this round.
        proximal_mu: weight of FedProx's proximal term.
    """

    def __init__(
        self,
        settings: Training,
        pixels: Pixels,
        draws: torch.Generator,
        *,
        learning_rate: float,
        proximal_mu: float = 0.0,
    ) -> None:
        self._settings, self._pixels, self._draws = settings, pixels, draws
        self._learning_rate, self._proximal_mu = learning_rate, proximal_mu
        self._transforms = [each.build() for each in settings.transforms]

    def fit(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        steps: Steps | None = None,
        *,
        draws: torch.Generator | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
    ) -> float:
        """Train in place; see `simulations.attack.context.LocalTraining`."""
        steps, draws = steps or Steps(), draws or self._draws
        settings, pixels = self._settings, self._pixels
        device = next(model.parameters()).device
        images, labels = images.to(device), labels.to(device)
        layout = fastest_layout(model.eval(), images.shape[1:])
        model.to(memory_format=layout)
        optimizer = build_optimizer(
            settings.optimizer,
            model.parameters(),
            learning_rate=self._learning_rate if learning_rate is None else learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
        anchor = [parameter.detach().clone() for parameter in model.parameters()]
        model.train()
        mean_loss = 0.0
        for batches in self._passes(len(labels), draws, epochs):
            losses = []
            for batch in batches:
                batch = batch.to(device)
                pictures = augment(images[batch].float() / 255, settings.augmentation, draws)
                pictures = transformed(pictures, self._transforms, draws)
                inputs = pixels.normalize(pictures).to(memory_format=layout)
                with self._precision(device):
                    loss = steps.loss(model, inputs, labels[batch])
                optimizer.zero_grad(set_to_none=True)
                (loss + self._proximal_term(model, anchor)).backward()
                if settings.max_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
                steps.after_backward(model)
                optimizer.step()
                steps.after_step(model)
                losses.append(loss.detach())
            mean_loss = torch.stack(losses).mean().item()
        return mean_loss

    def _passes(
        self, num_images: int, draws: torch.Generator, epochs: int | None
    ) -> Iterator[Sequence[Tensor]]:
        """Yield the batches of each pass over the images; the last one ends with the last step."""
        epochs, left = epochs or self._settings.epochs, self._settings.steps
        if epochs is not None:
            for _ in range(epochs):
                yield _batches(num_images, self._settings.batch_size, draws)
            return
        assert left is not None
        while left > 0:
            batches = _batches(num_images, self._settings.batch_size, draws)[:left]
            left -= len(batches)
            yield batches

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        if self._settings.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def _proximal_term(self, model: nn.Module, anchor: Sequence[Tensor]) -> Tensor | float:
        """Return FedProx's pull towards the received weights."""
        if self._proximal_mu == 0:
            return 0.0
        pairs = zip(model.parameters(), anchor, strict=True)
        return self._proximal_mu / 2 * sum((new - old).square().sum() for new, old in pairs)


def _batches(num_images: int, batch_size: int, draws: torch.Generator) -> list[Tensor]:
    """Shuffle and cut; a last batch of one image is left out, for BatchNorm cannot take it."""
    batches = list(torch.randperm(num_images, generator=draws).split(batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches
