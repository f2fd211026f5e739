"""The networks of a round: the model sent out, each reply, and means of replies."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fl_defense.model.precision import Execution
from fl_defense.model.spec import ModelSpec
from fl_defense.screens.base import Reply, ScreenedRound


class Networks:
    """Builds networks from arrays; at most one more than asked for is in memory.

    Args:
        shown: the round.
        spec: structure of the model.
        device: where networks compute.
    """

    def __init__(self, shown: ScreenedRound, spec: ModelSpec, device: torch.device) -> None:
        self._shown, self._spec, self._device = shown, spec, device
        self._one = spec.build()
        self._reply = self._executed(self._one)

    def sent(self) -> nn.Module:
        """Return the model sent out."""
        return self.of(self._shown.sent)

    def of(self, arrays: Mapping[str, Tensor]) -> nn.Module:
        """Return a model of its own with a state dict."""
        model = self._spec.build()
        model.load_state_dict(dict(arrays))
        return self._executed(model)

    def reply(self, reply: Reply) -> nn.Module:
        """Return a reply's model; the next call overwrites it."""
        self._one.load_state_dict(dict(reply.arrays))
        return self._reply

    def mean(self, replies: Sequence[Reply]) -> nn.Module:
        """Return the mean of replies, weighted by their numbers of examples."""
        total = sum(reply.num_examples for reply in replies)
        model = self._spec.build()
        arrays: dict[str, Tensor] = {}
        for reply in replies:
            for name in self._shown.sent:
                array = reply.arrays[name]
                if not array.is_floating_point():
                    arrays.setdefault(name, array)
                    continue
                share = array.double() * (reply.num_examples / total)
                arrays[name] = arrays[name] + share if name in arrays else share
        model.load_state_dict(arrays)
        return self._executed(model)

    def _executed(self, model: nn.Module) -> nn.Module:
        model = model.to(self._device).eval().requires_grad_(False)
        return Execution("float32", model, self._spec.input_shape).of(model)
