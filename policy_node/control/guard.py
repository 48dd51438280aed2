# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The guard: decides for each tick whether a robot gets the policy's command, another one, or none.

Sending may still replace that command by the safe one or leave it out (`Sent`); what was really sent is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from policy_node.config.schema import Configuration
from policy_node.control.fleet_memory import FleetMemory
from policy_node.control.tick import (
    Actions,
    FleetCommands,
    Observed,
    Problem,
    all_of,
    any_of,
    constant,
    with_problems,
)
from policy_node.sensing.synchroniser import RobotState


class Guard:
    """Lets commands of the policy through that are finite and fresh, and replaces all others.

    Clipping and rate limits were already applied on the device (`CommandLimiter`).
    """

    def __init__(self, configuration: Configuration) -> None:
        #: Largest age of the synchronised readings behind a command.
        self.max_age_ns = round(configuration.synchronisation.max_age_s * 1e9)
        self._hold_ns = round(configuration.action.hold_s * 1e9)
        self._when_stale = configuration.action.when_stale
        # Of robots with several command topics: components, `when_stale` and `hold_s` in ns of each topic.
        self._topics: list[tuple[slice, str, int]] = []
        # Whether the safe command of a topic is a measured position, which must not follow a robot that has got it.
        self._is_position = [bool(command.safe_position_topic) for command in configuration.commands]
        if len(configuration.commands) > 1:
            self._topics = [
                (columns, command.when_stale, round(command.hold_s * 1e9))
                for command, columns in zip(configuration.commands, configuration.columns, strict=True)
            ]
        self._no_robots = constant(np.zeros(len(configuration.robots), bool))

    def __call__(
        self,
        actions: Actions,
        observed: Observed,
        safe_commands: np.ndarray,
        memory: FleetMemory,
        clock: Callable[[], int] | None,
    ) -> FleetCommands:
        """Decide on the command of every robot.

        Parameters
        ----------
        actions, observed
            Actions and observation of this tick.
        safe_commands
            `[robots, components]` float64; NaN in the rows of robots without one.
        memory
            The commands that were sent before.
        clock
            The clock of the stamps, read again: synchronised readings may have become too old while the policy acted.
            None: time stands still during the tick.
        """
        started_s = time.perf_counter()
        states, reasons = observed.states, observed.reasons
        problems: Mapping[int, Problem] = {}
        ready, faulty, held, pending = observed.ready, self._no_robots, self._no_robots, None
        planned, finite = actions.planned, np.isfinite(actions.inferred.commands)
        all_ready = observed.all_ready and not (planned and planned.problems) and bool(all_of(finite, None))
        if not all_ready:
            faulty, pending, problems = self._faults(actions, observed, finite)
            ready = observed.ready & ~faulty if pending is None else observed.ready & ~(faulty | pending)
        if outdated := self._outdated(ready, observed, clock):
            all_ready, problems = False, {**problems, **outdated}
            ready = ready.copy()
            ready[list(outdated)] = False
        if problems:
            states, reasons = with_problems(states, reasons, problems)
        if all_ready:
            commands, publish = np.array(actions.inferred.commands, np.float64), ready
        else:
            commands = safe_commands.copy()
            commands[ready] = actions.inferred.commands[ready]
            # `hold` and `silent` are about data: a robot whose policy fails, or that an operator stops, is stopped
            # anyway.
            ends = faulty | observed.stopped | (self._no_robots if pending is None else pending)
            held, publish = self._replace(commands, ready, ends, observed.now_ns, memory)
        return FleetCommands(
            observed=observed,
            actions=actions,
            commands=commands,
            publish=publish,
            states=states,
            reasons=reasons,
            ready=ready,
            held=held,
            faulty=faulty,
            pending=pending,
            max_age_s=self.max_age_ns / 1e9,
            guard_s=time.perf_counter() - started_s,
            all_ready=all_ready,
        )

    def _faults(
        self, actions: Actions, observed: Observed, finite: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None, dict[int, Problem]]:
        """Find ready robots without an action that can be used; `finite` `[robots, components]` is of the commands.

        Returns
        -------
        tuple
            `faulty` and `pending` of `FleetCommands`, and by index of the robot what is wrong.
        """
        faulty, pending = observed.ready & ~finite.all(axis=1), None
        reason = actions.failure or "its action is not finite"
        problems = dict.fromkeys(faulty.nonzero()[0].tolist(), (RobotState.FAULT, reason))
        if actions.planned is not None and actions.planned.problems:
            pending = actions.planned.pending
            faulty = faulty & ~pending
            problems |= actions.planned.problems
        return faulty, pending, problems

    def _replace(
        self, commands: np.ndarray, ready: np.ndarray, ends: np.ndarray, now_ns: int, memory: FleetMemory
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace the commands of robots without good data by `when_stale`; see `_replace_by_topic`."""
        if self._topics:
            return self._replace_by_topic(commands, ready, ends, now_ns, memory)
        held = self._no_robots
        if self._when_stale == "hold":
            held = ~ready & ~ends & (now_ns - memory.last_driven_ns <= self._hold_ns)
            commands[held] = memory.last_commands[held]
        # A robot that has no safe command, or that another node commands, gets nothing.
        publish = ~np.isnan(commands).any(axis=1)
        if self._when_stale == "silent":
            publish &= ready | ends
        return held, publish

    def _replace_by_topic(
        self, commands: np.ndarray, ready: np.ndarray, ends: np.ndarray, now_ns: int, memory: FleetMemory
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace the commands of robots without good data by `when_stale` of each topic.

        The components of a topic that gets nothing become NaN.

        Parameters
        ----------
        commands
            `[robots, components]`: the policy's for robots that are `ready`, else the safe ones; changed in place.
        ends
            `[robots]` bool: robots that are stopped whatever `when_stale` is.

        Returns
        -------
        tuple
            `[robots]` bool each: robots of which a topic gets its last command again, if any has a measured position
            one of those, and robots of which one gets any.
        """
        held, publish = self._no_robots, self._no_robots
        for is_position, (columns, when_stale, hold_ns) in zip(self._is_position, self._topics, strict=True):
            part = commands[:, columns]
            if when_stale == "hold":
                holds = ~ready & ~ends & (now_ns - memory.last_driven_ns <= hold_ns)
                part[holds] = memory.last_commands[holds, columns]
                if is_position or not any(self._is_position):
                    held = held | holds
            elif when_stale == "silent":
                part[~(ready | ends)] = np.nan
            complete = ~np.isnan(part).any(axis=1)
            part[~complete] = np.nan
            publish = publish | complete
        return held, publish

    def _outdated(self, ready: np.ndarray, observed: Observed, clock: Callable[[], int] | None) -> dict[int, Problem]:
        """Find robots whose synchronised readings have become too old since the tick began.

        A reading that is not synchronised, with its own `max_age_s`, is judged only when the tick selects it.
        """
        if clock is None or not any_of(ready):
            return {}
        elapsed_ns = clock() - observed.now_ns
        if elapsed_ns < 0:  # the clock was set back
            elapsed_ns = round((time.perf_counter() - observed.started_s) * 1e9)
        # NaN where a robot has no readings: those are not ready.
        outdated = ready & (observed.ages_s * 1e9 + elapsed_ns > self.max_age_ns)
        if not any_of(outdated):
            return {}
        return {
            robot: (
                RobotState.STALE,
                f"its readings became too old while the tick took {elapsed_ns / 1e9:.3f} s: they are "
                f"{observed.ages_s[robot] + elapsed_ns / 1e9:.3f} s old, synchronisation.max_age_s allows "
                f"{self.max_age_ns / 1e9:.3f} s",
            )
            for robot in np.flatnonzero(outdated).tolist()
        }
