# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Plot recorded and replayed commands over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from policy_node.recording.replay.bag import BagError
from policy_node.recording.replay.report import STATES, Commands, ReplayLog
from policy_node.report.plots import BASELINE, NODE, STYLE
from policy_node.sensing.synchroniser import RobotState

# Background for the states in which the policy does not command a robot.
_SHADES = {
    RobotState.WAITING: "#8b949e",
    RobotState.STALE: "#d29922",
    RobotState.REJECTED: "#a371f7",
    RobotState.FAULT: "#f85149",
    RobotState.STOPPED: "#39c5cf",
}
# Matplotlib cannot draw a higher figure.
MOST_ROBOTS = 64


def check_format(file: Path) -> None:
    """Check the suffix of an image file.

    Raises
    ------
    BagError
        When Matplotlib does not support it.
    """
    formats = Figure().canvas.get_supported_filetypes()
    if file.suffix[1:].lower() not in formats:
        raise BagError(f"--plot: found '{file}', allowed are names that end in {', '.join(sorted(formats))}")


def plot_commands(
    log: ReplayLog, recorded: Mapping[int, Commands], names: Sequence[str], period_ns: int, file: Path
) -> None:
    """Plot a row for each robot, up to `MOST_ROBOTS`, and a column for each component of `names`.

    `recorded` is by index of the robot; a state lasts one control period, `period_ns`.
    """
    times_ns, states, commands = log.times_ns, log.states, log.commands
    start_ns = times_ns[0] if len(times_ns) else 0
    robots = log.robots[:MOST_ROBOTS]
    with matplotlib.rc_context({**STYLE, "axes.facecolor": "white", "figure.facecolor": "white"}):
        figure = Figure(figsize=(5.2 * len(names), 0.8 + 1.7 * len(robots)), layout="constrained")
        all_axes = figure.subplots(len(robots), len(names), sharex=True, squeeze=False)
        for robot, name in enumerate(robots):
            for component, component_name in enumerate(names):
                axes = all_axes[robot, component]
                _shade(axes, (times_ns - start_ns) / 1e9, states[:, robot], period_ns / 1e9)
                if robot in recorded:
                    at_s = (recorded[robot].times_ns - start_ns) / 1e9
                    axes.plot(at_s, recorded[robot].values[:, component], color=BASELINE, linewidth=2.2, alpha=0.7)
                axes.plot((times_ns - start_ns) / 1e9, commands[:, robot, component], color=NODE, linewidth=1.0)
                axes.set_title(f"{name}: {component_name}")
                axes.grid(True)
        for axes in all_axes[-1]:
            axes.set_xlabel("s since the first tick")
        seen = [state for index, state in enumerate(STATES) if state in _SHADES and bool((states == index).any())]
        handles: list[Line2D | Patch] = [Line2D([], [], color=NODE, label="replayed")]
        if recorded:
            handles.append(Line2D([], [], color=BASELINE, label="recorded"))
        handles += [Patch(color=_SHADES[state], alpha=0.3, label=state.name) for state in seen]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        figure.savefig(file, dpi=110)


def _shade(axes: Axes, at_s: np.ndarray, states: np.ndarray, period_s: float) -> None:
    """Shade the background by state."""
    if not len(states):
        return
    begins = np.flatnonzero(np.diff(states, prepend=states[0] + 1))
    ends = [*begins[1:].tolist(), len(states)]
    for begin, end in zip(begins.tolist(), ends, strict=True):
        colour = _SHADES.get(STATES[states[begin]])
        if colour:
            axes.axvspan(at_s[begin], at_s[end - 1] + period_s, color=colour, alpha=0.3, linewidth=0)
