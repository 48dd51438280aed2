# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of faults, and their seeded schedule."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """A kind of fault."""

    name: str
    text: str
    # True: the robot must get the safe command; False: it must still be driven; None: both are right.
    stops: bool | None = True
    fleet: bool = False  # affects all robots
    rare: bool = False  # costs seconds: each cycle has one of these


KINDS = (
    Kind("killed", "publisher killed (SIGKILL), later restarted"),
    Kind("paused", "publisher stopped (SIGSTOP), later resumed (SIGCONT)"),
    Kind("clock_ahead", "publisher restarted with its clock ahead, later set right"),
    Kind("clock_behind", "publisher restarted with its clock behind, later set right"),
    Kind("clock_zero", "publisher restarted with stamps of zero, later set right"),
    Kind("random_bytes", "messages of random bytes under the right type"),
    Kind("wrong_size", "too few numbers, images whose sizes contradict each other"),
    Kind("nan", "a reading that is not finite"),
    Kind("partial", "messages with half of the joints"),
    Kind("alternating", "messages of an arm and of a gripper in turn on one topic", stops=None),
    Kind("mixed_positions", "stopped while positions of the arm, of its gripper and damaged ones come in turn"),
    Kind("truncated_image", "images cut in half"),
    Kind("camera_silent", "one of two sensors falls silent"),
    Kind("slowed", "one reading per second"),
    Kind("delayed", "readings that are about as old as allowed, so that single commands are late", stops=None),
    Kind("flooded", "1000 readings per second", stops=False),
    Kind("duplicate", "a second publisher of the same readings", stops=False),
    Kind("wrong_type", "a second publisher, of another type", stops=False),
    Kind("policy_nan", "the policy gives NaN for one robot"),
    Kind("policy_blocks", "the policy computes for seconds", fleet=True),
    Kind("policy_raises", "the policy raises", fleet=True),
    Kind("swapped", "the policy is swapped for another one", stops=False, fleet=True),
    Kind("swap_refused", "a swap to a damaged file", stops=False, fleet=True),
    Kind(
        "reactivated",
        "deactivated and activated; its recording fills the disk, or finds it full",
        fleet=True,
        rare=True,
    ),
    Kind("second_node", "a second node for the same robots starts, and ends or is killed", False, True, True),
    Kind("no_home", "a second node starts without the variable HOME", False, True, True),
)
BY_NAME = {kind.name: kind for kind in KINDS}
# Faults of the whole fleet in a cycle.
FLEET_FAULTS = 1 + len([kind for kind in KINDS if kind.fleet and not kind.rare])
# Groups have about this many robots; one robot of a group has a fault at a time.
ROBOTS_PER_GROUP = 3


class Planned(NamedTuple):
    """A planned fault of one robot."""

    kind: Kind
    robot: int
    duration_s: float  # after the readings before the fault have become too old
    pause_s: float  # after it has healed
    size: float  # from 0 to 1, for kinds that have a size


def plan(robots: Sequence[int], kinds: Sequence[Kind], seed: int, part: float = 0.0) -> Iterator[Planned]:
    """Yield faults without end: in each round every kind once, in random order, on random robots.

    The plan begins at a part of the order of kinds, from 0 to 1. Plans of one seed have the same order, so that plans
    with different beginnings cover all kinds sooner.
    """
    orders, details = random.Random(seed), random.Random(f"{seed}/{part}")
    first = round(part * len(kinds))
    while True:
        order = orders.sample(kinds, len(kinds))
        for kind in order[first:] + order[:first]:
            robot, size = details.choice(robots), details.random()
            yield Planned(kind, robot, details.uniform(0.4, 1.6), details.uniform(0.2, 1.0), size)


def plan_of_fleet(robots: Sequence[int], seed: int) -> Iterator[Planned]:
    """Yield faults of the whole fleet without end: in each cycle every kind once, but only one of the rare kinds."""
    light, rare = ([kind for kind in KINDS if kind.fleet and kind.rare is is_rare] for is_rare in (False, True))
    each, seldom = plan(robots, light, seed), plan(robots, rare, seed + 1)
    while True:
        yield from itertools.islice(each, len(light))
        yield next(seldom)


def plans(robots: int, seed: int) -> tuple[list[Iterator[Planned]], Iterator[Planned]]:
    """Return a plan of the faults of single robots for each group of robots, and a plan of those of the whole fleet.

    Groups are disjoint and have at least two robots, of which one at a time has a fault.
    """
    single = [kind for kind in KINDS if not kind.fleet]
    groups = max(1, min(robots // 2, max(2, round(robots / ROBOTS_PER_GROUP))))
    return [plan(range(group, robots, groups), single, seed, group / groups) for group in range(groups)], plan_of_fleet(
        range(robots), seed
    )


@dataclass(eq=False)
class Fault:
    """The record of a fault; times are seconds since the begin of the run, infinite until they are known."""

    kind: Kind
    robots: tuple[int, ...]
    asked_s: float  # the campaign requested it
    begun_s: float = np.inf  # the cause began
    ended_s: float = np.inf  # the cause ended
    # For each robot: first safe command, first diagnostics that show the fault, and first command from readings that
    # were taken after the end of the cause.
    detected_s: np.ndarray = field(init=False)
    shown_s: np.ndarray = field(init=False)
    healed_s: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Set the times of all robots to infinity."""
        self.detected_s, self.shown_s, self.healed_s = (np.full(len(self.robots), np.inf) for _ in range(3))

    @property
    def is_healed(self) -> bool:
        """Whether every robot is driven again after the fault."""
        return bool(np.isfinite(self.healed_s).all())
