"""What an attacker knows of honest clients: its own and its colluders' honest training."""

import statistics

import torch

from simulations.attack.context import AttackContext, generator_of
from simulations.attack.updates import Arrays, norm_of, update_of

HONEST = 1
"""Sets the draws of honest training beside the attack apart from those of the attack."""


def honest_arrays(context: AttackContext, partition: int) -> Arrays:
    """Return what an attacker would send of this round if it were honest, on the CPU.

    All attackers get the same for the same partition.
    """
    model = context.received_model()
    images, labels = context.data_of(partition)
    draws = generator_of(context.seed, partition, context.server_round, HONEST)
    context.training.fit(model, images, labels, draws=draws)
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def honest_norm(context: AttackContext) -> float:
    """Return the median norm of the attackers' honest updates: an estimate of everybody's."""
    norms = []
    for partition in context.attackers:
        trained = honest_arrays(context, partition)
        norms.append(norm_of(update_of(trained, context.received, context.weights)))
    return statistics.median(norms)


def honest_moments(context: AttackContext) -> tuple[Arrays, Arrays, Arrays]:
    """Return mean and deviation of the attackers' honest updates, and one's whole arrays.

    The deviation is that of a population; of a single attacker's update it is 0.
    """
    sent = [honest_arrays(context, partition) for partition in context.attackers]
    updates = [update_of(trained, context.received, context.weights) for trained in sent]
    stacked = {name: torch.stack([update[name] for update in updates]) for name in updates[0]}
    mean = {name: values.mean(0) for name, values in stacked.items()}
    deviation = {name: values.std(0, correction=0) for name, values in stacked.items()}
    return mean, deviation, sent[0]
