"""What every method needs to train a copy of a network: seeds, copies, gradients."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed on the CPU and on `device`; the global random state stays as it is."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # Not torch.manual_seed: it would seed every GPU, also those that nobody restores.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose parameters take no gradient: a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that clients train; a frozen one is no defense's to change.

    Raises:
        ValueError: if there is none.
    """
    found = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError(
            "the model has no parameter that requires a gradient where the defense would change "
            "it; let `build` leave some unfrozen, and federate them"
        )
    return found


def require_image_gradient(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Refuse a network that passes no gradient back to its images: triggers are searched by it.

    Args:
        model: in eval mode.
        shape: (C, H, W) of an image.

    Raises:
        ValueError: if it does not.
    """
    device = next(model.parameters()).device
    with torch.enable_grad():
        image = torch.zeros(1, *shape, device=device, requires_grad=True)
        answer = model(image).sum()
        # Nothing at all, or weights alone, may be what the answer has a gradient of.
        passes = answer.requires_grad
        passes = passes and torch.autograd.grad(answer, image, allow_unused=True)[0] is not None
    if not passes:
        raise ValueError(
            "the model passes no gradient back to its images (torch.no_grad() or detach() in its "
            "forward?), along which triggers are searched; freeze layers by requires_grad_(False)"
        )


def require_gradients(parameters: list[nn.Parameter], required: bool) -> None:
    """Have gradients computed for these parameters, or not."""
    for parameter in parameters:
        parameter.requires_grad_(required)


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Have a network in eval mode for a while; then each of its modules is as it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
