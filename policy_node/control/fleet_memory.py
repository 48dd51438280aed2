# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Remember the last command and the episode of each robot from tick to tick."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policy_node.config.schema import Configuration
from policy_node.control.tick import FleetCommands, Observed, Sent, any_of, constant
from policy_node.engines.inference import Inferred

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
        #: `[robots]` bool: no robot; cannot be written.
        self.nobody = constant(np.zeros(count, bool))
        #: `[robots]` bool: robots whose history and memory restart at their next good set of readings. `nobody` itself
        #: after a tick in which every robot got its command of the policy. Never changed in place.
        self.fresh_start = np.ones(count, bool)
        # `[robots]` bool: robots whose episode goes on, but that got no command of the policy at the last tick.
        self._awaiting = self.nobody
        #: Whether every robot got its command of the policy at the last tick, and none was sent another one since.
        self.all_driven = False
        #: `[robots]` int64: sent commands that were clipped to a bound, or whose change was limited. Never changed in
        #: place.
        self.bounded = self.slowed = constant(np.zeros(count, np.int64))
        # Start command and start time of each robot's ramp.
        self._ramp_start = self.last_commands.copy()
        self._recovered_ns = np.full(count, NEVER_NS)
        self._passed = np.ones(count)
        # Why episodes restarted since the last tick, by the index of the robot.
        self._before: dict[int, str] = {}
        self._no_events = ("",) * count

    def take_events(self) -> tuple[str, ...]:
        """Return by robot why its episode restarted since the last call: empty, `reset` or `overruled`."""
        if not self._before:
            return self._no_events
        before, self._before = self._before, {}
        return tuple(before.get(robot, "") for robot in range(len(self._no_events)))

    def restart_histories(self) -> None:
        """Restart the histories of all robots; their last commands are held as before."""
        self.fresh_start = np.ones(len(self.fresh_start), bool)

    def restart(self, robots: Sequence[int]) -> None:
        """Restart the episodes of some robots; no earlier command is held."""
        fresh_start = self.fresh_start.copy()
        fresh_start[list(robots)] = True
        self.fresh_start = fresh_start
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
        self.all_driven = False
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
        self.all_driven = decided.all_ready and not sent.not_sent and not sent.overruled
        self.last_commands = sent.commands
        if self.all_driven:
            # Nothing below has anything to say, but of a ramp that began.
            self.last_driven_ns.fill(observed.now_ns)
            self._begin_ramps(decided, decided.ready)
            self.fresh_start = self._awaiting = self.nobody
            self._count(inferred, decided.ready)
            return
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
        self._begin_ramps(decided, driven)
        self._awaiting = self.nobody if goes_on is driven else goes_on & ~driven
        self._count(inferred, driven)
        if sent.not_sent:
            for robot in sent.replaced.nonzero()[0].tolist():
                self._before[robot] = "overruled"

    def _begin_ramps(self, decided: FleetCommands, driven: np.ndarray) -> None:
        """Note the ramps that began with the commands of robots that were `driven`, `[robots]` bool."""
        if self._ramp_ns and not (decided.observed.fresh_start is self._awaiting is self.nobody):
            began = driven & (decided.observed.fresh_start | self._awaiting)
            self._ramp_start[began] = decided.actions.current[began]
            self._recovered_ns[began] = decided.observed.now_ns

    def _count(self, inferred: Inferred, driven: np.ndarray) -> None:
        """Count the limited commands of robots that were `driven`, `[robots]` bool."""
        if any_of(inferred.bounded):
            self.bounded = constant(self.bounded + (inferred.bounded & driven))
        if any_of(inferred.slowed):
            self.slowed = constant(self.slowed + (inferred.slowed & driven))
