# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The safe command of each robot: one command for all of them, or the position at which each was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from policy_node.messages.reading import Decode
from policy_node.sensing.samples import Sample, SampleRing
from policy_node.sensing.staging import Rejections
from policy_node.sensing.synchroniser import RobotState, newest_usable


class SafeCommands:
    """Keeps the safe command of each robot: here `fixed` `[components]` for all, or no command if it is None."""

    def __init__(self, robots: int, components: int, fixed: np.ndarray | None) -> None:
        #: By robot the sample that its position was read from at the last update; None where it was not read.
        self.readings: tuple[Sample | None, ...] = (None,) * robots
        #: `[robots]` bool: robots already sent their safe command: do not update it.
        self.frozen = np.zeros(robots, bool)
        self._rows = np.tile(np.full(components, np.nan) if fixed is None else fixed, (robots, 1))
        self._yielded: list[int] = []
        #: `[robots, components]` float64, NaN for robots that are yielded to other nodes. A new array at every
        #: change, so that any thread may read it.
        self.commands = self._rows.copy()

    def yield_robots(self, robots: Iterable[int]) -> None:
        """Offer no safe command for these robots, because other nodes command them, and one for all others."""
        self._yielded = list(robots)
        self._offer()

    def _offer(self) -> None:
        commands = self._rows.copy()
        commands[self._yielded] = np.nan
        self.commands = commands

    def update(self, now_ns: int, last_commands: np.ndarray) -> Mapping[int, tuple[RobotState, str]]:
        """Update the safe commands before a tick.

        Parameters
        ----------
        now_ns
            The time of the tick.
        last_commands
            `[robots, components]`: commands sent at the last tick, NaN if none was.

        Returns
        -------
        Mapping
            Robot index -> state and reason, for robots that cannot be driven because they have no safe command.
        """
        return {}

    def freeze(self, robots: np.ndarray) -> None:
        """Keep the safe commands of these robots, `[robots]` bool; update those of all others."""
        self.frozen = robots

    def forget(self, robots: Iterable[int]) -> None:
        """Forget the positions of some robots."""


class MeasuredPositions(SafeCommands):
    """The position at which each robot was stopped.

    While driven: the measured position, or the last command if unknown. Once stopped: fixed, so a sagging arm is not
    followed down.

    Parameters
    ----------
    components
        Number of components of a command.
    name, rings
        Name of the sensor, and its samples by robot.
    decode
        Writes a message into `[components]` float64.
    max_age_ns
        Largest age of a position.
    rejections
        Counts messages that cannot be used.
    """

    def __init__(
        self,
        components: int,
        name: str,
        rings: Sequence[SampleRing],
        decode: Decode,
        max_age_ns: int,
        rejections: Rejections,
    ) -> None:
        super().__init__(len(rings), components, None)
        self._name = name
        self._rings = rings
        self._decode = decode
        self._max_age_ns = max_age_ns
        self._rejections = rejections
        self._position = np.empty(components)

    def update(self, now_ns: int, last_commands: np.ndarray) -> Mapping[int, tuple[RobotState, str]]:
        """Read the positions before a tick, see `SafeCommands.update`."""
        problems = {}
        readings: list[Sample | None] = [None] * len(self._rings)
        for robot in np.flatnonzero(~self.frozen).tolist():
            found = self._read(robot, now_ns)
            if isinstance(found, Sample):
                self._rows[robot], readings[robot] = self._position, found
            elif not np.isnan(last_commands[robot]).any():
                self._rows[robot] = last_commands[robot]
            elif np.isnan(self._rows[robot]).any():
                problems[robot] = found
        self.readings = tuple(readings)
        self._offer()
        return problems

    def _read(self, robot: int, now_ns: int) -> Sample | tuple[RobotState, str]:
        """Read the current position of a robot and return the reading, or why it is not known."""
        found = newest_usable(self._rings[robot], now_ns, self._max_age_ns, self._max_age_ns)
        self._rejections.count[robot] += found.refused
        if found.state is not RobotState.READY:
            return found.state, found.reason
        sample = found.samples[0]
        try:
            self._decode(sample.message, self._position)
        except Exception as error:  # a broken message must not stop the robots
            return RobotState.REJECTED, self._rejections.note(robot, self._name, sample.message, error)
        return sample

    def forget(self, robots: Iterable[int]) -> None:
        """Forget the positions of some robots."""
        chosen = list(robots)
        self._rows[chosen] = np.nan
        self.frozen[chosen] = False
        self._offer()
