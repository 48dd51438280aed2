# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, and the seeded order in which it does."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """A kind of fault.

    Attributes
    ----------
    name, text
        What it is called, and what happens.
    stops
        Whether its robot must get the safe command; otherwise it must be driven on.
    fleet
        Whether it concerns all robots.
    """

    name: str
    text: str
    stops: bool = True
    fleet: bool = False


KINDS = (
    Kind("killed", "publisher killed (SIGKILL), later restarted"),
    Kind("paused", "publisher stopped (SIGSTOP), later resumed (SIGCONT)"),
    Kind("clock_ahead", "publisher restarted with its clock ahead, later set right"),
    Kind("clock_behind", "publisher restarted with its clock behind, later set right"),
    Kind("clock_zero", "publisher restarted with stamps of zero, later set right"),
    Kind("random_bytes", "messages of random bytes under the right type"),
    Kind("wrong_size", "too few numbers, images whose sizes contradict each other"),
    Kind("nan", "a reading that is not finite"),
    Kind("truncated_image", "images cut in half"),
    Kind("camera_silent", "one of two sensors falls silent"),
    Kind("slowed", "one reading per second"),
    Kind("flooded", "1000 readings per second", stops=False),
    Kind("duplicate", "a second publisher of the same readings", stops=False),
    Kind("wrong_type", "a second publisher, of another type", stops=False),
    Kind("policy_nan", "the policy gives NaN for one robot"),
    Kind("policy_blocks", "the policy computes for seconds", fleet=True),
    Kind("policy_raises", "the policy raises", fleet=True),
)
BY_NAME = {kind.name: kind for kind in KINDS}
# Of so many robots one has a fault at a time.
ROBOTS_PER_GROUP = 3


class Planned(NamedTuple):
    """One fault to come.

    Attributes
    ----------
    kind, robot
        What happens, and to which robot.
    duration_s
        How long after the readings before it have become too old.
    pause_s
        How long to wait after it has healed.
    size
        0 to 1: how large it is, for those that have a size.
    """

    kind: Kind
    robot: int
    duration_s: float
    pause_s: float
    size: float


def plan(robots: Sequence[int], kinds: Sequence[Kind], seed: int, part: float = 0.0) -> Iterator[Planned]:
    """Yield faults without end: each kind once before any comes again, in random order, on random robots.

    Parameters
    ----------
    robots
        Of which each fault concerns one.
    kinds
        What may happen.
    seed
        Of all that is random.
    part
        Where in the order of kinds to begin, 0 to 1: plans of one seed have one order, and together come through it
        sooner.
    """
    orders, details = random.Random(seed), random.Random(f"{seed}/{part}")
    first = round(part * len(kinds))
    while True:
        order = orders.sample(kinds, len(kinds))
        for kind in order[first:] + order[:first]:
            robot, size = details.choice(robots), details.random()
            yield Planned(kind, robot, details.uniform(0.4, 1.6), details.uniform(0.2, 1.0), size)


def plans(robots: int, seed: int) -> tuple[list[Iterator[Planned]], Iterator[Planned]]:
    """Return the faults of single robots, one plan for each group of robots, and those that concern all of them.

    Groups are disjoint and hold at least two robots, of which one at a time has a fault: never all do.
    """
    single, fleet = ([kind for kind in KINDS if kind.fleet is concerns_all] for concerns_all in (False, True))
    groups = max(1, min(robots // 2, max(2, round(robots / ROBOTS_PER_GROUP))))
    return [plan(range(group, robots, groups), single, seed, group / groups) for group in range(groups)], plan(
        range(robots), fleet, seed
    )


@dataclass(eq=False)
class Fault:
    """One fault as it came about; times are seconds since the begin of the run, infinite until they are known.

    Attributes
    ----------
    kind
        What happened.
    robots
        Whom it concerns.
    asked_s
        When the tool set about it.
    begun_s, ended_s
        When the cause began and ended.
    detected_s, shown_s, healed_s
        `[len(robots)]`: the first safe command, the first diagnostics that show it, the first command from
        readings that were taken after the cause had ended.
    """

    kind: Kind
    robots: tuple[int, ...]
    asked_s: float
    begun_s: float = np.inf
    ended_s: float = np.inf
    detected_s: np.ndarray = field(init=False)
    shown_s: np.ndarray = field(init=False)
    healed_s: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is known of any robot yet."""
        self.detected_s, self.shown_s, self.healed_s = (np.full(len(self.robots), np.inf) for _ in range(3))

    @property
    def is_healed(self) -> bool:
        """Whether every robot is driven again."""
        return bool(np.isfinite(self.healed_s).all())
