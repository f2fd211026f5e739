"""Which arrays are a network's output layer."""

from torch import nn

from fl_defense.model.spec import ModelSpec


def output_layer(model: nn.Module, spec: ModelSpec) -> tuple[str, nn.Linear]:
    """Return the last linear layer that gives one number per class, and its name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> from fl_defense.testing import small_spec
        >>> output_layer(small_spec().build(), small_spec())
        ('9', Linear(in_features=32, out_features=3, bias=True))
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == spec.num_classes
    ]
    if not found:
        raise ValueError(
            f"has no output layer: no linear layer with {spec.num_classes} outputs, one per class"
        )
    return found[-1]


def names_of_output_layer(model: nn.Module, spec: ModelSpec) -> frozenset[str]:
    """Return the names of the output layer's parameters in the state dict.

    Raises:
        ValueError: if there is no output layer.
    """
    prefix, layer = output_layer(model, spec)
    return frozenset(f"{prefix}.{name}" if prefix else name for name, _ in layer.named_parameters())
