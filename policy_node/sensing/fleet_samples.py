# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The samples of every sensor of every robot, and the choice of each robot's readings for a tick."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from policy_node.config.schema import Configuration
from policy_node.sensing.arrivals import Arrivals
from policy_node.sensing.joined_joints import JoinedJoints, joints_read
from policy_node.sensing.samples import AGELESS_NS, SampleRing, age_ns
from policy_node.sensing.synchroniser import FleetSelection, select, select_usual, with_newest, with_silent

# Samples kept of each sensor, at least the depth of its subscription; they pile up while another sensor is silent.
RING_LENGTH = 16


class FleetSamples:
    """Keeps the newest samples of all robots.

    Sensors are in the order of `Configuration.sensors`: those that are synchronised, those whose newest sample
    counts, those that may be silent, and last the safe position, which is not observed.

    Attributes
    ----------
    names
        Names of the sensors.
    observed
        The sources of each sensor that is observed.
    positions
        Messages of the safe position by robot; empty without one.
    """

    def __init__(self, configuration: Configuration) -> None:
        sensors = configuration.sensors
        self.names = tuple(sources[0].name for sources in sensors)
        self.observed = [sources for sources in sensors if sources[0] is not configuration.safe_position]
        self._robots = configuration.robots
        self._slop_ns = round(configuration.synchronisation.slop_s * 1e9)
        self._max_age_ns = round(configuration.synchronisation.max_age_s * 1e9)
        kinds = [
            (
                max(RING_LENGTH, first.depth),
                first.name,
                age_ns(first.reading_max_age_s),
                "transform_max_age_s" if first.transform_max_age_s else "max_age_s",
            )
            for first, *_ in self.observed
        ]
        rings_by_robot = [[SampleRing(*kind) for kind in kinds] for _ in self._robots]
        position = configuration.safe_position
        self.positions = [
            Arrivals(RING_LENGTH, position.name, self._max_age_ns) for _ in self._robots if position is not None
        ]
        # By robot and sensor.
        self._buffers: list[list[SampleRing | Arrivals | JoinedJoints]] = [
            [*rings, *self.positions[robot : robot + 1]] for robot, rings in enumerate(rings_by_robot)
        ]
        self._joints = [joints_read(sources) for sources in sensors]
        self._joiners: dict[tuple[int, int], JoinedJoints] = {}
        # A reference to this object would keep both until garbage is collected.
        samples = weakref.proxy(self)
        for robot, position_of_robot in enumerate(self.positions):
            position_of_robot.on_lacking = partial(FleetSamples.join_joints, samples, robot, len(self.observed))
        self._heard = np.zeros((len(self._robots), len(sensors)), bool)
        self._all_heard = False
        # Whether there are publishers, `[robots][sensors]`; asked only of sensors that may be silent.
        self._present = [[False] * len(sensors) for _ in self._robots]
        synchronised = sum(sources[0].is_synchronised for sources in self.observed)
        silent = sum(sources[0].may_be_silent for sources in self.observed)
        newest = slice(synchronised, len(self.observed) - silent)
        self._silent = slice(newest.stop, len(self.observed))
        # By robot those of the sensors that are synchronised, and of those whose newest sample counts.
        self._rings = [(rings[:synchronised], rings[newest]) for rings in rings_by_robot]
        self._silent_rings = [rings[self._silent] for rings in rings_by_robot]
        self._has_silent = silent > 0

    def change_limits(self, configuration: Configuration) -> None:
        """Judge ages by the limits of another configuration, with the same sensors."""
        self._max_age_ns = round(configuration.synchronisation.max_age_s * 1e9)
        ages_ns = [age_ns(first.reading_max_age_s) for first, *_ in configuration.sensors]
        for buffers in self._buffers:
            for buffer, max_age_ns in zip(buffers, ages_ns, strict=True):
                buffer.max_age_ns = max_age_ns

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Add a sample of one sensor of one robot, both by their index."""
        self._heard[robot, sensor] = True
        self._buffers[robot][sensor].append(stamp_ns, message)

    def name_oldest(self, robot: int, sensor: int, what: str) -> None:
        """Name what the readings of a sensor are as old as, for the reason if they are too old."""
        buffer = self._buffers[robot][sensor]
        # Those of joint states name the oldest joint themselves.
        assert not isinstance(buffer, JoinedJoints)
        buffer.name = f"{self.names[sensor]} ({what})"

    @property
    def joined(self) -> set[tuple[int, int]]:
        """Robot and sensor whose joint states come from several publishers; any thread may ask."""
        return {where for where, joiner in list(self._joiners.items()) if joiner.joins}

    def join_joints(self, robot: int, sensor: int, message: bytes) -> None:
        """Join the messages of a sensor with those of other publishers from now on: this one lacked some joints."""
        buffer = self._buffers[robot][sensor]
        if isinstance(buffer, JoinedJoints) or not self._joints[sensor]:
            return
        is_position = sensor == len(self.observed)
        joiner = JoinedJoints(buffer, self._joints[sensor], message, is_position)
        self._buffers[robot][sensor] = self._joiners[robot, sensor] = joiner

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """Note whether a sensor that may be silent has a publisher; without one its silence is not a reading."""
        self._present[robot][sensor] = present

    def unheard(self) -> dict[str, list[str]]:
        """Return the robots with sensors that were never heard and are not merely silent, with those sensors."""
        # What was heard once stays so.
        self._all_heard = self._all_heard or bool(self._heard.all())
        if self._all_heard:
            return {}
        heard = self._heard.copy()
        heard[:, self._silent] |= np.array(self._present, bool)[:, self._silent]
        return {
            robot: [name for name, is_heard in zip(self.names, row, strict=True) if not is_heard]
            for robot, row in zip(self._robots, heard, strict=True)
            if not row.all()
        }

    def forget(self, robots: Iterable[int]) -> None:
        """Drop all samples of some robots, by their index, but those that do not age: they may never come again."""
        for robot in robots:
            for buffer in self._buffers[robot]:
                if buffer.max_age_ns != AGELESS_NS:
                    buffer.clear()

    def select(self, now_ns: int, previous_ns: int) -> FleetSelection:
        """Choose the readings of every robot; the tick before was at `previous_ns`."""
        slop_ns, max_age_ns = self._slop_ns, self._max_age_ns
        selected = FleetSelection()
        samples, ages_ns = selected.samples, selected.ages_ns
        for rings, newest_rings in self._rings:
            usual = select_usual(rings, newest_rings, now_ns, slop_ns, max_age_ns)
            if usual is None:
                selection = select(rings, now_ns, slop_ns, max_age_ns)
                selected.add(with_newest(selection, newest_rings, now_ns, max_age_ns))
                continue
            samples.append(usual[0])
            ages_ns.append(usual[1])
        if self._has_silent:
            selected = FleetSelection(
                with_silent(selected[robot], rings, present[self._silent], now_ns, previous_ns, slop_ns, max_age_ns)
                for robot, (rings, present) in enumerate(zip(self._silent_rings, self._present, strict=True))
            )
        return selected
