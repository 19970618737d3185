"""Which renderer SAPIEN uses: an NVIDIA GPU, or a Vulkan driver in software; and what the latter needs."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from pizero.sim.env import SimulatorUnavailableError

Renderer = Literal["cpu", "gpu"]

VARIABLE = "PIZERO_RENDER"
"""Environment variable: "cpu", "gpu", or "auto" (as if not set): the GPU where there is an NVIDIA driver."""
_DRIVER_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""Where Vulkan looks for drivers, if set; the first goes before the second."""
_NVIDIA = Path("/dev/nvidiactl")
_IN_SOFTWARE = (
    Path.home() / ".cache" / "pizero" / "lavapipe" / "lvp_icd.json",
    Path("/usr/lib/chromium/vk_swiftshader_icd.json"),
)
"""Mesa's lavapipe, where `tools/fetch_lavapipe.sh` is told to put it, and SwiftShader of Debian's chromium-common,
which is slower. Without them Vulkan takes what it finds itself."""
HELP = (
    "in software it can with `tools/fetch_lavapipe.sh ~/.cache/pizero/lavapipe` or, slower, "
    "`apt-get install -y chromium-common`; PIZERO_RENDER=cpu prefers that to a GPU"
)


def choose() -> Renderer:
    """Which renderer it will be. Call it before SAPIEN is imported: it sets VK_ICD_FILENAMES where nothing else does.

    Raises ValueError for an unknown value of PIZERO_RENDER. Whether the renderer works shows when it is used.
    """
    wish = os.environ.get(VARIABLE) or "auto"
    given = next((os.environ[name] for name in _DRIVER_VARIABLES if os.environ.get(name)), None)
    match wish:
        case "cpu" | "gpu":
            renderer: Renderer = wish
        case "auto":
            on_gpu = _NVIDIA.exists() if given is None else "nvidia" in given.lower()
            renderer = "gpu" if on_gpu else "cpu"
        case _:
            raise ValueError(f"{VARIABLE} is {wish!r}, must be one of auto, {', '.join(get_args(Renderer))}")
    found = [driver for driver in _IN_SOFTWARE if driver.is_file()]
    if renderer == "cpu" and found and (given is None or "nvidia" in given.lower()):
        os.environ.pop(_DRIVER_VARIABLES[0], None)
        os.environ[_DRIVER_VARIABLES[1]] = str(found[0])
    return renderer


_TANGENTS = "normalize(inTbn * vec3(0, 0, 1))"
_NO_TANGENTS = "normalize(inTbn[2])"
_TABLE_DECLARATION = "layout(set = {}, binding = 8) uniform sampler2D samplerBRDFLUT;"
_TABLE_USE = "texture(samplerBRDFLUT, vec2(roughness, dotNV)).xy"
_NO_TABLE = "vec2(0)"


@cache
def software_shaders(packaged: Path) -> Path:
    """A copy of SAPIEN's shaders for drivers in software, in a folder that lives as long as the process.

    Two things differ.

    Meshes without texture coordinates (the whole robot) have no tangents. The normal is multiplied by them all the
    same, times 0; on SwiftShader they are not a number, and the robot comes out flat and dark. In the copy the normal
    is taken directly: the same where tangents exist.

    A table for light from the surroundings is left out. There are none in these scenes, so no pixel changes, but to
    fill the table takes 23 seconds on the CPU. Raises SimulatorUnavailableError when the shaders are not those known.
    """
    folder = Path(tempfile.mkdtemp(prefix="pizero-shaders-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for part in ("minimal", "common"):
        shutil.copytree(packaged / part, folder / part)
    gbuffer = folder / "minimal" / "gbuffer.frag"
    _replace(gbuffer, {_TANGENTS: _NO_TANGENTS, _TABLE_DECLARATION.format(3): "", _TABLE_USE: _NO_TABLE})
    _replace(folder / "minimal" / "composite0.frag", {_TABLE_DECLARATION.format(2): ""})
    return folder


def _replace(shader: Path, changes: dict[str, str]) -> None:
    text = shader.read_text()
    for old, new in changes.items():
        if old not in text:
            raise SimulatorUnavailableError(f"{shader.name} is not as in SAPIEN 3.0.3: pip install sapien==3.0.3")
        text = text.replace(old, new)
    shader.write_text(text)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what native code and ManiSkill3's log say on the error stream, unless an exception is raised.

    SwiftShader writes a line about each property it does not know, ManiSkill3 one for each actor.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        stream = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stream, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stream, 2)
            os.close(stream)
