"""IBA: a small network learns noise for each image that makes the model say the target."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from fl_defense.validation import require_at_least, require_positive
from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.learned_trigger import LearnedTrigger
from simulations.attack.triggers.base import Trigger
from simulations.attack.triggers.generated import Generated, add_noise
from simulations.attack.triggers.trained_generator import TrainedGenerator

GENERATOR = 7
"""Sets the draws of the generator's training apart from others."""


@dataclass(frozen=True, kw_only=True)
class IBA(LearnedTrigger):
    """Attackers learn a generator of triggers and plant its noise (Nguyen et al., NeurIPS 2023).

    In each attacked round the generator is trained first, so that the received model says the
    target; then the model is trained on images with its noise. Each image has noise of its own, at
    most the trigger's `epsilon`, which fades from attacked round to attacked round. The attackers
    of a round train it on the images of all of them, so that all plant the same. What is measured
    is the noise of the last attacked round: the server asks an attacker for the generator.
    """

    begins_with: ClassVar[type[Trigger]] = Generated
    what_is_learned: ClassVar[str] = "a generator of triggers"
    generator_epochs: int = 10
    """Passes over the attackers' images in each attacked round."""
    generator_rate: float = 0.001
    """Learning rate of the generator (Adam)."""
    generator_batch: int = 64
    """Images in each of its steps."""
    epsilon_fade: float = 0.001
    """By how much epsilon falls from one attacked round to the next."""
    least_epsilon: float = 0.05
    """Where it stops falling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, generator_epochs=1, generator_batch=1, epsilon_fade=0)
        require_positive(self, "generator_rate", "least_epsilon")

    def learn(self, index: int, backdoor: Backdoor, context: AttackContext) -> None:
        """Train the generator for another round."""
        rounds = context.memory.get(_rounds(index), torch.tensor(0)) + 1
        context.memory[_rounds(index)] = rounds
        context.memory[_weights(index)] = self._learn(index, backdoor, context)

    def learned(
        self, index: int, backdoor: Backdoor, memory: Mapping[str, Tensor]
    ) -> Backdoor | None:
        """Return the backdoor with the remembered generator."""
        if _weights(index) not in memory:
            return None
        generated = backdoor.trigger
        assert isinstance(generated, Generated)
        epsilon = self.epsilon(generated.epsilon, int(memory[_rounds(index)]))
        weights = memory[_weights(index)]
        trigger = TrainedGenerator(generated=generated, weights=weights, epsilon=epsilon)
        return replace(backdoor, trigger=trigger)

    def epsilon(self, start: float, attacked_rounds: int) -> float:
        """Return the bound of the noise in the so manieth attacked round, counted from 1."""
        faded = start - self.epsilon_fade * (attacked_rounds - 1)
        return max(faded, min(start, self.least_epsilon))

    def _learn(self, index: int, backdoor: Backdoor, context: AttackContext) -> Tensor:
        """Return the generator's weights after this round's training."""
        assert isinstance(backdoor.trigger, Generated)
        pairs = [context.data_of(attacker) for attacker in context.attackers]
        images, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        wanted = backdoor.wanted(labels, context.num_classes)
        moved = wanted != labels
        images, wanted = images[moved].to(context.device), wanted[moved].to(context.device)
        epsilon = self.epsilon(backdoor.trigger.epsilon, int(context.memory[_rounds(index)]))
        channels = context.spec.input_shape[0]
        known = self.learned(index, backdoor, context.memory)
        trigger = backdoor.trigger if known is None else known.trigger
        assert isinstance(trigger, Generated | TrainedGenerator)
        network = trigger.network(channels).to(context.device)
        model = context.received_model().eval().requires_grad_(False)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.generator_rate)
        draws = context.shared_generator(context.server_round, GENERATOR, index)
        for _ in range(self.generator_epochs):
            for some in torch.randperm(len(images), generator=draws).split(self.generator_batch):
                noisy = add_noise(network, images[some].float() / 255, epsilon)
                answers = model(context.spec.pixels.normalize(noisy))
                optimizer.zero_grad()
                functional.cross_entropy(answers, wanted[some]).backward()
                optimizer.step()
        return parameters_to_vector(network.parameters()).detach().cpu()


def _weights(index: int) -> str:
    """Name of a backdoor's generator in an attacker's memory."""
    return f"generator-{index}"


def _rounds(index: int) -> str:
    """Name of the number of rounds in which an attacker trained it."""
    return f"generator-rounds-{index}"
