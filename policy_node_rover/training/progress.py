# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Show the progress of a training, and keep its learning curve."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

RECENT_EPISODES = 200
# Success rates of fewer episodes are not shown.
MIN_EPISODES = 20
LINE_PERIOD_S = 30.0
_SPEED_PERIOD_S = 120.0


class _FiguresColumn(ProgressColumn):
    """The figures of a phase; for the whole training the elapsed and the remaining time."""

    def render(self, task: Task) -> Text:
        if task.fields["figures"]:
            return Text(task.fields["figures"])
        elapsed, remaining = TimeElapsedColumn().render(task), TimeRemainingColumn().render(task)
        return Text.assemble(elapsed, " so far, ", remaining, " left")


class TrainingProgress:
    """Show bars in a terminal, otherwise a line every half minute, and keep the learning curve.

    `work` is the expected work by phase, in any unit; `curve` has a point for every round of each phase.
    """

    def __init__(self, work: Mapping[str, float], quiet: bool) -> None:
        self.curve: list[dict[str, Any]] = []
        self._work = work
        self._recent: deque[tuple[bool, float]] = deque(maxlen=RECENT_EPISODES)
        self._earlier_s = 0.0
        self._started_s = time.monotonic()
        self._phase = ""
        self._steps = 0
        self._total = 0
        self._last_point = (0, self._started_s)
        self._line_due_s = self._started_s + LINE_PERIOD_S
        console = Console(stderr=True)
        self._shows_lines = not quiet and not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            _FiguresColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            speed_estimate_period=_SPEED_PERIOD_S,
        )
        self._overall = self._add_task("training", sum(work.values()))
        self._task = self._overall

    def _add_task(self, description: str, total: float) -> Task:
        self._bars.add_task(description, total=total, figures="")
        return self._bars.tasks[-1]

    def __enter__(self) -> TrainingProgress:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Keep the last state of the bars."""
        self._bars.stop()

    @property
    def elapsed_s(self) -> float:
        """Duration of the training, including its parts before interruptions."""
        return self._earlier_s + time.monotonic() - self._started_s

    @property
    def success_rate(self) -> float | None:
        """Success rate of the latest episodes that the policy drove; None while they are few."""
        enough = len(self._recent) >= MIN_EPISODES
        return sum(success for success, _ in self._recent) / len(self._recent) if enough else None

    @property
    def mean_time_to_press_s(self) -> float | None:
        """Mean time to the press of the successful ones among them; None while they are few."""
        times_s = [time_s for success, time_s in self._recent if success]
        return sum(times_s) / len(times_s) if times_s and len(self._recent) >= MIN_EPISODES else None

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"elapsed_s": self.elapsed_s, "curve": self.curve, "recent": list(self._recent)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._earlier_s = state["elapsed_s"]
        self.curve = list(state["curve"])
        self._recent.extend((success, time_s) for success, time_s in state["recent"])

    def start_phase(self, phase: str, steps: int, total: int, share: float) -> None:
        """Start a phase, of which some steps and a share of the work may be done already."""
        self._phase, self._steps, self._total = phase, steps, total
        self._last_point = (steps, time.monotonic())
        # rich estimates the speed from the second update on, so that work of earlier runs does not count.
        self._task = self._add_task(phase, self._work[phase])
        self.update(steps, share)

    def update(self, steps: int, share: float) -> None:
        """Show the steps and the share of the work of the phase that are done."""
        self._steps = steps
        self._bars.update(self._task.id, completed=self._work[self._phase] * share, figures=self._figures())
        self._bars.update(self._overall.id, completed=self._work_done(share))
        now_s = time.monotonic()
        if self._shows_lines and now_s >= self._line_due_s:
            self._line_due_s = now_s + LINE_PERIOD_S
            print(self._line(share), file=sys.stderr, flush=True)

    def add_episode(self, info: Mapping[str, Any]) -> None:
        """Count an episode that the policy drove to its end."""
        self._recent.append((bool(info["is_success"]), float(info["time_s"])))

    def add_point(self) -> dict[str, Any]:
        """Add a point to the learning curve, and return it."""
        last_steps, last_s = self._last_point
        now_s = time.monotonic()
        new_steps = self._steps - last_steps
        point = {
            "phase": self._phase,
            "steps": self._steps,
            "elapsed_s": round(self.elapsed_s, 1),
            "success_rate": self.success_rate,
            "mean_time_to_press_s": self.mean_time_to_press_s,
            # None in rounds that only learn.
            "steps_per_s": round(new_steps / max(now_s - last_s, 1e-9), 1) if new_steps else None,
        }
        self._last_point = (self._steps, now_s)
        self.curve.append(point)
        return point

    def write_curve(self, folder: Path) -> None:
        """Write `curve.json`."""
        (folder / "curve.json").write_text(json.dumps(self.curve, indent=2) + "\n")

    def print(self, text: str) -> None:
        """Print a line above the bars."""
        if self._bars.disable:
            print(text, flush=True)
        else:
            # No wrapping, so that commands can be copied.
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _work_done(self, share: float) -> float:
        phases = list(self._work)
        earlier = sum(self._work[phase] for phase in phases[: phases.index(self._phase)])
        return earlier + share * self._work[self._phase]

    def _figures(self) -> str:
        rate = ""
        if self.curve:
            steps_per_s = self.curve[-1]["steps_per_s"]
            rate = "– steps/s" if steps_per_s is None else f"{steps_per_s:.0f} steps/s"
        success = "" if self.success_rate is None else f"success {100 * self.success_rate:.0f} %"
        return "  ".join(figure for figure in (f"{self._steps}/{self._total} steps", rate, success) if figure)

    def _line(self, share: float) -> str:
        remaining = ""
        if self._task.time_remaining is not None and self._overall.time_remaining is not None:
            of_phase, of_all = (describe_duration(task.time_remaining or 0) for task in (self._task, self._overall))
            remaining = f", {of_phase} left of it, {of_all} of all"
        elapsed = describe_duration(self.elapsed_s)
        return f"{self._phase}: {100 * share:.0f} %  {self._figures()}, {elapsed} so far{remaining}"


def describe_duration(duration_s: float) -> str:
    """Format a duration, below two minutes in seconds."""
    return f"{duration_s:.0f} seconds" if duration_s < 120 else f"{duration_s / 60:.0f} minutes"
