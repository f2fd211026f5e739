"""How much Flower says while a scenario runs."""

import logging
import os


def quiet_flower() -> None:
    """Show warnings of the defense, and errors of Flower; its progress report is ours to give."""
    flower = logging.getLogger("flwr")
    if "FLWR_LOG_LEVEL" not in os.environ:
        flower.setLevel(logging.ERROR)
    flower.getChild("fl_defense").setLevel(logging.WARNING)
