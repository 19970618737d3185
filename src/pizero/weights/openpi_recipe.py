"""What the named training configs of openpi and open-pi-zero say, for checkpoints whose files do not say it.

openpi: src/openpi/training/config.py (`_CONFIGS`, and the mask of delta actions in each data config), with the defaults
of src/openpi/models/pi0_config.py. open-pi-zero: config/train/{bridge,fractal}.yaml and
config/eval/{bridge,fractal_apple}.yaml.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

from pizero.embodiment import Embodiment
from pizero.robot.aloha import ALOHA, JOINTS
from pizero.robot.bridge import BRIDGE
from pizero.robot.droid import DROID
from pizero.robot.fractal import FRACTAL
from pizero.robot.libero import LIBERO
from pizero.weights.facts import Facts

SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""openpi's names of the model's views; a robot's cameras take them in order, slots that are left over are absent."""


@dataclass(frozen=True)
class OpenpiRecipe:
    """One training config of openpi."""

    name: str
    """openpi's name of it."""
    pi05: bool
    """pi0.5; else pi0."""
    horizon: int
    """Timesteps of an action chunk."""
    robot: Embodiment
    """The robot, its cameras in the order of `SLOTS`."""
    prompt_format: Literal["pi0", "pi05"]
    """With "pi0" and pi0.5 the model reads no state at all."""
    prompt_length: int
    """Most tokens of a prompt."""
    delta_actions: tuple[str, ...] = ()
    """Action dimensions that the model gives relative to the state."""
    joint_units: Literal["robot", "pi-aloha"] = "robot"
    """Whether joints pass openpi's conversion for ALOHA (`adapt_to_pi`)."""

    @property
    def normalization(self) -> Literal["z-score", "quantile"]:
        """How state and actions are scaled: openpi takes quantiles for all but pi0."""
        return "quantile" if self.pi05 else "z-score"


@dataclass(frozen=True)
class OpenPiZeroRecipe:
    """How open-pi-zero's published checkpoints for one robot were trained; the same for all that is not a field."""

    name: str
    """Name of the training config, with which the names of the checkpoints start."""
    robot: Embodiment
    """The robot, with its one camera."""
    execute_steps: int
    """Actions of a chunk that its evaluation executes."""
    horizon: int = 4
    """Timesteps of an action chunk."""
    prompt_length: int = 20
    """Most tokens of a prompt: 276 less the 256 of the picture."""
    raw_actions: tuple[str, ...] = ("gripper",)
    """Action dimensions that are not normalised."""
    time_max_period: float = 10_000.0
    """Base of the frequencies of the time embedding. Configs of later commits say 100, the checkpoints were before."""
    action_rope_base: float = 10_000.0
    """Base of the rotary embedding of state and action tokens; 100 in configs of later commits, like the one above."""


def _pi0(name: str, robot: Embodiment, horizon: int = 50, delta_actions: tuple[str, ...] = ()) -> OpenpiRecipe:
    units: Literal["robot", "pi-aloha"] = "pi-aloha" if robot is ALOHA else "robot"
    return OpenpiRecipe(name, False, horizon, robot, "pi0", 48, delta_actions, units)


def _pi05(name: str, robot: Embodiment, horizon: int = 50, delta_actions: tuple[str, ...] = ()) -> OpenpiRecipe:
    units: Literal["robot", "pi-aloha"] = "pi-aloha" if robot is ALOHA else "robot"
    return OpenpiRecipe(name, True, horizon, robot, "pi05", 200, delta_actions, units)


OPENPI_RECIPES: dict[str, OpenpiRecipe] = {
    recipe.name: recipe
    for recipe in (
        _pi0("pi0_aloha", ALOHA, delta_actions=JOINTS),
        _pi05("pi05_aloha", ALOHA, delta_actions=JOINTS),
        _pi0("pi0_aloha_towel", ALOHA, delta_actions=JOINTS),
        _pi0("pi0_aloha_tupperware", ALOHA, delta_actions=JOINTS),
        _pi0("pi0_aloha_pen_uncap", ALOHA, delta_actions=JOINTS),
        _pi05("pi05_aloha_pen_uncap", ALOHA, delta_actions=JOINTS),
        _pi0("pi0_aloha_sim", ALOHA),
        _pi0("pi0_droid", DROID, horizon=10),
        _pi05("pi05_droid", DROID, horizon=15),
        _pi05("pi05_droid_finetune", DROID, horizon=16),
        # LIBERO's actions are relative already; pi0's configs take the state off all the same
        _pi0("pi0_libero", LIBERO, delta_actions=LIBERO.actions[:6]),
        _pi0("pi0_libero_low_mem_finetune", LIBERO, delta_actions=LIBERO.actions[:6]),
        OpenpiRecipe("pi05_libero", True, 10, LIBERO, "pi0", 200),
    )
}
"""By openpi's name. Not here: pi0-FAST, another kind of model, and pi05_full_droid_finetune, which gives positions."""

OPZ_RECIPES: dict[str, OpenPiZeroRecipe] = {
    "bridge": OpenPiZeroRecipe("bridge", BRIDGE, execute_steps=4),
    "fractal": OpenPiZeroRecipe("fractal", FRACTAL, execute_steps=2),
}
"""By the name of the training config."""


def recipe_facts(name: str) -> Facts:
    """What the config of that name, of openpi or open-pi-zero, says. Raises ValueError with the nearest one."""
    if name in OPZ_RECIPES:
        opz = OPZ_RECIPES[name]
        return Facts(
            horizon=opz.horizon,
            robot=opz.robot,
            prompt_length=opz.prompt_length,
            raw_actions=opz.raw_actions,
            action_rope_base=opz.action_rope_base,
            time_max_period=opz.time_max_period,
        )
    if name not in OPENPI_RECIPES:
        near = difflib.get_close_matches(name, [*OPENPI_RECIPES, *OPZ_RECIPES], 1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        known = ", ".join([*OPENPI_RECIPES, *OPZ_RECIPES])
        raise ValueError(f"recipe {name!r} is not known{hint}; known are {known}")
    openpi = OPENPI_RECIPES[name]
    return Facts(
        horizon=openpi.horizon,
        robot=openpi.robot,
        normalization=openpi.normalization,
        prompt_format=openpi.prompt_format,
        prompt_length=openpi.prompt_length,
        delta_actions=openpi.delta_actions,
        joint_units=openpi.joint_units,
    )
