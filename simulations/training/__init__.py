"""How clients train: optimizers by name, and the learning rate over the rounds."""

from simulations.training.schedules import (
    Constant,
    Cosine,
    LearningRateSchedule,
    Listed,
    Step,
)

SCHEDULES: dict[str, type[LearningRateSchedule]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "list": Listed,
}
"""Learning-rate schedules by the name that a scenario gives."""

__all__ = ["SCHEDULES", "Constant", "Cosine", "LearningRateSchedule", "Listed", "Step"]
