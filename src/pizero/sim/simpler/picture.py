"""What the camera sees: a second copy of the scene, which is only drawn.

So an episode without pictures needs no renderer, and the physics knows nothing of the drawing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import sapien
from jaxtyping import UInt8, UInt32
from PIL import Image

from pizero.sim.env import SimulatorUnavailableError
from pizero.sim.simpler import maniskill, render
from pizero.sim.simpler.scene import Scene

_CAMERA_LINK = "base_link"
_FORMATS = {"Color": "r8g8b8a8unorm", "ColorRaw": "r8g8b8a8unorm", "PositionSegmentation": "r16g16b16a16sint"}
"""What SAPIEN's shaders "minimal" draw; as ManiSkill3 sets it."""
_NUM_IDS = 2**15
"""Things that the segmentation's int16 can tell apart; a scene has about 20."""
_NOT_DRAWN_BY_SIMULATOR = ("sink", "dummy_sink_target_plane", "arena")
"""Where these are seen, the photograph is shown; so in SimplerEnv."""


class PictureMaker:
    """Draws a scene as SimplerEnv's visual matching has it: robot and objects before a photograph of the real place."""

    def __init__(self, task: str, renderer: render.Renderer) -> None:
        try:
            self._env: Any = maniskill.build(task, renderer)
            self._camera = self._add_camera(renderer)
        except RuntimeError as error:
            raise SimulatorUnavailableError(f"Vulkan cannot render here ({error}); {render.HELP}") from error
        device = self._env.scene.sub_scenes[0].render_system.device
        if device.is_cuda() != (renderer == "gpu"):
            message = f"no {renderer.upper()} renders here, only {device.name}"
            raise SimulatorUnavailableError(f"{message}; {render.HELP}")
        env = self._env
        self._hide("arena")
        self._bodies = [env.objs[name]._bodies[0].entity for name in (env.source_obj_name, env.target_obj_name)]
        kept = [link._objs[0].entity for link in env.agent.robot.links]
        kept += [actor._objs[0] for name, actor in env.scene.actors.items() if name not in _NOT_DRAWN_BY_SIMULATOR]
        self._kept = np.zeros(_NUM_IDS, bool)
        self._kept[[entity.per_scene_id for entity in kept]] = True
        (photograph,) = env.rgb_overlay_paths.values()
        size = (self._camera.get_width(), self._camera.get_height())
        self._photograph = _words(np.asarray(Image.open(photograph).convert("RGBA").resize(size)))

    def draw(self, scene: Scene) -> UInt8[np.ndarray, "480 640 3"]:
        """The policy's view of the scene now."""
        robot = self._env.agent.robot
        robot.set_pose(scene.base_pose())
        robot.set_qpos(scene.joints())
        for body, pose in zip(self._bodies, scene.object_poses(), strict=True):
            body.set_pose(pose)
        self._env.scene.sub_scenes[0].update_render()
        self._camera.take_picture()
        color = _words(self._camera.get_picture("Color"))
        things = self._camera.get_picture("PositionSegmentation")[..., 3]
        return _bytes(np.where(self._kept[things], color, self._photograph))[..., :3]

    def close(self) -> None:
        """Give the renderer's memory back."""
        self._camera = None
        self._env.close()

    def _add_camera(self, renderer: render.Renderer) -> Any:
        """ManiSkill3's camera, drawn with the shaders that this renderer can do."""
        shaders = Path(sapien.__file__).parent / "vulkan_shader"
        if renderer == "cpu":
            shaders = render.software_shaders(shaders)
        sapien.render.set_camera_shader_dir(str(shaders / "minimal"))
        for name, texture_format in _FORMATS.items():
            sapien.render.set_picture_format(name, texture_format)
        (config,) = self._env.agent._sensor_configs
        camera = self._env.scene.add_camera(
            config.uid,
            config.pose,
            config.width,
            config.height,
            config.near,
            config.far,
            intrinsic=config.intrinsic,
            mount=self._env.agent.robot.links_map[_CAMERA_LINK],
        )
        return camera._render_cameras[0]

    def _hide(self, name: str) -> None:
        """Do not draw an actor; the photograph hides it anyway."""
        entity = self._env.scene.actors[name]._objs[0]
        entity.find_component_by_type(sapien.render.RenderBodyComponent).disable()


def _words(picture: UInt8[np.ndarray, "h w 4"]) -> UInt32[np.ndarray, "h w"]:
    """The four bytes of each pixel as one number, which NumPy chooses faster."""
    return np.ascontiguousarray(picture).view(np.uint32)[..., 0]


def _bytes(picture: UInt32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 4"]:
    return picture.view(np.uint8).reshape(*picture.shape, 4)
