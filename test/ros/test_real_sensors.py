# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One robot over DDS with the messages of real drivers: YUV, compressed depth, lidar, points, a split arm, one goal."""

import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from geometry_msgs.msg import PoseStamped
from node_harness import NodeProcess, Peer
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image, JointState, LaserScan, PointCloud2, PointField
from std_msgs.msg import Float64MultiArray

ROBOT = "worker"
# The clock of the camera is behind.
BEHIND_S = 10.0
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
ONCE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RNG = np.random.default_rng(6)
NV12 = RNG.integers(0, 256, (24 * 3 // 2, 48), np.uint8)
DEPTH_MM = np.where(RNG.random((12, 16)) < 0.3, 0, RNG.integers(300, 4000, (12, 16))).astype(np.uint16)
RANGES = np.array([1.0, np.nan, 2.0, np.inf, 3.0, 0.0, 4.0, 5.0], np.float32)
POINTS = RNG.normal(size=(9, 3)).astype(np.float32)
GOAL = (1.5, -2.0)


class Summary(torch.nn.Module):
    """Commands the means of what it observes, and the joints and the goal as they are."""

    def forward(
        self,
        image: torch.Tensor,
        depth: torch.Tensor,
        scan: torch.Tensor,
        cloud: torch.Tensor,
        joints: torch.Tensor,
        goal: torch.Tensor,
    ) -> torch.Tensor:
        """Return commands `[robots, 9]`."""
        means = [image.float().mean(dim=(1, 2, 3)), depth.mean(dim=(1, 2, 3)), scan.mean(dim=1), cloud.sum(dim=(1, 2))]
        return torch.cat([torch.stack(means, dim=1), joints, goal], dim=1)


def parameters_of(file: Path) -> dict[str, Any]:
    sources: dict[str, dict[str, Any]] = {
        "image": {
            "topic": "camera",
            "type": "sensor_msgs/msg/Image",
            "shape": [8, 8, 3],
            "encoding": "rgb8",
            "stamp_offset_s": BEHIND_S,
        },
        "depth": {
            "topic": "depth",
            "type": "sensor_msgs/msg/CompressedImage",
            "shape": [12, 16, 1],
            "encoding": "32FC1",
            "hole_value": [9.0],
            "stamp": "receive",
        },
        "scan": {"topic": "scan", "type": "sensor_msgs/msg/LaserScan", "shape": [4], "rays": 4, "angles": [0.05, 0.65]},
        "cloud": {"topic": "points", "type": "sensor_msgs/msg/PointCloud2", "shape": [16, 3]},
        "joints": {
            "topic": "joint_states",
            "type": "sensor_msgs/msg/JointState",
            "shape": [3],
            "joints": ["shoulder", "elbow", "finger"],
        },
        "goal": {
            "topic": "goal_pose",
            "type": "geometry_msgs/msg/PoseStamped",
            "shape": [2],
            "fields": ["pose.position.x", "pose.position.y"],
            "max_age_s": float("inf"),
            "reliability": "reliable",
            "durability": "transient_local",
        },
    }
    return {
        "control_rate_hz": 20.0,
        "robots": [ROBOT],
        "policy.path": str(file),
        "policy.trusted": True,
        "policy.device": "cpu",
        "policy.engine": "torchscript",
        "observations.keys": list(sources),
        **{f"observations.{key}.{name}": value for key, one in sources.items() for name, value in one.items()},
        "synchronisation.slop_s": 0.2,
        "synchronisation.max_age_s": 1.0,
        "action.topic": "command",
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.safe_command": [0.0] * 9,
    }


def rvl(depth: np.ndarray) -> bytes:
    """Encode depth in RVL with every pixel in a run of its own."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while number > 7:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)

    before = 0
    for pixel in depth.ravel().tolist():
        put(int(pixel == 0))
        put(int(pixel != 0))
        if pixel:
            put(2 * (pixel - before) if pixel >= before else 2 * (before - pixel) - 1)
            before = pixel
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{nibble:x}" for nibble in nibbles[at : at + 8]), 16) for at in range(0, len(nibbles), 8)]
    return struct.pack(f"<II{len(words)}I", depth.shape[1], depth.shape[0], *words)


class Drivers:
    """Publish what the drivers of the robot do; arm and gripper in turns."""

    def __init__(self, peer: Peer) -> None:
        self._node = peer.node
        kinds = {
            "camera": Image,
            "depth": CompressedImage,
            "scan": LaserScan,
            "points": PointCloud2,
            "joint_states": JointState,
        }
        self._publishers = {
            name: peer.node.create_publisher(kind, f"/{ROBOT}/{name}", BEST_EFFORT) for name, kind in kinds.items()
        }
        # Another publisher of the same topic.
        self._gripper = peer.node.create_publisher(JointState, f"/{ROBOT}/joint_states", BEST_EFFORT)
        self._goal = peer.node.create_publisher(PoseStamped, f"/{ROBOT}/goal_pose", ONCE)
        self._count = 0

    def publish_goal(self) -> None:
        """Publish the goal, once."""
        goal = PoseStamped()
        goal.pose.position.x, goal.pose.position.y = GOAL
        self._goal.publish(goal)

    def publish(self) -> None:
        """Publish one message of each sensor."""
        now_ns = self._node.get_clock().now().nanoseconds
        camera = Image(height=24, width=48, encoding="nv12", step=48, data=NV12.tobytes())
        camera.header.stamp = Time(nanoseconds=now_ns - round(BEHIND_S * 1e9)).to_msg()
        # Nothing is known of its stamps.
        depth = CompressedImage(format="16UC1; compressedDepth rvl", data=bytes(12) + rvl(DEPTH_MM))
        scan = LaserScan(angle_increment=0.1, range_min=0.5, range_max=8.0, ranges=RANGES.tolist())
        fields = [PointField(name=name, offset=4 * place, datatype=7, count=1) for place, name in enumerate("xyz")]
        cloud = PointCloud2(height=1, width=9, fields=fields, point_step=12, row_step=108, data=POINTS.tobytes())
        self._count += 1
        is_arm = self._count % 2
        joints = JointState(name=["elbow", "shoulder"], position=[0.2, 0.1])
        if not is_arm:
            joints = JointState(name=["finger"], position=[0.3])
        for message in (scan, cloud, joints):
            message.header.stamp = Time(nanoseconds=now_ns).to_msg()
        for name, message in (("camera", camera), ("depth", depth), ("scan", scan), ("points", cloud)):
            self._publishers[name].publish(message)
        (self._publishers["joint_states"] if is_arm else self._gripper).publish(joints)


def expected() -> np.ndarray:
    """Return the command for these messages."""
    rgb = cv2.resize(cv2.cvtColor(NV12, cv2.COLOR_YUV2RGB_NV12), (8, 8), interpolation=cv2.INTER_AREA)
    depth = np.where(DEPTH_MM == 0, 9.0, DEPTH_MM * 0.001)
    # The least of two rays each; what was not measured does not count.
    scan = [1.0, 2.0, 3.0, 4.0]
    return np.array([rgb.mean(), depth.mean(), np.mean(scan), POINTS.sum(), 0.1, 0.2, 0.3, *GOAL])


@pytest.mark.both_distributions
def test_a_robot_is_driven_by_the_messages_of_real_drivers(
    peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    file = tmp_path / "summary.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Summary()).save(str(file))
    drivers = Drivers(peer)
    # Before the node starts, and never again.
    drivers.publish_goal()
    process = start_node(parameters_of(file))
    commands: list[Any] = []
    peer.node.create_subscription(Float64MultiArray, f"/{ROBOT}/command", commands.append, 10)
    wanted = expected()

    def is_driven() -> bool:
        return bool(commands) and np.allclose(commands[-1].data, wanted, rtol=1e-3, atol=1e-3)

    deadline_s = time.monotonic() + 60.0
    while not peer.spin_for(0.05, is_driven):
        found = commands[-1].data.tolist() if commands else "none"
        assert time.monotonic() < deadline_s, f"commands are {found}, not {wanted.tolist()}:\n{process.text}"
        drivers.publish()
    # The robot goes on although arm and gripper take turns.
    commands.clear()
    peer.spin_for(1.0, lambda: drivers.publish() or len(commands) > 8)
    driven = [command for command in commands if np.allclose(command.data, wanted, rtol=1e-3, atol=1e-3)]
    assert len(driven) > len(commands) * 0.8
    process.wait_for("observations.image: images of 48 × 24 are resized to 8 × 8, which changes their aspect")
    assert "publishers" not in process.text
