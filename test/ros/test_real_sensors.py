# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Robots over DDS with the messages of real drivers.

One has YUV, compressed depth, lidar, points, a split arm and one goal, another one other cameras, maps, lists and
arrays, elements of messages and readings without stamps, and the clock of a third one's camera is behind.
"""

import re
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
from geometry_msgs.msg import Point, Pose, PoseArray, PoseStamped
from nav_msgs.msg import OccupancyGrid
from node_harness import Diagnostics, NodeProcess, Peer
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image, JointState, LaserScan, PointCloud2, PointField, Range
from std_msgs.msg import Float32MultiArray, Float64MultiArray, MultiArrayDimension

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
        "scan": {
            "topic": "scan",
            "type": "sensor_msgs/msg/LaserScan",
            "shape": [4],
            "rays": 4,
            "angle_min": 0.05,
            "angle_max": 0.65,
        },
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
    return parameters_with(file, sources, 9)


def parameters_with(file: Path, sources: dict[str, dict[str, Any]], components: int) -> dict[str, Any]:
    """Return the parameters of a robot whose policy takes these sources and gives so many components."""
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
        "action.safe_command": [0.0] * components,
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


class Mean(torch.nn.Module):
    """Commands the mean of an image."""

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        """Return commands `[robots, 1]`."""
        return grey.float().flatten(1).mean(dim=1, keepdim=True)


class Echo(torch.nn.Module):
    """Commands the joints as they are."""

    def forward(self, joints: torch.Tensor) -> torch.Tensor:
        """Return commands `[robots, 3]`."""
        return joints


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


def save(module: torch.nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(file))
    return file


def publish_until(
    peer: Peer, publish: Callable[[], None], condition: Callable[[], Any], what: Callable[[], str]
) -> None:
    """Publish at the control rate until a condition holds; fails with `what`."""
    deadline_s = time.monotonic() + 60.0
    while not peer.spin_for(0.05, condition):
        assert time.monotonic() < deadline_s, what()
        publish()


def drive(peer: Peer, process: NodeProcess, publish: Callable[[], None], wanted: np.ndarray) -> None:
    """Publish until the robot gets a command, and see that it then gets it nearly always."""
    commands: list[Any] = []
    peer.node.create_subscription(Float64MultiArray, f"/{ROBOT}/command", commands.append, 10)

    def is_wanted(command: Any) -> bool:
        return bool(np.allclose(command.data, wanted, rtol=1e-3, atol=1e-3))

    def what() -> str:
        found = commands[-1].data.tolist() if commands else "none"
        return f"commands are {found}, not {wanted.tolist()}:\n{process.text}"

    publish_until(peer, publish, lambda: bool(commands) and is_wanted(commands[-1]), what)
    commands.clear()
    publish_until(peer, publish, lambda: len(commands) > 8, what)
    assert sum(map(is_wanted, commands)) > len(commands) * 0.8


def control_values(peer: Peer) -> Callable[[], dict[str, str]]:
    """Return a function that returns the newest diagnostics of the node."""
    diagnostics = Diagnostics(peer)
    return lambda: diagnostics.values("policy_node: control")


@pytest.mark.both_distributions
def test_a_robot_is_driven_by_the_messages_of_real_drivers(
    peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    drivers = Drivers(peer)
    # Before the node starts, and never again.
    drivers.publish_goal()
    process = start_node(parameters_of(save(Summary(), tmp_path / "summary.pt")))
    # It goes on although arm and gripper take turns.
    drive(peer, process, drivers.publish, expected())
    process.wait_for("observations.image: images of 48 × 24 are resized to 8 × 8, which changes their aspect")
    assert "publishers" not in process.text


class Means(torch.nn.Module):
    """Commands the mean of each observation."""

    def forward(
        self,
        bayer: torch.Tensor,
        grey: torch.Tensor,
        depth: torch.Tensor,
        png: torch.Tensor,
        grid: torch.Tensor,
        boxes: torch.Tensor,
        table: torch.Tensor,
        above: torch.Tensor,
        around: torch.Tensor,
        mask: torch.Tensor,
        scan: torch.Tensor,
        sonar: torch.Tensor,
        claws: torch.Tensor,
    ) -> torch.Tensor:
        """Return commands `[robots, 13]`."""
        seen = [bayer, grey, depth, png, grid, boxes, table, above, around, mask, scan, sonar, claws]
        return torch.stack([each.float().flatten(1).mean(dim=1) for each in seen], dim=1)


IMAGE, CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
# Azimuth and elevation of the image of distances, in radians.
VIEW = [-2.0, 2.0, -1.0, 1.0]
MEANS: dict[str, dict[str, Any]] = {
    "bayer": {"topic": "bayer", "type": IMAGE, "shape": [12, 16, 3]},
    "grey": {"topic": "yuyv", "type": IMAGE, "shape": [12, 16, 2], "stack": 2},
    "depth": {
        "topic": "depth",
        "type": IMAGE,
        "shape": [8, 8, 1],
        "encoding": "32FC1",
        "depth_scale": 0.0001,
        "hole_value": [9.0],
        "resize": "pad",
    },
    "png": {"topic": "png", "type": "sensor_msgs/msg/CompressedImage", "shape": [12, 16, 3]},
    "grid": {"topic": "grid", "type": "nav_msgs/msg/OccupancyGrid", "shape": [3, 4], "out_of_range": [50.0]},
    "boxes": {
        "topic": "boxes",
        "type": "std_msgs/msg/Float32MultiArray",
        "shape": [6],
        "padding": "zeros_and_count",
    },
    "table": {"topic": "table", "type": "std_msgs/msg/Float64MultiArray", "shape": [2, 3]},
    "above": {"topic": "points", "type": CLOUD, "shape": [4, 4], "projection": "map", "bounds": [-2.0, 2.0, -2.0, 2.0]},
    "around": {
        "topic": "points",
        "type": CLOUD,
        "shape": [2, 4],
        "projection": "range_image",
        "bounds": VIEW,
        "out_of_range": [20.0],
    },
    "mask": {"topic": "points", "type": CLOUD, "shape": [12], "field": "mask"},
    "scan": {
        "topic": "scan",
        "type": "sensor_msgs/msg/LaserScan",
        "shape": [4],
        "rays": 4,
        "angle_min": 0.05,
        "angle_max": 0.65,
        "reduce": "mean",
        "stamp": "source",
    },
    "sonar": {
        "topic": "sonar",
        "type": "sensor_msgs/msg/Range",
        "shape": [1],
        "out_of_range": [2.0],
        "stamp": "receive",
    },
    "claws": {
        "topic": "claws",
        "type": "geometry_msgs/msg/PoseArray",
        "shape": [2],
        "fields": ["poses[1].position.x", "poses[0].orientation.w"],
    },
}
# Their drivers leave the stamp empty.
UNSTAMPED = ("scan", "sonar")
BAYER = RNG.integers(0, 65536, (12, 16), np.uint16)
YUYV = RNG.integers(0, 256, (12, 16, 2), np.uint8)
TENTHS = np.where(RNG.random((6, 8)) < 0.3, 0, RNG.integers(3000, 40000, (6, 8))).astype(np.uint16)
GREY = RNG.integers(0, 256, (12, 16), np.uint8)
CELLS = np.array([[0, 100, -1, 50], [-1, 1, 2, 3], [7, 8, -1, 9]], np.int8)
BOXES, TABLE = [0.5, 1.5, -2.0], [1.0, 2.0, 3.0, 4.0, 5.0, 7.0]


class OtherDrivers:
    """Publish what other drivers do; one camera is slower than the ticks."""

    def __init__(self, peer: Peer) -> None:
        self._node = peer.node
        self._publishers: dict[str, Any] = {}
        self._count = 0

    def publish(self) -> None:
        """Publish one message of each sensor."""
        rows = np.full((12, 2 * 16 + 3), 201, np.uint8)
        rows[:, :32] = BAYER.byteswap().view(np.uint8)
        depth = {"height": 6, "width": 8, "step": 16, "data": TENTHS.tobytes()}
        table = Float64MultiArray(data=TABLE)
        table.layout.dim = [MultiArrayDimension(size=2, stride=6), MultiArrayDimension(size=3, stride=3)]
        grid = OccupancyGrid(data=CELLS.ravel().tolist())
        grid.info.height, grid.info.width = CELLS.shape
        fields = [PointField(name=name, offset=4 * place, datatype=7, count=1) for place, name in enumerate("xyz")]
        messages = {
            "bayer": Image(
                height=12, width=16, encoding="bayer_gbrg16", is_bigendian=1, step=rows.shape[1], data=rows.tobytes()
            ),
            "yuyv": Image(height=12, width=16, encoding="yuv422_yuy2", step=32, data=YUYV.tobytes()),
            "depth": Image(encoding="16UC1", **depth),
            "png": CompressedImage(format="mono8; png compressed ", data=cv2.imencode(".png", GREY)[1].tobytes()),
            "grid": grid,
            "boxes": Float32MultiArray(data=BOXES),
            "table": table,
            "points": PointCloud2(height=1, width=9, fields=fields, point_step=12, row_step=108, data=POINTS.tobytes()),
            "scan": LaserScan(angle_increment=0.1, range_min=0.5, range_max=8.0, ranges=RANGES.tolist()),
            "sonar": Range(min_range=0.2, max_range=4.0, range=np.inf),
            "claws": PoseArray(poses=[Pose(), Pose(position=Point(x=-4.0))]),
        }
        self._count += 1
        stamp = self._node.get_clock().now().to_msg()
        for name, message in messages.items():
            if name == "yuyv" and self._count % 3:
                continue
            if hasattr(message, "header") and name not in UNSTAMPED:
                message.header.stamp = stamp
            if name not in self._publishers:
                topic = f"/{ROBOT}/{name}"
                self._publishers[name] = self._node.create_publisher(type(message), topic, BEST_EFFORT)
            self._publishers[name].publish(message)


def expected_means() -> np.ndarray:
    """Return the command for these messages."""
    rgb16 = cv2.cvtColor(BAYER, cv2.COLOR_BayerGR2RGB)
    depth = np.full((8, 8), 9.0)
    depth[1:7] = np.where(TENTHS == 0, 9.0, TENTHS * 0.0001)
    above, around = np.full((4, 4), -np.inf), np.full((2, 4), np.inf)
    for x, y, z in POINTS.astype(float):
        if -2 <= x < 2 and -2 <= y < 2:
            cell = 3 - int(x + 2), 3 - int(y + 2)
            above[cell] = max(above[cell], z)
        distance = np.sqrt(x * x + y * y + z * z)
        azimuth, elevation = np.arctan2(y, x), np.arcsin(z / distance)
        if -2 <= azimuth < 2 and -1 <= elevation < 1:
            cell = 1 - int(elevation + 1), 3 - int(azimuth + 2)
            around[cell] = min(around[cell], distance)
    return np.array(
        [
            np.rint(rgb16 * (255 / 65535)).mean(),
            YUYV[..., 0].mean(),
            depth.mean(),
            GREY.mean(),
            np.where(CELLS == -1, 50, CELLS).mean(),
            np.mean([*BOXES, 0.0, 0.0, 3.0]),
            np.mean(TABLE),
            np.where(np.isinf(above), 0.0, above).mean(),
            np.where(np.isinf(around), 20.0, around).mean(),
            9 / 12,
            # Of two rays each; NaN and 0 do not count, +inf is the largest distance.
            np.mean([1.0, (2.0 + 8.0) / 2, 3.0, (4.0 + 5.0) / 2]),
            2.0,
            (-4.0 + 1.0) / 2,
        ]
    )


@pytest.mark.both_distributions
def test_a_robot_is_driven_by_other_cameras_maps_lists_and_arrays(
    peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    # A slow camera and a busy machine: readings lie far apart.
    parameters = parameters_with(save(Means(), tmp_path / "means.pt"), MEANS, len(MEANS))
    process = start_node({**parameters, "synchronisation.slop_s": 0.9})
    drivers = OtherDrivers(peer)
    drive(peer, process, drivers.publish, expected_means())
    process.wait_for("observations.png: compressed images of mono8 are converted to the rgb8 of the policy")
    values, repeated = control_values(peer), "no new image came on yuyv (worker), so the 2 steps hold one twice"
    publish_until(
        peer, drivers.publish, lambda: repeated in values().get("grey_repeated", ""), lambda: f"found {values()}"
    )
    process.wait_for(r"grey: at \d+% of the ticks within \d\.\d s no new image came on yuyv \(worker\)")


@pytest.mark.both_distributions
def test_a_camera_whose_clock_is_behind_is_named_with_its_offset(
    peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    sources = {"grey": MEANS["grey"] | {"shape": [12, 16, 1], "stack": 1}}
    process = start_node(parameters_with(save(Mean(), tmp_path / "mean.pt"), sources, 1))
    publisher = peer.node.create_publisher(Image, f"/{ROBOT}/yuyv", BEST_EFFORT)
    values = control_values(peer)

    def publish() -> None:
        behind = peer.node.get_clock().now() - Duration(seconds=BEHIND_S)
        message = Image(height=12, width=16, encoding="yuv422_yuy2", step=32, data=YUYV.tobytes())
        message.header.stamp = behind.to_msg()
        publisher.publish(message)

    found = r"grey: stamps on yuyv are 10\.\d+ s behind the clock of this computer, constant \(worker\); synchronise"
    publish_until(peer, publish, lambda: re.match(found, values().get("grey_offset", "")), lambda: f"found {values()}")
    process.wait_for(rf"{found} the clocks, or set stamp_offset_s: 10\.\d+ of this sensor")


@pytest.mark.both_distributions
def test_a_gripper_is_heard_beside_an_arm_that_publishes_much_faster(
    peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    joints = {
        "topic": "joint_states",
        "type": "sensor_msgs/msg/JointState",
        "shape": [3],
        "joints": ["shoulder", "elbow", "finger"],
        # Of the 10 that are kept otherwise, none would be the gripper's.
        "depth": 50,
    }
    process = start_node(parameters_with(save(Echo(), tmp_path / "echo.pt"), {"joints": joints}, 3))
    gripper, arm = (peer.node.create_publisher(JointState, f"/{ROBOT}/joint_states", BEST_EFFORT) for _ in range(2))

    def publish() -> None:
        for publisher, count, position in ((gripper, 1, {"finger": 0.3}), (arm, 25, {"elbow": 0.2, "shoulder": 0.1})):
            for _ in range(count):
                message = JointState(name=list(position), position=list(position.values()))
                message.header.stamp = peer.node.get_clock().now().to_msg()
                publisher.publish(message)

    drive(peer, process, publish, np.array([0.1, 0.2, 0.3]))
