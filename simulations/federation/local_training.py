"""What a client does in a round: honest or malicious, by partition id."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model.precision import fastest_layout
from fl_defense.model.training import seeded
from simulations.data import load_data
from simulations.data.load import deal_out
from simulations.scenario.devices import pick_device
from simulations.scenario.scenario import Scenario, Training

CROP_PADDING = 4
"""Pixels by which the crop augmentation may shift an image."""


def train_client(
    scenario: Scenario,
    partition_id: int,
    *,
    server_round: int,
    received: Mapping[str, Tensor],
    proximal_mu: float = 0.0,
) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
    """Train the received model on one client's images, honest or poisoned.

    A pure function of its arguments on one device and thread count: all randomness comes from
    the scenario's seed, the partition and the round.

    Args:
        scenario: the experiment.
        partition_id: which client.
        server_round: counted from 1.
        received: the global model's arrays.
        proximal_mu: weight of FedProx's proximal term.

    Returns:
        The arrays to send, on the CPU, and the metrics; malicious clients report the same keys.
    """
    images, labels = _client_images(scenario, partition_id)
    attack = scenario.attack
    attacks = partition_id in scenario.malicious_clients and attack.is_active(server_round)
    if attacks:
        # The same images are poisoned in every round, as if the client's data set were.
        poisoning = _generator(scenario.seed, partition_id)
        images, labels = attack.poison(
            images, labels, scenario.backdoors, scenario.data.num_classes, poisoning
        )

    device = pick_device(scenario.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(scenario.engine.cpus_per_client)
    try:
        draws = _generator(scenario.seed, partition_id, server_round)
        with seeded(draws.initial_seed(), device):  # for dropout and the like
            model = scenario.model_spec().build()
            model.load_state_dict(received)
            loss = _train(
                model.to(device), images, labels, scenario, draws, proximal_mu=proximal_mu
            )
    finally:
        torch.set_num_threads(threads)
    trained = {name: value.cpu() for name, value in model.state_dict().items()}
    weights = {name for name, _ in model.named_parameters()}
    arrays = attack.craft(received, trained, weights) if attacks else trained
    return arrays, {"num-examples": len(labels), "train-loss": loss}


def _train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    scenario: Scenario,
    draws: torch.Generator,
    *,
    proximal_mu: float,
) -> float:
    """Run local SGD in place; returns the mean loss of the last epoch."""
    settings, pixels = scenario.training, scenario.data.pixels
    device = next(model.parameters()).device
    images, labels = images.to(device), labels.to(device)
    layout = fastest_layout(model.eval(), images.shape[1:])
    model.to(memory_format=layout)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    anchor = [parameter.detach().clone() for parameter in model.parameters()]
    model.train()
    mean_loss = 0.0
    for _ in range(settings.epochs):
        losses = []
        for batch in _batches(len(labels), settings.batch_size, draws):
            batch = batch.to(device)
            pictures = _augment(images[batch].float() / 255, settings, draws)
            inputs = pixels.normalize(pictures).to(memory_format=layout)
            loss = functional.cross_entropy(model(inputs), labels[batch])
            objective = loss
            if proximal_mu > 0:
                distance = sum(
                    (new - old).square().sum()
                    for new, old in zip(model.parameters(), anchor, strict=True)
                )
                objective = loss + proximal_mu / 2 * distance
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
            losses.append(loss.detach())
        mean_loss = torch.stack(losses).mean().item()
    return mean_loss


def _batches(num_images: int, batch_size: int, draws: torch.Generator) -> list[Tensor]:
    """Shuffle and cut; a last batch of one image is left out, for BatchNorm cannot take it."""
    batches = list(torch.randperm(num_images, generator=draws).split(batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def _augment(images: Tensor, settings: Training, draws: torch.Generator) -> Tensor:
    """Shift each image by a random offset, and mirror half of them."""
    if settings.augmentation == "none":
        return images
    num, _, height, width = images.shape
    offsets = torch.randint(2 * CROP_PADDING + 1, (2, num), generator=draws).to(images.device)
    padded = functional.pad(images, [CROP_PADDING] * 4)
    rows = offsets[0][:, None] + torch.arange(height, device=images.device)
    columns = offsets[1][:, None] + torch.arange(width, device=images.device)
    if settings.augmentation == "crop-flip":
        mirrored = torch.rand(num, generator=draws).to(images.device) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = torch.arange(num, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _client_images(scenario: Scenario, partition_id: int) -> tuple[Tensor, Tensor]:
    data = load_data(scenario.data)
    parts = deal_out(scenario.partition, scenario.data, scenario.clients.count, scenario.seed)
    mine = torch.from_numpy(parts[partition_id])
    return data.train_images[mine], data.train_labels[mine]


def _generator(*numbers: int) -> torch.Generator:
    """Return a generator seeded by several numbers, without the collisions of adding them."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(seed)
