# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Plans of a fleet: which action of its newest plans is due for each robot now.

A plan is the policy's actions `[horizon, components]` from the time of its observation on, one every `step_ns`. Actions
are skipped by time: an inference that took three steps skips three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policy_node.config.parameters import ChunkConfiguration
from policy_node.control.fleet_memory import NEVER_NS

# How long the one action of a policy without a horizon is used, unless configured.
SINGLE_ACTION_S = 1.0


class DueActions(NamedTuple):
    """The actions that are due for all robots.

    Attributes
    ----------
    actions
        `[robots, components]` float64; rows of robots that lack an action mean nothing.
    waiting
        `[robots]` bool: robots without a plan.
    exhausted
        `[robots]` bool: robots whose newest plan has ended.
    outdated
        `[robots]` bool: robots whose newest plan is older than allowed.
    ages_s
        `[robots]` float64: time since the observation of the newest plan; NaN without a plan.
    """

    actions: np.ndarray
    waiting: np.ndarray
    exhausted: np.ndarray
    outdated: np.ndarray
    ages_s: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """`[robots]` bool: robots without a usable action."""
        return self.waiting | self.exhausted | self.outdated


class PlanStore:
    """Keeps the newest plans of every robot, as many as may be aggregated.

    All times are those of the clock of the stamps.

    Parameters
    ----------
    robots, horizon, components
        Numbers of robots, of actions in a plan (0: a policy without a horizon) and of components of an action.
    period_ns
        Control period.
    chunk
        How plans are used.
    choices
        Whether actions are choices, which are neither interpolated nor averaged.
    nearest
        Components that are not interpolated.

    Attributes
    ----------
    step_ns
        Time from one action of a plan to the next.
    duration_ns
        Time from the observation to the end of a plan; None where its last action has no end.
    """

    def __init__(
        self,
        robots: int,
        horizon: int,
        components: int,
        period_ns: int,
        chunk: ChunkConfiguration,
        choices: bool = False,
        nearest: Sequence[int] = (),
    ) -> None:
        self.step_ns = round(chunk.step_s * 1e9) or period_ns
        self._horizon = max(1, horizon)
        self.duration_ns = horizon * self.step_ns if horizon > 1 else None
        hold_ns = round(chunk.hold_s * 1e9) if chunk.on_exhausted == "hold" else 0
        self._last_ns: float = math.inf if self.duration_ns is None else self.duration_ns + hold_ns
        self.max_age_ns: float = round(chunk.max_age_s * 1e9)
        if not self.max_age_ns:
            self.max_age_ns = SINGLE_ACTION_S * 1e9 if self.duration_ns is None else math.inf
        # Ticks come a little early or late.
        self._replan_ns = chunk.replan_every * self.step_ns - period_ns // 2
        self._blend_ns = chunk.blend_s * 1e9
        aggregate = chunk.aggregate if horizon > 1 and not choices else "newest"
        self._aggregate = {"ensemble": self._ensemble, "blend": self._blend}.get(aggregate)
        self._decay = chunk.ensemble_decay
        self._nearest = np.full(components, choices)
        self._nearest[list(nearest)] = True
        kept = self._plans_kept(aggregate, period_ns)
        self._robots = np.arange(robots)
        # One slot for each plan that is kept, the newest of a robot in the slot `_newest`.
        self._actions = np.zeros((robots, kept, self._horizon, components))
        self._start_ns, self._taken_ns = np.full((2, robots, kept), NEVER_NS)
        self._newest = np.zeros(robots, np.intp)
        # `[robots, kept]`: slots from the oldest plan to the newest.
        self._order = self._slots_in_order()

    def _plans_kept(self, aggregate: str, period_ns: int) -> int:
        """Return how many plans of a robot may count at once; there is at most one for each tick."""
        interval_ns = max(period_ns, self._replan_ns)
        if aggregate == "ensemble":
            assert self.duration_ns is not None
            # One more, because ticks come a little early or late.
            return 1 + -(-self.duration_ns // interval_ns)
        return 1 + math.ceil(self._blend_ns / interval_ns) if aggregate == "blend" else 1

    def _slots_in_order(self) -> np.ndarray:
        kept = self._actions.shape[1]
        return (self._newest[:, None] + 1 + np.arange(kept)) % kept

    @property
    def _newest_start_ns(self) -> np.ndarray:
        return self._start_ns[self._robots, self._newest]

    @property
    def has_plan(self) -> np.ndarray:
        """`[robots]` bool: robots with a plan, also an old one."""
        has_plan: np.ndarray = self._newest_start_ns != NEVER_NS
        return has_plan

    @property
    def lasts_s(self) -> float:
        """Longest time from the observation of a plan to a command."""
        return min(self._last_ns, self.max_age_ns) / 1e9

    def take(self, robots: np.ndarray, start_ns: int, now_ns: int, actions: np.ndarray) -> None:
        """Add a plan of some robots.

        Parameters
        ----------
        robots
            Their indices.
        start_ns
            Time of the observation.
        now_ns
            Time from which the plan is used.
        actions
            `[robots, horizon, components]`, all finite.
        """
        # Nothing of a plan that has ended, while the robot got its safe command, continues in the next one.
        age_ns = now_ns - self._newest_start_ns[robots]
        self._start_ns[robots[(age_ns >= self._last_ns) | (age_ns > self.max_age_ns)]] = NEVER_NS
        self._newest[robots] = (self._newest[robots] + 1) % self._actions.shape[1]
        self._order = self._slots_in_order()
        slots = self._newest[robots]
        self._actions[robots, slots] = actions
        self._start_ns[robots, slots] = start_ns
        self._taken_ns[robots, slots] = now_ns

    def drop(self, robots: np.ndarray) -> None:
        """Forget all plans of some robots, `[robots]` bool."""
        self._start_ns[robots] = NEVER_NS

    def wanted(self, now_ns: int) -> np.ndarray:
        """Return `[robots]` bool: robots that are due for another plan."""
        wanted: np.ndarray = now_ns - self._newest_start_ns >= self._replan_ns
        return wanted

    def due(self, now_ns: int) -> DueActions:
        """Return the actions of all robots at a time."""
        start_ns = self._newest_start_ns
        elapsed_ns = now_ns - start_ns
        waiting = start_ns == NEVER_NS
        values = self._interpolated(now_ns)
        newest = values[self._robots, self._newest]
        actions = newest if self._aggregate is None else self._aggregate(values, now_ns, newest)
        return DueActions(
            actions=actions,
            waiting=waiting,
            exhausted=(elapsed_ns >= self._last_ns) & ~waiting,
            outdated=(elapsed_ns > self.max_age_ns) & ~waiting,
            ages_s=np.where(waiting, np.nan, elapsed_ns / 1e9),
        )

    def upcoming(self, robots: np.ndarray, now_ns: int) -> np.ndarray:
        """Return the actions of some robots, by their index, from a time on, `[robots, horizon, components]`.

        The last action of the newest plan repeats after its end; zeros for robots without a plan.
        """
        slots, start_ns = self._newest[robots], self._newest_start_ns[robots]
        position = (now_ns - start_ns)[:, None] / self.step_ns + np.arange(self._horizon)
        actions = self._at(position, (robots[:, None], slots[:, None]))
        actions[start_ns == NEVER_NS] = 0.0
        return actions

    def _interpolated(self, now_ns: int) -> np.ndarray:
        """Return the action of every plan at a time, `[robots, kept, components]`, the last one after its end."""
        position = (now_ns - self._start_ns) / self.step_ns
        return self._at(position, (self._robots[:, None], np.arange(position.shape[1])))

    def _at(self, position: np.ndarray, plans: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the actions of plans, by robots and slots, at positions in steps."""
        last = self._horizon - 1
        position = np.minimum(position, last)
        low = position.astype(np.intp)
        share = (position - low)[..., None]
        before = self._actions[(*plans, low)]
        if not share.any():
            return before
        after = self._actions[(*plans, np.minimum(low + 1, last))]
        return np.where(self._nearest, np.where(share < 0.5, before, after), before + share * (after - before))

    def _ensemble(self, values: np.ndarray, now_ns: int, newest: np.ndarray) -> np.ndarray:
        """Average all plans that cover the present, as Algorithm 2 of ACT does: the oldest has the weight exp(0)."""
        assert self.duration_ns is not None
        start_ns = np.take_along_axis(self._start_ns, self._order, axis=1)
        covers = (now_ns - start_ns < self.duration_ns) & (now_ns - start_ns <= self.max_age_ns)
        ranks = np.cumsum(covers, axis=1) - 1
        # Without a plan that covers the present all weights are 0: the newest one is held.
        weights = np.where(covers, np.exp(-self._decay * ranks), 0.0)
        total = weights.sum(axis=1)
        ordered = np.take_along_axis(values, self._order[..., None], axis=1)
        average = np.einsum("rk,rkc->rc", weights, ordered) / np.maximum(total, 1e-300)[:, None]
        return np.where((total > 0.0)[:, None], average, newest)

    def _blend(self, values: np.ndarray, now_ns: int, newest: np.ndarray) -> np.ndarray:
        """Let each plan replace the result of those before it linearly, from the time that it was taken on."""
        blended: np.ndarray | None = None
        for slots in self._order.T:
            of_slot = values[self._robots, slots]
            has_plan = self._start_ns[self._robots, slots] != NEVER_NS
            if blended is None:
                blended, known = of_slot, has_plan
                continue
            share = np.clip((now_ns - self._taken_ns[self._robots, slots]) / self._blend_ns, 0.0, 1.0)
            share = np.where(known, np.where(has_plan, share, 0.0), 1.0)
            # Exact at both ends.
            blended = (1.0 - share[:, None]) * blended + share[:, None] * of_slot
            known = known | has_plan
        assert blended is not None
        return blended
