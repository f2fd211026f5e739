"""How strongly networks react to found patterns, beyond what the model sent out does."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import Pixels
from fl_defense.search.effects import gain_over_mean
from fl_defense.search.patterns import Pattern

LARGEST_GAIN = 1e6
"""Gains are cut off here: answers that overflow must be compared, too, and written down."""


@dataclass(frozen=True)
class Reaction:
    """What a pattern does to a network beyond what it does to the reference."""

    gain: float
    """Gain of the pattern's class over the mean of the classes, in spreads of the logits."""
    flipped: float
    """Share of scenes of other classes that turn into the class, less the reference's share."""
    turned: float
    """The same share, whatever the reference does."""


class Measure:
    """Measures reactions on scenes that no pattern was searched on.

    Args:
        reference: the model sent out.
        inputs: normalised scenes (N, C, H, W).
        pixels: normalisation of the inputs.
    """

    def __init__(self, reference: nn.Module, inputs: Tensor, pixels: Pixels) -> None:
        self._reference, self._inputs, self._pixels = reference, inputs, pixels
        self._images = pixels.denormalize(inputs).clamp(0, 1)
        self._plain = in_chunks(reference, inputs)
        self._changed: dict[Pattern, tuple[Tensor, Tensor]] = {}

    @property
    def plain(self) -> Tensor:
        """The reference's logits for the scenes, (N, K)."""
        return self._plain

    def answers(self, network: nn.Module) -> Tensor:
        """Return a network's logits for the scenes, (N, K), which `reactions` takes."""
        return in_chunks(network, self._inputs)

    def reactions(
        self,
        network: nn.Module,
        plain: Tensor,
        patterns: Sequence[Pattern],
        *,
        spread: float,
        num: int,
    ) -> list[Reaction]:
        """Return a network's reaction to each pattern.

        Args:
            network: what is measured.
            plain: its answers to the scenes.
            patterns: what the scenes are changed by.
            spread: what counts as a gain of 1, in logits.
            num: how many of the scenes are used.
        """
        return [
            self._reaction(network, plain[:num], pattern, spread=spread) for pattern in patterns
        ]

    def own_reactions(
        self, network: nn.Module, plain: Tensor, patterns: Sequence[Pattern], *, spread: float
    ) -> list[Reaction]:
        """Return a network's reaction to each pattern by itself, whatever the reference does.

        Args:
            network: what is measured.
            plain: its answers to the scenes.
            patterns: what the scenes are changed by.
            spread: what counts as a gain of 1, in logits.
        """
        reactions = []
        for pattern in patterns:
            changed = in_chunks(network, self._under(pattern)[0])
            gains = gain_over_mean(changed - plain).mean(0)
            gain = gains[pattern.label].nan_to_num(LARGEST_GAIN).item() / spread
            turned = _flipped(plain, changed, pattern.label)
            gain = min(max(gain, -LARGEST_GAIN), LARGEST_GAIN)
            reactions.append(Reaction(gain=gain, flipped=turned, turned=turned))
        return reactions

    def own_scores(
        self, network: nn.Module, patterns: Sequence[Pattern]
    ) -> list[tuple[float, float]]:
        """Return how a network reacts to patterns by itself.

        Returns:
            For each the gain, in bars of its family, and the share of scenes that it turns.
        """
        plain = self.answers(network)
        own = self.own_reactions(network, plain, patterns, spread=spread_of(plain))
        return [
            (reaction.gain / pattern.family.bar, reaction.turned)
            for pattern, reaction in zip(patterns, own, strict=True)
        ]

    def _reaction(
        self, network: nn.Module, plain: Tensor, pattern: Pattern, *, spread: float
    ) -> Reaction:
        num = len(plain)
        inputs, of_reference = (every[:num] for every in self._under(pattern))
        changed = in_chunks(network, inputs)
        before_change = self._plain[:num]
        gains = gain_over_mean((changed - plain) - (of_reference - before_change)).mean(0)
        gain = gains[pattern.label].nan_to_num(LARGEST_GAIN).item() / spread
        turned = _flipped(plain, changed, pattern.label)
        before = _flipped(before_change, of_reference, pattern.label)
        gain = min(max(gain, -LARGEST_GAIN), LARGEST_GAIN)
        return Reaction(gain=gain, flipped=turned - before, turned=turned)

    def _under(self, pattern: Pattern) -> tuple[Tensor, Tensor]:
        """Return the scenes under a pattern, and the reference's logits: computed once."""
        if pattern not in self._changed:
            inputs = self._pixels.normalize(pattern.apply(self._images))
            self._changed[pattern] = inputs, in_chunks(self._reference, inputs)
        return self._changed[pattern]


def spread_of(logits: Tensor) -> float:
    """Return how far the logits (N, K) of one scene lie apart: their mean standard deviation."""
    return float(logits.std(1).mean())


def _flipped(plain: Tensor, changed: Tensor, label: int) -> float:
    """Return the share of scenes of other classes that are taken for a class under a pattern.

    A network that takes every scene for it has none left to flip: that counts as all.
    """
    others = plain.argmax(1) != label
    if not bool(others.any()):
        return 1.0
    return float((changed.argmax(1) == label)[others].double().mean())
