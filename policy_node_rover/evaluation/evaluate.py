# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a policy or a reference driver in process (`policy_train evaluate`).

The references are the scripted driver, random commands and standing still.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from policy_node.cli.options import number
from policy_node.cli.output import check_file
from policy_node.policies import PolicyError, load_policy
from policy_node.report.figures import SubParsers, write_figures
from policy_node_rover.arena.conditions import CONDITIONS
from policy_node_rover.evaluation.animation import MAX_EPISODES, EpisodeRecorder, draw_episodes
from policy_node_rover.evaluation.progress import EpisodeProgress
from policy_node_rover.evaluation.results import EpisodeResult, describe_summary, summarise_episodes
from policy_node_rover.mujoco.environment import CONTROL_PERIOD_S, Observation, action_space, observation_space
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv, wrap_for_policy

LINE_PERIOD_S = 30.0
# Maps the observations of all arenas, and whether an episode starts in each, bool [arenas], to actions [arenas, 2].
Driver: TypeAlias = Callable[[Observation, np.ndarray], np.ndarray]

_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "RecurrentPPO": RecurrentPPO}
REFERENCE_DRIVERS = ("scripted", "random", "still")
_RANDOM_HOLD_STEPS = 20


def load_model(path: Path, device: str) -> tuple[BaseAlgorithm, list[str], int]:
    """Load a PPO or RecurrentPPO model that drives the rover.

    Returns the model, its observation keys, and how many of the latest observations it takes. Raises SystemExit when
    the file is missing, damaged or of another algorithm, its spaces are not the rover's, or the device does not exist.
    """
    # The loader of the node first, for its error messages.
    try:
        spec = load_policy(path, device, trusted=True, format="sb3").spec
    except PolicyError as error:
        raise SystemExit(f"evaluate: {error}") from error
    remedy = "give a model that policy_train trained, such as models/rover.zip"
    if spec.algorithm not in _ALGORITHMS:
        raise SystemExit(
            f"evaluate: policy file '{path}' holds a {spec.algorithm} model, allowed are {' and '.join(_ALGORITHMS)}; "
            f"{remedy}"
        )
    model = _ALGORITHMS[spec.algorithm].load(path, device=device)
    available = observation_space().spaces
    used = {key: space for key, space in available.items() if key in spec.observations}
    model_space = model.observation_space
    stack = 0
    if used and isinstance(model_space, spaces.Dict):
        stack = max(math.prod(model_space[key].shape or ()) // math.prod(used[key].shape or ()) for key in used)
    if not stack or model_space != _wrapped_space(used, stack) or model.action_space != action_space():
        inputs = "; ".join(str(array) for array in spec.observations.values())
        offered = _wrapped_space(available, 1).spaces
        raise SystemExit(
            f"evaluate: policy file '{path}' takes {inputs} and gives {spec.action}; the rover gives "
            f"{', '.join(f'{key} {space.dtype} {list(space.shape or ())}' for key, space in offered.items())}, "
            f"one or several of each, and takes {action_space()}; {remedy}"
        )
    return model, list(used), stack


def reference_driver(name: str, arenas: RoverArenaVecEnv) -> Driver:
    """Return a driver of `REFERENCE_DRIVERS`: scripted, random commands held for 1 s each, or standing still."""
    if name == "scripted":
        return lambda *_: np.array(arenas.env_method("scripted_command"), np.float32)
    if name == "random":
        return _random_driver(arenas)
    still = np.zeros((arenas.num_envs, 2), np.float32)
    return lambda *_: still


class PolicyDriver:
    """Drive with the deterministic actions of a model; its memory of an arena is reset when an episode starts.

    `blanked` is an observation key to replace by zeros.
    """

    def __init__(self, model: BaseAlgorithm, blanked: str | None = None) -> None:
        self._model = model
        self._blanked = blanked
        self._memory: tuple[np.ndarray, ...] | None = None

    def __call__(self, observations: Observation, starts: np.ndarray) -> np.ndarray:
        """Return the actions [arenas, 2]."""
        if self._blanked:
            observations = {**observations, self._blanked: np.zeros_like(observations[self._blanked])}
        actions, self._memory = self._model.predict(observations, self._memory, starts, deterministic=True)
        return actions


def _random_driver(arenas: RoverArenaVecEnv) -> Driver:
    """Draw the commands of an episode from its seed, independent of the number of arenas."""
    space = action_space()
    rngs = [np.random.default_rng() for _ in range(arenas.num_envs)]
    steps = np.zeros(arenas.num_envs, int)
    commands = np.zeros((arenas.num_envs, 2), np.float32)

    def drive(_: Observation, starts: np.ndarray) -> np.ndarray:
        steps[starts] = 0
        for row in np.flatnonzero(steps % _RANDOM_HOLD_STEPS == 0):
            if starts[row]:
                # Not the random numbers of the layout.
                rngs[row] = np.random.default_rng([arenas.running_seeds[row], 1])
            commands[row] = rngs[row].uniform(space.low, space.high)
        steps[:] += 1
        return commands.copy()

    return drive


def _wrapped_space(sensors: dict[str, Any], stack: int) -> spaces.Dict:
    """Return the observation space of wrapped arenas: stacked, images with the channels first."""
    transposed = spaces.Dict(
        {key: VecTransposeImage.transpose_space(space) if key == "image" else space for key, space in sensors.items()}
    )
    space = StackedObservations(1, stack, transposed).stacked_observation_space
    assert isinstance(space, spaces.Dict)
    return space


def run_episodes(
    arenas: VecEnv, driver: Driver, seeds: range, progress: Callable[[int, int], object] | None = None
) -> list[EpisodeResult]:
    """Drive one episode for each seed; return the results in the order in which the episodes end.

    The arenas are wrapped for the driver and start episodes in the order of the seeds. The last episode is waited for,
    so that each seed counts once for any number of arenas. The batch size changes the rounding in a network, and so
    possibly an episode. `progress` is called after every step with the number of episodes that have ended, and of those
    that succeeded.
    """
    observations = arenas.reset()
    starts = np.ones(arenas.num_envs, bool)
    results: list[EpisodeResult] = []
    while len(results) < len(seeds):
        assert isinstance(observations, dict)
        observations, _, starts, infos = arenas.step(driver(observations, starts))
        for row in np.flatnonzero(starts):
            seed, info = infos[row]["seed"], infos[row]
            if seed in seeds:
                results.append(EpisodeResult(seed, bool(info["is_success"]), info["time_s"], info["collisions"]))
        if progress:
            progress(len(results), sum(result.success for result in results))
    return results


def evaluate(options: argparse.Namespace, quiet: bool = False) -> dict[str, Any]:
    """Run `policy_train evaluate`, without progress if `quiet`, and return its report."""
    _check_options(options)
    torch.set_num_threads(options.threads)
    episodes = options.episodes or (1 if options.gif else 100)
    seeds = range(options.seed, options.seed + episodes)
    arenas = RoverArenaVecEnv(
        min(options.arenas, episodes),
        itertools.count(options.seed),
        options.renderer,
        # The recorder needs the arenas in this process.
        1 if options.gif else options.processes,
        CONDITIONS[options.conditions],
    )
    recorder = EpisodeRecorder(arenas, seeds[:MAX_EPISODES], options.blank) if options.gif else None
    with closing(arenas):
        wrapped, driver, unused_keys = _wrap_arenas(options, arenas, recorder or arenas)
        started_s = time.monotonic()
        # On standard error, as the result goes to standard output.
        console = Console(stderr=True, quiet=quiet)
        if not console.is_terminal:
            text = f"evaluating {episodes} episodes under {options.conditions} conditions …"
            console.print(text, highlight=False, soft_wrap=True)
        with EpisodeProgress(console, "evaluating", episodes, LINE_PERIOD_S) as progress:
            results = run_episodes(wrapped, driver, seeds, progress.show)
        elapsed_s = time.monotonic() - started_s
    report = {
        "driver": options.driver,
        "model": str(options.model) if options.model else None,
        "renderer": arenas.renderer.kind,
        "conditions": options.conditions,
        "blanked": options.blank,
        "control_rate_hz": 1 / CONTROL_PERIOD_S,
        **summarise_episodes(results),
        "wall_time_s": elapsed_s,
    }
    conditions = f"{options.conditions} conditions" + (f", {options.blank} blanked" if options.blank else "")
    print(
        f"{options.driver}, {conditions}, seeds {seeds.start} to {seeds.stop - 1}, renderer {arenas.renderer.kind}: "
        + describe_summary(report)
    )
    if options.json:
        write_figures(options.json, report)
    if recorder:
        name = options.model.name if options.model else f"{options.driver} driver"
        draw_episodes(recorder.episodes, name, conditions, options.gif, unused_keys)
    return report


def _check_options(options: argparse.Namespace) -> None:
    if (options.model is None) == (options.driver == "policy"):
        raise SystemExit("evaluate: give a MODEL, or another --driver than 'policy', and not both")
    if options.blank and options.model is None:
        raise SystemExit(f"evaluate: --blank {options.blank} needs a MODEL; the {options.driver} driver reads nothing")
    if options.json:
        check_file("evaluate: --json", options.json)
    if options.gif:
        check_file("evaluate: --gif", options.gif, ".gif")


def _wrap_arenas(
    options: argparse.Namespace, arenas: RoverArenaVecEnv, recorded: VecEnv
) -> tuple[VecEnv, Driver, set[str]]:
    """Return the arenas as the driver takes them, the driver, and the observation keys that it does not use."""
    if options.model is None:
        return recorded, reference_driver(options.driver, arenas), set()
    model, keys, stack = load_model(options.model, options.device)
    if options.blank and options.blank not in keys:
        raise SystemExit(f"evaluate: --blank {options.blank}: '{options.model}' takes only {', '.join(keys)}")
    unused_keys = set(observation_space().spaces) - set(keys)
    return wrap_for_policy(recorded, keys, stack), PolicyDriver(model, options.blank), unused_keys


def add_parser(commands: SubParsers, shared: argparse.ArgumentParser) -> None:
    """Add the subcommand `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        parents=[shared],
        help="evaluate a policy or a reference driver",
        description="Drive one episode for each seed; it succeeds if the beacon is pressed within 20 s.",
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", help="PPO or RecurrentPPO zip")
    add("--episodes", type=number(int, 1), help="number of episodes (default 100, with --gif 1)")
    add("--seed", type=number(int, 0), default=1000, help="seed of the first episode (default 1000)")
    add("--driver", choices=("policy", *REFERENCE_DRIVERS), default="policy", help="the driver (default policy)")
    add("--conditions", choices=CONDITIONS, default="nominal", help="conditions of the episodes (default nominal)")
    add("--blank", choices=("touch", "image"), help="replace this observation by zeros")
    add("--json", type=Path, help="file for the report")
    add(
        "--gif",
        type=Path,
        help=f"file (.gif) for an animation of the first episodes, at most {MAX_EPISODES}; implies --processes 1",
    )
