"""The files of the Bridge scenes, which do not come with ManiSkill3's package."""

import os
import sys
from pathlib import Path

from pizero.sim.assets import assets_folder
from pizero.sim.env import SimulatorUnavailableError

VARIABLE = "MS_ASSET_DIR"
"""Environment variable with ManiSkill3's folder of assets, which it reads when it is imported."""

_SCENES = "tasks/bridge_v2_real2sim_dataset"
_ROBOT = "robots/widowx/wx250s.urdf"
_TABLE = ("real_inpainting/bridge_real_eval_1.png", "stages/bridge_table_1_v1.glb")
_SINK = ("real_inpainting/bridge_sink.png", "stages/bridge_table_1_v2.glb")
_NEEDED = {
    "simpler/carrot-on-plate": (*_TABLE, "bridge_carrot_generated_modified", "bridge_plate_objaverse_larger"),
    "simpler/spoon-on-towel": (*_TABLE, "bridge_spoon_generated_modified", "table_cloth_generated_shorter"),
    "simpler/stack-cube": (*_TABLE, "baked_green_cube_3cm", "baked_yellow_cube_3cm"),
    "simpler/eggplant-in-basket": (*_SINK, "eggplant", "sink", "dummy_sink_target_plane"),
}
"""Files of each task; a name without a folder is a model."""
_HELP = (
    "bring it with `python -m mani_skill.utils.download_asset bridge_v2_real2sim` and `... widowx250s`, "
    "or give the folder that holds maniskill3/data with --assets"
)


def use(task: str) -> None:
    """Let ManiSkill3 look where the task's assets are. Call it before ManiSkill3 is imported.

    That is `maniskill3` in the folder of `--assets`; without one ManiSkill3's own place. Raises
    SimulatorUnavailableError when a file is missing, ValueError when ManiSkill3 was imported with another folder.
    """
    given = assets_folder()
    if given is not None:
        os.environ[VARIABLE] = str(given / "maniskill3")
    root = Path(os.environ.get(VARIABLE) or Path.home() / ".maniskill") / "data"
    imported = sys.modules.get("mani_skill")
    if imported is not None and root != imported.ASSET_DIR:
        raise ValueError(f"this process uses the assets in {imported.ASSET_DIR} already, it cannot take {root}")
    for name in _NEEDED[task]:
        part = name if "/" in name else f"custom/models/{name}/collision.obj"
        _check(root / _SCENES / part)
    _check(root / _ROBOT)


def _check(path: Path) -> None:
    if not path.is_file():
        raise SimulatorUnavailableError(f"{path} is missing; {_HELP}")
