"""What a client does in a round: honest or malicious, by partition id."""

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

from fl_defense.model.training import seeded
from simulations.attack.base import Attack
from simulations.attack.context import AttackContext, generator_of
from simulations.attack.none import NoAttack
from simulations.data.load import ClientImages, client_images
from simulations.federation.trainer import Trainer
from simulations.scenario.devices import pick_device
from simulations.scenario.scenario import Scenario


def train_client(
    scenario: Scenario,
    partition_id: int,
    *,
    server_round: int,
    received: Mapping[str, Tensor],
    proximal_mu: float = 0.0,
    memory: MutableMapping[str, Tensor] | None = None,
    data: ClientImages | None = None,
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
        data: of all clients; None: as `images_of` returns them.

    Returns:
        The arrays to send, on the CPU, and the metrics; malicious clients report the same keys.
    """
    data = data or images_of(scenario)
    images, labels = data.of(partition_id)
    device = pick_device(scenario.device)
    draws = generator_of(scenario.seed, partition_id, server_round)
    training = Trainer(
        scenario.training,
        scenario.data.pixels,
        draws,
        learning_rate=scenario.training.rate(server_round, scenario.rounds),
        proximal_mu=proximal_mu,
    )
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
                data_of=data.of,
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


def images_of(scenario: Scenario) -> ClientImages:
    """Return the images of a scenario's clients, read and dealt out once per process."""
    return client_images(scenario.partition, scenario.data, scenario.clients.count, scenario.seed)
