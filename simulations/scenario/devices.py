"""Where a scenario computes."""

import torch


def pick_device(name: str) -> torch.device:
    """Return the device that a scenario names; "auto" is a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
