# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Remember the last command and the episode of each robot from tick to tick."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policy_node.config.schema import Configuration
from policy_node.control.tick import FleetCommands, Observed, Sent

# Longer ago than any hold; any time may be subtracted from it.
NEVER_NS = np.iinfo(np.int64).min // 2


class FleetMemory:
    """Remembers last commands, episodes and counts; only `commit` records a tick."""

    def __init__(self, configuration: Configuration, components: int) -> None:
        count = len(configuration.robots)
        self._ramp_ns = configuration.action.ramp_s * 1e9
        #: `[robots, components]` float64: what left at the last tick, NaN where nothing did. Never changed in place.
        self.last_commands = np.full((count, components), np.nan)
        #: `[robots]` int64: when a command of the policy last left; `NEVER_NS` where it must not be held any more.
        self.last_driven_ns = np.full(count, NEVER_NS)
        #: `[robots]` bool: robots whose history and memory restart at their next good set of readings.
        self.fresh_start = np.ones(count, bool)
        #: `[robots]` int64: commands that left clipped to a bound, or with a limited change.
        self.bounded, self.slowed = np.zeros((2, count), np.int64)
        # Start command and start time of each robot's ramp.
        self._ramp_start = self.last_commands.copy()
        self._recovered_ns = np.full(count, NEVER_NS)
        self._passed = np.ones(count)
        self._before = [""] * count

    def take_events(self) -> tuple[str, ...]:
        """Return by robot what happened to its episode since the last call."""
        before, self._before = tuple(self._before), [""] * len(self._before)
        return before

    def restart(self, robots: Sequence[int]) -> None:
        """Restart the episodes of some robots; no earlier command is held."""
        self.fresh_start[list(robots)] = True
        self.last_driven_ns[list(robots)] = NEVER_NS

    def forget(self, robots: Sequence[int]) -> None:
        """Restart the episodes of some robots, as if nothing had ever been sent to them."""
        self.restart(robots)
        self._set_last(robots, np.full((len(robots), self.last_commands.shape[1]), np.nan), "reset")

    def overrule(self, robots: Sequence[int], commands: np.ndarray) -> None:
        """Restart the episodes of some robots that got these commands `[robots, components]` since the last tick."""
        self.restart(robots)
        self._set_last(robots, commands, "overruled")

    def _set_last(self, robots: Sequence[int], commands: np.ndarray, event: str) -> None:
        for robot in robots:
            self._before[robot] = event
        last_commands = self.last_commands.copy()
        last_commands[list(robots)] = commands
        self.last_commands = last_commands

    def ramp(self, observed: Observed, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the start of each robot's ramp `[robots, components]`, and the share of it that has passed `[robots]`.

        A fresh start begins a ramp from `present` `[robots, components]`, the command that each robot follows so far.
        """
        if not self._ramp_ns:
            return present, self._passed
        fresh_start = observed.fresh_start
        passed = np.clip((observed.now_ns - self._recovered_ns) / self._ramp_ns, 0.0, 1.0)
        return np.where(fresh_start[:, None], present, self._ramp_start), np.where(fresh_start, 0.0, passed)

    def commit(self, decided: FleetCommands, sent: Sent) -> None:
        """Remember what left at a tick."""
        observed, inferred = decided.observed, decided.actions.inferred
        driven = decided.ready
        over = decided.faulty | observed.stopped
        if sent.instead:
            driven = driven & sent.as_decided
            over |= decided.publish & ~sent.as_decided
        # A gap in the data ends a robot's episode, and so does a command that never left: stack and memory then start
        # as they do in training after a reset.
        self.fresh_start = ~driven
        self.last_driven_ns[driven] = observed.now_ns
        # No gaps in the data that `hold` may bridge.
        self.last_driven_ns[over] = NEVER_NS
        self.last_commands = sent.commands
        if self._ramp_ns:
            began = driven & observed.fresh_start
            self._ramp_start[began] = decided.actions.present[began]
            self._recovered_ns[began] = observed.now_ns
        self.bounded += inferred.bounded & driven
        self.slowed += inferred.slowed & driven
        if sent.instead:
            for robot in sent.replaced.nonzero()[0].tolist():
                self._before[robot] = "overruled"
