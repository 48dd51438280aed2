# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena as a Gymnasium environment; `vectorised.py` runs many of them.

Observation: a dict of ``image``, uint8 [64, 64, 3] (RGB), and ``touch``, float32 [8] (newtons, see
`policy_node_rover.arena.description` for the cells).

Action: float32 [2], forward speed in m/s and turn rate in rad/s (counter-clockwise). The node publishes them as
`linear.x` and `angular.z` of a Twist. The bounds are near one, so that no scaling is needed.

Reward per step of 0.05 s: the progress towards the beacon in metres, plus 0.3 times the increase of the cosine of its
bearing, minus 0.01; plus 5 for the press. The first two terms are potential-based: their sum depends only on start and
end of the path.

An episode ends with the first press (terminated, ``is_success``) or after 20 s (truncated). Its conditions are drawn
from its seed.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np

from policy_node_rover.arena.conditions import NOMINAL, Conditions
from policy_node_rover.arena.description import ROVER
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import Renderer, make_renderer
from policy_node_rover.mujoco.scripted_driver import scripted_command

CONTROL_PERIOD_S = 0.05
EPISODE_S = 20.0
EPISODE_STEPS = round(EPISODE_S / CONTROL_PERIOD_S)
PRESS_REWARD = 5.0
FACING_WEIGHT = 0.3
TIME_COST = 0.01

Observation = dict[str, np.ndarray]


def observation_space() -> gymnasium.spaces.Dict:
    """Return the observation space of one rover."""
    size = ROVER.camera_size_px
    return gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8),
            "touch": gymnasium.spaces.Box(0.0, ROVER.touch_limit_n, (ROVER.touch_cells,), np.float32),
        }
    )


