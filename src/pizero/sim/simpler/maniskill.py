"""The four scenes as ManiSkill3 builds them: table or sink, objects, lights, the robot with its controller.

ManiSkill3 and SAPIEN read environment variables when they are imported: call `asset.use` and `render.choose` before
importing this file.
"""

from typing import Any

import sapien
from mani_skill.envs.scene import ManiSkillScene
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import BaseBridgeEnv
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.put_on_in_scene import (
    PutCarrotOnPlateInScene,
    PutEggplantInBasketScene,
    PutSpoonOnTableClothInScene,
    StackGreenCubeOnYellowCubeBakedTexInScene,
)
from mani_skill.utils.structs.types import SimConfig
from sapien import physx


class _Bare(BaseBridgeEnv):
    """Takes out of a scene what is done otherwise here: initial states, success, pictures."""

    SUPPORTED_OBS_MODES = ("none",)
    rgb_overlay_mode = "none"

    def __init__(self, render_backend: str) -> None:
        # otherwise a list of the class, which would keep the objects of all scenes of a process
        self._objects_to_remove_from_greenscreen: list[Any] = []
        super().__init__(obs_mode="none", sim_backend="cpu", render_backend=render_backend)

    @property
    def _default_sim_config(self) -> SimConfig:
        config = SimConfig(sim_freq=500, control_freq=5)
        config.scene_config.contact_offset = 0.005  # SimplerEnv's
        config.scene_config.enable_pcm = False  # then SimplerEnv's published initial states come out to 0.02 mm
        return config

    def _setup_scene(self) -> None:
        if self._render_device is None or self._render_device.is_cuda():
            super()._setup_scene()
            return
        # SAPIEN 3.0.3 finds no device named "cpu", but without a name it takes the software renderer
        self._set_scene_config()
        systems = [physx.PhysxCpuSystem(), sapien.render.RenderSystem()]
        self.scene = ManiSkillScene(
            [sapien.Scene(systems)], sim_config=self.sim_config, device=self.device, backend=self.backend
        )
        self.scene.px.timestep = 1 / self._sim_freq

    def _initialize_episode(self, env_idx: Any, options: dict[str, Any]) -> None:
        pass

    def _setup_sensors(self, options: dict[str, Any]) -> None:
        pass

    def evaluate(self) -> dict[str, Any]:
        return {}


class _Carrot(_Bare, PutCarrotOnPlateInScene):
    pass


class _Spoon(_Bare, PutSpoonOnTableClothInScene):
    pass


class _Cubes(_Bare, StackGreenCubeOnYellowCubeBakedTexInScene):
    pass


class _Eggplant(_Bare, PutEggplantInBasketScene):
    pass


def build(task: str, render_backend: str) -> Any:
    """ManiSkill3's environment for a task. render_backend: "none", "cpu" or "gpu"."""
    match task:
        case "simpler/carrot-on-plate":
            return _Carrot(render_backend)
        case "simpler/spoon-on-towel":
            return _Spoon(render_backend)
        case "simpler/stack-cube":
            return _Cubes(render_backend)
        case "simpler/eggplant-in-basket":
            return _Eggplant(render_backend)
    raise AssertionError(f"{task} has no scene")
