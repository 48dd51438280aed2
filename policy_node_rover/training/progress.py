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
        return Text.assemble(TimeElapsedColumn().render(task), " so far, ", TimeRemainingColumn().render(task), " left")


class TrainingProgress(Progress):
    """Show bars in a terminal, otherwise a line every half minute, and keep the learning curve.

    `work` is the expected work by phase, in any unit; `curve` has a point for every round of each phase.
    """

    def __init__(self, work: Mapping[str, float], quiet: bool) -> None:
        console = Console(stderr=True)
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            _FiguresColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            speed_estimate_period=_SPEED_PERIOD_S,
        )
        self.curve: list[dict[str, Any]] = []
        self._work = work
        self._recent: deque[tuple[bool, float]] = deque(maxlen=RECENT_EPISODES)
        self._earlier_s = 0.0
        self._started_s = time.monotonic()
        self._steps = 0
        self._total = 0
        self._last_point = (0, self._started_s)
        self._line_due_s = self._started_s + LINE_PERIOD_S
        self._shows_lines = not quiet and not console.is_terminal
        self._overall = self._phase = self._add("training", sum(work.values()))

    def _add(self, description: str, total: float) -> Task:
        self.add_task(description, total=total, figures="")
        return self.tasks[-1]

    @property
    def elapsed_s(self) -> float:
        """Duration of the training, including its parts before interruptions."""
        return self._earlier_s + time.monotonic() - self._started_s

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
        self._total = total
        self._last_point = (steps, time.monotonic())
        # rich estimates the speed from the second update on, so that work of earlier runs does not count.
        self._phase = self._add(phase, self._work[phase])
        self.show(steps, share)

    def show(self, steps: int, share: float) -> None:
        """Show the steps and the share of the work of the phase that are done."""
        self._steps = steps
        phase, phases = self._phase.description, list(self._work)
        earlier = sum(self._work[name] for name in phases[: phases.index(phase)])
        done = share * self._work[phase]
        self.update(self._phase.id, completed=done, figures=self._figures())
        self.update(self._overall.id, completed=earlier + done)
        now_s = time.monotonic()
        if self._shows_lines and now_s >= self._line_due_s:
            self._line_due_s = now_s + LINE_PERIOD_S
            print(f"{phase}: {100 * share:.0f} %  {self._figures()}{self._times()}", file=sys.stderr, flush=True)

    def add_episode(self, info: Mapping[str, Any]) -> None:
        """Count an episode that the policy drove to its end."""
        self._recent.append((bool(info["is_success"]), float(info["time_s"])))

    def add_point(self) -> dict[str, Any]:
        """Add a point to the learning curve, and return it."""
        last_steps, last_s = self._last_point
        now_s = time.monotonic()
        new_steps = self._steps - last_steps
        times_s = [time_s for success, time_s in self._recent if success]
        enough = len(self._recent) >= MIN_EPISODES
        point = {
            "phase": self._phase.description,
            "steps": self._steps,
            "elapsed_s": round(self.elapsed_s, 1),
            "success_rate": self._success_rate(),
            "mean_time_to_press_s": sum(times_s) / len(times_s) if times_s and enough else None,
            # None in rounds that only learn.
            "steps_per_s": round(new_steps / max(now_s - last_s, 1e-9), 1) if new_steps else None,
        }
        self._last_point = (self._steps, now_s)
        self.curve.append(point)
        return point

    def write_curve(self, folder: Path) -> None:
        """Write `curve.json`."""
        (folder / "curve.json").write_text(json.dumps(self.curve, indent=2) + "\n")

    def print_line(self, text: str) -> None:
        """Print a line on standard output, in a terminal above the bars."""
        if self.disable:
            print(text, flush=True)
        else:
            # No wrapping, so that commands can be copied.
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _success_rate(self) -> float | None:
        """Return the success rate of the latest episodes that the policy drove; None while they are few."""
        enough = len(self._recent) >= MIN_EPISODES
        return sum(success for success, _ in self._recent) / len(self._recent) if enough else None

    def _figures(self) -> str:
        figures = [f"{self._steps}/{self._total} steps"]
        if self.curve:
            steps_per_s = self.curve[-1]["steps_per_s"]
            figures.append("– steps/s" if steps_per_s is None else f"{steps_per_s:.0f} steps/s")
        if (success_rate := self._success_rate()) is not None:
            figures.append(f"success {100 * success_rate:.0f} %")
        return "  ".join(figures)

    def _times(self) -> str:
        text = f", {describe_duration(self.elapsed_s)} so far"
        of_phase_s, of_all_s = self._phase.time_remaining, self._overall.time_remaining
        if of_phase_s is None or of_all_s is None:
            return text
        return f"{text}, {describe_duration(of_phase_s)} left of it, {describe_duration(of_all_s)} of all"


def describe_duration(duration_s: float) -> str:
    """Format a duration, below two minutes in seconds."""
    return f"{duration_s:.0f} seconds" if duration_s < 120 else f"{duration_s / 60:.0f} minutes"
