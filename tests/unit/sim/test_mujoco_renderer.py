import copy

import numpy as np
import pytest

from pizero.sim.mujoco_renderer import Renderer, choose_egl, picture_model, thin_out

choose_egl()
mujoco = pytest.importorskip("mujoco")

SCENE = """
<mujoco>
  <visual><global offwidth="64" offheight="64"/></visual>
  <asset><mesh name="wave" vertex="{vertices}" face="{faces}"/></asset>
  <worldbody>
    <light pos="0 0 3" diffuse="1 1 1"/>
    <camera name="above" pos="0 0 2" xyaxes="1 0 0 0 1 0"/>
    <geom name="red" type="box" size=".1 .1 .01" pos=".4 .4 0" rgba="1 0 0 1" group="1"/>
    <geom name="green" type="box" size=".1 .1 .01" pos="-.4 .4 0" rgba="0 1 0 1" group="0"/>
    <body pos="0 -.3 0"><geom type="mesh" mesh="wave" rgba="0 0 1 1" group="1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def model() -> object:
    """Two boxes, and a wavy cloth of 40 x 40 squares over 0.4 m, seen from above: x is right, y is up.

    The cloth has a second layer a millimetre below the first.
    """
    steps = np.linspace(-0.2, 0.2, 41)
    x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
    vertices = np.stack([x, y, 0.02 * np.sin(20 * x)], -1)
    corner = (np.arange(40)[:, None] * 41 + np.arange(40)).ravel()
    faces = np.concatenate([[corner, corner + 1, corner + 42], [corner, corner + 42, corner + 41]], -1).T
    vertices, faces = np.concatenate([vertices, vertices - (0, 0, 0.001)]), np.concatenate([faces, faces + len(x)])
    text = {"vertices": vertices, "faces": faces}
    return mujoco.MjModel.from_xml_string(
        SCENE.format(**{name: " ".join(str(value) for value in table.ravel()) for name, table in text.items()})
    )


def middle(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return columns.mean() / mask.shape[1], rows.mean() / mask.shape[0]


def test_pictures_are_as_the_camera_sees_them_and_groups_left_out_are_not_drawn(model) -> None:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = Renderer(mujoco, model, 64, 0.01, (1,))
    picture = renderer.render(data, "above", 64).astype(int)
    column, row = middle(picture[..., 0] > 100)
    assert column > 0.6
    assert row < 0.4  # up in the picture is up for the camera
    assert not (picture[..., 1] > picture[..., 0] + 50).any()
    assert renderer.render(data, "above", 100).shape == (100, 100, 3)
    np.testing.assert_array_equal(renderer.render(data, "above", 64), picture)
    renderer.close()
    both = Renderer(mujoco, model, 64, 0.01, (0, 1))
    column, row = middle(both.render(data, "above", 64)[..., 1].astype(int) > 100)
    both.close()
    assert column < 0.4
    assert row < 0.4


def test_colours_are_those_of_the_moment(model) -> None:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = Renderer(mujoco, model, 64, 0.01, (1,))
    before = renderer.render(data, "above", 64)
    colour = model.geom("red").rgba.copy()
    model.geom("red").rgba = (0, 1, 0, 1)
    after = renderer.render(data, "above", 64)
    model.geom("red").rgba = colour
    renderer.close()
    np.testing.assert_array_equal(before[..., 0] > 100, after[..., 1] > 100)


def test_thinning_joins_what_shares_a_cube_and_drops_flat_and_double_triangles(model) -> None:
    thin = picture_model(model, 64, 0.02)  # two squares of 1 cm, and so 2 x 2 vertices, to a cube
    whole, left = (part.mesh_facenum[0] for part in (model, thin))
    assert whole == 6400
    assert 700 <= left <= 950  # 20 x 20 squares, and where the wave steps from one layer of cubes to the next
    faces = np.sort(thin.mesh_face[:left], axis=1)
    assert (np.diff(faces, axis=1) > 0).all()
    assert len(np.unique(faces, axis=0)) == left
    np.testing.assert_array_equal(model.mesh_vert, thin.mesh_vert)
    corners, kept = thin.mesh_vert[faces], thin.mesh_vert[np.unique(faces)]
    assert (np.ptp(corners, axis=1) <= 0.0401).all()  # neighbours stay neighbours
    cubes = np.floor(kept / np.float32(0.02))
    assert len(np.unique(cubes, axis=0)) == len(cubes)


def test_every_corner_keeps_its_own_normal(model) -> None:
    marked = copy.deepcopy(model)
    marked.mesh_facenormal[:, 0] = np.arange(6400)
    thin_out(marked, 0, 0.02)
    left = marked.mesh_facenum[0]
    order = marked.mesh_facenormal[:left, 0]
    assert (np.diff(order) > 0).all()
    stayed = marked.mesh_vert[marked.mesh_face[:left]].mean(1)
    np.testing.assert_allclose(stayed, model.mesh_vert[model.mesh_face[order]].mean(1), atol=0.03)
    assert picture_model(model, 64, 0.004).mesh_facenum[0] > 3200  # cubes finer than the mesh
