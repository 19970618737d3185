"""Each robot as data: what it measures, what it accepts, and in which convention."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

GripperAction = Literal["1 opens", "1 closes", "none"]


@dataclass(frozen=True)
class Embodiment:
    """A robot's interface. Two policies fit the same robot only if their embodiments are equal."""

    name: str
    """Short name, for example "metaworld_sawyer"; the `robot_type` of a LeRobot data set."""
    cameras: tuple[str, ...]
    """Camera names in the order in which the model takes its views."""
    state: tuple[str, ...]
    """Name of each state dimension, with its unit where it is not SI, in order."""
    actions: tuple[str, ...]
    """Name of each action dimension, in order."""
    control_rate_hz: float
    """How many actions a second the robot takes."""
    action_low: tuple[float, ...]
    """Smallest value the robot accepts, per action dimension, in real units."""
    action_high: tuple[float, ...]
    """Largest value the robot accepts, per action dimension, in real units."""
    gripper_action: GripperAction = "none"
    """What the largest value of the gripper's action does."""

    def __post_init__(self) -> None:
        for name, bound in (("action_low", self.action_low), ("action_high", self.action_high)):
            if len(bound) != len(self.actions):
                raise ValueError(f"{self.name}: {name} has {len(bound)} values for {len(self.actions)} actions")
        if self.control_rate_hz <= 0:
            raise ValueError(f"{self.name}: control_rate_hz is {self.control_rate_hz}, must be above 0")

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; `from_json` gives the equal embodiment back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Embodiment":
        """Raises ValueError that names the keys which are missing or unknown."""
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise ValueError(
                f"embodiment has keys {sorted(set(data) ^ names)} that are missing or unknown; expected {sorted(names)}"
            )
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)

    def difference(self, other: "Embodiment") -> str:
        """One line that says where two embodiments differ; empty when they are equal."""
        mine, theirs = self.to_json(), other.to_json()
        return "; ".join(f"{key}: {mine[key]} against {theirs[key]}" for key in mine if mine[key] != theirs[key])
