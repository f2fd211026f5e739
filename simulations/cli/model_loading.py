"""A network with the weights of a file, and how it answers before anything is asked of it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from fl_defense.model.deployed import DeployedModel, answers_alike, answers_finite
from fl_defense.model.files import ModelFileError, load_weights, read_weights
from fl_defense.model.spec import ModelSpec, try_model
from fl_defense.surrogates.scenes import scenes
from simulations.scenario import ConfigError
from simulations.scenario.devices import pick_device

NUM_TRIED = 64
"""Images to which a network must answer with numbers before anything is asked of it."""


def load_network(spec: ModelSpec, model_file: Path, device: str) -> nn.Module:
    """Return the network with the file's weights, in eval mode, on the device.

    Raises:
        ConfigError: if the network cannot be built, or the device is not there.
        ModelFileError: if the file cannot be used, or the network answers with NaN.
    """
    network = _build(spec, device)
    load_weights(network, read_weights(model_file), model_file)
    deployed = DeployedModel(network, spec.pixels)
    if not answers_finite(deployed, [_tried(spec, device)]).all():
        raise ModelFileError(
            f"{model_file}: the network answers with NaN or Inf; its weights are too large, or no "
            "network's: take an earlier file"
        )
    return network


def _tried(spec: ModelSpec, device: str) -> Tensor:
    """Return a few images to see how a network answers."""
    generator = torch.Generator().manual_seed(0)
    return scenes(NUM_TRIED, spec.input_shape, generator=generator).to(pick_device(device))


def notes_on(network: nn.Module, spec: ModelSpec, device: str) -> list[str]:
    """Return what must be known of a network before anything that is measured is believed."""
    if not answers_alike(DeployedModel(network, spec.pixels), [_tried(spec, device)]):
        return []
    return ["the network answers all images alike: nothing can be told from it"]


def _build(spec: ModelSpec, device: str) -> nn.Module:
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError([f"--device must be auto, cpu or cuda, got {device!r}"])
    if device == "cuda" and pick_device("auto").type != "cuda":
        raise ConfigError(["--device: cuda was asked for, but torch finds no GPU; use auto or cpu"])
    try:
        return try_model(spec).to(pick_device(device))
    except ValueError as error:
        raise ConfigError([f"model: {error}"]) from error
