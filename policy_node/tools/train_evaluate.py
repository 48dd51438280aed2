# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a policy that drives the rover, or a reference (`policy_train evaluate`)."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecTransposeImage

from policy_node.options import number
from policy_node.policies import PolicyError, load_policy
from policy_node.simulation.environment import (
    CONTROL_PERIOD_S,
    Observation,
    RoverArenaVecEnv,
    action_space,
    observation_space,
)
from policy_node.simulation.scripted import scripted_command

SubParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DRIVERS = ("policy", "scripted", "random", "still")
_RANDOM_HOLD_STEPS = 20


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Compute the Wilson score interval of a rate; 95 % with the default quantile."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return (centre - half) / scale, (centre + half) / scale


def load_model(path: Path, device: str) -> PPO:
    """Load a PPO model that drives the rover.

    Raises
    ------
    SystemExit
        When the file is missing, damaged or no PPO zip, its spaces are not the rover's, or the device does not exist.
    """
    # Our own loader first: it says in one line what is wrong with the file and what to do.
    try:
        spec = load_policy(path, device, format="sb3").spec
    except PolicyError as error:
        raise SystemExit(f"evaluate: {error}") from error
    remedy = "give a model that policy_train trained, such as models/rover.zip"
    if spec.algorithm != "PPO":
        raise SystemExit(f"evaluate: policy file '{path}' holds a {spec.algorithm} model, allowed is PPO; {remedy}")
    model = PPO.load(path, device=device)
    arena: dict[str, Any] = dict(observation_space().spaces)
    # Stable-Baselines3 keeps images with their channels first.
    transposed = {
        key: VecTransposeImage.transpose_space(space) if key == "image" else space for key, space in arena.items()
    }
    channels_first = spaces.Dict(transposed)
    if model.observation_space not in (observation_space(), channels_first) or model.action_space != action_space():
        inputs = "; ".join(str(array) for array in spec.observations.values())
        raise SystemExit(
            f"evaluate: policy file '{path}' takes {inputs} and gives {spec.action}; the rover gives "
            f"{', '.join(f'{key} {space.dtype} {list(space.shape or ())}' for key, space in transposed.items())} "
            f"and takes {action_space()}; {remedy}"
        )
    return model


def make_driver(options: argparse.Namespace, arenas: RoverArenaVecEnv) -> Callable[[Observation], np.ndarray]:
    """Return the function from observations of all arenas to actions [arenas, 2] that is to be evaluated."""
    if options.driver == "policy":
        model = load_model(options.model, options.device)
        return lambda observations: model.predict(observations, deterministic=True)[0]
    if options.driver == "scripted":
        return lambda _: np.array([scripted_command(task.arena) for task in arenas.tasks], np.float32)
    held = np.zeros((arenas.num_envs, 2), np.float32)
    if options.driver == "still":
        return lambda _: held
    rng = np.random.default_rng(options.seed)
    space = action_space()
    calls = itertools.count()

    def drive_randomly(_: Observation) -> np.ndarray:
        if next(calls) % _RANDOM_HOLD_STEPS == 0:
            held[:] = rng.uniform(space.low, space.high, held.shape)
        return held

    return drive_randomly


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Drive one episode per seed and return what came of it; see `policy_train evaluate --help`."""
    if (options.model is None) == (options.driver == "policy"):
        raise SystemExit("evaluate: give a MODEL, or another --driver than 'policy', and not both")
    if options.threads:
        torch.set_num_threads(options.threads)
    count = min(options.arenas, options.episodes)
    arenas = RoverArenaVecEnv(count, itertools.count(options.seed), options.renderer)
    drive = make_driver(options, arenas)
    observations = arenas.reset()
    results: dict[int, dict[str, Any]] = {}
    wanted = range(options.seed, options.seed + options.episodes)
    started = time.monotonic()
    while len(results) < options.episodes:
        arenas.step_async(drive(observations))
        observations, _, dones, infos = arenas.step_wait()
        for row in np.flatnonzero(dones):
            if infos[row]["seed"] in wanted:
                results[infos[row]["seed"]] = infos[row]
    elapsed_s = time.monotonic() - started
    arenas.close()
    episodes = [results[seed] for seed in wanted]
    presses = sum(episode["is_success"] for episode in episodes)
    times_s = [episode["time_s"] for episode in episodes if episode["is_success"]]
    low, high = wilson_interval(presses, options.episodes)
    report = {
        "driver": options.driver,
        "model": str(options.model) if options.model else None,
        "renderer": arenas.renderer.kind,
        "episodes": options.episodes,
        "first_seed": options.seed,
        "control_rate_hz": 1 / CONTROL_PERIOD_S,
        "successes": presses,
        "success_rate": presses / options.episodes,
        "success_interval_95": [low, high],
        "mean_time_to_press_s": float(np.mean(times_s)) if times_s else None,
        "mean_collisions": float(np.mean([episode["collisions"] for episode in episodes])),
        "failed_seeds": [seed for seed in wanted if not results[seed]["is_success"]],
        "wall_time_s": elapsed_s,
    }
    print(
        f"{options.driver}: {presses} of {options.episodes} episodes succeeded: "
        f"{100 * presses / options.episodes:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %), "
        f"seeds {wanted.start} to {wanted.stop - 1}, renderer {arenas.renderer.kind}"
    )
    if times_s:
        print(
            f"mean time to the press {np.mean(times_s):.1f} s, collisions per episode {report['mean_collisions']:.1f}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return report


def add_parser(commands: SubParsers, shared: argparse.ArgumentParser) -> None:
    """Add the subcommand `evaluate`."""
    evaluation = commands.add_parser(
        "evaluate",
        parents=[shared],
        help="evaluate a policy or a reference",
        description="Drive one episode per seed; a success is a beacon pressed within 20 s.",
    )
    evaluation.add_argument("model", type=Path, nargs="?", help="PPO zip")
    evaluation.add_argument("--episodes", type=number(int, 1), default=100, help="how many (default 100)")
    evaluation.add_argument("--seed", type=int, default=1000, help="seed of the first episode (default 1000)")
    evaluation.add_argument("--driver", choices=DRIVERS, default="policy", help="who drives (default policy)")
    evaluation.add_argument("--json", type=Path, help="file for the result")
