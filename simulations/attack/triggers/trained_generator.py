"""A generated trigger whose network was trained, as attackers learn it: no name for scenarios."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from simulations.attack.triggers.generated import Generated


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedGenerator:
    """The noise of a network with these weights."""

    generated: Generated
    """Says what the network looks like."""
    weights: Tensor
    """All weights of the network in one row."""
    epsilon: float
    """Largest change of a pixel; it may have faded since the first round."""

    def check(self, input_shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the weights are not those of a network for images of (C, H, W)."""
        network = self.generated.network(input_shape[0])
        wanted = sum(parameter.numel() for parameter in network.parameters())
        if self.weights.numel() != wanted:
            raise ValueError(f"weights must be {wanted}, got {self.weights.numel()}")

    def network(self, channels: int) -> nn.Module:
        """Return the network with these weights, on the CPU."""
        network = self.generated.network(channels)
        vector_to_parameters(self.weights.detach().cpu(), network.parameters())
        return network

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of images (B, C, H, W) in [0, 1] with the noise."""
        return self.generated.stamp_by(self.network(images.shape[1]), images, self.epsilon)
