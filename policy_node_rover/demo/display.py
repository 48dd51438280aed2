# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Show the state of the fleet in a console during the demonstration."""

from __future__ import annotations

import math

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from policy_node_rover.demo.measurement import FleetMonitor

LINE_PERIOD_S = 5.0


class Display:
    """Show the state of the fleet in a table in a terminal, otherwise in a line every few seconds."""

    def __init__(self, console: Console, monitor: FleetMonitor, duration_s: float) -> None:
        self._console = console
        self._monitor = monitor
        self._duration_s = duration_s
        self._line_at_s = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Display:
        """Show the table."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Keep the last table."""
        if self._live is not None:
            self._live.stop()

    def show(self, elapsed_s: float) -> None:
        """Show the present state."""
        # The last report may arrive a little after the end.
        elapsed_s = min(elapsed_s, self._duration_s)
        if self._live is not None:
            self._live.update(self._table(elapsed_s), refresh=True)
        elif elapsed_s >= self._line_at_s:
            self._line_at_s += LINE_PERIOD_S
            line = f"{', '.join(self._headlines(elapsed_s))}; {self._latencies()}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _headlines(self, elapsed_s: float) -> tuple[str, str]:
        control, robots = self._monitor.control, len(self._monitor.robots)
        return (
            f"{elapsed_s:.0f} of {self._duration_s:g} s: {robots - len(self._monitor.not_ready())} of {robots} robots "
            f"ready, beacons pressed: {sum(self._monitor.presses)}",
            f"{float(control.get('rate_hz', 'nan')):.1f} Hz, {control.get('missed_ticks', '?')} of "
            f"{control.get('ticks', '?')} ticks missed",
        )

    def _latencies(self) -> str:
        control = self._monitor.control
        return ", ".join(
            f"{label} {_milliseconds(control, f'{name}_p50')} / {_milliseconds(control, f'{name}_p99')} ms"
            for label, name in (("tick p50 / p99", "tick_ms"), ("stamp to command", "stamp_to_command_ms"))
        )

    def _table(self, elapsed_s: float) -> Group:
        robots = len(self._monitor.robots)
        # As many blocks side by side as fit the height of the terminal.
        blocks = math.ceil(robots / max(4, self._console.height - 8))
        rows = math.ceil(robots / blocks)
        table = Table()
        for _ in range(blocks):
            for column in ("rover", "state"):
                table.add_column(column)
            for column in ("age at command", "presses"):
                table.add_column(column, justify="right")
        for row in range(rows):
            table.add_row(*(cell for robot in range(row, robots, rows) for cell in self._cells(robot)))
        # Lines that do not wrap, so that the table does not move.
        lines = (*self._headlines(elapsed_s), self._latencies())
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines), table)

    def _cells(self, robot: int) -> list[str]:
        name = self._monitor.robots[robot]
        values = self._monitor.robot_values[name]
        state = values.get("state", "–")
        age = _milliseconds(values, "stamp_to_command_ms_p50")
        coloured = f"[{'green' if state == 'READY' else 'red'}]{state}"
        return [name, coloured, f"{age} ms", str(self._monitor.presses[robot])]


def _milliseconds(values: dict[str, str], key: str) -> str:
    return f"{float(values[key]):.1f}" if key in values else "–"
