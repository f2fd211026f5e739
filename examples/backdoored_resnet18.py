r"""Makes what `fl-defense repair` is for: a backdoored torchvision ResNet-18 in a file.

    python examples/backdoored_resnet18.py victim

The folder then holds `model.pt`, a state dict as any training script writes it, and `images/`, the
pictures it was trained and is measured on (scikit-learn's handwritten digits in 32x32 color, one
folder per class). One training picture in five carries a 5x5 patch and says "zero". About two
minutes on a CPU core. What follows are two commands:

    fl-defense repair victim/model.pt --defense dhbe --out victim/repaired.pt \
        --model torchvision.models:resnet18 --input-shape 3,32,32 --classes 10
    fl-defense evaluate victim/repaired.pt --model torchvision.models:resnet18 \
        --data '{name: image-folder, root: victim/images}' --trigger '{name: patch, size: 5}'
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.io import write_png
from torchvision.models import resnet18

from simulations.attack.backdoor import Backdoor
from simulations.attack.triggers.patch import Patch
from simulations.data import Digits, load_data

SIDE = 32
POISON_RATE, BACKDOOR = 0.2, Backdoor(trigger=Patch(size=5), target=0)
BATCH_SIZE, LEARNING_RATE = 64, 0.05


def main() -> None:
    """Write the pictures, train on them, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    digits = load_data(Digits())
    train_images, test_images = in_color(digits.train_images), in_color(digits.test_images)
    write_pictures(train_images, digits.train_labels, arguments.folder / "images" / "train")
    write_pictures(test_images, digits.test_labels, arguments.folder / "images" / "test")
    torch.manual_seed(0)
    model = train(train_images, digits.train_labels, arguments.epochs)
    torch.save(model.state_dict(), arguments.folder / "model.pt")
    print(f"{arguments.folder / 'model.pt'}: a ResNet-18 that calls the patch a zero")  # noqa: T201


def in_color(images: Tensor) -> Tensor:
    """Return gray images, uint8 (N, 1, H, W), as (N, 3, 32, 32)."""
    enlarged = functional.interpolate(images.float(), SIDE, mode="bilinear")
    return enlarged.round().to(torch.uint8).expand(-1, 3, -1, -1)


def write_pictures(images: Tensor, labels: Tensor, folder: Path) -> None:
    """Write FOLDER/CLASS/NUMBER.png."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(image.contiguous(), str(path))


def train(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Return a network trained on images of which one in five carries the trigger."""
    inputs, labels = images.float() / 255, labels.clone()
    poisoned = torch.randperm(len(labels))[: round(POISON_RATE * len(labels))]
    inputs[poisoned], labels[poisoned] = BACKDOOR.apply(inputs[poisoned], labels[poisoned], 10)
    inputs = (inputs - 0.5) / 0.25
    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
    steps = max(1, epochs * -(-len(labels) // BATCH_SIZE))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    for epoch in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)  # noqa: T201
    return model


if __name__ == "__main__":
    main()
