"""Pictures of a MuJoCo simulation through EGL, fast enough in software.

Without a GPU Mesa renders in software, at a speed set by the number of triangles. Hence no shadows, reflections or
multisampling, and meshes thinned out for the picture; the physics keeps its own model. docs/metaworld.md and
docs/libero.md have numbers.
"""

import atexit
import copy
import os
import sys
import weakref
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from pizero.sim.env import SimulatorUnavailableError

THIN_ABOVE = 1000
"""Triangles; meshes with fewer are left as they are."""

_MAX_GEOMS = 1000
"""Room in the scene for everything drawn. Meta-World's largest task draws 69 geoms, LIBERO's about 200."""

_APT = "apt-get install -y libegl1 libgl1-mesa-dri"


def choose_egl() -> None:
    """Let MuJoCo render through EGL, in the calling thread, unless the environment says otherwise.

    To be called before mujoco is imported, which reads the environment then. Mesa's own threads do not help, since
    there is one process per core anyway.
    """
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("LP_NUM_THREADS", "0")


def egl_missing(error: Exception) -> SimulatorUnavailableError:
    """What to raise when importing mujoco fails: PyOpenGL without libEGL fails in many ways."""
    return SimulatorUnavailableError(f"EGL is missing here ({error}); on Debian or Ubuntu: {_APT}")


class Renderer:
    """Pictures of any size from the fixed cameras of one model.

    `mujoco.Renderer` has one size per GL context, which takes 0.2 s to make; this one resizes its buffer instead.
    """

    def __init__(self, mujoco: ModuleType, model: Any, size: int, cell: float, geom_groups: tuple[int, ...]) -> None:
        """size: pixels of most pictures, both ways; cell: metres, see `thin_out`; geom_groups: which geoms to draw.

        The model itself is not changed, and its colours and visibility are those of the moment a picture is taken.
        """
        self._mujoco = mujoco
        self._model = model
        self._size = size
        self._context: Any = None
        self._gl: Any = _gl_context(mujoco, size)
        _close_at_exit(self)
        self._gl.make_current()
        # The context holds the meshes; the thin copy is not needed once they are uploaded.
        thin = picture_model(model, size, cell)
        self._context = mujoco.MjrContext(thin, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = [group in geom_groups for group in range(len(self._options.geomgroup))]
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0

    def render(self, data: Any, camera: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """What the camera of that name sees, as it is mounted: row 0 is the top of its picture."""
        mujoco = self._mujoco
        self._gl.make_current()
        if size != self._size:
            mujoco.mjr_resizeOffscreen(size, size, self._context)
            self._size = size
        self._camera.fixedcamid = self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        area = mujoco.MjrRect(0, 0, size, size)
        pixels = np.empty((size, size, 3), np.uint8)
        mujoco.mjr_render(area, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, area, self._context)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the GL context; closing twice is fine."""
        if self._gl is not None:
            self._gl.make_current()
            if self._context is not None:
                self._context.free()
            self._gl.free()
            self._gl = None


_open_renderers: "weakref.WeakSet[Renderer]" = weakref.WeakSet()


def _close_at_exit(renderer: Renderer) -> None:
    """Close the renderer before MuJoCo ends EGL at exit; after that, freeing a context prints a traceback.

    MuJoCo registers its end when it makes the first context, and exit functions run last in, first out.
    """
    if not _open_renderers:
        atexit.register(_close_renderers)
    _open_renderers.add(renderer)


def _close_renderers() -> None:
    for renderer in list(_open_renderers):
        renderer.close()


def picture_model(model: Any, size: int, cell: float) -> Any:
    """A copy of the model for drawing only: cheap settings, thinner meshes."""
    model = copy.deepcopy(model)
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 1
    model.vis.global_.offwidth = model.vis.global_.offheight = size
    for mesh in range(model.nmesh):
        if model.mesh_facenum[mesh] > THIN_ABOVE:
            thin_out(model, mesh, cell)
    return model


def thin_out(model: Any, mesh: int, cell: float) -> None:
    """Join the vertices that share a cube of `cell` metres, and drop the triangles that are flat or double thereafter.

    Works in place on the mesh's stretch of the model's arrays: the triangles kept move to the front, the count falls.
    """
    first_vertex, num_vertices = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    first, num = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    cells = np.floor(model.mesh_vert[first_vertex : first_vertex + num_vertices] / cell).astype(np.int64)
    _, stand_in, cell_of = np.unique(_keys(cells), return_index=True, return_inverse=True)
    faces = stand_in[cell_of][model.mesh_face[first : first + num]]
    corners = np.sort(faces, axis=1)
    kept = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    _, once = np.unique(_keys(corners), return_index=True)
    kept &= np.isin(np.arange(num), once)
    left = int(kept.sum())
    model.mesh_face[first : first + left] = faces[kept]
    for corner_data in (model.mesh_facenormal, model.mesh_facetexcoord):
        corner_data[first : first + left] = corner_data[first : first + num][kept]
    model.mesh_facenum[mesh] = left


def _keys(rows: Int64[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    """One number for each row, equal for equal rows. Sorting these is ten times as fast as sorting rows."""
    rows = rows - rows.min(0)
    _, second, third = (int(size) for size in rows.max(0) + 1)
    return (rows[:, 0] * second + rows[:, 1]) * third + rows[:, 2]


def _gl_context(mujoco: ModuleType, size: int) -> Any:
    context: Any = mujoco.GLContext.__new__(mujoco.GLContext)
    context._context = None  # its __del__ reads this, and would print a traceback where __init__ fails
    try:
        context.__init__(size, size)
        return context
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise SimulatorUnavailableError(f"EGL cannot render here ({error}); on Debian or Ubuntu: {_APT}") from error
