# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands between two ticks, for robots that take them faster than the policy acts."""

from __future__ import annotations

import numpy as np


class BetweenTicks:
    """Interpolates or repeats the commands of a tick until the next one.

    Commands of the policy are approached in equal steps from the one sent before, which takes a control period; any
    other command, such as a safe one, is sent at once and repeated. Commands between two that keep bounds and
    `max_rate` keep them, too.

    Parameters
    ----------
    robots, components
        Size of the commands.
    steps
        Commands per control period, at least 2.
    is_linear
        Whether commands are interpolated; else each is repeated.
    """

    def __init__(self, robots: int, components: int, steps: int, is_linear: bool) -> None:
        self.steps = steps
        self._is_linear = is_linear
        # `[robots, components]`: what was sent last, NaN if nothing was; where the way begins and ends.
        self._last = np.full((robots, components), np.nan)
        self._start, self._target = self._last, self._last
        self._publish = np.zeros(robots, bool)
        self._step = steps
        #: `[robots]` float64: when each command becomes too old to be sent; None: never.
        self.until_s: np.ndarray | None = None

    @property
    def is_done(self) -> bool:
        """Whether no command is left until the next tick."""
        return self._step >= self.steps or not self._publish.any()

    def begin(
        self, commands: np.ndarray, publish: np.ndarray, smooth: np.ndarray | None, until_s: np.ndarray | None
    ) -> np.ndarray:
        """Begin the way to the commands of a tick, and return the first commands on it.

        Parameters
        ----------
        commands
            `[robots, components]`.
        publish, smooth
            `[robots]` bool: robots that get them, and those of them whose commands are approached in steps; None: none.
        until_s
            See `until_s`.
        """
        self._target, self._publish, self.until_s = commands, publish, until_s
        self._step = 0
        self._start = commands
        if self._is_linear and smooth is not None:
            self._start = np.where(smooth[:, None] & np.isfinite(self._last), self._last, commands)
        self._last = np.where(publish[:, None], self._last, np.nan)
        return self.next()[0]

    def next(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the next commands `[robots, components]`, and the robots `[robots]` bool that get theirs."""
        self._step += 1
        share = self._step / self.steps
        # The last step is the target itself, without rounding.
        commands = self._target if share >= 1.0 else self._start + (self._target - self._start) * share
        self._last = np.where(self._publish[:, None], commands, self._last)
        return commands, self._publish

    def end(self, robots: np.ndarray, commands: np.ndarray | None = None) -> None:
        """End the way of some robots, `[robots]` bool, at once; `commands` were sent to them instead."""
        self._publish = self._publish & ~robots
        last = self._last.copy()
        last[robots] = np.nan if commands is None else commands[robots]
        self._last = last
