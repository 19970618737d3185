from collections.abc import Iterator

import numpy as np
import pytest

from pizero.sim.libero.expert_grasp import Grasp, find_grasps
from pizero.sim.libero.expert_hand import FINGER_HALF_WIDTH, FINGER_THICKNESS, MAX_OPENING

MIDDLE = np.array([0.1, -0.1, 1.0])
RADIUS, WALL, HEIGHT = 0.05, 0.006, 0.05
NARROW = 0.03
"""Metres of room in which an open hand around the rim does not fit."""
FEET = np.array([[-0.6, 0.0]])


def bowl() -> np.ndarray:
    """A ring of 10 cm with a wall of 6 mm, in the frame of the world."""
    angle, radius, height = np.meshgrid(
        np.linspace(0, 2 * np.pi, 180), RADIUS + WALL * np.array([-0.5, 0.0, 0.5]), np.linspace(0, HEIGHT, 11)
    )
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1).reshape(-1, 3)
    return ring + MIDDLE


def box_around(room: float) -> np.ndarray:
    """Four walls, `room` metres from the bowl, as high as it."""
    along, height = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(0, HEIGHT, 6))
    away = RADIUS + WALL / 2 + room
    sides = [
        np.stack([along * away * c - s * away, along * away * s + c * away, height], -1)
        for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))
    ]
    return np.concatenate([side.reshape(-1, 3) for side in sides]) + MIDDLE


def grasps(room: float) -> Iterator[Grasp]:
    """Grasps in the frame of the world, turned a little: the frame of the thing is not the world's."""
    axes = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    for grasp in find_grasps(bowl(), box_around(room), MIDDLE, axes, FEET):
        yield Grasp(axes @ grasp.position, axes @ grasp.rotation, grasp.width, axes @ grasp.inset)


def outer_finger(grasp: Grasp, gap: float) -> float:
    """Where the inner side of the finger outside the rim is, along the fingers' way and outwards from the middle."""
    outward = np.sign(grasp.position[:2] @ grasp.rotation[:2, 0]) * grasp.rotation[:2, 0]
    return float(grasp.at(gap)[:2] @ outward + gap / 2)


def hit(grasp: Grasp, place: np.ndarray, room: float) -> bool:
    """Whether open fingers at a place are in the walls of the box."""
    across, along = np.abs((box_around(room) - MIDDLE - place)[:, :2] @ grasp.rotation[:2, :2]).T
    outside = (across > MAX_OPENING / 2) & (across < MAX_OPENING / 2 + FINGER_THICKNESS)
    return bool((outside & (along < FINGER_HALF_WIDTH)).any())


def test_where_there_is_room_the_hand_comes_down_where_it_grips() -> None:
    grasp = next(grasps(room=0.2))
    assert np.linalg.norm(grasp.inset) == 0
    np.testing.assert_array_equal(grasp.at(MAX_OPENING), grasp.position)
    assert np.linalg.norm(grasp.position[:2]) == pytest.approx(RADIUS, abs=0.003)


def test_beside_a_wall_the_hand_comes_down_off_it_and_ends_with_the_rim_between_the_fingers() -> None:
    grasp = next(grasps(NARROW))
    assert hit(grasp, grasp.position, NARROW)
    assert not hit(grasp, grasp.at(MAX_OPENING), NARROW)
    assert abs(grasp.inset @ grasp.rotation[:, 0]) == pytest.approx(np.linalg.norm(grasp.inset))
    np.testing.assert_array_equal(grasp.at(grasp.width), grasp.position)
    np.testing.assert_array_equal(grasp.at(0.0), grasp.position)  # fingers that missed it
    assert np.linalg.norm(grasp.position[:2]) == pytest.approx(RADIUS, abs=0.003)


def test_fingers_that_close_neither_push_the_rim_nor_come_nearer_to_the_wall_beside_it() -> None:
    grasp = next(grasps(NARROW))
    places = np.array([outer_finger(grasp, gap) for gap in np.linspace(MAX_OPENING, grasp.width, 20)])
    assert (np.diff(places) < 0).all()
    assert places[-1] == places.min()  # on the rim, and not before
