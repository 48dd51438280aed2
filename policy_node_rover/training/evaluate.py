# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a policy that drives the rover, or a reference (`policy_train evaluate`)."""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
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
from policy_node_rover.demo.progress import EpisodeProgress
from policy_node_rover.mujoco.environment import CONTROL_PERIOD_S, observation_space
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.mujoco.wrappers import wrap_for_policy
from policy_node_rover.training.drivers import REFERENCES, Driver, PolicyDriver, load_model, make_driver
from policy_node_rover.training.gif import MOST_DRAWN_EPISODES, EpisodeRecorder, draw_episodes

LINE_EVERY_S = 30.0
_RESAMPLES = 10_000
# Simulated times are sums of time steps; what is rounded off is far below any of them.
_TIME_DIGITS = 6


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode ended.

    Attributes
    ----------
    seed
        Of the episode.
    success
        Whether the beacon was pressed in time.
    time_s
        Simulated time from the start to the end: to the press, if it succeeded.
    collisions
        How often the bumper came into contact with anything but the beacon.
    """

    seed: int
    success: bool
    time_s: float
    collisions: int


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Compute the Wilson score interval of a rate; 95 % with the default quantile."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def bootstrap_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """Compute the 95 % interval of a mean by the bootstrap: the percentiles of the means of 10 000 resamples.

    The resamples are drawn with a fixed seed: equal values give equal intervals. Fewer than two values give None.
    """
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    given = np.asarray(values, float)
    means = [given[rng.integers(given.size, size=given.size)].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def summarise_episodes(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Return what came of at least one episode, as `policy_train evaluate` and `policy_demo evaluate` report it.

    Returns
    -------
    dict
        ``episodes``, ``first_seed``; ``successes``, ``success_rate`` and ``success_interval_95`` (Wilson);
        ``mean_time_to_press_s`` of the episodes that succeeded and ``time_to_press_interval_95_s``;
        ``mean_collisions`` of all episodes and ``collisions_interval_95``, both intervals by the bootstrap;
        ``failed_seeds``; and ``results``, each episode in the order of the seeds. A mean without values, and an
        interval with fewer than two, is None.
    """
    ordered = sorted(results, key=lambda result: result.seed)
    times_s = [result.time_s for result in ordered if result.success]
    collisions = [result.collisions for result in ordered]
    return {
        "episodes": len(ordered),
        "first_seed": ordered[0].seed,
        "successes": len(times_s),
        "success_rate": len(times_s) / len(ordered),
        "success_interval_95": wilson_interval(len(times_s), len(ordered)),
        "mean_time_to_press_s": float(np.mean(times_s)) if times_s else None,
        "time_to_press_interval_95_s": bootstrap_interval(times_s),
        "mean_collisions": float(np.mean(collisions)),
        "collisions_interval_95": bootstrap_interval(collisions),
        "failed_seeds": [result.seed for result in ordered if not result.success],
        "results": [asdict(result) | {"time_s": round(result.time_s, _TIME_DIGITS)} for result in ordered],
    }


def describe_summary(summary: Mapping[str, Any]) -> str:
    """Say in two lines what `summarise_episodes` found."""
    rate, (low, high) = summary["success_rate"], summary["success_interval_95"]
    time_to_press = "no press"
    if summary["mean_time_to_press_s"] is not None:
        time_to_press = f"mean time to the press {summary['mean_time_to_press_s']:.1f} s"
        time_to_press += _interval_in_words(summary["time_to_press_interval_95_s"], " s")
    return (
        f"{summary['successes']} of {summary['episodes']} episodes succeeded: {100 * rate:.1f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)\n"
        f"{time_to_press}, collisions per episode {summary['mean_collisions']:.1f}"
        + _interval_in_words(summary["collisions_interval_95"])
    )


def _interval_in_words(interval: tuple[float, float] | None, unit: str = "") -> str:
    return f" ({interval[0]:.1f} to {interval[1]:.1f}{unit})" if interval else ""


