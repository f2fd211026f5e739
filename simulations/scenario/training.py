"""What a client does with a model in a round."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from simulations.scenario.errors import Fault, FaultsError
from simulations.scenario.parts import Part
from simulations.scenario.readers import CONFIG, Several
from simulations.scenario.tables import SCHEDULE
from simulations.training import Constant, LearningRateSchedule
from simulations.training.augmentation import Augmentation, Transform
from simulations.training.optimizers import OptimizerName

Precision = Literal["float32", "bfloat16"]


class Training(BaseModel):
    """What an honest client does with the model in a round.

    Example:
        >>> Training(epochs=2, learning_rate=0.01).batch_size
        32
        >>> Training(steps=50).epochs is None
        True
    """

    model_config = CONFIG
    epochs: int | None = Field(default=1, ge=1)
    """Passes over the client's images; null: `steps` are given."""
    steps: int | None = Field(default=None, ge=1)
    """Steps of the optimizer, however many images a client has, instead of epochs; null: epochs."""
    batch_size: int = Field(default=32, ge=2)
    """Images per step."""
    optimizer: OptimizerName = "sgd"
    """An optimizer of torch.optim, afresh in each round."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Of the optimizer; SGD's default is far too much for Adam and its kin, which take 0.001."""
    learning_rate_schedule: Annotated[LearningRateSchedule, SCHEDULE] = Constant()
    """How the learning rate changes over the rounds."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD and RMSprop; the first beta of Adam and its kin."""
    nesterov: bool = False
    """Nesterov's momentum; of SGD alone."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of the optimizer; AdamW takes it off the weights, others add it to the gradient."""
    max_gradient_norm: float | None = Field(default=None, gt=0)
    """Largest Euclidean norm of a step's gradient; a longer one is cut to it; null: no limit."""
    precision: Precision = "float32"
    """Of a step: bfloat16 computes where torch's autocast deems it safe; weights stay float32."""
    augmentation: Augmentation = "none"
    """Random shift by up to 4 pixels, and horizontal mirroring, after any trigger was stamped."""
    transforms: Annotated[tuple[Transform, ...], Several(Part(Transform))] = ()
    """Further augmentation, in order: random transforms of torchvision; none by default."""

    def rate(self, server_round: int, rounds: int) -> float:
        """Return the learning rate of a round, counted from 1, of so many.

        Example:
            >>> from simulations.training import Step
            >>> schedule = Step(every=2, decay=0.5)
            >>> Training(learning_rate=0.1, learning_rate_schedule=schedule).rate(3, rounds=4)
            0.05
        """
        return self.learning_rate * self.learning_rate_schedule.factor(server_round, rounds)

    @model_validator(mode="before")
    @classmethod
    def _steps_stand_for_epochs(cls, given: Any) -> Any:
        """Whoever gives steps need not say that there are no epochs."""
        if isinstance(given, Mapping) and given.get("steps") is not None:
            return {"epochs": None, **given}
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = []
        if self.epochs is not None and self.steps is not None:
            message = f"are given beside {self.epochs} epochs, got {self.steps}; drop one of them"
            faults.append(Fault("steps", message))
        if self.epochs is None and self.steps is None:
            faults.append(Fault("epochs", "null, and so are the steps; give one of them"))
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            got = f"{self.optimizer} with momentum {self.momentum:g}"
            message = f"needs sgd with a momentum above 0, got {got}; drop it or change them"
            faults.append(Fault("nesterov", message))
        if faults:
            raise FaultsError(faults)
        return self