def action_space() -> gymnasium.spaces.Box:
    """Return the action space of one rover: forward speed in m/s, turn rate in rad/s."""
    low = np.array([-ROVER.max_reverse_m_s, -ROVER.max_angular_rad_s], np.float32)
    high = np.array([ROVER.max_linear_m_s, ROVER.max_angular_rad_s], np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


def checked_action(action: np.ndarray) -> tuple[float, float]:
    """Return forward speed and turn rate of an action [2]; raise ValueError if it is of another shape or not finite."""
    values = np.asarray(action, np.float64)
    if values.shape != (2,) or not np.isfinite(values).all():
        raise ValueError(
            f"action: found {values.tolist()}, but it must give forward speed in m/s and turn rate in rad/s, finite"
        )
    return float(values[0]), float(values[1])


class CameraLink:
    """Transmit one image per control period, uint8 [height, width, 3]; ideal until `restart` is called."""

    def __init__(self) -> None:
        self.restart(0, 0.0, np.random.default_rng(0))

    def restart(self, latency_periods: int, loss: float, rng: np.random.Generator) -> None:
        """Start an episode with a latency in control periods and a probability that an image, drawn by `rng`, is lost.

        The first image of an episode arrives at once.
        """
        self._latency_periods = latency_periods
        self._loss = loss
        self._rng = rng
        self._in_flight: deque[np.ndarray | None] = deque()
        self._newest: np.ndarray | None = None

    def send(self) -> np.ndarray | None:
        """Send the image of this control period: return the array to render into, or None if it will be lost."""
        lost = self._newest is not None and self._loss > 0.0 and self._rng.random() < self._loss
        image = None if lost else np.empty((ROVER.camera_size_px, ROVER.camera_size_px, 3), np.uint8)
        self._in_flight.append(image)
        if self._newest is None:
            self._newest = image
        return image

    def receive(self) -> np.ndarray:
        """Return the newest image that has arrived; call it once per control period, after rendering."""
        if len(self._in_flight) > self._latency_periods:
            arrived = self._in_flight.popleft()
            if arrived is not None:
                self._newest = arrived
        if self._newest is None:
            raise RuntimeError("camera link: no image was sent in this episode; call send before receive")
        return self._newest


class RoverTask:
    """Physics, reward and episode end of one rover, without rendering; conditions are drawn for each episode."""

    def __init__(self, model: ArenaModel, conditions: Conditions = NOMINAL) -> None:
        # Surfaces are part of the model.
        self.arena = Arena(model if conditions == NOMINAL else model.copy())
        self.camera_link = CameraLink()
        self._conditions = conditions
        self._steps = 0
        self._potential = 0.0

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode; None continues the arena's random sequence."""
        self.arena.reset(seed)
        rng = self.arena.spawn_rng()
        drawn = self._conditions.draw(rng)
        if self._conditions != NOMINAL:
            self.arena.set_conditions(drawn)
        self.camera_link.restart(round(drawn.camera_latency_s / CONTROL_PERIOD_S), drawn.dropped_images, rng)
        self._steps = 0
        self._potential = self._current_potential()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """Drive for one control period with a finite action [2], clipped to the limits.

        Returns reward, terminated, truncated, and an info with ``is_success``, ``time_s`` and ``collisions``.
        """
        arena = self.arena
        arena.command(*checked_action(action))
        arena.advance(CONTROL_PERIOD_S)
        self._steps += 1
        pressed = arena.presses > 0
        # A pressed beacon has moved already: at the press the distance is zero and the cosine one.
        potential = FACING_WEIGHT if pressed else self._current_potential()
        reward = potential - self._potential - TIME_COST + PRESS_REWARD * pressed
        self._potential = potential
        truncated = self._steps >= EPISODE_STEPS and not pressed
        info = {"is_success": pressed, "time_s": arena.time_s, "collisions": arena.collisions}
        return reward, pressed, truncated, info

    def scripted_command(self) -> tuple[float, float]:
        """Return the command of the scripted driver: linear_m_s, angular_rad_s."""
        return scripted_command(self.arena)

    def observe(self, renderer: Renderer) -> Observation:
        """Render the image and return the observation; call it once per control period."""
        image = self.camera_link.send()
        if image is not None:
            renderer.camera(self.arena, image)
        return {"image": self.camera_link.receive().copy(), "touch": self.arena.touch_n.copy()}

    def _current_potential(self) -> float:
        distance_m, bearing_rad = self.arena.beacon_polar
        return FACING_WEIGHT * float(np.cos(bearing_rad)) - distance_m


class RoverArenaEnv(gymnasium.Env):
    """One rover in its arena as a Gymnasium environment; see the module for spaces and reward.

    The renderer is ``"auto"``, ``"egl"`` or ``"raycast"``; the render mode None, or ``"rgb_array"`` for the arena from
    above.

    Raises
    ------
    ValueError
        When the render mode is another one; in `step`, when the action is not two finite numbers.
    gymnasium.error.ResetNeeded
        In `step` before the first `reset` and after the end of an episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_PERIOD_S)}  # noqa: RUF012

    def __init__(
        self, renderer: str = "auto", render_mode: str | None = None, conditions: Conditions = NOMINAL
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode: found {render_mode!r}, allowed are None and 'rgb_array'")
        model = ArenaModel()
        self._runs = False
        self.observation_space = observation_space()
        self.action_space = action_space()
        self.render_mode = render_mode
        self.task = RoverTask(model, conditions)
        self._renderer = make_renderer(model, renderer)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        """Start an episode; equal seeds give equal layouts."""
        super().reset(seed=seed)
        self.task.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._runs = True
        return self.task.observe(self._renderer), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Drive for one control period."""
        if not self._runs:
            raise gymnasium.error.ResetNeeded(
                "step: no episode runs; call reset first, and after the end of an episode"
            )
        reward, terminated, truncated, info = self.task.step(action)
        self._runs = not (terminated or truncated)
        return self.task.observe(self._renderer), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """Render the arena from above, uint8 [320, 320, 3], or None without a render mode."""
        return self._renderer.overhead(self.task.arena, 320) if self.render_mode else None

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()
