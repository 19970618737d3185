"""What a validation finds, as a line of validation.jsonl holds it."""

from dataclasses import dataclass

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Action errors in model units within which a sampled timestep counts as right (open-pi-zero, eval_thresholds)."""


@dataclass(frozen=True)
class RobotError:
    """How far sampled actions are from recorded ones, for one robot."""

    robot: str
    """Name of its embodiment."""
    actions: tuple[str, ...]
    """Names of its action dimensions."""
    error: tuple[float, ...]
    """Mean absolute error of each, in the robot's units."""
    model_error: tuple[float, ...]
    """The same in model units."""


@dataclass(frozen=True)
class Validation:
    """One line of validation.jsonl. Padded dimensions and timesteps after the end of an episode do not count.

    All but `raw_loss` is of the weights that a checkpoint holds: of their average, where there is one.
    """

    step: int
    """Optimiser steps done."""
    loss: float
    """Flow matching loss."""
    raw_loss: float | None
    """Flow matching loss of the weights themselves; None where there is no average."""
    error: float
    """Mean absolute error of sampled chunks in model units, over all real elements."""
    accuracy: dict[str, float]
    """Threshold -> part of the timesteps in which the error in model units of every dimension is below it
    (open-pi-zero, get_action_accuracy)."""
    element_accuracy: dict[str, float]
    """Threshold -> part of the single numbers whose error is below it."""
    error_by_timestep: tuple[float | None, ...]
    """`error` of each timestep of the chunk; None where no recorded chunk is that long."""
    robots: tuple[RobotError, ...]
    """Errors by dimension, for each robot of the data."""
    num_frames: int
    """Frames that were looked at."""
    seconds: float
    """Time that the validation took."""

    def scalars(self) -> dict[str, float]:
        """The numbers that make curves, by name."""
        values = {"loss": self.loss, "error": self.error, "seconds": self.seconds}
        if self.raw_loss is not None:
            values["raw_loss"] = self.raw_loss
        values |= {f"accuracy_{threshold}": share for threshold, share in self.accuracy.items()}
        values |= {f"element_accuracy_{threshold}": share for threshold, share in self.element_accuracy.items()}
        for robot in self.robots:
            for name, error in zip(robot.actions, robot.error, strict=True):
                values[f"error_{robot.robot}/{name}"] = error
        return values
