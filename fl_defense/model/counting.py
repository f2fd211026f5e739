"""Networks that count the images passed through them: a measured cost, whatever the machine."""

from torch import Tensor, nn


class CountingModel(nn.Module):
    """Answers as a network does, and counts.

    Forward passes alone are counted; a backward pass costs one to two of them on top.

    Args:
        network: what answers.
        share: what an image counts; a part of a network takes part of a pass.
    """

    def __init__(self, network: nn.Module, share: float = 1.0) -> None:
        super().__init__()
        self.network, self.share = network, share
        self.training = network.training
        self.forward_images = 0.0
        """Images passed forward so far, times `share`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer, and count the batch."""
        self.forward_images += self.share * len(inputs)
        outputs: Tensor = self.network(inputs)
        return outputs
