"""What things are made of, as points on a grid through their collision boxes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from pizero.robot.rotation import quaternion_to_matrix
from pizero.sim.libero.world import World

OBJECT_SPACING = 0.005
"""Metres between the points of a thing to be grasped; a wall of a bowl is 2 mm to 6 mm thick, and its two faces have
points in any case."""
OBSTACLE_SPACING = 0.015
"""Metres between the points of an obstacle; a finger is 22 mm wide."""


@dataclass(frozen=True)
class Shape:
    """Points of one thing, which may have parts that move (drawers): one entry per rigid part."""

    bodies: tuple[int, ...]
    """MuJoCo's numbers of the parts."""
    points: tuple[Float[np.ndarray, "_ 3"], ...]
    """Points of each part in its own frame, metres."""

    def where(self, world: World) -> Float[np.ndarray, "n 3"]:
        """The points of all parts in the world, as things are now."""
        data = world.sim.data
        parts = [
            points @ data.body_xmat[body].reshape(3, 3).T + data.body_xpos[body]
            for body, points in zip(self.bodies, self.points, strict=True)
        ]
        return np.concatenate(parts)


def shape_of(world: World, name: str, spacing: float) -> Shape:
    """The shape of the object or fixture `name`, with all that hangs on it.

    Boxes are filled exactly; other geometry counts as its bounding box (all of LIBERO's is boxes). Of points within one
    cell of half the spacing, one is kept.
    """
    model = world.sim.model
    root = world.env.obj_body_id[name]
    bodies = [body for body in range(model.nbody) if _hangs_on(model.body_parentid, body, root)]
    parts = [body_shape(world, body, spacing) for body in bodies if _solid_geoms(model, body)]
    assert parts, f"{name} has no collision geometry"
    return Shape(tuple(part.bodies[0] for part in parts), tuple(part.points[0] for part in parts))


def body_shape(world: World, body: int, spacing: float) -> Shape:
    """The shape of one rigid part, by MuJoCo's number."""
    model = world.sim.model
    boxes = np.concatenate([_box_points(model, geom, spacing) for geom in _solid_geoms(model, body)])
    first = np.unique(np.round(boxes / spacing * 2), axis=0, return_index=True)[1]
    return Shape((body,), (boxes[first],))


def _solid_geoms(model: Any, body: int) -> list[int]:
    return [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] == body and model.geom_contype[geom]]


def _hangs_on(parents: np.ndarray, body: int, root: int) -> bool:
    while body and body != root:
        body = int(parents[body])
    return body == root


def _box_points(model: Any, geom: int, spacing: float) -> Float[np.ndarray, "n 3"]:
    """A grid through the box around a geom, faces included, in the frame of the body it belongs to."""
    center, half = np.split(model.geom_aabb[geom], 2)
    ticks = [np.linspace(-size, size, max(2, int(np.ceil(2 * size / spacing)) + 1)) for size in half]
    grid = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 3)
    turn = quaternion_to_matrix(model.geom_quat[geom])
    inside: Float[np.ndarray, "n 3"] = (grid + center) @ turn.T + model.geom_pos[geom]
    return inside
