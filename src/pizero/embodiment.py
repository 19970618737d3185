"""Each robot as data: what it measures, what it accepts, and in which convention."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

GripperAction = Literal["1 opens", "1 closes", "none", "unknown"]


@dataclass(frozen=True)
class Embodiment:
    """A robot's interface. Two policies fit the same robot only if their embodiments are equal.

    Raises ValueError for a name that comes twice, for bounds that are not finite, not in order or not one per action.
    """

    name: str
    """Short name, for example "metaworld_sawyer"; the `robot_type` of a LeRobot data set."""
    cameras: tuple[str, ...]
    """Camera names in the order in which the model takes its views."""
    state: tuple[str, ...]
    """Name of each state dimension, with its unit where it is not SI, in order."""
    actions: tuple[str, ...]
    """Name of each action dimension, in order."""
    control_rate_hz: float | None
    """How many actions a second the robot takes; None: not known."""
    action_low: tuple[float, ...]
    """Smallest value the robot accepts, per action dimension, in real units; (): not known, nothing is clipped."""
    action_high: tuple[float, ...]
    """Largest value the robot accepts, per action dimension, in real units; () exactly when `action_low` is."""
    gripper_action: GripperAction = "none"
    """What the largest value of the gripper's action does; "none": there is no gripper."""

    def __post_init__(self) -> None:
        for field, names in (("cameras", self.cameras), ("state", self.state), ("actions", self.actions)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{self.name}: {field} has {', '.join(twice)} more than once; give each its own name")
        self._check_bounds()
        rate = self.control_rate_hz
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"{self.name}: control_rate_hz is {rate}, must be finite and above 0, or None: not known")

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers, strings and None; `from_json` gives the equal embodiment back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Embodiment":
        """Raises ValueError that names the keys which are missing or unknown, or the one whose value is not allowed."""
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise ValueError(
                f"embodiment has keys {sorted(set(data) ^ names)} that are missing or unknown; expected {sorted(names)}"
            )
        return cls(
            name=_text(data, "name"),
            cameras=_texts(data, "cameras"),
            state=_texts(data, "state"),
            actions=_texts(data, "actions"),
            control_rate_hz=None if data["control_rate_hz"] is None else _number(data, "control_rate_hz"),
            action_low=_numbers(data, "action_low"),
            action_high=_numbers(data, "action_high"),
            gripper_action=_gripper_action(data),
        )

    def difference(self, other: "Embodiment") -> str:
        """One line that says where two embodiments differ; empty when they are equal."""
        mine, theirs = self.to_json(), other.to_json()
        return "; ".join(f"{key}: {mine[key]} against {theirs[key]}" for key in mine if mine[key] != theirs[key])

    def _check_bounds(self) -> None:
        low, high = self.action_low, self.action_high
        if low == high == ():
            return
        for field, bound in (("action_low", low), ("action_high", high)):
            if len(bound) != len(self.actions):
                raise ValueError(
                    f"{self.name}: {field} has {len(bound)} values for {len(self.actions)} actions; "
                    f"() for both bounds says that they are not known"
                )
        for action, smallest, largest in zip(self.actions, low, high, strict=True):
            if not (math.isfinite(smallest) and math.isfinite(largest)) or smallest > largest:
                raise ValueError(
                    f"{self.name}: action {action!r} is bounded by {smallest} and {largest}; "
                    f"both must be finite, the smaller first"
                )


def _text(data: dict[str, Any], key: str) -> str:
    if isinstance(data[key], str):
        return data[key]
    raise ValueError(f"embodiment: {key} is {data[key]!r}, expected a string")


def _texts(data: dict[str, Any], key: str) -> tuple[str, ...]:
    if isinstance(data[key], list) and all(isinstance(item, str) for item in data[key]):
        return tuple(data[key])
    raise ValueError(f"embodiment: {key} is {data[key]!r}, expected a list of strings")


def _number(data: dict[str, Any], key: str) -> float:
    if type(data[key]) in (int, float):
        return float(data[key])
    raise ValueError(f"embodiment: {key} is {data[key]!r}, expected a number")


def _numbers(data: dict[str, Any], key: str) -> tuple[float, ...]:
    if isinstance(data[key], list) and all(type(item) in (int, float) for item in data[key]):
        return tuple(float(item) for item in data[key])
    raise ValueError(f"embodiment: {key} is {data[key]!r}, expected a list of numbers")


def _gripper_action(data: dict[str, Any]) -> GripperAction:
    for choice in get_args(GripperAction):
        if data["gripper_action"] == choice:
            return choice
    raise ValueError(
        f"embodiment: gripper_action is {data['gripper_action']!r}, must be one of {get_args(GripperAction)}"
    )
