"""`pizero act`: one frame in, one action chunk out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import parse
from pizero.command.policy import load_policy
from pizero.frame import load_frame


@dataclass(frozen=True)
class Act:
    """Print the action chunk that a policy plans for one frame, in the robot's units."""

    checkpoint: Positional[Path]
    """Folder of a checkpoint."""
    frame: Path
    """An .npz file with `images.<camera>` (height, width, 3) uint8, `state` and `prompt`."""
    prompt: str | None = None
    """Another instruction than the file's."""
    robot: str | None = None
    """Name of the robot, of a checkpoint that was trained on several. None: the first."""
    num_steps: int = 10
    """Euler steps."""
    seed: int = 0
    """Of the noise that the chunk is made from."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; "auto" is cuda where there is one."""
    json: bool = False
    """Print JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Act, "act", arguments)
    frame = load_frame(args.frame)
    if args.prompt is not None:
        frame = replace(frame, prompt=args.prompt)
    policy = load_policy(args.checkpoint, args.device, args.num_steps, args.robot)
    [chunk] = policy.act_batch([frame], [args.seed])
    names = policy.embodiment.actions
    if args.json:
        print(json.dumps({"names": names, "actions": chunk.tolist()}))
        return 0
    print(f"instruction: {frame.prompt}")
    print("step" + "".join(f"{name:>14}" for name in names))
    for step, action in enumerate(chunk):
        print(f"{step:4}" + "".join(f"{value:14.4f}" for value in action))
    return 0
