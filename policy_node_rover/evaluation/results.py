# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Results of episodes, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_RESAMPLES = 10_000
# Simulated times are sums of time steps: rounding removes the errors of the sums.
_TIME_DIGITS = 6


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode.

    `success` tells whether the beacon was pressed in time; `time_s` is the simulated time until the press or the end.
    """

    seed: int
    success: bool
    time_s: float
    collisions: int


@dataclass(frozen=True, eq=False)
class RecordedCommands:
    """An episode that was driven over ROS: its result, and its commands, float64 [steps, 2] in m/s and rad/s."""

    result: EpisodeResult
    commands: np.ndarray


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
    """Compute the 95 % bootstrap interval of a mean from 10 000 resamples with a fixed seed; None below two values."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    sample = np.asarray(values, float)
    means = [sample[rng.integers(sample.size, size=sample.size)].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def summarise_episodes(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Return the statistics of at least one episode, as the JSON reports contain them.

    Returns
    -------
    dict
        ``episodes``, ``first_seed``; ``successes``, ``success_rate`` and ``success_interval_95`` (Wilson);
        ``mean_time_to_press_s`` of the successful episodes and ``time_to_press_interval_95_s``; ``mean_collisions`` of
        all episodes and ``collisions_interval_95``, both intervals by the bootstrap; ``failed_seeds``; and
        ``results``, each episode in the order of the seeds. A mean without values, or an interval of fewer than two,
        is None.
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
    """Describe the statistics of `summarise_episodes` in two lines."""
    rate, (low, high) = summary["success_rate"], summary["success_interval_95"]
    time_to_press = "no press"
    if summary["mean_time_to_press_s"] is not None:
        time_to_press = f"mean time to the press {summary['mean_time_to_press_s']:.1f} s"
        time_to_press += _in_brackets(summary["time_to_press_interval_95_s"], " s")
    return (
        f"{summary['successes']} of {summary['episodes']} episodes succeeded: {100 * rate:.1f} % "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)\n"
        f"{time_to_press}, collisions per episode {summary['mean_collisions']:.1f}"
        + _in_brackets(summary["collisions_interval_95"])
    )


def _in_brackets(interval: tuple[float, float] | None, unit: str = "") -> str:
    return f" ({interval[0]:.1f} to {interval[1]:.1f}{unit})" if interval else ""
