# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Define the rover and its arena: sizes, masses, places, colours and limits.

`mujoco/model.py` builds the MuJoCo model from this description, and `gazebo/sdf.py` the model and world of Gazebo.

The rover has a differential drive. The traction of each wheel is limited in force. The tyres also slip sideways, so
the rover can slide along an obstacle. The bumper is rubber with friction: a rover that pushes against an obstacle
turns to face it and stops.

Frames follow REP 103: x forward, y left, z up, angles counter-clockwise. The rover's origin is on the floor between
its wheels, the arena's origin is in its middle.

The touch cells divide the round bumper into equal sectors, counter-clockwise from straight ahead. With eight cells,
cell ``k`` covers the bearings from ``45 k`` to ``45 (k + 1)`` degrees: cell 0 is front left, cell 3 rear left, cell 4
rear right, cell 7 front right. The cells are foam that recovers slowly: a reading rises with the force at once and
decays to 1/e in `RoverDimensions.touch_recovery_s`, down to a threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class RoverDimensions:
    """Sizes and limits of the rover, in SI units."""

    radius_m: float = 0.17
    bumper_height_m: float = 0.10
    wheel_radius_m: float = 0.04
    wheel_offset_m: float = 0.12
    wheel_mass_kg: float = 0.15
    mass_kg: float = 4.0
    wheel_gain_n_s_m: float = 30.0
    wheel_force_n: float = 10.0
    scrub_n_s_m: float = 60.0
    bumper_friction: float = 0.4
    max_linear_m_s: float = 0.6
    max_reverse_m_s: float = 0.3
    max_angular_rad_s: float = 2.0
    camera_height_m: float = 0.22
    camera_forward_m: float = 0.10
    camera_field_of_view_deg: float = 90.0
    camera_near_m: float = 0.16623776
    camera_size_px: int = 64
    touch_cells: int = 8
    touch_limit_n: float = 5.0
    touch_recovery_s: float = 0.3
    touch_threshold_n: float = 0.05


@dataclass(frozen=True)
class ArenaDimensions:
    """Sizes of the arena and its obstacles, and the clearances of every layout, in SI units."""

    half_size_m: float = 2.0
    outer_wall_height_m: float = 0.30
    outer_wall_thickness_m: float = 0.10
    obstacle_height_m: float = 0.18
    post_radius_m: float = 0.09
    wall_half_length_m: float = 0.40
    wall_half_thickness_m: float = 0.03
    opaque_posts: int = 3
    transparent_posts: int = 2
    opaque_walls: int = 1
    transparent_walls: int = 1
    beacon_radius_m: float = 0.12
    beacon_height_m: float = 0.90
    foundation_m: float = 0.2
    passage_m: float = 0.50
    beacon_clearance_m: float = 0.45
    beacon_wall_clearance_m: float = 0.25
    rover_clearance_m: float = 0.08
    beacon_distance_m: float = 1.2
    press_force_n: float = 1.0
    timestep_s: float = 0.01


ROVER = RoverDimensions()
ARENA = ArenaDimensions()


@dataclass(frozen=True)
class Box:
    """A box, centred on its origin."""

    half_size_m: Vector


@dataclass(frozen=True)
class Sphere:
    """A sphere."""

    radius_m: float


@dataclass(frozen=True)
class Cylinder:
    """A cylinder along z, centred on its origin."""

    radius_m: float
    half_length_m: float


@dataclass(frozen=True)
class Post:
    """An upright capsule whose lower end is below the floor."""

    radius_m: float
    height_m: float

    @property
    def ends_m(self) -> tuple[float, float]:
        """Heights of the centres of the lower and the upper half sphere."""
        return -ARENA.foundation_m, self.height_m - self.radius_m


Shape = Box | Sphere | Cylinder | Post


@dataclass(frozen=True)
class Part:
    """A part of a body: shape, position in the body's frame, material and mass."""

    name: str
    shape: Shape
    position_m: Vector
    material: str
    mass_kg: float = 0.0


@dataclass(frozen=True)
class TouchCell:
    """A sector of the bumper: its bearing, and the box that contains its contacts."""

    name: str
    bearing_rad: float
    position_m: Vector
    half_size_m: Vector


@dataclass(frozen=True)
class Obstacle:
    """An obstacle of a layout: a post (a point with a radius) or a wall (a segment with a radius)."""

    name: str
    is_wall: bool
    transparent: bool

    @property
    def radius_m(self) -> float:
        """Distance from the axis or centre line of the obstacle to its surface."""
        return ARENA.wall_half_thickness_m if self.is_wall else ARENA.post_radius_m

    @property
    def part(self) -> Part:
        """The obstacle as a part of a body that stands on the floor."""
        material = "glass" if self.transparent else ("wall" if self.is_wall else "post")
        height_m = ARENA.obstacle_height_m
        if not self.is_wall:
            return Part(self.name, Post(ARENA.post_radius_m, height_m), (0.0, 0.0, 0.0), material)
        half_size_m = (ARENA.wall_half_length_m, ARENA.wall_half_thickness_m, height_m / 2)
        return Part(self.name, Box(half_size_m), (0.0, 0.0, height_m / 2), material)

    def outline(self, x_m: float, y_m: float, yaw_rad: float) -> np.ndarray:
        """Return points on the centre line at a pose, float64 [points, 2] in metres."""
        if not self.is_wall:
            return np.array([[x_m, y_m]])
        along_m = np.linspace(-ARENA.wall_half_length_m, ARENA.wall_half_length_m, 9)
        return np.array([x_m, y_m]) + along_m[:, None] * np.array([np.cos(yaw_rad), np.sin(yaw_rad)])


