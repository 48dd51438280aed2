# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Report the states and reasons of each robot, and the difference between replayed and recorded commands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from policy_node.control.tick import FleetTick
from policy_node.sensing.synchroniser import RobotState

STATES = tuple(RobotState)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")
# Most reasons per robot in the text; the JSON has all.
_REASONS_SHOWN = 5


class Commands(NamedTuple):
    """Commands of one robot: `times_ns` `[n]` int64, ascending, and `values` `[n, components]` float64."""

    times_ns: np.ndarray
    values: np.ndarray


class ReplayLog:
    """Logs the states and commands of every tick, of `robots` with `components` per command."""

    def __init__(self, robots: Sequence[str], components: int) -> None:
        self.robots = tuple(robots)
        self.components = components
        self._times_ns: list[int] = []
        self._states: list[np.ndarray] = []
        self._commands: list[np.ndarray] = []
        self.reasons: list[Counter[str]] = [Counter() for _ in robots]

    def add(self, time_ns: int, result: FleetTick) -> None:
        """Log one tick."""
        self._times_ns.append(time_ns)
        self._states.append(np.array([STATES.index(state) for state in result.states], np.uint8))
        self._commands.append(np.where(result.publish[:, None], result.commands, np.nan))
        for reasons, state, reason in zip(self.reasons, result.states, result.reasons, strict=True):
            if reason:
                reasons[f"{state.name}: {without_numbers(reason)}"] += 1

    @property
    def times_ns(self) -> np.ndarray:
        """Times of the ticks, `[ticks]` int64."""
        return np.array(self._times_ns, np.int64)

    @property
    def states(self) -> np.ndarray:
        """`[ticks, robots]` uint8, indices of `STATES`."""
        return np.array(self._states, np.uint8).reshape(-1, len(self.robots))

    @property
    def commands(self) -> np.ndarray:
        """`[ticks, robots, components]` float64, NaN without a command."""
        return np.array(self._commands, np.float64).reshape(-1, len(self.robots), self.components)


def without_numbers(reason: str) -> str:
    """Replace numbers by `#`, so that equal reasons have one text; names such as touch_3 stay."""
    return _NUMBER.sub("#", reason)


def match_recorded(times_ns: np.ndarray, recorded: Commands, within_ns: int) -> np.ndarray:
    """Return `[ticks]` indices of the first command recorded at each tick or less than `within_ns` after it, else -1.

    `within_ns` is at most the control period, so that no command matches two ticks.
    """
    following = np.searchsorted(recorded.times_ns, times_ns)
    following_ns = np.append(recorded.times_ns, np.iinfo(np.int64).max)[following]
    return np.where(following_ns < times_ns + within_ns, following, -1)


def compare(log: ReplayLog, robot: int, recorded: Commands, within_ns: int, names: Sequence[str]) -> dict[str, Any]:
    """Compare replayed and recorded commands of a robot; see `match_recorded` for `within_ns`.

    Returns the number of compared `ticks`, of ticks without a recorded command (`only_replayed`), the `largest` error,
    and by component the errors of all ticks (`all`) and of those at which the policy commanded (`ready`).
    """
    times_ns, commands = log.times_ns, log.commands[:, robot]
    matched = match_recorded(times_ns, recorded, within_ns)
    sent = ~np.isnan(commands).any(axis=1)
    both = sent & (matched >= 0)
    errors = np.abs(commands[both] - recorded.values[matched[both]])
    at_s = (times_ns[both] - times_ns[0]) / 1e9 if len(times_ns) else np.zeros(0)
    ready = log.states[both, robot] == STATES.index(RobotState.READY)
    return {
        "ticks": int(both.sum()),
        "only_replayed": int((sent & (matched < 0)).sum()),
        "largest": float(errors.max()) if errors.size else None,
        "all": _errors(errors, at_s, names),
        "ready": _errors(errors[ready], at_s[ready], names),
    }


def _errors(errors: np.ndarray, at_s: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "max": float(column.max()),
            "max_at_s": float(at_s[column.argmax()]),
            "mean": float(column.mean()),
            "rms": float(np.sqrt(np.square(column).mean())),
        }
        for name, column in zip(names, errors.T, strict=True)
        if column.size
    }


def robot_reports(
    log: ReplayLog, recorded: Mapping[int, Commands], within_ns: int, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the report of each robot by name: ticks, shares of states, counts of reasons and `compare`.

    `recorded` is by index of the robot, `names` are those of the components; see `match_recorded` for `within_ns`.
    """
    states = log.states
    ticks = len(states)
    reports: dict[str, dict[str, Any]] = {}
    for robot, name in enumerate(log.robots):
        counts = {state.name: int((states[:, robot] == index).sum()) for index, state in enumerate(STATES)}
        shares = {state: count / ticks for state, count in counts.items() if count}
        reports[name] = {"ticks": ticks, "states": shares, "reasons": dict(log.reasons[robot].most_common())}
        if robot in recorded:
            reports[name]["compare"] = compare(log, robot, recorded[robot], within_ns, names)
    return reports


def render(report: Mapping[str, Any]) -> str:
    """Format the report for a terminal."""
    lines = []
    for name, robot in report["robots"].items():
        shares = ", ".join(f"{state} {share:.1%}" for state, share in robot["states"].items())
        lines.append(f"{name}: {robot['ticks']} ticks, {shares or 'none'}")
        reasons = list(robot["reasons"].items())
        lines += [f"  {count} × {reason}" for reason, count in reasons[:_REASONS_SHOWN]]
        if len(reasons) > _REASONS_SHOWN:
            lines.append(f"  and {len(reasons) - _REASONS_SHOWN} other reasons")
        if "compare" in robot:
            lines += _compared(robot["compare"])
    unread = f", {report['unreadable_commands']} recorded commands unreadable" if report["unreadable_commands"] else ""
    ended = "" if report["complete"] else ", ended early"
    lines.append(
        f"{report['ticks']} ticks, {report['duration_s']:.1f} s of the bag, in {report['elapsed_s']:.1f} s "
        f"({report['ticks_per_s']:.0f} ticks/s{unread}{ended})"
    )
    return "\n".join(lines)


def _compared(compared: Mapping[str, Any]) -> list[str]:
    if not compared["ticks"]:
        return ["  no recorded command at any tick"]
    which = "ready" if compared["ready"] else "all"
    ticks = "where the policy commanded" if which == "ready" else "none of them the policy's"
    lines = [f"  against {compared['ticks']} recorded commands ({compared['only_replayed']} ticks have none), {ticks}:"]
    lines += [
        f"    {name}: error max {errors['max']:.3g} at {errors['max_at_s']:.2f} s, mean {errors['mean']:.3g}, "
        f"RMS {errors['rms']:.3g}"
        for name, errors in compared[which].items()
    ]
    if which == "ready" and compared["largest"] > max(errors["max"] for errors in compared["ready"].values()):
        lines.append(f"    with the commands of other states: error max {compared['largest']:.3g}")
    return lines
