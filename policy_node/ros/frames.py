# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Poses in the base frames of the robots, from tf; needs tf2_ros, which comes with ROS."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.time import Time

from policy_node.config.schema import Configuration, SourceConfiguration
from policy_node.messages.cdr import deserialise, serialise
from policy_node.messages.reading import UnusableReading

WARNING_PERIOD_S = 5.0


class Intake(Protocol):
    """Receives messages, as a pipeline does."""

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Add a message of one sensor of one robot, both by their index."""

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """Note whether a sensor that may be silent has a publisher."""


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


class FramePoses:
    """Turns poses in any frame, and frames, into poses in the base frame of each robot at every tick.

    A pose stays where it is in its frame while the robot moves, so it is computed again whenever tf has a newer
    transform. The messages of the pipeline are stamped with the time of the transform.
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
        # Newest pose by robot and sensor, and the times of the last pose that was passed on.
        self._poses: dict[tuple[int, int], PoseStamped] = {}
        self._passed: dict[tuple[int, int], tuple[int, int]] = {}
        for where, (source, name) in self._sources.items():
            if source.frame:
                self._poses[where] = _identity(source.frame.format(robot=name.strip("/")))

    def add(self, where: tuple[int, int], raw: bytes) -> bool:
        """Keep a pose if it is of a sensor that needs tf; return whether it is."""
        if where not in self._sources:
            return False
        if not self._sources[where][0].frame:
            try:
                self._poses[where] = deserialise(raw, PoseStamped)
            except UnusableReading as error:
                self._warn(where, str(error))
        return True

    def pass_on(self, pipeline: Intake) -> None:
        """Give the pipeline every pose that is new, or whose transform is."""
        for where, pose in self._poses.items():
            source, name = self._sources[where]
            base = source.base_frame.format(robot=name.strip("/"))
            try:
                found = self._buffer.lookup_transform(base, pose.header.frame_id, Time())
            except self._failures as error:
                self._warn(where, str(error))
                continue
            stamp_ns = Time.from_msg(found.header.stamp).nanoseconds
            # A static transform has no time.
            is_static = stamp_ns == 0
            if not is_static and self._passed.get(where) == (id(pose), stamp_ns):
                continue
            self._passed[where] = id(pose), stamp_ns
            moved = transformed(pose, found.transform)
            moved.header.frame_id = base
            moved.header.stamp = self._node.get_clock().now().to_msg() if is_static else found.header.stamp
            pipeline.add(*where, Time.from_msg(moved.header.stamp).nanoseconds, serialise(moved))

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
        self.set_present = pipeline.set_present

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Add a message of one sensor of one robot, both by their index."""
        if not self._poses.add((robot, sensor), message):
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
