# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Show the progress of an evaluation in a console."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class EpisodeProgress(Progress):
    """Show how many episodes have ended: a bar in a terminal, otherwise a line every few seconds.

    When `stopping` returns True, `show` raises KeyboardInterrupt.
    """

    def __init__(
        self,
        console: Console,
        task: str,
        episodes: int,
        line_period_s: float = 10.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"))
        times = (TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        super().__init__(*columns, *times, console=console, disable=not console.is_terminal)
        self._episodes = episodes
        self._line_period_s = line_period_s
        self._line_at_s = time.monotonic() + line_period_s
        self._stopping = stopping
        self.add_task(task, total=episodes, figures="")

    def show(self, ended: int, successes: int) -> None:
        """Show how many episodes have ended, and how many of them succeeded."""
        if self._stopping():
            raise KeyboardInterrupt
        figures = f"{100 * successes / ended:.0f} % succeeded" if ended else ""
        (task,) = self.tasks
        self.update(task.id, completed=ended, figures=figures)
        now_s = time.monotonic()
        if self.console.is_terminal or now_s < self._line_at_s:
            return
        self._line_at_s = now_s + self._line_period_s
        parts = [f"{task.description}: {ended} of {self._episodes} episodes", figures]
        if ended:
            parts.append(f"{(task.elapsed or 0.0) * (self._episodes - ended) / ended:.0f} s left")
        self.console.print(", ".join(filter(None, parts)), highlight=False, soft_wrap=True)


def print_errors(console: Console, errors: Sequence[str]) -> int:
    """Print the errors; return the exit status."""
    for error in errors:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if errors else 0
