# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""How far a training is and how well the policy drives: bars or lines while it runs, and the learning curve."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
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
# Fewer say nothing about how well the policy drives.
LEAST_EPISODES = 20
LINE_EVERY_S = 30.0
_RATE_OVER_S = 120.0


class _FiguresColumn(ProgressColumn):
    """The figures of a phase; for the whole training, which has none, how long it has taken and how long it will."""

    def render(self, task: Task) -> Text:
        """Return what stands beside the bar of a task."""
        if task.fields["figures"]:
            return Text(task.fields["figures"])
        elapsed, remaining = TimeElapsedColumn().render(task), TimeRemainingColumn().render(task)
        return Text.assemble(elapsed, " so far, ", remaining, " left")


class TrainingProgress:
    """Shows how far a training is, and keeps its learning curve.

    Bars on a terminal; a line every half minute where the output goes to a pipe or file.

    Parameters
    ----------
    work
        The expected work of each phase, in any unit.
    quiet
        Whether nothing is shown.

    Attributes
    ----------
    curve
        A point for every round of each phase.
    """

    def __init__(self, work: Mapping[str, float], quiet: bool) -> None:
        self.curve: list[dict[str, Any]] = []
        self._work = work
        self._recent: deque[tuple[bool, float]] = deque(maxlen=RECENT_EPISODES)
        self._before_s = 0.0
        self._started_s = time.monotonic()
        self._phase = ""
        self._steps = 0
        self._total = 0
        self._point = (0, self._started_s)
        self._phase_begun = (0.0, self._started_s)
        self._begun: tuple[float, float] | None = None
        self._line_due_s = self._started_s + LINE_EVERY_S
        console = Console(stderr=True)
        self._lines = not quiet and not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            _FiguresColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            speed_estimate_period=_RATE_OVER_S,
        )
        self._overall = self._bars.add_task("training", total=sum(work.values()), figures="")
        self._bar = self._overall

    def __enter__(self) -> TrainingProgress:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bars as they are."""
        self._bars.stop()

    @property
    def elapsed_s(self) -> float:
        """How long the training has run, with its parts before it was interrupted."""
        return self._before_s + time.monotonic() - self._started_s

    @property
    def success_rate(self) -> float | None:
        """Share of successes among the latest episodes that the policy drove; None while they are few."""
        enough = len(self._recent) >= LEAST_EPISODES
        return sum(success for success, _ in self._recent) / len(self._recent) if enough else None

    @property
    def mean_time_to_press_s(self) -> float | None:
        """Mean time to the press in those of them that succeeded; None while they are few, or when none did."""
        times_s = [time_s for success, time_s in self._recent if success]
        return sum(times_s) / len(times_s) if times_s and len(self._recent) >= LEAST_EPISODES else None

    def state(self) -> dict[str, Any]:
        """Return what a training that goes on needs of the progress."""
        return {"elapsed_s": self.elapsed_s, "curve": self.curve, "recent": list(self._recent)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._before_s = state["elapsed_s"]
        self.curve = list(state["curve"])
        self._recent.extend((success, time_s) for success, time_s in state["recent"])

    def begin(self, phase: str, steps: int, total: int, share: float) -> None:
        """Begin a phase, of which some steps and a share of the work may be done already."""
        now_s = time.monotonic()
        self._phase, self._steps, self._total = phase, steps, total
        self._point = (steps, now_s)
        self._phase_begun = (share, now_s)
        self._begun = self._begun or (self._work_before() + share * self._work[phase], now_s)
        self._bar = self._bars.add_task(phase, total=self._work[phase], figures="")
        self.move(steps, share)

    def move(self, steps: int, share: float) -> None:
        """Note the steps of the phase and the share of its work that are done by now."""
        self._steps = steps
        done = self._work[self._phase] * share
        self._bars.update(self._bar, completed=done, figures=self._figures())
        self._bars.update(self._overall, completed=self._work_before() + done)
        now_s = time.monotonic()
        if self._lines and now_s >= self._line_due_s:
            self._line_due_s = now_s + LINE_EVERY_S
            print(self._line(share, now_s), file=sys.stderr, flush=True)

    def finish_episode(self, info: Mapping[str, Any]) -> None:
        """Note an episode that the policy drove to its end."""
        self._recent.append((bool(info["is_success"]), float(info["time_s"])))

    def add_point(self) -> dict[str, Any]:
        """Add a point to the learning curve, and return it."""
        steps, since_s = self._point
        now_s = time.monotonic()
        done = self._steps - steps
        point = {
            "phase": self._phase,
            "steps": self._steps,
            "elapsed_s": round(self.elapsed_s, 1),
            "success_rate": self.success_rate,
            "mean_time_to_press_s": self.mean_time_to_press_s,
            # None where the policy only learns from the steps that there are.
            "steps_per_s": round(done / max(now_s - since_s, 1e-9), 1) if done else None,
        }
        self._point = (self._steps, now_s)
        self.curve.append(point)
        return point

    def write_curve(self, folder: Path) -> None:
        """Write `curve.json` into a folder."""
        (folder / "curve.json").write_text(json.dumps(self.curve, indent=2) + "\n")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        if self._bars.disable:
            print(text, flush=True)
        else:
            # Commands are copied from here, in one piece.
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _work_before(self) -> float:
        """Return the work of the phases before the present one."""
        phases = list(self._work)
        return sum(self._work[phase] for phase in phases[: phases.index(self._phase)])

    def _figures(self) -> str:
        rate = ""
        if self.curve:
            steps_per_s = self.curve[-1]["steps_per_s"]
            rate = "– steps/s" if steps_per_s is None else f"{steps_per_s:.0f} steps/s"
        success = "" if self.success_rate is None else f"success {100 * self.success_rate:.0f} %"
        return "  ".join(figure for figure in (f"{self._steps}/{self._total} steps", rate, success) if figure)

    def _line(self, share: float, now_s: float) -> str:
        done, total = self._work_before() + share * self._work[self._phase], sum(self._work.values())
        left = ""
        if self._begun and share > self._phase_begun[0]:
            of_phase = _time_left(self._phase_begun, share, 1.0, now_s)
            left = f", {of_phase} left of it, {_time_left(self._begun, done, total, now_s)} of all"
        so_far = describe_duration(self.elapsed_s)
        return f"{self._phase}: {100 * share:.0f} %  {self._figures()}, {so_far} so far{left}"


def describe_duration(duration_s: float) -> str:
    """Say how long something takes: below two minutes in seconds."""
    return f"{duration_s:.0f} seconds" if duration_s < 120 else f"{duration_s / 60:.0f} minutes"


def _time_left(begun: tuple[float, float], done: float, total: float, now_s: float) -> str:
    """Say how long the rest takes at the pace since the beginning, of which amount and time are given."""
    amount, since_s = begun
    return describe_duration((now_s - since_s) * (total - done) / (done - amount))
