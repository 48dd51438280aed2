# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Random layouts of obstacles, beacon and start pose, the same in every simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policy_node_rover.arena.description import ARENA, OBSTACLES, ROVER, Obstacle


@dataclass(frozen=True)
class PlacedObstacle:
    """An obstacle at a pose; `outline_m` are points of its centre line, float64 [points, 2]."""

    obstacle: Obstacle
    pose: tuple[float, float, float]
    outline_m: np.ndarray


@dataclass(frozen=True)
class Layout:
    """The obstacles, the position of the beacon (x_m, y_m) and the start of the rover (x_m, y_m, yaw_rad)."""

    obstacles: tuple[PlacedObstacle, ...]
    beacon: tuple[float, float]
    rover: tuple[float, float, float]


def clearance_m(points_m: np.ndarray, obstacles: Sequence[PlacedObstacle]) -> float:
    """Return the distance from points [points, 2] to the nearest obstacle or outer wall."""
    nearest_m = ARENA.half_size_m - float(np.abs(points_m).max())
    for placed in obstacles:
        offsets = points_m[:, None, :] - placed.outline_m[None, :, :]
        nearest_m = min(nearest_m, float(np.hypot(offsets[..., 0], offsets[..., 1]).min()) - placed.obstacle.radius_m)
    return nearest_m


def draw_beacon(rng: np.random.Generator, obstacles: Sequence[PlacedObstacle]) -> tuple[float, float] | None:
    """Draw a free position for the beacon; None after too many tries."""
    reach_m = ARENA.half_size_m - ARENA.beacon_radius_m - ARENA.beacon_wall_clearance_m
    for _ in range(200):
        x, y = rng.uniform(-reach_m, reach_m, 2)
        point = np.array([[x, y]])
        inside = [
            np.hypot(*(point - placed.outline_m).T).min() - placed.obstacle.radius_m - ARENA.beacon_radius_m
            for placed in obstacles
        ]
        if min(inside, default=np.inf) >= ARENA.beacon_clearance_m:
            return float(x), float(y)
    return None


def draw_distant_beacon(
    rng: np.random.Generator, obstacles: Sequence[PlacedObstacle], present_m: tuple[float, float]
) -> tuple[float, float]:
    """Draw a free position for the beacon, away from a present position of rover or beacon."""
    while True:
        drawn = draw_beacon(rng, obstacles)
        if drawn is not None and np.hypot(*np.subtract(drawn, present_m)) >= ARENA.beacon_distance_m:
            return drawn


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draw a random layout in which every passage is at least `ARENA.passage_m` wide."""
    half_m = ARENA.half_size_m
    while True:
        obstacles: list[PlacedObstacle] = []
        for obstacle in OBSTACLES:
            for _ in range(100):
                x, y = rng.uniform(-half_m, half_m, 2)
                pose = (float(x), float(y), float(rng.uniform(-np.pi, np.pi)))
                outline_m = obstacle.outline(*pose)
                if clearance_m(outline_m, obstacles) - obstacle.radius_m >= ARENA.passage_m:
                    obstacles.append(PlacedObstacle(obstacle, pose, outline_m))
                    break
        beacon = draw_beacon(rng, obstacles)
        if beacon is None or len(obstacles) < len(OBSTACLES):
            continue
        for _ in range(200):
            x, y = rng.uniform(-half_m, half_m, 2)
            free = clearance_m(np.array([[x, y]]), obstacles) - ROVER.radius_m >= ARENA.rover_clearance_m
            if free and np.hypot(x - beacon[0], y - beacon[1]) >= ARENA.beacon_distance_m:
                return Layout(tuple(obstacles), beacon, (float(x), float(y), float(rng.uniform(-np.pi, np.pi))))
