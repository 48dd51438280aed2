# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena as Gymnasium environment, single and vectorised.

Observation: a dict of ``image``, uint8 [64, 64, 3] (RGB, what the camera sees), and ``touch``, float32 [8] (newtons,
the bumper cells of `policy_node.simulation.description`).

Action: float32 [2], the forward speed in m/s and the turn rate in rad/s (counter-clockwise), exactly what the node
publishes as `linear.x` and `angular.z` of a Twist. The bounds are near one, so that no scaling is needed.

Reward, per step of 0.05 s: the progress towards the beacon in metres, plus 0.3 times the gain in the cosine of its
bearing, minus 0.01 for the time; 5 more for the press. Both first terms are differences of a potential, so they sum up
to what start and end give, whatever the path.

An episode ends with the first press (terminated, ``is_success``) or after 20 s (truncated).

Under `Conditions` other than the nominal ones each episode draws its own; they are the same for equal seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from policy_node.simulation.arena import Arena
from policy_node.simulation.camera_link import CameraLink
from policy_node.simulation.cameras import Cameras, Job
from policy_node.simulation.conditions import NOMINAL, Conditions
from policy_node.simulation.description import ROVER
from policy_node.simulation.mujoco_model import ArenaModel
from policy_node.simulation.rendering import Renderer, make_renderer

CONTROL_PERIOD_S = 0.05
EPISODE_S = 20.0
EPISODE_STEPS = round(EPISODE_S / CONTROL_PERIOD_S)
PRESS_REWARD = 5.0
FACING_WEIGHT = 0.3
TIME_COST = 0.01

Observation = dict[str, np.ndarray]


def observation_space() -> gymnasium.spaces.Dict:
    """Make the observation space of one rover."""
    size = ROVER.camera_size_px
    return gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8),
            "touch": gymnasium.spaces.Box(0.0, ROVER.touch_limit_n, (ROVER.touch_cells,), np.float32),
        }
    )


