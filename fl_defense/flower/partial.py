"""Federations that send a part of the network: a head, adapters, all but personalised layers.

What is sent is what `initial_arrays` holds. The rest is the server's own copy: what the user gives
as `base`, or what `build` makes, if that is the same at each call. Defenses, screens and searches
see the whole network; only what is sent may change, and only that leaves the strategy.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fl_defense.flower.arrays import check_arrays
from fl_defense.model.spec import ModelSpec
from fl_defense.model.wrappers import unwrapping


class Part:
    """Which arrays are federated, and the network around them.

    Args:
        template: a model of the architecture; in eval mode. It gets the values of the rest, whose
            parameters are frozen.
        spec: structure of the model.
        base: values for the rest, by name; None: as `build` makes them.

    Raises:
        ValueError: if `base` is no state dict, or holds what does not fit the model.
    """

    def __init__(
        self, template: nn.Module, spec: ModelSpec, base: Mapping[str, Tensor] | None
    ) -> None:
        self.template, self.spec, self._base = template, spec, base
        self._unfrozen = {name for name, each in template.named_parameters() if each.requires_grad}
        self.has_begun = False
        """Whether it is known what is federated."""
        self.sent: tuple[str, ...] | None = None
        """Names of the arrays that are federated, in the model's order; None: all of them."""
        self.rest: Mapping[str, Tensor] = {}
        """The others, on the CPU."""
        if base is not None:
            _check_base(base, template)

    def begin(self, arrays: ArrayRecord) -> None:
        """Take these arrays for what is federated, and give the template the rest.

        Raises:
            ValueError: if they are not of the model, or what the rest is cannot be known.
        """
        check_arrays(arrays, self.spec, "initial_arrays")
        state = self.template.state_dict()
        rest = [name for name in state if name not in arrays]
        self.sent = tuple(name for name in state if name in arrays) if rest else None
        self._refuse_tied(rest)
        values = self._values_of(rest)
        self.template.load_state_dict(values, strict=False)
        for name, parameter in self.template.named_parameters():
            parameter.requires_grad_(name in self._unfrozen and name not in values)
        self.rest = {name: state[name].detach().clone() for name in rest}
        self.has_begun = True

    def digest(self) -> str:
        """Return what tells this rest from others; "" where all is sent."""
        if self.sent is None:
            return ""
        digest = hashlib.sha256()
        for name, value in self.rest.items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def whole(self, arrays: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a state dict of the whole network; each array is read when it is asked for."""
        return arrays if self.sent is None else WholeArrays(arrays, self.rest, self.template)

    def _values_of(self, rest: Sequence[str]) -> dict[str, Tensor]:
        if self._base is None:
            return self._built(rest)
        missing = [name for name in rest if name not in self._base]
        if missing:
            raise ValueError(
                f"base: must hold what initial_arrays leave out, got no {missing[0]!r}; give the "
                "state dict of the whole model"
            )
        return {name: self._base[name] for name in rest}

    def _built(self, rest: Sequence[str]) -> dict[str, Tensor]:
        """Return the rest as `build` makes it, if that is always the same and was ever trained."""
        if not rest:
            return {}
        states = []
        for seed in (0, 1):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                states.append(self.spec.build().state_dict())
        first, second = states
        cure = "give the server's own copy: base=model.state_dict()"
        for name in rest:
            if not torch.equal(first[name], second[name]):
                raise ValueError(
                    f"initial_arrays leave out {len(rest)} of {len(first)} arrays, and `build` "
                    f"makes {name!r} anew at each call; let it load trained weights, or {cure}"
                )
        weights = [first[name] for name in rest if first[name].is_floating_point()]
        if weights and all((each == each.flatten()[:1]).all() for each in weights):
            raise ValueError(
                f"initial_arrays leave out {len(rest)} of {len(first)} arrays, such as {rest[0]!r},"
                f" which are constants in what `build` makes, not what clients have trained; {cure}"
            )
        return {name: first[name] for name in rest}

    def _refuse_tied(self, rest: Sequence[str]) -> None:
        state = self.template.state_dict()
        of_sent = {state[name].data_ptr(): name for name in self.sent or () if state[name].numel()}
        for name in rest:
            other = of_sent.get(state[name].data_ptr())
            if other is not None and state[name].numel():
                raise ValueError(
                    f"initial_arrays: {name!r} must be sent, too: it is the same weight as "
                    f"{other!r}, which is"
                )


class WholeArrays(Mapping[str, Tensor]):
    """A state dict of the whole network, of arrays that are sent and the rest.

    Args:
        arrays: those that are sent.
        rest: the others.
        model: whose order the names have.
    """

    def __init__(
        self, arrays: Mapping[str, Tensor], rest: Mapping[str, Tensor], model: nn.Module
    ) -> None:
        self._arrays, self._rest = arrays, rest
        self._names = list(model.state_dict())

    def __getitem__(self, name: str) -> Tensor:
        """Return one array."""
        return self._rest[name] if name in self._rest else self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names, in the model's order."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._names)


def _check_base(base: object, model: nn.Module) -> None:
    if not isinstance(base, Mapping) or not all(isinstance(v, Tensor) for v in base.values()):
        raise ValueError(
            f"base: must be a state dict, got {type(base).__name__}; give model.state_dict()"
        )
    state = model.state_dict()
    for name, value in base.items():
        wanted = tuple(state[name].shape) if name in state else "absent"
        if wanted != tuple(value.shape):
            raise ValueError(
                f"base: {name!r} must be {wanted} as in the model that spec.build() makes, got "
                f"{tuple(value.shape)}; give that model's state dict{unwrapping(str(name))}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"base: {name!r} must be finite, got NaN or Inf; give another copy")
