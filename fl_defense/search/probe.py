"""How patterns are tried on a network: on scenes whose plain logits are known."""

from typing import Protocol

from torch import Tensor, nn

from fl_defense.model.spec import Pixels
from fl_defense.surrogates.pool import ScenePool


class Probe(Protocol):
    """Scenes to try patterns on, and what a pattern does to the logits there."""

    def draw(self, num: int) -> Tensor:
        """Return the indices of scenes, (num,)."""

    def images(self, scenes: Tensor) -> Tensor:
        """Return the scenes of these indices (B,): images (B, C, H, W) in [0, 1]."""

    def logit_change(self, changed: Tensor, scenes: Tensor) -> Tensor:
        """Return the logits (B, K) of changed images less those of the scenes as they were.

        Args:
            changed: images (B, C, H, W) in [0, 1]; gradients pass back to them.
            scenes: which scenes they were, indices (B,).
        """


class NetworkProbe:
    """What patterns do to one network.

    Args:
        network: in eval mode.
        pool: scenes with the logits that patterns are compared with. They may be another
            network's: a student is compared with what its teacher says of plain scenes.
        pixels: normalisation of the network's inputs.
    """

    def __init__(self, network: nn.Module, pool: ScenePool, pixels: Pixels) -> None:
        self.network, self.pool, self.pixels = network, pool, pixels

    def draw(self, num: int) -> Tensor:
        """Return the indices of scenes, the pool's classes equally often."""
        return self.pool.draw(num)

    def images(self, scenes: Tensor) -> Tensor:
        """Return these scenes."""
        return self.pixels.denormalize(self.pool.inputs[scenes]).clamp(0, 1)

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits (B, K) for images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.network(self.pixels.normalize(images))
        return logits

    def logit_change(self, changed: Tensor, scenes: Tensor) -> Tensor:
        """Return what the change does to the network's logits."""
        return self.logits(changed) - self.pool.logits[scenes]


class DifferenceProbe:
    """What patterns do to one network more than to another one.

    Args:
        network: what is searched; its pool's scenes are drawn.
        reference: what it is compared with, on the same scenes in the same order.
    """

    def __init__(self, network: NetworkProbe, reference: NetworkProbe) -> None:
        self.network, self.reference = network, reference

    def draw(self, num: int) -> Tensor:
        """Return the indices of scenes, the network's classes equally often."""
        return self.network.draw(num)

    def images(self, scenes: Tensor) -> Tensor:
        """Return these scenes."""
        return self.network.images(scenes)

    def logit_change(self, changed: Tensor, scenes: Tensor) -> Tensor:
        """Return what the change does to the network's logits more than to the reference's."""
        own = self.network.logit_change(changed, scenes)
        return own - self.reference.logit_change(changed, scenes)
