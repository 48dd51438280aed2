# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Poses in the base frames of the robots, from tf; needs tf2_ros, which comes with ROS."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.time import Time

from policy_node.config.schema import Configuration, SourceConfiguration, topic_of
from policy_node.messages.cdr import deserialise, serialise
from policy_node.messages.reading import UnusableReading

WARNING_PERIOD_S = 5.0


class Intake(Protocol):
    """Receives messages, as a pipeline does."""

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Add a message of one sensor of one robot, both by their index."""

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """Note whether a sensor that may be silent has a publisher."""

    def name_oldest(self, robot: int, sensor: int, what: str) -> None:
        """Name what the readings of a sensor are as old as, for the reason if they are too old."""


def uses_tf(source: SourceConfiguration) -> bool:
    """Return whether the readings of a source come by way of tf."""
    return bool(source.base_frame)


def check_frames(configuration: Configuration) -> Iterator[str]:
    """Yield a problem for each source that needs tf, where tf2_ros cannot be imported."""
    sources = [source for source in configuration.sources if uses_tf(source)]
    if not sources:
        return
    try:
        importlib.import_module("tf2_ros")
    except ImportError as error:
        for source in sources:
            yield (
                f"observations.{source.name}.base_frame: found {source.base_frame!r}, but tf2_ros cannot be imported "
                f"({error}); install and source its package, or publish the pose in that frame and remove base_frame"
            )


@dataclass
class _Pose:
    """The newest pose of a sensor in its own frame, and the transform by which it was passed on last."""

    pose: PoseStamped
    #: None where it does not age: the pose of a frame, or a message that is published once. Never after its arrival: a
    #: clock that is ahead would keep it young for as long.
    stamp_ns: int | None
    #: Time of the transform; 0 of a static one, None before the first.
    transform_ns: int | None = None


class FramePoses:
    """Turns poses in any frame, and frames, into poses in the base frame of each robot at every tick.

    A pose stays where it is in its frame while the robot moves, so it is computed again whenever tf has a newer
    transform. The messages of the pipeline are as old as the older of message and transform: if detection or
    localisation ends, the robot becomes stale.
    """

    def __init__(self, node: Node, configuration: Configuration) -> None:
        tf2_ros = importlib.import_module("tf2_ros")
        self._node = node
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._failures = (tf2_ros.TransformException,)
        self._sources = {
            (robot, sensor): (source, name)
            for robot, name in enumerate(configuration.robots)
            for sensor, (source, *_) in enumerate(configuration.sensors)
            if uses_tf(source)
        }
        # By robot and sensor.
        self._poses: dict[tuple[int, int], _Pose] = {}
        for where, (source, name) in self._sources.items():
            if source.frame:
                self._poses[where] = _Pose(_identity(source.frame.format(robot=name.strip("/"))), None)

    def add(self, where: tuple[int, int], stamp_ns: int, raw: bytes) -> bool:
        """Keep a pose if it is of a sensor that needs tf; return whether it is."""
        if where not in self._sources:
            return False
        source, _ = self._sources[where]
        if not source.frame:
            try:
                pose = deserialise(raw, PoseStamped)
            except UnusableReading as error:
                self._warn(where, str(error))
            else:
                ages = source.max_age_s != math.inf
                self._poses[where] = _Pose(pose, min(stamp_ns, self._now_ns()) if ages else None)
        return True

    def pass_on(self, pipeline: Intake) -> None:
        """Give the pipeline every pose that is new, or whose transform is."""
        for where, kept in self._poses.items():
            source, name = self._sources[where]
            base, frame = source.base_frame.format(robot=name.strip("/")), kept.pose.header.frame_id
            transform = f"transform {frame} -> {base}"
            try:
                found = self._buffer.lookup_transform(base, frame, Time())
            except self._failures as error:
                self._warn(where, str(error))
                pipeline.name_oldest(*where, transform)
                continue
            transform_ns = Time.from_msg(found.header.stamp).nanoseconds
            # A static transform has no time, and does not age.
            is_ageless = transform_ns == 0 and kept.stamp_ns is None
            if transform_ns == kept.transform_ns and not is_ageless:
                continue
            kept.transform_ns = transform_ns
            now_ns = self._now_ns()
            stamps_ns = {transform: min(transform_ns, now_ns)} if transform_ns else {}
            if kept.stamp_ns is not None:
                stamps_ns[f"message on {topic_of(name, source.topic)}"] = kept.stamp_ns
            oldest = min(stamps_ns, key=stamps_ns.__getitem__, default="")
            stamp_ns = stamps_ns.get(oldest, now_ns)
            moved = transformed(kept.pose, found.transform)
            moved.header.frame_id = base
            # A damaged stamp is refused for its age.
            moved.header.stamp = Time(nanoseconds=max(stamp_ns, 0)).to_msg()
            pipeline.name_oldest(*where, oldest or transform)
            pipeline.add(*where, stamp_ns, serialise(moved))

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _warn(self, where: tuple[int, int], text: str) -> None:
        source, name = self._sources[where]
        self._node.get_logger().warning(
            f"{name}: observations.{source.name}: {text}", throttle_duration_sec=WARNING_PERIOD_S
        )


class FrameIntake:
    """Stands before a pipeline and keeps the poses that need tf."""

    def __init__(self, poses: FramePoses, pipeline: Intake) -> None:
        self._poses = poses
        self._pipeline = pipeline
        self.set_present, self.name_oldest = pipeline.set_present, pipeline.name_oldest

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Add a message of one sensor of one robot, both by their index."""
        if not self._poses.add((robot, sensor), stamp_ns, message):
            self._pipeline.add(robot, sensor, stamp_ns, message)


def _identity(frame: str) -> PoseStamped:
    """Return the pose of a frame in itself."""
    pose = PoseStamped()
    pose.header.frame_id = frame
    pose.pose.orientation.w = 1.0
    return pose


def transformed(pose: PoseStamped, transform: Any) -> PoseStamped:
    """Return a pose after a geometry_msgs/Transform."""
    rotation = _array(transform.rotation, "xyzw")
    # What is not finite is refused when it is read.
    with np.errstate(over="ignore", invalid="ignore"):
        position = _array(transform.translation, "xyz") + rotated(rotation, _array(pose.pose.position, "xyz"))
        orientation = product(rotation, _array(pose.pose.orientation, "xyzw"))
    moved = PoseStamped()
    for name, number in zip("xyz", position.tolist(), strict=True):
        setattr(moved.pose.position, name, number)
    for name, number in zip("xyzw", orientation.tolist(), strict=True):
        setattr(moved.pose.orientation, name, number)
    return moved


def _array(message: Any, names: str) -> np.ndarray:
    return np.array([getattr(message, name) for name in names])


def rotated(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return a vector `[3]` rotated by a quaternion x, y, z, w of length 1."""
    axis, w = quaternion[:3], quaternion[3]
    turn = 2.0 * np.cross(axis, vector)
    return vector + w * turn + np.cross(axis, turn)


def product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the quaternion x, y, z, w of the rotation `second` followed by `first`."""
    axis = first[3] * second[:3] + second[3] * first[:3] + np.cross(first[:3], second[:3])
    return np.append(axis, first[3] * second[3] - first[:3] @ second[:3])
