"""CLP: channel Lipschitzness-based pruning.

Idea: a channel that answers a trigger must turn a small change of its input into a large change of
its output. How large that change can be at most, the channel's Lipschitz constant, follows from
its weights alone; channels that stand out of their layer are switched off.

Reference: Zheng et al., "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022,
arXiv 2208.03111.

Deviations from the authors' code, each with its reason:
  1. A BatchNorm is paired with the convolution whose output it is given, observed in one forward
     pass of a blank image, instead of the convolution registered last, which is another one in
     pre-activation networks and some shortcuts. BatchNorms after anything else (a sum, say) have
     no filter to measure and are left alone.
  2. The running variance gets BatchNorm's epsilon, as in BatchNorm itself: a dead channel has
     variance 0.
  3. All filters of a layer are decomposed in one batched call.

Needs: nothing. Cost: one forward pass and one batched singular value decomposition per layer, well
under a second for a ResNet-18. The threshold stays at 3 for every attack; the paper's benchmarks
choose it on the test set.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_defense.facts import Facts
from fl_defense.model.hooks import observe_layers
from fl_defense.model.spec import ModelSpec
from fl_defense.model.training import trainable
from fl_defense.sanitizers.base import Sanitized, Sanitizer
from fl_defense.state import State
from fl_defense.validation import require_positive


@dataclass(frozen=True, kw_only=True)
class CLP(Sanitizer):
    """Channel Lipschitz pruning: no training, no images, under a second.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> from fl_defense import apply_sanitizer
        >>> from fl_defense.testing import small_spec
        >>> spec = small_spec()
        >>> repaired = apply_sanitizer(CLP(threshold=0.1), spec.build(), spec)
        >>> sorted(repaired.details)
        ['num_channels', 'num_pruned']
    """

    threshold: float = 3.0
    """Standard deviations above its layer's mean from which a channel is pruned (u), positive."""

    facts: ClassVar[Facts] = Facts(
        needs="BatchNorm",
        changes="a few BatchNorm channels",
        cost="under a second",
        paper="Zheng et al., ECCV 2022, arXiv 2208.03111",
        limits="networks whose convolutions have no BatchNorm",
    )

    def __post_init__(self) -> None:
        require_positive(self, "threshold")

    def check(self, model: nn.Module, spec: ModelSpec) -> None:
        """Refuse a network in which nothing can be measured.

        Raises:
            ValueError: if no convolution is followed by a BatchNorm that may be changed.
        """
        _measurable(model, spec)

    @torch.no_grad()
    def sanitize(
        self,
        suspect: nn.Module,
        spec: ModelSpec,
        state: State | None = None,
        reference: nn.Module | None = None,
    ) -> Sanitized:
        """Switch off the channels of `suspect` whose Lipschitz bound stands out of its layer.

        Raises:
            ValueError: if no convolution is followed by a BatchNorm that may be changed.
        """
        del state, reference
        model = copy.deepcopy(suspect)
        num_channels = num_pruned = 0
        for convolution, batchnorm in _measurable(model, spec):
            bounds = channel_lipschitz_bounds(convolution, batchnorm)
            outlying = bounds > bounds.mean() + self.threshold * bounds.std()
            batchnorm.weight[outlying] = 0
            batchnorm.bias[outlying] = 0
            num_channels += len(bounds)
            num_pruned += int(outlying.sum())
        return Sanitized(
            model=model,
            details={"num_channels": float(num_channels), "num_pruned": float(num_pruned)},
        )


def _measurable(model: nn.Module, spec: ModelSpec) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return the pairs whose BatchNorm may be changed; raise ValueError if there is none."""
    pairs = convolutions_with_batchnorm(model, spec.input_shape)
    if not pairs:
        raise ValueError(
            "CLP measures convolutions followed by BatchNorm, got a network "
            f"({type(model).__name__}) that has none; use another defense, for example dhbe"
        )
    trainable(nn.ModuleList(batchnorm for _, batchnorm in pairs))
    return [pair for pair in pairs if pair[1].weight.requires_grad]


def convolutions_with_batchnorm(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return each convolution with the BatchNorm that is given its very output, in forward order.

    Left out are BatchNorms that have no running statistics or cannot switch a channel off.
    """
    calls = observe_layers(
        model, input_shape, lambda _, layer: isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
    )
    convolutions = [call for call in calls if isinstance(call.layer, nn.Conv2d)]
    pairs = [
        (earlier.layer, call.layer)
        for call in calls
        for earlier in convolutions
        if isinstance(earlier.layer, nn.Conv2d)
        and isinstance(call.layer, nn.BatchNorm2d)
        and call.layer.affine
        and call.layer.running_var is not None
        and call.is_given_output_of(earlier)
    ]
    return list(dict.fromkeys(pairs))


def channel_lipschitz_bounds(convolution: nn.Conv2d, batchnorm: nn.BatchNorm2d) -> Tensor:
    """Return an upper bound of each output channel's Lipschitz constant, shape (C,).

    The largest singular value of the channel's filter, as an input-channels x kernel matrix, times
    the factor by which BatchNorm scales the channel.
    """
    assert batchnorm.running_var is not None
    largest = torch.linalg.matrix_norm(convolution.weight.flatten(2), ord=2)
    scale = batchnorm.weight.abs() / (batchnorm.running_var + batchnorm.eps).sqrt()
    bounds: Tensor = largest * scale
    return bounds