# Red, green, blue, opacity.
MATERIALS: dict[str, tuple[float, float, float, float]] = {
    "floor": (0.42, 0.43, 0.45, 1.0),
    "outer_east": (0.80, 0.74, 0.60, 1.0),
    "outer_west": (0.62, 0.66, 0.58, 1.0),
    "outer_north": (0.70, 0.70, 0.74, 1.0),
    "outer_south": (0.64, 0.58, 0.50, 1.0),
    "wall": (0.85, 0.65, 0.20, 1.0),
    "post": (0.20, 0.42, 0.72, 1.0),
    "glass": (0.35, 0.95, 0.90, 0.45),
    "beacon": (0.90, 0.08, 0.08, 1.0),
    "hull": (0.13, 0.14, 0.17, 1.0),
    "wheel": (0.30, 0.30, 0.32, 1.0),
    "nose": (0.95, 0.90, 0.25, 1.0),
}
SKY: Vector = (0.66, 0.77, 0.88)
# One directional light without shadows: the brightness of a surface is ambient + diffuse * cosine of the angle.
LIGHT_DIRECTION: Vector = (-0.35, 0.45, -0.82)
LIGHT_AMBIENT = 0.55
LIGHT_DIFFUSE = 0.5

FLOOR_HALF_SIZE_M = ARENA.half_size_m + ARENA.outer_wall_thickness_m
# Walls first, as they are the hardest to place.
OBSTACLES = tuple(
    Obstacle(f"{name}_{index}", is_wall, transparent)
    for name, is_wall, transparent, count in (
        ("wall", True, False, ARENA.opaque_walls),
        ("glass_wall", True, True, ARENA.transparent_walls),
        ("post", False, False, ARENA.opaque_posts),
        ("glass_post", False, True, ARENA.transparent_posts),
    )
    for index in range(count)
)
_WALL_MIDDLE_M = ARENA.half_size_m + ARENA.outer_wall_thickness_m / 2
_ALONG_Y = Box((ARENA.outer_wall_thickness_m / 2, FLOOR_HALF_SIZE_M, ARENA.outer_wall_height_m / 2))
_ALONG_X = Box((FLOOR_HALF_SIZE_M, ARENA.outer_wall_thickness_m / 2, ARENA.outer_wall_height_m / 2))
# They overlap at the corners.
OUTER_WALLS = tuple(
    Part(f"outer_wall_{name}", shape, (x_m, y_m, ARENA.outer_wall_height_m / 2), f"outer_{name}")
    for name, shape, x_m, y_m in (
        ("east", _ALONG_Y, _WALL_MIDDLE_M, 0.0),
        ("west", _ALONG_Y, -_WALL_MIDDLE_M, 0.0),
        ("north", _ALONG_X, 0.0, _WALL_MIDDLE_M),
        ("south", _ALONG_X, 0.0, -_WALL_MIDDLE_M),
    )
)
BEACON = Part("beacon", Post(ARENA.beacon_radius_m, ARENA.beacon_height_m), (0.0, 0.0, 0.0), "beacon")

BUMPER = Sphere(ROVER.radius_m)
BUMPER_POSITION_M: Vector = (0.0, 0.0, ROVER.bumper_height_m)
HULL = Part("hull", Cylinder(ROVER.radius_m, 0.06), (0.0, 0.0, 0.09), "hull", ROVER.mass_kg - 2 * ROVER.wheel_mass_kg)
NOSE = Part("nose", Box((0.05, 0.02, 0.01)), (0.09, 0.0, 0.16), "nose")
# The axes of the wheels point along y.
WHEELS = tuple(
    Part(
        f"wheel_{side}",
        Cylinder(ROVER.wheel_radius_m, 0.012),
        (0.0, y_m, ROVER.wheel_radius_m),
        "wheel",
        ROVER.wheel_mass_kg,
    )
    for side, y_m in (("left", ROVER.wheel_offset_m), ("right", -ROVER.wheel_offset_m))
)
# Frictionless casters, 0.5 mm above the floor so that the wheels carry the weight.
CASTERS = tuple(
    Part(f"caster_{end}", Sphere(0.02), (x_m, 0.0, 0.0205), "wheel") for end, x_m in (("front", 0.12), ("rear", -0.12))
)
CAMERA_POSITION_M: Vector = (ROVER.camera_forward_m, 0.0, ROVER.camera_height_m)
_SECTOR_RAD = 2 * math.pi / ROVER.touch_cells
# One cell per sector, without gaps between them.
TOUCH_CELLS = tuple(
    TouchCell(
        f"touch_{cell}",
        bearing_rad,
        (ROVER.radius_m * math.cos(bearing_rad), ROVER.radius_m * math.sin(bearing_rad), ROVER.bumper_height_m),
        (0.03, ROVER.radius_m * math.tan(_SECTOR_RAD / 2) * 0.98, 0.08),
    )
    for cell, bearing_rad in ((cell, (cell + 0.5) * _SECTOR_RAD) for cell in range(ROVER.touch_cells))
)