def evaluate(options: argparse.Namespace, quiet: bool = False) -> dict[str, Any]:
    """Drive one episode per seed and return what came of it; see `policy_train evaluate --help`.

    Parameters
    ----------
    options
        From the command line.
    quiet
        Whether no progress is shown.
    """
    if (options.model is None) == (options.driver == "policy"):
        raise SystemExit("evaluate: give a MODEL, or another --driver than 'policy', and not both")
    if options.blank and options.model is None:
        raise SystemExit(f"evaluate: --blank {options.blank} needs a MODEL; the {options.driver} driver reads nothing")
    if options.json:
        check_file("evaluate: --json", options.json)
    if options.gif:
        check_file("evaluate: --gif", options.gif, ".gif")
    torch.set_num_threads(options.threads)
    episodes = options.episodes or (1 if options.gif else 100)
    wanted = range(options.seed, options.seed + episodes)
    rovers = RoverArenaVecEnv(
        min(options.arenas, episodes),
        itertools.count(options.seed),
        options.renderer,
        # Only rovers of this process can be recorded.
        1 if options.gif else options.processes,
        CONDITIONS[options.conditions],
    )
    recorder = EpisodeRecorder(rovers, wanted[:MOST_DRAWN_EPISODES], options.blank) if options.gif else None
    with closing(rovers):
        observed, drive, unread = _arenas_and_driver(options, rovers, recorder or rovers)
        started = time.monotonic()
        with _progress(options.conditions, episodes, quiet) as progress:
            results = drive_episodes(observed, drive, wanted, progress.show)
        elapsed_s = time.monotonic() - started
    report = {
        "driver": options.driver,
        "model": str(options.model) if options.model else None,
        "renderer": rovers.renderer.kind,
        "conditions": options.conditions,
        "blanked": options.blank,
        "control_rate_hz": 1 / CONTROL_PERIOD_S,
        **summarise_episodes(results),
        "wall_time_s": elapsed_s,
    }
    circumstances = f"{options.conditions} conditions" + (f", {options.blank} blanked" if options.blank else "")
    print(
        f"{options.driver}, {circumstances}, seeds {wanted.start} to {wanted.stop - 1}, "
        f"renderer {rovers.renderer.kind}: {describe_summary(report)}"
    )
    if options.json:
        write_figures(options.json, report)
    if recorder:
        who = options.model.name if options.model else f"{options.driver} driver"
        draw_episodes(recorder.episodes, who, circumstances, options.gif, unread)
    return report


def _progress(conditions: str, episodes: int, quiet: bool) -> EpisodeProgress:
    """Begin to show how far the episodes are, beside the result: on standard error."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        console.print(
            f"evaluating {episodes} episodes under {conditions} conditions …", highlight=False, soft_wrap=True
        )
    return EpisodeProgress(console, "evaluating", episodes, LINE_EVERY_S)


def _arenas_and_driver(
    options: argparse.Namespace, rovers: RoverArenaVecEnv, shown: VecEnv
) -> tuple[VecEnv, Driver, set[str]]:
    """Return the arenas as who is to drive there takes them, who drives, and what of the rover a policy leaves out."""
    if options.model is None:
        return shown, make_driver(options.driver, rovers), set()
    model, keys, stack = load_model(options.model, options.device)
    if options.blank and options.blank not in keys:
        raise SystemExit(f"evaluate: --blank {options.blank}: '{options.model}' takes only {', '.join(keys)}")
    unread = set(observation_space().spaces) - set(keys)
    return wrap_for_policy(shown, keys, stack), PolicyDriver(model, options.blank), unread


def drive_episodes(
    arenas: VecEnv, drive: Driver, wanted: range, progress: Callable[[int, int], None] | None = None
) -> list[EpisodeResult]:
    """Drive the episodes of the wanted seeds, in the order in which they end.

    Arenas start their episodes in the order of the seeds, from the first wanted one on, and the longest wanted one is
    waited for. So each wanted seed counts once, and no other, however many arenas there are. An episode itself may come
    out differently with another number of them, since the sums of a network are rounded otherwise in another batch.

    Parameters
    ----------
    arenas
        As the driver takes them.
    drive
        Who drives.
    wanted
        Seeds of the episodes.
    progress
        Told after every step how many of the episodes have ended, and how many of them succeeded.
    """
    observations = arenas.reset()
    starts = np.ones(arenas.num_envs, bool)
    results: list[EpisodeResult] = []
    successes = 0
    while len(results) < len(wanted):
        assert isinstance(observations, dict)
        observations, _, starts, infos = arenas.step(drive(observations, starts))
        for row in np.flatnonzero(starts):
            seed, info = infos[row]["seed"], infos[row]
            if seed in wanted:
                results.append(EpisodeResult(seed, bool(info["is_success"]), info["time_s"], info["collisions"]))
                successes += results[-1].success
        if progress:
            progress(len(results), successes)
    return results


def add_parser(commands: SubParsers, shared: argparse.ArgumentParser) -> None:
    """Add the subcommand `evaluate`."""
    evaluation = commands.add_parser(
        "evaluate",
        parents=[shared],
        help="evaluate a policy or a reference",
        description="Drive one episode per seed; a success is a beacon pressed within 20 s.",
    )
    evaluation.add_argument("model", type=Path, nargs="?", help="PPO or RecurrentPPO zip")
    evaluation.add_argument("--episodes", type=number(int, 1), help="how many (default 100, with --gif 1)")
    evaluation.add_argument(
        "--seed", type=number(int, 0), default=1000, help="seed of the first episode (default 1000)"
    )
    evaluation.add_argument(
        "--driver", choices=("policy", *REFERENCES), default="policy", help="who drives (default policy)"
    )
    evaluation.add_argument(
        "--conditions", choices=CONDITIONS, default="nominal", help="conditions of the episodes (default nominal)"
    )
    evaluation.add_argument("--blank", choices=("touch", "image"), help="let the policy read zeros in place of this")
    evaluation.add_argument("--json", type=Path, help="file for the result")
    evaluation.add_argument(
        "--gif",
        type=Path,
        help="file for an animation of the first episodes, at most three; its name ends in .gif; all "
        "arenas are then simulated in one process",
    )
