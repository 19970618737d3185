"""`pizero show`: what is in a data set, a checkpoint or a preset."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pizero.command.parse import nearest, parse
from pizero.model.config import Pi0Config


@dataclass(frozen=True)
class Show:
    """Show what is in a data set, a checkpoint or a preset, or list tasks, presets, robots or recipes of import."""

    what: Positional[str]
    """Folder of a data set or a checkpoint, name of a preset, "tasks", "presets", "robots" or "recipes"."""
    save_frame: Path | None = None
    """Of a data set: write frame number `frame` to this .npz file, for `pizero act`."""
    frame: int = 0
    """Which frame `save_frame` writes."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Show, "show", arguments)
    folder = Path(args.what)
    if args.save_frame is not None and not is_dataset(folder):
        raise ValueError(f"--save-frame takes a frame of a data set, and {args.what} is none")
    if args.what == "tasks":
        from pizero.sim.env import find_task, list_tasks

        for name in list_tasks():
            print(f"{name:36}{find_task(name).prompt}")
    elif args.what == "robots":
        _show_robots()
    elif args.what == "recipes":
        _show_recipes()
    elif args.what == "presets":
        from pizero.train.preset import presets

        for name, preset in presets().items():
            print(f"{name:10}{' '.join((preset.__doc__ or '').split())}")
    elif is_dataset(folder):
        _show_dataset(folder, args)
    elif folder.is_dir():
        _show_checkpoint(folder)
    else:
        from pizero.train.config import config_to_json
        from pizero.train.preset import presets

        if args.what not in presets():
            raise ValueError(
                f"{args.what} is neither a folder nor a preset{nearest(args.what, presets())}; "
                "`pizero show presets` lists the presets"
            )
        config = presets()[args.what]()
        print(json.dumps(config_to_json(config), indent=2))
        _print_parts(config.model)
    return 0


def is_dataset(folder: Path) -> bool:
    """Whether a folder has the file that a LeRobot or an RLDS data set begins with."""
    return (folder / "meta" / "info.json").is_file() or (folder / "features.json").is_file()


def _show_dataset(folder: Path, args: Show) -> None:
    from pizero.command.card import rate
    from pizero.data.dataset import open_dataset
    from pizero.frame import save_frame

    dataset = open_dataset(folder)
    if args.save_frame is not None:
        if not 0 <= args.frame < dataset.num_frames:
            raise ValueError(f"frame is {args.frame}, {folder} has frames 0 to {dataset.num_frames - 1}")
        save_frame(args.save_frame, dataset.frame(args.frame))
        print(f"wrote {args.save_frame}")
        return
    robot, episodes = dataset.embodiment, dataset.episodes
    print(f"data set of {robot.name}, {rate(robot)}: {len(episodes)} episodes, ", end="")
    print(f"{dataset.num_frames} frames")
    print(f"cameras {', '.join(robot.cameras)}; state {', '.join(robot.state)}; actions {', '.join(robot.actions)}")
    for prompt in dataset.prompts:
        lengths = [episode.length for episode in episodes if episode.task == prompt]
        print(f"{len(lengths):6} episodes of {min(lengths)} to {max(lengths)} steps: {prompt}")


def _show_checkpoint(folder: Path) -> None:
    from pizero.command.card import print_card
    from pizero.weights.checkpoint import load_configs

    print_card(folder)
    _print_parts(load_configs(folder)[0])


def _show_robots() -> None:
    from pizero.command.card import rate
    from pizero.robot.catalogue import ROBOTS

    for name, robot in ROBOTS.items():
        print(f"{name:10}{rate(robot)}; cameras {', '.join(robot.cameras)}; gripper: {robot.gripper_action}")
        print(f"{'':10}state {', '.join(robot.state)}")
        print(f"{'':10}actions {', '.join(robot.actions)}")


def _show_recipes() -> None:
    from pizero.weights.openpi_recipe import OPENPI_RECIPES, OPZ_RECIPES

    for name, recipe in (OPENPI_RECIPES | OPZ_RECIPES).items():
        print(f"{name:30}{recipe.robot.name}, chunks of {recipe.horizon} actions")


def _print_parts(model: Pi0Config) -> None:
    from pizero.model.summary import summarise

    parts = summarise(model)
    print(f"{'part':14}{'parameters':>14}  what")
    for part in parts:
        print(f"{part.name:14}{part.num_parameters:14,}  {part.what}")
    total = sum(part.num_parameters for part in parts)
    print(f"{'all':14}{total:14,}  {4e-9 * total:.2f} GB in float32, {2e-9 * total:.2f} GB in bfloat16")
