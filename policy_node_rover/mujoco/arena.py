# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Simulate one rover in a walled arena with MuJoCo.

The task is to find the red beacon and press it with the bumper, past inner walls and posts. Some of these are
transparent: only the bumper detects them. All are lower than the camera, so that none hides the beacon.
"""

from __future__ import annotations

import mujoco
import numpy as np

from policy_node_rover.arena.conditions import Appearance, EpisodeConditions
from policy_node_rover.arena.description import ARENA, ROVER, Obstacle
from policy_node_rover.arena.layout import Layout, draw_distant_beacon, draw_layout
from policy_node_rover.arena.touch_sensor import decay, reading_n
from policy_node_rover.mujoco.model import ArenaModel

# Contacts closer in time count as one collision: a sliding bumper loses contact for moments.
COLLISION_GAP_S = 0.2


class Arena:
    """One rover in its arena; not thread-safe.

    Arenas may share a model as long as `set_conditions` is not called. Without a seed the layouts are random.

    Attributes
    ----------
    touch_n
        Readings of the touch cells in newtons, float32 [cells].
    presses, collisions
        Presses of the beacon, and collisions of the bumper with anything else, since `reset`.
    appearance
        Colours and light for the rover's camera; None for those of the description.
    """

    def __init__(self, model: ArenaModel, seed: int | None = None) -> None:
        self.model = model
        self.data = mujoco.MjData(model.model)
        self._rng = np.random.default_rng(seed)
        self.appearance: Appearance | None = None
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Draw a new layout and restart at time zero; a seed makes this and all later layouts reproducible."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.layout = draw_layout(self._rng)
        self.presses = 0
        self.collisions = 0
        self._touched_s = -np.inf
        self._armed = True
        self._remaining_s = 0.0
        self.touch_n = np.zeros(ROVER.touch_cells, np.float32)
        data = self.data
        mujoco.mj_resetData(self.model.model, data)
        for placed in self.layout.obstacles:
            self._place(placed.obstacle.name, *placed.pose)
        self._place("beacon", *self.layout.beacon, 0.0)
        data.qpos[:] = self.layout.rover
        mujoco.mj_forward(self.model.model, data)

    def spawn_rng(self) -> np.random.Generator:
        """Return a new random generator that depends on the seed; later layouts do not change."""
        return self._rng.spawn(1)[0]

    def set_conditions(self, conditions: EpisodeConditions) -> None:
        """Change surfaces and appearance; no other arena may share the model."""
        self.model.set_surfaces(conditions.bumper_friction, conditions.grip)
        self.appearance = conditions.appearance

    def is_transparent(self, obstacle: Obstacle) -> bool:
        """Return whether the camera looks through an obstacle."""
        return obstacle.transparent or (self.appearance is not None and obstacle.name in self.appearance.transparent)

    def command(self, linear_m_s: float, angular_rad_s: float) -> None:
        """Set the target velocities, clipped to the limits of the rover."""
        linear = min(max(float(linear_m_s), -ROVER.max_reverse_m_s), ROVER.max_linear_m_s)
        angular = min(max(float(angular_rad_s), -ROVER.max_angular_rad_s), ROVER.max_angular_rad_s)
        self.data.ctrl[0] = linear - angular * ROVER.wheel_offset_m
        self.data.ctrl[1] = linear + angular * ROVER.wheel_offset_m

    def advance(self, duration_s: float) -> None:
        """Simulate a duration; the next call simulates the remainder below one time step."""
        self._remaining_s += duration_s
        steps = int(self._remaining_s / ARENA.timestep_s + 1e-6)
        self._remaining_s -= steps * ARENA.timestep_s
        data = self.data
        touch_n = self.touch_n.astype(np.float64)
        decay_per_step = decay(ARENA.timestep_s)
        for _ in range(steps):
            mujoco.mj_step(self.model.model, data)
            forces_n = data.sensordata[: ROVER.touch_cells]
            np.maximum(forces_n, touch_n * decay_per_step, out=touch_n)
            touching = bool(forces_n.max() > 0.0) and data.sensordata[ROVER.touch_cells] == 0.0
            if touching:
                self.collisions += int(data.time - self._touched_s > COLLISION_GAP_S)
                self._touched_s = data.time
            pressing = data.sensordata[ROVER.touch_cells] > ARENA.press_force_n
            if pressing and self._armed:
                self.presses += 1
                self._move_beacon()
            # The sensor still measures the old contact in the step in which the beacon moves.
            self._armed = not pressing
        self.touch_n = reading_n(touch_n)

    @property
    def pose(self) -> tuple[float, float, float]:
        """The pose of the rover on the floor: x_m, y_m, yaw_rad in (-pi, pi]."""
        x, y, yaw = self.data.qpos
        return float(x), float(y), float(np.arctan2(np.sin(yaw), np.cos(yaw)))

    @property
    def velocity(self) -> tuple[float, float]:
        """The velocity of the rover in its own frame: forward linear_m_s, angular_rad_s."""
        yaw = self.data.qpos[2]
        x_m_s, y_m_s, angular_rad_s = self.data.qvel
        return float(x_m_s * np.cos(yaw) + y_m_s * np.sin(yaw)), float(angular_rad_s)

    @property
    def time_s(self) -> float:
        """Simulated time since `reset`."""
        return float(self.data.time)

    @property
    def beacon_polar(self) -> tuple[float, float]:
        """Distance between the surfaces of rover and beacon in metres, and bearing of the beacon in (-pi, pi]."""
        x, y, yaw = self.pose
        dx, dy = self.layout.beacon[0] - x, self.layout.beacon[1] - y
        bearing = np.arctan2(dy, dx) - yaw
        distance_m = np.hypot(dx, dy) - ARENA.beacon_radius_m - ROVER.radius_m
        return float(distance_m), float(np.arctan2(np.sin(bearing), np.cos(bearing)))

    def _place(self, name: str, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Move an obstacle or the beacon to a pose on the floor."""
        row = self.model.mocap[name]
        self.data.mocap_pos[row] = x_m, y_m, 0.0
        self.data.mocap_quat[row] = np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)

    def _move_beacon(self) -> None:
        """Move the beacon to another position, away from the rover."""
        x, y, _ = self.pose
        beacon = draw_distant_beacon(self._rng, self.layout.obstacles, (x, y))
        self.layout = Layout(self.layout.obstacles, beacon, self.layout.rover)
        self._place("beacon", *beacon, 0.0)
