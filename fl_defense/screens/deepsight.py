"""DeepSight: what was each client trained on? Clusters of alike replies are taken or left whole.

Idea: an attacker trains on few labels, and that shows in the output layer. Three views of a reply
are clustered by HDBSCAN: which outputs its update feeds (NEUP), what its answers to random noise
are beside those of the model sent out (DDif), and the direction of the output biases. Replies that
most views put together are one cluster. A reply is suspicious if few outputs exceed a threshold of
its update's energy; a cluster with too many suspicious replies is left out. What is kept is clipped
to the median norm.

Reference: Rieger, Nguyen, Miettinen and Sadeghi, "DeepSight: Mitigating Backdoor Attacks in
Federated Learning Through Deep Model Inspection", NDSS 2022, arXiv 2201.00763. Thresholds, seeds
and samples are the paper's.

Deviations: two replies can be a cluster, and a reply in none is judged alone. Norms are over
trained parameters, BatchNorm's statistics left aside. Without output biases their weights' updates
are compared.

Needs: single replies, so no secure aggregation; scikit-learn; a linear output layer. Cost:
`num_samples` forward passes of each reply and each seed: most of the time of a round.

Limits: skewed clients train on few labels, too, and are suspicious. An attacker who also trains on
clean images of all labels is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Screen, ScreenedRound, Screening, Verdict
from fl_defense.screens.clusters import hdbscan, require_hdbscan
from fl_defense.screens.networks import Networks
from fl_defense.screens.output_layer import output_layer
from fl_defense.screens.updates import (
    change,
    cosines_of,
    edited,
    median_of,
    names_of_weights,
    norm_of,
    too_few,
)
from fl_defense.state import State
from fl_defense.validation import require_at_least, require_declared, require_share

LEAST_PROBABILITY = 1e-30
"""Probabilities of the model sent out count as this at least: ratios must stay finite."""
LARGEST_RATIO = 1e30
"""Ratios of probabilities are cut off here."""
DRAWN_AT_ONCE = 1024
"""Noise images that are drawn together."""


@dataclass(frozen=True, kw_only=True)
class DeepSight(Screen):
    """Cluster replies by their output layers; leave out clusters trained on few labels.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> shares = suspicious_shares([0, 0, 0, 0, -1], [True, False, False, False, True])
        >>> [share >= DeepSight().suspicious_share for share in shares]
        [False, False, False, False, True]
    """

    num_samples: int = 20000
    """Noise images of each seed."""
    num_seeds: int = 3
    """Times that noise is drawn and clustered."""
    suspicious_share: float = 1 / 3
    """Share of suspicious replies from which on a cluster is left out (the paper's tau), in [0, 1].
    """
    least_energy: float = 0.01
    """An output counts if its energy exceeds this share of the largest, or one over the number of
    classes if that is more; in [0, 1]."""
    min_cluster_size: int = 2
    """Fewest replies of a cluster, at least 2; the others are judged alone."""
    least_replies: int = 3
    """Fewest replies that are compared, at least 3; with fewer the model sent out stays."""

    facts: ClassVar[Facts] = Facts(
        needs="single updates: no secure aggregation; scikit-learn; a linear output layer",
        changes="clusters of replies trained on few labels, which are left out; the rest is "
        "clipped",
        cost="60,000 forward passes of each reply",
        paper="Rieger et al., NDSS 2022, arXiv 2201.00763",
        limits="honest clients with few labels are suspicious; attackers with all labels are not",
    )

    def __post_init__(self) -> None:
        require_declared(self)
        require_at_least(self, num_samples=1, num_seeds=1, min_cluster_size=2, least_replies=3)
        require_share(self, "suspicious_share", "least_energy")

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse to work without scikit-learn, and networks without an output layer.

        Raises:
            ValueError: if one is missing.
        """
        require_hdbscan(self)
        output_layer(model, spec)

    def screen(
        self,
        shown: ScreenedRound,
        spec: ModelSpec,
        *,
        device: torch.device,
        state: State | None = None,
    ) -> Screening:
        """Judge the replies of a round; the score is the suspicious share of a reply's cluster."""
        del state
        few = too_few(shown, self.least_replies)
        if few is not None:
            return few
        biases, energies = _output_updates(shown, spec)
        shares = energies.square()
        shares = shares / shares.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        views = [self._apart(1 - cosines_of(biases @ biases.T)), self._apart(_distances(shares))]
        seen = [self._apart(_distances(each)) for each in self._differences(shown, spec, device)]
        views.append(torch.stack(seen).mean(0))
        clusters = hdbscan(torch.stack(views).mean(0), min_cluster_size=self.min_cluster_size)
        exceeding = exceedings(shares, self.least_energy)
        bar = median_of(exceeding) / 2
        suspicious = [count <= bar for count in exceeding]
        parts = suspicious_shares(clusters, suspicious)
        names = names_of_weights(spec)
        norms = [norm_of(reply, shown.sent, names) for reply in shown.replies]
        bound = median_of(norms)
        verdicts = []
        for reply, norm, part in zip(shown.replies, norms, parts, strict=True):
            if part >= self.suspicious_share:
                reason = f"{part:.0%} of its cluster were trained on few labels"
                verdicts.append(Verdict(weight=0.0, score=part, reason=reason))
            elif norm > bound:
                reason = f"update of norm {norm:.3g} was clipped to {bound:.3g}"
                arrays = edited(reply, shown.sent, names, bound / norm)
                verdicts.append(Verdict(score=part, reason=reason, arrays=arrays))
            else:
                verdicts.append(Verdict(score=part))
        return Screening(
            verdicts=tuple(verdicts),
            details={"clusters": clusters, "exceedings": exceeding, "max_norm": bound},
        )

    def _apart(self, distances: Tensor) -> Tensor:
        """Return 0 for pairs of replies in one cluster and 1 for others, (N, N)."""
        labels = hdbscan(distances, min_cluster_size=self.min_cluster_size)
        found = torch.tensor(labels)
        together = (found[:, None] == found[None, :]) & (found >= 0)
        return (~together).double().fill_diagonal_(0)

    def _differences(
        self, shown: ScreenedRound, spec: ModelSpec, device: torch.device
    ) -> list[Tensor]:
        """Return, for each seed, how much likelier each reply finds each class in noise, (N, K)."""
        networks = Networks(shown, spec, device)
        sent = networks.sent()
        seeds = torch.randint(2**31, (self.num_seeds,)).tolist()
        before = [self._probabilities(sent, spec, seed, device) for seed in seeds]
        rows: list[list[Tensor]] = [[] for _ in seeds]
        for reply in shown.replies:
            network = networks.reply(reply)
            for place, seed in enumerate(seeds):
                after = self._probabilities(network, spec, seed, device)
                ratio = (after / before[place].clamp_min(LEAST_PROBABILITY)).mean(0)
                rows[place].append(ratio.nan_to_num(LARGEST_RATIO).clamp(0, LARGEST_RATIO))
        return [torch.stack(each) for each in rows]

    def _probabilities(
        self, network: nn.Module, spec: ModelSpec, seed: int, device: torch.device
    ) -> Tensor:
        """Return a network's answers to the noise of a seed, (num_samples, K), in float64."""
        draw = torch.Generator().manual_seed(seed)
        answers = []
        for start in range(0, self.num_samples, DRAWN_AT_ONCE):
            num = min(DRAWN_AT_ONCE, self.num_samples - start)
            images = torch.rand(num, *spec.input_shape, generator=draw).to(device)
            logits = in_chunks(network, spec.pixels.normalize(images))
            answers.append(logits.cpu().double().softmax(1))
        return torch.cat(answers)


def exceedings(shares: Tensor, least: float) -> list[int]:
    """Return how many outputs of each reply have much of its update's energy (the paper's TE).

    Args:
        shares: of the energy, (N, K).
        least: share of the largest that counts, or 1 / K if that is more.

    Example:
        >>> exceedings(torch.tensor([[0.3, 0.3, 0.4], [0.96, 0.02, 0.02]]), 0.01)
        [3, 1]
    """
    bars = max(least, 1 / shares.shape[1]) * shares.max(1, keepdim=True).values
    return [int(count) for count in (shares > bars).sum(1)]


def suspicious_shares(clusters: Sequence[int], suspicious: Sequence[bool]) -> list[float]:
    """Return the share of suspicious replies in the cluster of each; one in none is alone."""
    shares = []
    for place, cluster in enumerate(clusters):
        mine = [each for other, each in zip(clusters, suspicious, strict=True) if other == cluster]
        mine = mine if cluster >= 0 else [suspicious[place]]
        shares.append(sum(mine) / len(mine))
    return shares


def _distances(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _output_updates(shown: ScreenedRound, spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """Return the updates of the output biases (N, K), and the energy of each output, (N, K)."""
    prefix, layer = output_layer(spec.build(), spec)
    dot = f"{prefix}." if prefix else ""
    biases, energies = [], []
    for reply in shown.replies:
        weight = change(reply, shown.sent, f"{dot}weight")
        energy = weight.abs().sum(1)
        if layer.bias is None:
            biases.append(weight.flatten())
        else:
            biases.append(change(reply, shown.sent, f"{dot}bias"))
            energy = energy + biases[-1].abs()
        energies.append(energy)
    return torch.stack(biases), torch.stack(energies)