def action_space() -> gymnasium.spaces.Box:
    """Make the action space of one rover: forward speed in m/s, turn rate in rad/s."""
    low = np.array([-ROVER.max_reverse_m_s, -ROVER.max_angular_rad_s], np.float32)
    high = np.array([ROVER.max_linear_m_s, ROVER.max_angular_rad_s], np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


class RoverTask:
    """The task of one rover, without images: the physics, the reward and the end of an episode.

    Parameters
    ----------
    model
        The compiled model.
    conditions
        From what those of an episode are drawn.

    Attributes
    ----------
    arena
        The arena of the rover.
    camera_link
        The way of its images, under the conditions of the episode.
    """

    def __init__(self, model: ArenaModel, conditions: Conditions = NOMINAL) -> None:
        # Surfaces are part of the model.
        self.arena = Arena(model if conditions == NOMINAL else model.copy())
        self.camera_link = CameraLink()
        self._conditions = conditions
        self._steps = 0
        self._potential = 0.0

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode; None continues the arena's own random sequence."""
        self.arena.reset(seed)
        rng = self.arena.spawn_rng()
        drawn = self._conditions.draw(rng)
        if self._conditions != NOMINAL:
            self.arena.set_conditions(drawn)
        self.camera_link.restart(round(drawn.camera_latency_s / CONTROL_PERIOD_S), drawn.dropped_images, rng)
        self._steps = 0
        self._potential = self._current_potential()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """Drive for one control period.

        Parameters
        ----------
        action
            Forward speed in m/s and turn rate in rad/s, [2]; clipped to the limits.

        Returns
        -------
        tuple
            Reward, terminated, truncated, and an info with ``is_success``, ``time_s`` and ``collisions``.
        """
        arena = self.arena
        arena.command(action[0], action[1])
        arena.advance(CONTROL_PERIOD_S)
        self._steps += 1
        pressed = arena.presses > 0
        if pressed:
            # The beacon has moved already: what was left of the way was none.
            potential = FACING_WEIGHT
        else:
            potential = self._current_potential()
        reward = potential - self._potential - TIME_COST + PRESS_REWARD * pressed
        self._potential = potential
        truncated = self._steps >= EPISODE_STEPS and not pressed
        info = {"is_success": pressed, "time_s": arena.time_s, "collisions": arena.collisions}
        return reward, pressed, truncated, info

    def _current_potential(self) -> float:
        distance_m, bearing_rad = self.arena.beacon_polar
        return FACING_WEIGHT * float(np.cos(bearing_rad)) - distance_m


class RoverArenaEnv(gymnasium.Env):
    """One rover in its arena as a Gymnasium environment; see the module for spaces and reward.

    Parameters
    ----------
    renderer
        Kind of the renderer: ``"auto"``, ``"egl"`` or ``"raycast"``.
    render_mode
        None, or ``"rgb_array"`` for the arena from above.
    conditions
        From what those of an episode are drawn.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_PERIOD_S)}  # noqa: RUF012

    def __init__(
        self, renderer: str = "auto", render_mode: str | None = None, conditions: Conditions = NOMINAL
    ) -> None:
        model = ArenaModel()
        self.observation_space = observation_space()
        self.action_space = action_space()
        self.render_mode = render_mode
        self.task = RoverTask(model, conditions)
        self._renderer = make_renderer(model, renderer)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        """Start an episode; equal seeds give equal layouts."""
        super().reset(seed=seed)
        self.task.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Drive for one control period."""
        reward, terminated, truncated, info = self.task.step(action)
        return self._observe(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """Draw the arena from above, uint8 [320, 320, 3], or None without a render mode."""
        return self._renderer.overhead(self.task.arena, 320) if self.render_mode else None

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def _observe(self) -> Observation:
        return observe(self.task, self._renderer)


def observe(task: RoverTask, renderer: Renderer) -> Observation:
    """Draw what the rover's camera sees and return what its policy gets, once in every control period."""
    image = task.camera_link.send()
    if image is not None:
        renderer.camera(task.arena, image)
    return {"image": task.camera_link.receive().copy(), "touch": task.arena.touch_n.copy()}


class RoverArenaVecEnv(VecEnv):
    """Many rovers, each in its own arena, with one model in one process, drawn by several threads.

    All values of a step are in arrays over the arenas, which belong to the caller.

    An arena whose episode ends starts the next one by itself; the last observation is then in the info as
    ``terminal_observation``, and ``TimeLimit.truncated`` says whether only the time ran out.

    Parameters
    ----------
    arenas
        How many.
    episode_seeds
        One seed for every episode that starts, in the order of starting.
    renderer
        Kind of the renderer: ``"auto"``, ``"egl"`` or ``"raycast"``.
    threads
        How many threads draw; 0 means one for each CPU of this process. The images do not depend on it.
    conditions
        From what those of an episode are drawn.

    Attributes
    ----------
    cameras
        What draws the arenas.
    renderer
        The renderer of the calling thread.
    tasks
        The task of each arena.
    running_seeds
        The seed of the running episode of each arena.
    """

    def __init__(
        self,
        arenas: int,
        episode_seeds: Iterator[int],
        renderer: str = "auto",
        threads: int = 1,
        conditions: Conditions = NOMINAL,
    ) -> None:
        model = ArenaModel()
        self.render_mode = None
        super().__init__(arenas, observation_space(), action_space())
        self.tasks = [RoverTask(model, conditions) for _ in range(arenas)]
        self.cameras = Cameras(model, renderer, threads)
        self.renderer = self.cameras.renderer
        self._episode_seeds = episode_seeds
        self._actions = np.zeros((arenas, 2), np.float32)
        self.running_seeds = [0] * arenas
        self._returns = np.zeros(arenas)
        self._lengths = np.zeros(arenas, int)

    def reset(self) -> Observation:
        """Start an episode in every arena: image uint8 [arenas, 64, 64, 3], touch float32 [arenas, 8]."""
        for row in range(self.num_envs):
            self._restart(row)
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, float32 [arenas, 2], for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Observation, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Drive all rovers for one control period: observations, rewards [arenas], dones [arenas], infos."""
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for row, task in enumerate(self.tasks):
            reward, terminated, truncated, info = task.step(self._actions[row])
            rewards[row] = reward
            dones[row] = terminated or truncated
            self._returns[row] += rewards[row]
            self._lengths[row] += 1
            info["TimeLimit.truncated"] = truncated
            if dones[row]:
                info["terminal_observation"] = observe(task, self.renderer)
                # The key under which Stable-Baselines3 looks for finished episodes.
                info["episode"] = {"r": float(self._returns[row]), "l": int(self._lengths[row]), "t": info["time_s"]}
                info["seed"] = self.running_seeds[row]
                self._restart(row)
            infos.append(info)
        return self._observe(), rewards, dones, infos

    def restart_seeds(self, episode_seeds: Iterator[int]) -> None:
        """Take the seeds of all episodes that start from now on from another sequence."""
        self._episode_seeds = episode_seeds

    def close(self) -> None:
        """End the threads and free the renderers."""
        self.cameras.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return an attribute of the tasks; the attribute `render_mode` is the same for all."""
        if attr_name == "render_mode":
            return [self.render_mode for _ in self._get_indices(indices)]
        return [getattr(self.tasks[row], attr_name) for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of the tasks."""
        for row in self._get_indices(indices):
            setattr(self.tasks[row], attr_name, value)

    def env_method(
        self, method_name: str, *arguments: Any, indices: int | Iterable[int] | None = None, **keywords: Any
    ) -> list[Any]:
        """Call a method of the tasks."""
        return [getattr(self.tasks[row], method_name)(*arguments, **keywords) for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """Say that no task is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _restart(self, row: int) -> None:
        seed = next(self._episode_seeds)
        self.running_seeds[row] = seed
        self.tasks[row].reset(seed)
        self._returns[row] = 0.0
        self._lengths[row] = 0

    def _observe(self) -> Observation:
        """Draw what all cameras see, and return what the policy gets."""
        jobs: list[Job] = []
        for task in self.tasks:
            image = task.camera_link.send()
            if image is not None:
                jobs.append((task.arena, image))
        self.cameras.draw(jobs)
        images = np.stack([task.camera_link.receive() for task in self.tasks])
        return {"image": images, "touch": np.stack([task.arena.touch_n for task in self.tasks])}
