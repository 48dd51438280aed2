# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the demonstration tells in a console: how far a number of episodes is, and what went wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_PERIOD_S = 10.0


class EpisodeProgress:
    """Shows how many episodes have ended: a bar on a terminal, elsewhere a line every few seconds.

    Parameters
    ----------
    console
        Where to write.
    what
        What is being done.
    episodes
        How many there are.
    line_period_s
        How long after a line the next one follows, in seconds.
    """

    def __init__(self, console: Console, what: str, episodes: int, line_period_s: float = LINE_PERIOD_S) -> None:
        self._console = console
        self._what = what
        self._episodes = episodes
        self._line_period_s = line_period_s
        self._began_s = time.monotonic()
        self._line_at_s = self._began_s + line_period_s
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bars = Progress(
            *columns, TextColumn("{task.fields[figures]}"), *times, console=console, disable=not console.is_terminal
        )
        self._bar = self._bars.add_task(what, total=episodes, figures="")

    def __enter__(self) -> EpisodeProgress:
        """Show the bar."""
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the bar as it is."""
        self._bars.stop()

    def show(self, ended: int, successes: int | None = None) -> None:
        """Show how many episodes have ended, and how many of them succeeded."""
        ended = min(ended, self._episodes)
        figures = "" if successes is None or not ended else f"{100 * successes / ended:.0f} % succeeded"
        self._bars.update(self._bar, completed=ended, figures=figures)
        now_s = time.monotonic()
        if self._console.is_terminal or now_s < self._line_at_s:
            return
        self._line_at_s = now_s + self._line_period_s
        left = "" if not ended else f"{(now_s - self._began_s) * (self._episodes - ended) / ended:.0f} s left"
        parts = [f"{self._what}: {ended} of {self._episodes} episodes", figures, left]
        self._console.print(", ".join(filter(None, parts)), highlight=False, soft_wrap=True)


def complain(console: Console, problems: Sequence[str]) -> int:
    """Tell what went wrong, if anything did; return the exit status."""
    for problem in problems:
        console.print(f"error: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if problems else 0
