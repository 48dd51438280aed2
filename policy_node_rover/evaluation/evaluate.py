# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a policy or a reference driver in process (`policy_train evaluate`)."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv

from policy_node.cli.options import number
from policy_node.cli.output import check_file
from policy_node.report.figures import SubParsers, write_figures
from policy_node_rover.arena.conditions import CONDITIONS
from policy_node_rover.evaluation.animation import MAX_EPISODES, EpisodeRecorder, draw_episodes
from policy_node_rover.evaluation.drivers import REFERENCE_DRIVERS, Driver, PolicyDriver, load_model, reference_driver
from policy_node_rover.evaluation.progress import EpisodeProgress
from policy_node_rover.evaluation.results import EpisodeResult, describe_summary, summarise_episodes
from policy_node_rover.mujoco.environment import CONTROL_PERIOD_S, observation_space
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.mujoco.wrappers import wrap_for_policy

LINE_PERIOD_S = 30.0


def run_episodes(
    arenas: VecEnv, driver: Driver, seeds: range, progress: Callable[[int, int], object] | None = None
) -> list[EpisodeResult]:
    """Drive one episode for each seed; return the results in the order in which the episodes end.

    Arenas start episodes in the order of the seeds, and the last episode is waited for. So each seed counts once,
    whatever the number of arenas. The batch size changes the rounding in a network, and so possibly an episode.

    Parameters
    ----------
    arenas
        Arenas whose episodes start with the first seed, wrapped for the driver.
    driver
        Gives the actions.
    seeds
        Seeds of the episodes.
    progress
        Called after every step with the number of episodes that have ended, and of those that succeeded.
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
        with _progress(options.conditions, episodes, quiet) as progress:
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


def _progress(conditions: str, episodes: int, quiet: bool) -> EpisodeProgress:
    """Return the progress on standard error, as the result goes to standard output."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        console.print(
            f"evaluating {episodes} episodes under {conditions} conditions …", highlight=False, soft_wrap=True
        )
    return EpisodeProgress(console, "evaluating", episodes, LINE_PERIOD_S)


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
