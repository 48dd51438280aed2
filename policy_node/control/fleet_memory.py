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
    """State kept between ticks.

    `commit` stores a tick; `restart`, `forget` and `overrule` change the state between ticks.
    """

    def __init__(self, configuration: Configuration, components: int) -> None:
        count = len(configuration.robots)
        self._ramp_ns = configuration.action.ramp_s * 1e9
        #: `[robots, components]` float64: commands sent at the last tick, NaN if none was. Never changed in place.
        self.last_commands = np.full((count, components), np.nan)
        #: `[robots]` int64: when a command of the policy was last sent; `NEVER_NS` if it must not be held any more.
        self.last_driven_ns = np.full(count, NEVER_NS)
        #: `[robots]` bool: robots whose history and memory restart at their next good set of readings.
        self.fresh_start = np.ones(count, bool)
        # `[robots]` bool: robots whose episode goes on, but that got no command of the policy at the last tick.
        self._awaiting = self._nobody = np.zeros(count, bool)
        #: `[robots]` int64: sent commands that were clipped to a bound, or whose change was limited.
        self.bounded, self.slowed = np.zeros((2, count), np.int64)
        # Start command and start time of each robot's ramp.
        self._ramp_start = self.last_commands.copy()
        self._recovered_ns = np.full(count, NEVER_NS)
        self._passed = np.ones(count)
        self._before = [""] * count

    def take_events(self) -> tuple[str, ...]:
        """Return by robot why its episode restarted since the last call: empty, `reset` or `overruled`."""
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

    def ramp(self, observed: Observed, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the start of each robot's ramp `[robots, components]`, and the share of it that has passed `[robots]`.

        The first command of the policy begins a ramp from `current` `[robots, components]`, see `Actions.current`.
        """
        if not self._ramp_ns:
            return current, self._passed
        begins = observed.fresh_start | self._awaiting
        passed = np.clip((observed.now_ns - self._recovered_ns) / self._ramp_ns, 0.0, 1.0)
        return np.where(begins[:, None], current, self._ramp_start), np.where(begins, 0.0, passed)

    def commit(self, decided: FleetCommands, sent: Sent) -> None:
        """Store the commands that a tick decided and those that were sent."""
        observed, inferred = decided.observed, decided.actions.inferred
        driven = decided.ready
        ends_hold = decided.faulty | observed.stopped
        if sent.not_sent:
            driven = driven & sent.as_decided
            ends_hold |= decided.publish & ~sent.as_decided
        goes_on = driven
        if decided.pending is not None:
            goes_on = driven | decided.pending
            goes_on[list(sent.not_sent)] = False
        # A gap in the data ends a robot's episode, and so does a command that was not sent: stack and memory then start
        # as after a reset in training.
        self.fresh_start = ~goes_on
        self.last_driven_ns[driven] = observed.now_ns
        # Faults and stops are not data gaps: do not hold the last command.
        self.last_driven_ns[ends_hold] = NEVER_NS
        self.last_commands = sent.commands
        if self._ramp_ns:
            began = driven & (observed.fresh_start | self._awaiting)
            self._ramp_start[began] = decided.actions.current[began]
            self._recovered_ns[began] = observed.now_ns
        self._awaiting = self._nobody if goes_on is driven else goes_on & ~driven
        self.bounded += inferred.bounded & driven
        self.slowed += inferred.slowed & driven
        if sent.not_sent:
            for robot in sent.replaced.nonzero()[0].tolist():
                self._before[robot] = "overruled"
