"""What a policy expects and does, in the words of its user."""

from pathlib import Path

import numpy as np

from pizero.data.prompt import pieces
from pizero.data.transform import TransformConfig
from pizero.embodiment import Embodiment
from pizero.model.config import Pi0Config
from pizero.weights.checkpoint import load_configs

NORMALIZATIONS = {
    "bounds": "(x - q01) / (q99 - q01) * 2 - 1, clipped to -1 and 1",
    "z-score": "(x - mean) / (std + 1e-6)",
    "quantile": "(x - q01) / (q99 - q01 + 1e-6) * 2 - 1",
    "lerobot-z-score": "(x - mean) / (std + 1e-8), back x * std + mean",
    "lerobot-quantile": "(x - q01) / (q99 - q01) * 2 - 1",
    "identity": "as they are",
}
RESIZES = {
    "pad": "the whole picture, padded with black",
    "squash": "stretched to a square (Lanczos)",
    "lerobot": "the whole picture, padded with black, interpolated as lerobot does",
}
KINDS = {
    "input": "pi0",
    "adarms": "pi0.5",
    "adaln": "pi0 with open-pi-zero's adaLN",
    "adaln-zero": "pi0 with open-pi-zero's adaLN-Zero",
}


def card(folder: Path) -> dict[str, str]:
    """Topic -> what is so, for the checkpoint in `folder`; its weights are not read."""
    model, transform = load_configs(folder)
    config = transform.config
    robot = config.embodiment
    return {
        "policy": f"{KINDS[model.time_conditioning]}, chunks of {model.horizon} actions",
        "robot": f"{robot.name}, {rate(robot)}",
        "cameras": ", ".join(robot.cameras),
        "pictures": f"{config.image_size} x {config.image_size}: {RESIZES[config.resize]}",
        "state": f"{', '.join(robot.state)} ({_state_use(model, config)})",
        "actions": ", ".join(_actions(robot)),
        "relative": ", ".join(config.delta_actions) or "no action is relative to the state",
        "gripper": robot.gripper_action,
        "scaling": _scaling(config),
        "joints": "converted as openpi does for ALOHA" if config.joint_units == "pi-aloha" else "in the robot's units",
        "prompt": f"{_template(config)}, up to {config.prompt_length} tokens",
    }


def print_card(folder: Path) -> None:
    """Print it."""
    for topic, text in card(folder).items():
        print(f"{topic:9} {text}")


def rate(robot: Embodiment) -> str:
    """Its control rate in words."""
    return "control rate unknown" if robot.control_rate_hz is None else f"{robot.control_rate_hz:g} Hz"


def _actions(robot: Embodiment) -> list[str]:
    if not robot.action_low:
        return [f"{name}" for name in robot.actions] + ["limits unknown, nothing is clipped"]
    ranges = zip(robot.actions, robot.action_low, robot.action_high, strict=True)
    return [f"{name} [{low:g}, {high:g}]" for name, low, high in ranges]


def _state_use(model: Pi0Config, config: TransformConfig) -> str:
    if model.state_token:
        return "one token of the action expert"
    return "256 bins in the prompt" if config.prompt_format == "pi05" else "not seen by the model"


def _scaling(config: TransformConfig) -> str:
    raw = ", ".join((*config.raw_state, *config.raw_actions))
    return f"{config.normalization}: {NORMALIZATIONS[config.normalization]}{', but for ' + raw if raw else ''}"


def _template(config: TransformConfig) -> str:
    text = pieces("INSTRUCTION", config.prompt_format, np.zeros(1))
    return repr("".join(text).replace("State: 128", "State: BINS"))
