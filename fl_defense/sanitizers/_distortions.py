"""Changes of a whole image that a trigger may consist of: noise, a warp, stripes.

A patch is searched by a generator. Over the whole image such a search finds universal adversarial
perturbations, which every network has, and never the trigger. Three narrow families are tried
instead. Noise and warps are drawn at random: a network that was taught to obey one of them obeys
its like as well. It obeys stripes of one frequency, direction and phase only; those are searched.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model_spec import ModelSpec, OnImages
from fl_defense.patch_search import TINY, remembered

OPACITY = 0.3
"""Largest weight of the noise against the image."""
WARP = 0.05
"""Largest mean displacement along each axis, as a share of the image's shorter side."""
WARP_GRIDS = (2, 6)
"""Fewest and most points of a warp's grid along each side."""
AMPLITUDE = 0.16
"""Largest change of a pixel in [0, 1] by stripes."""
WEAKEST = 0.25
"""Every change is drawn at a strength between this share of the largest and the largest."""
FIRST_STEPS = 8
"""Search steps for stripes before the game."""
FIRST_INPUTS = 64
"""Inputs per class in each of them."""
LEAST_STEP = 0.3
"""Frank-Wolfe's step never gets shorter: the network that is searched changes."""
MEMORY = 0.8
"""Share of the earlier estimate of a pattern's effect that each search step keeps."""
TOGETHER = 128
"""Images that are searched with in one pass."""


class Distortions:
    """Whole-image changes for normalised inputs (B, C, H, W)."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.pixels = spec.pixels
        self.stripes = Stripes(spec.num_classes, spec.input_shape, device)

    def search(self, network: nn.Module, inputs: Tensor, answers: Tensor) -> None:
        """Take one step towards the stripes that move `network` most; see `Stripes.search`."""
        self.stripes.search(OnImages(network, self.pixels), self._images(inputs), answers)

    def add_stripes_and_noise(self, inputs: Tensor) -> Tensor:
        """Return inputs of which the first two thirds have stripes and the others noise."""
        images = self._images(inputs)
        striped, noisy = images.tensor_split([len(images) - len(images) // 3])
        return self.pixels.normalize(torch.cat([self.stripes.add_to(striped), blend_noise(noisy)]))

    def warp(self, inputs: Tensor) -> Tensor:
        """Return inputs, each warped by a smooth field of its own."""
        return self.pixels.normalize(warp(self._images(inputs)))

    def _images(self, inputs: Tensor) -> Tensor:
        return self.pixels.denormalize(inputs).clamp(0, 1)


class Stripes:
    """For each class the stripes that raise it most.

    Frank-Wolfe over all mixtures of stripes whose pixels change by `AMPLITUDE` at most: the best of
    them along a gradient are those of the frequency at which the gradient's spectrum is largest.
    """

    def __init__(self, num_classes: int, shape: tuple[int, int, int], device: torch.device) -> None:
        self.patterns = torch.zeros(num_classes, *shape, device=device)
        """(K, C, H, W), to be added to images in [0, 1]."""
        self.effects = torch.ones(num_classes, device=device)
        """(K,): mean square by which a class's pattern raises it; how often it is drawn."""
        self._steps = 0

    def search(self, network: nn.Module, images: Tensor, answers: Tensor) -> None:
        """Take one step for every class that is tried.

        Args:
            network: from images in [0, 1] to logits (B, K).
            images: (B, C, H, W); each tries the pattern of one class, the classes in turn.
            answers: logits (B, K) without any pattern, those of the model before it was changed.
        """
        num_classes = len(self.patterns)
        order = torch.randperm(num_classes, device=images.device)
        classes = order.repeat(-(-len(images) // num_classes))[: len(images)]
        gradient, squares = torch.zeros_like(self.patterns), torch.zeros_like(self.effects)
        parts = (rows.split(TOGETHER) for rows in (images, answers, classes))
        for some, plain, of in zip(*parts, strict=True):
            patterns = self.patterns.clone().requires_grad_(True)
            logits = network((some + patterns[of]).clamp(0, 1))
            rise = _lead(logits, of) - _lead(plain, of)
            gradient += torch.autograd.grad(rise.sum(), patterns)[0]
            squares.index_add_(0, of, rise.detach().relu().square())

        tried = classes.bincount(minlength=num_classes)
        step = max(2 / (self._steps + 2), LEAST_STEP)
        moved = torch.lerp(self.patterns, AMPLITUDE * steepest_stripes(gradient), step)
        self.patterns = torch.where((tried > 0).view(-1, 1, 1, 1), moved, self.patterns)
        self.effects = remembered(self.effects, squares, tried, MEMORY)
        self._steps += 1

    def add_to(self, images: Tensor) -> Tensor:
        """Add patterns to images (B, C, H, W) in [0, 1]; strong ones are drawn more often."""
        chosen = torch.multinomial(self.effects + TINY, len(images), replacement=True)
        return (images + _strengths(images) * self.patterns[chosen]).clamp(0, 1)


def steepest_stripes(gradient: Tensor) -> Tensor:
    """Return for gradients (K, C, H, W) stripes of largest change 1 that ascend them most.

    With several channels the frequency at which their spectra are largest together, each channel in
    proportion to its own. A gradient that is the same everywhere has none: zeros.
    """
    num, channels, height, width = gradient.shape
    spectrum = torch.fft.rfft2(gradient).flatten(2)
    spectrum[..., 0] = 0  # no stripes: the same change everywhere
    peak = spectrum.abs().sum(1).argmax(1).view(num, 1, 1).expand(-1, channels, 1)
    alone = torch.zeros_like(spectrum).scatter_(2, peak, spectrum.gather(2, peak))
    stripes: Tensor = torch.fft.irfft2(alone.view(num, channels, height, -1), s=(height, width))
    return stripes / stripes.abs().amax((1, 2, 3), keepdim=True).clamp(min=TINY)


def blend_noise(images: Tensor) -> Tensor:
    """Blend a draw of uniform noise into each image (B, C, H, W) in [0, 1]."""
    return torch.lerp(images, torch.rand_like(images), OPACITY * _strengths(images))


def warp(images: Tensor) -> Tensor:
    """Warp each image (B, C, H, W) in [0, 1] by a smooth field of its own."""
    num, _, height, width = images.shape
    device = images.device
    points = int(torch.randint(WARP_GRIDS[0], WARP_GRIDS[1] + 1, ()))
    coarse = torch.rand(num, 2, points, points, device=device) * 2 - 1
    coarse = coarse / coarse.abs().mean((1, 2, 3), keepdim=True)
    pixels = WARP * min(height, width) * _strengths(images) * coarse
    field = functional.interpolate(pixels, (height, width), mode="bicubic", align_corners=True)
    rows = torch.linspace(-1, 1, height, device=device)
    columns = torch.linspace(-1, 1, width, device=device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    per_pixel = torch.tensor([2 / (width - 1), 2 / (height - 1)], device=device)
    sample_at = (torch.stack([x, y], -1) + field.permute(0, 2, 3, 1) * per_pixel).clamp(-1, 1)
    return functional.grid_sample(images, sample_at, align_corners=True).clamp(0, 1)


def _strengths(images: Tensor) -> Tensor:
    """Draw a strength per image, (B, 1, 1, 1)."""
    drawn = torch.rand(len(images), 1, 1, 1, device=images.device)
    return WEAKEST + (1 - WEAKEST) * drawn


def _lead(logits: Tensor, classes: Tensor) -> Tensor:
    """Return how far the logit of each row's class is above the row's mean, (B,)."""
    return logits.gather(1, classes[:, None])[:, 0] - logits.mean(1)
