"""DeepCleanse's purifier: where the model looks is cut out and painted over."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model.hooks import observe_layers, removed_after
from fl_defense.model.spec import ModelSpec, Pixels
from fl_defense.model.split import possible_cuts
from fl_defense.sanitizers.deep_cleanse.completion import CompletionNetwork

Saliency = Literal["fused", "grad-cam"]


class Purifier(nn.Module):
    """Images (B, C, H, W) in [0, 1] in, images without the patch that decided the answer out.

    Args:
        model: what will classify the images; frozen and in eval mode.
        layers: names of the submodules whose maps are looked at.
        saliency: see `DeepCleanse`.
        pixels: how the model's inputs are normalised.
        completion: fills holes.
        threshold: saliency in (0, 1] from which a pixel is cut out.
        hole_limit: images of which a larger share would be cut out are left as they are.
    """

    hole_limit: Tensor

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        saliency: Saliency,
        pixels: Pixels,
        completion: CompletionNetwork,
        threshold: float,
        hole_limit: float = 1.0,
    ) -> None:
        super().__init__()
        self.model, self.completion = model, completion
        self.layers, self.saliency, self.pixels = tuple(layers), saliency, pixels
        self.threshold = threshold
        device = next(completion.parameters()).device
        self.register_buffer("hole_limit", torch.tensor(hole_limit, device=device))

    def forward(self, images: Tensor) -> Tensor:
        """Cut out and paint over."""
        holes = (self.salience(images) >= self.threshold).to(images.dtype)  # (B, 1, H, W)
        small = holes.mean((1, 2, 3), keepdim=True) <= self.hole_limit  # (B, 1, 1, 1)
        purified: Tensor = self.completion(images, holes * small)  # (B, C, H, W)
        return purified

    def salience(self, images: Tensor) -> Tensor:
        """Return where the model looks: (B, 1, H, W), 1 at the most salient place of each image.

        All zeros for an image that has no such place.
        """
        total = torch.zeros_like(images[:, :1])  # (B, 1, H, W)
        for maps, gradient in maps_and_gradients(
            self.model, self.layers, self.pixels.normalize(images)
        ):
            weights = gradient
            if self.saliency == "grad-cam":
                weights = gradient.mean((2, 3), keepdim=True)
            layer = (weights * maps).sum(1, keepdim=True).relu()  # (B, 1, h, w)
            layer = functional.interpolate(layer, images.shape[2:], mode="bilinear")  # (B, 1, H, W)
            total = total + _stretched(layer - layer.amin((2, 3), keepdim=True))
        return _stretched(total)


def maps_and_gradients(
    model: nn.Module, layers: Sequence[str], inputs: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the map of each layer, and the gradient of the predicted class's logit in it.

    Args:
        model: frozen and in eval mode, so that the images of a batch do not mix.
        layers: submodules through which everything passes, in order.
        inputs: normalised, (B, C, H, W).
    """
    seen: list[Tensor] = []

    def look(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Nothing before the first layer needs a gradient: the graph begins there.
        seen.append(output if output.requires_grad else output.detach().requires_grad_())
        # A copy, for what follows may work in place.
        return seen[-1].clone()

    hooks = [model.get_submodule(name).register_forward_hook(look) for name in layers]
    with removed_after(hooks), torch.enable_grad():
        predicted = model(inputs).amax(1)
        gradients = torch.autograd.grad(predicted.sum(), seen)
    return [(maps.detach(), gradient) for maps, gradient in zip(seen, gradients, strict=True)]


def layers_to_look_at(model: nn.Module, spec: ModelSpec, min_side: int) -> list[str]:
    """Return the last submodule of each map size that can be cut after, largest maps first.

    Left out are maps of the image's size, which show edges, and those with fewer than `min_side`
    cells a side; unless nothing else is left.

    Raises:
        ValueError: if the model cannot be traced, or has no map on its only path.
    """
    cuts = set(possible_cuts(model))
    calls = observe_layers(model, spec.input_shape, lambda name, _: name in cuts)
    sides = {call.name: min(call.output.shape[2:]) for call in calls if call.output.ndim == 4}
    if not sides:
        raise ValueError(f"DeepCleanse needs a feature map, got none in {type(model).__name__}")
    last_of_size = {side: name for name, side in sides.items()}
    largest = min(spec.input_shape[1:])
    fitting = {side: name for side, name in last_of_size.items() if min_side <= side < largest}
    chosen = fitting or last_of_size
    return [chosen[side] for side in sorted(chosen, reverse=True)]


def _stretched(salience: Tensor) -> Tensor:
    """Divide by the largest value of each image; zeros stay zeros."""
    stretched: Tensor = salience / salience.amax((2, 3), keepdim=True).clamp_min(1e-8)
    return stretched
