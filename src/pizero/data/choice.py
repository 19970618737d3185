"""What can be chosen in how data become what a model reads. No torch here, so that `--help` answers at once."""

from typing import Literal

Normalization = Literal["bounds", "z-score", "quantile", "lerobot-z-score", "lerobot-quantile", "identity"]
"""How state and actions are scaled; see `normalize.Normalizer`."""
PromptFormat = Literal["pi0", "lerobot-pi0", "open-pi-zero", "pi05", "pi05-stateless"]
"""How an instruction is written for the model; see `prompt.pieces`."""
Resize = Literal["pad", "squash", "lerobot"]
"""How a picture gets the model's size; see `images.resize`."""
JointUnits = Literal["robot", "pi-aloha"]
"""Whose units joints are in: the robot's own, or those of openpi's pre-trained ALOHA checkpoints; see `units.Units`."""
