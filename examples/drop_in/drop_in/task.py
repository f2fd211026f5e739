"""A user's own network, data and training; nothing here knows of a defense."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """A small network for 8x8 gray images of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(32 * 4, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        features = self.pool(functional.relu(self.conv1(inputs)))
        features = self.pool(functional.relu(self.conv2(features)))
        return self.fc(features.flatten(1))


def load_part(partition_id: int, num_partitions: int) -> tuple[Tensor, Tensor]:
    """Return every n-th digit, normalized, and the labels."""
    digits = load_digits()
    images = torch.tensor(digits.images[partition_id::num_partitions], dtype=torch.float32) / 16
    labels = torch.tensor(digits.target[partition_id::num_partitions])
    return (images[:, None] - 0.3) / 0.4, labels


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int = 5) -> float:
    """Train in place and return the last loss."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    net.train()
    loss = torch.zeros(())
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(32):
            loss = functional.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss.item()


@torch.no_grad()
def test(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy."""
    return (net.eval()(images).argmax(1) == labels).float().mean().item()
