"""A model as it is put into service, and the classes that it predicts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fl_defense.model.spec import Pixels


class DeployedModel(nn.Module):
    """A model as it is deployed: images in [0, 1] in, logits out.

    Purifies the images if a defense returned a purifier, normalises them, and classifies.
    """

    def __init__(self, model: nn.Module, pixels: Pixels, purify: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.pixels = pixels
        self.purify = purify

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, K)."""
        if self.purify is not None:
            images = self.purify(images)
        logits: Tensor = self.model(self.pixels.normalize(images))
        return logits


NO_CLASS = -1
"""What is predicted where a logit is NaN or Inf."""


@torch.no_grad()
def predict(classify: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Return the predicted class of every image, shape (N,), on the CPU.

    Where a logit is NaN or Inf it is `NO_CLASS`: argmax would name a class all the same.

    Args:
        classify: maps a batch to logits (B, K); used in eval mode; every module's mode is restored.
        batches: tensors that `classify` takes, already on its device.
    """
    with in_eval_mode(classify):
        return torch.cat([_classes(classify(batch)) for batch in batches]).cpu()


@torch.no_grad()
def answers_finite(classify: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Tell for every image whether all its logits are numbers, shape (N,), on the CPU."""
    with in_eval_mode(classify):
        return torch.cat([classify(batch).isfinite().all(dim=1) for batch in batches]).cpu()


@torch.no_grad()
def answers_alike(classify: nn.Module, batches: Iterable[Tensor]) -> bool:
    """Tell whether a model answers all images with the same logits: it looks at none."""
    with in_eval_mode(classify):
        logits = torch.cat([classify(batch) for batch in batches])
    return bool((logits == logits[:1]).all())


def _classes(logits: Tensor) -> Tensor:
    return logits.argmax(dim=1).where(logits.isfinite().all(dim=1), NO_CLASS)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode; afterwards each of its modules is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
