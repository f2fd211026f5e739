"""What a client does in a round: honest or malicious, by partition id."""

from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_defense.model.precision import fastest_layout
from fl_defense.model.spec import Pixels
from fl_defense.model.training import seeded
from simulations.attack.base import Attack
from simulations.attack.context import AttackContext, Steps, generator_of
from simulations.attack.none import NoAttack
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
    memory: MutableMapping[str, Tensor] | None = None,
) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
    """Train the received model on one client's images, honest or poisoned.

    A function of its arguments on one device and thread count: all randomness comes from the
    scenario's seed, the partition and the round.

    Args:
        scenario: the experiment.
        partition_id: which client.
        server_round: counted from 1.
        received: the global model's arrays.
        proximal_mu: weight of FedProx's proximal term.
        memory: what a malicious client keeps from round to round, changed in place; None: nothing.

    Returns:
        The arrays to send, on the CPU, and the metrics; malicious clients report the same keys.
    """
    images, labels = _client_images(scenario, partition_id)
    device = pick_device(scenario.device)
    draws = generator_of(scenario.seed, partition_id, server_round)
    training = LocalSGD(scenario.training, scenario.data.pixels, draws, proximal_mu=proximal_mu)
    attackers = scenario.attackers(server_round)
    behaviour: Attack = scenario.attack if partition_id in attackers else NoAttack()
    threads = torch.get_num_threads()
    torch.set_num_threads(scenario.engine.cpus_per_client)
    try:
        with seeded(draws.initial_seed(), device):  # for dropout and the like
            model = scenario.model_spec().build()
            model.load_state_dict(received)
            context = AttackContext(
                partition=partition_id,
                server_round=server_round,
                attackers=attackers,
                malicious=scenario.malicious_clients,
                num_clients=scenario.clients.count,
                num_replies=scenario.num_replies,
                received=received,
                weights=frozenset(name for name, _ in model.named_parameters()),
                seed=scenario.seed,
                backdoors=scenario.backdoors,
                spec=scenario.model_spec(),
                training=training,
                data_of=partial(_client_images, scenario),
                memory={} if memory is None else memory,
                device=device,
            )
            images, labels = behaviour.poison(images, labels, context)
            loss = behaviour.train(model.to(device), images, labels, context)
            trained = {name: value.cpu() for name, value in model.state_dict().items()}
            arrays = behaviour.craft(trained, context)
    finally:
        torch.set_num_threads(threads)
    return arrays, {"num-examples": len(labels), "train-loss": loss}


class LocalSGD:
    """Local training with a scenario's settings: batches, optimiser, augmentation.

    Args:
        settings: the scenario's.
        pixels: how images become inputs.
        draws: shuffles and augments.
        proximal_mu: weight of FedProx's proximal term.
    """

    def __init__(
        self, settings: Training, pixels: Pixels, draws: torch.Generator, *, proximal_mu: float
    ) -> None:
        self._settings, self._pixels, self._draws = settings, pixels, draws
        self._proximal_mu = proximal_mu

    def fit(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        steps: Steps | None = None,
        *,
        draws: torch.Generator | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
    ) -> float:
        """Run local SGD in place; see `simulations.attack.context.LocalTraining`."""
        steps, draws = steps or Steps(), draws or self._draws
        settings, pixels = self._settings, self._pixels
        device = next(model.parameters()).device
        images, labels = images.to(device), labels.to(device)
        layout = fastest_layout(model.eval(), images.shape[1:])
        model.to(memory_format=layout)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate if learning_rate is None else learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        anchor = [parameter.detach().clone() for parameter in model.parameters()]
        model.train()
        mean_loss = 0.0
        for _ in range(settings.epochs if epochs is None else epochs):
            losses = []
            for batch in _batches(len(labels), settings.batch_size, draws):
                batch = batch.to(device)
                pictures = _augment(images[batch].float() / 255, settings, draws)
                inputs = pixels.normalize(pictures).to(memory_format=layout)
                loss = steps.loss(model, inputs, labels[batch])
                optimizer.zero_grad(set_to_none=True)
                (loss + self._proximal_term(model, anchor)).backward()
                steps.after_backward(model)
                optimizer.step()
                steps.after_step(model)
                losses.append(loss.detach())
            mean_loss = torch.stack(losses).mean().item()
        return mean_loss

    def _proximal_term(self, model: nn.Module, anchor: Sequence[Tensor]) -> Tensor | float:
        """Return FedProx's pull towards the received weights."""
        if self._proximal_mu == 0:
            return 0.0
        pairs = zip(model.parameters(), anchor, strict=True)
        return self._proximal_mu / 2 * sum((new - old).square().sum() for new, old in pairs)


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
