# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The safe command of each robot: one command for all of them, or the position at which each was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from policy_node.messages.reading import Decode
from policy_node.sensing.arrivals import Arrivals
from policy_node.sensing.samples import Sample
from policy_node.sensing.staging import Rejections
from policy_node.sensing.synchroniser import RobotState


class SafeCommands:
    """Keeps the safe command of each robot: here `fixed` `[components]` for all, or no command if it is None."""

    def __init__(self, robots: int, components: int, fixed: np.ndarray | None) -> None:
        #: By robot the sample that its position was read from at the last update; None where it was not read.
        self.readings: tuple[Sample | None, ...] = (None,) * robots
        #: `[robots]` bool: robots already sent their safe command: do not update it. Never changed in place.
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

    def update(self, now_ns: int) -> Mapping[int, tuple[RobotState, str]]:
        """Update the safe commands before a tick.

        Parameters
        ----------
        now_ns
            The time of the tick.

        Returns
        -------
        Mapping
            Robot index -> state and reason, for robots that cannot be driven because they have no safe command.
        """
        return {}

    def freeze(self, robots: np.ndarray) -> None:
        """Keep the safe commands of these robots, `[robots]` bool; update those of all others."""
        self.frozen = robots

    def was_sent(self, commands: np.ndarray) -> np.ndarray:
        """Return to which robots, `[robots]` bool, commands `[robots, components]` sent what `freeze` keeps."""
        return np.ones(len(commands), bool)

    def freeze_known(self, robots: Sequence[int]) -> None:
        """Keep the safe commands of some robots, by their index, that have one."""
        frozen = self.frozen.copy()
        frozen[robots] = ~np.isnan(self.commands[robots]).any(axis=1)
        self.frozen = frozen

    def forget(self, robots: Iterable[int]) -> None:
        """Forget the positions of some robots."""


class MeasuredPositions(SafeCommands):
    """The position at which each robot was stopped.

    While driven: the measured position. Without one a robot has no safe command and is not driven: a command that was
    sent is a target, not where the robot is. Once stopped: fixed, so a sagging arm is not followed down.

    Parameters
    ----------
    components
        Number of components of a command.
    arrivals
        Messages with the position, by robot.
    decode
        Writes a message into `[components]` float64.
    rejections
        Counts messages that cannot be used.
    columns
        `[measured]` int: components that are positions, in the order of the reading; None: all of them.
    fixed
        `[components]` float64: safe command of the others.
    """

    def __init__(
        self,
        components: int,
        arrivals: Sequence[Arrivals],
        decode: Decode,
        rejections: Rejections,
        columns: np.ndarray | None = None,
        fixed: np.ndarray | None = None,
    ) -> None:
        super().__init__(len(arrivals), components, fixed)
        self._columns: np.ndarray | slice = slice(None) if columns is None else columns
        self._rows[:, self._columns] = np.nan
        self._offer()
        self._arrivals = arrivals
        self._decode = decode
        self._rejections = rejections
        self._refusers = [partial(self._refuse, robot) for robot in range(len(arrivals))]
        # By robot the message whose position is in `_rows`; None where there is no position.
        self._decoded: list[Sample | None] = [None] * len(arrivals)
        self._position = np.empty(components if columns is None else len(columns))

    def update(self, now_ns: int) -> Mapping[int, tuple[RobotState, str]]:
        """Read the positions before a tick, see `SafeCommands.update`."""
        problems = {}
        readings: list[Sample | None] = [None] * len(self._arrivals)
        read = self._read
        for robot in np.flatnonzero(~self.frozen).tolist():
            decoded = self._decoded[robot]
            found = self._arrivals[robot].newest_usable(now_ns, read, self._refusers[robot], decoded)
            if isinstance(found, Sample):
                readings[robot] = found
                if found is not decoded:
                    self._rows[robot, self._columns], self._decoded[robot] = self._position, found
            else:
                self._rows[robot, self._columns], self._decoded[robot], problems[robot] = np.nan, None, found
        self.readings = tuple(readings)
        self._offer()
        return problems

    def was_sent(self, commands: np.ndarray) -> np.ndarray:
        """Return which robots got a position; other topics of a robot may have got their safe command alone."""
        was_sent: np.ndarray = np.isfinite(commands[:, self._columns]).all(axis=1)
        return was_sent

    def freeze_known(self, robots: Sequence[int]) -> None:
        """Keep the safe commands of some robots, by their index, whose position is known."""
        frozen = self.frozen.copy()
        frozen[robots] = ~np.isnan(self.commands[list(robots)][:, self._columns]).any(axis=1)
        self.frozen = frozen

    def _read(self, message: Any) -> None:
        self._decode(message, self._position)

    def _refuse(self, robot: int, message: Any, error: Exception) -> str:
        return self._rejections.note(robot, self._arrivals[robot].name, message, error)

    def forget(self, robots: Iterable[int]) -> None:
        """Forget the positions of some robots."""
        chosen = list(robots)
        for robot in chosen:
            self._rows[robot, self._columns] = np.nan
            self._decoded[robot] = None
        frozen = self.frozen.copy()
        frozen[chosen] = False
        self.frozen = frozen
        self._offer()
