# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The frames of the rovers and the intrinsics of their camera, compared with what the camera shows."""

from functools import reduce
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
from forked import ForkedProcess
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from node_harness import Peer, end
from rclpy.qos import DurabilityPolicy, QoSProfile
from rover_simulation import rover_sim

from policy_node.messages.fields import MessageTypeError, message_class
from policy_node_rover.arena.description import ARENA
from policy_node_rover.frames import (
    TF_TYPE,
    PosePublisher,
    camera_frame,
    camera_info,
    fixed_transforms,
    publish_fixed_transforms,
)
from policy_node_rover.gazebo.sdf import rover_sdf
from policy_node_rover.gazebo.watch import main as gazebo_watch
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import make_renderer

try:
    TF = message_class(TF_TYPE)
except MessageTypeError:
    TF = None
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NEEDS_TF = pytest.mark.skipif(TF is None, reason="tf2_msgs comes with a ROS 2 installation, not as a wheel")


def matrix(transform: TransformStamped) -> np.ndarray:
    """Return the matrix [4, 4] from the child to the parent."""
    place, turn = transform.transform.translation, transform.transform.rotation
    rotation, found = np.zeros(9), np.eye(4)
    mujoco.mju_quat2Mat(rotation, np.array([turn.w, turn.x, turn.y, turn.z]))
    found[:3, :3], found[:3, 3] = rotation.reshape(3, 3), (place.x, place.y, place.z)
    return found


def to_base(frame: str) -> np.ndarray:
    """Return the matrix [4, 4] from a frame of rover_0 to its base."""
    above = {transform.child_frame_id: transform for transform in fixed_transforms("rover_0")}
    chain = []
    while frame != "rover_0/base_link":
        chain.append(matrix(above[frame]))
        frame = above[frame].header.frame_id
    return reduce(np.matmul, reversed(chain), np.eye(4))


def test_the_optical_frame_has_the_axes_of_the_image() -> None:
    turn = to_base("rover_0/camera_optical")[:3, :3]
    right, down, forward = turn.T
    np.testing.assert_allclose(forward, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(right, [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(down, [0, 0, -1], atol=1e-12)


def test_the_frames_and_the_intrinsics_tell_where_the_beacon_is_in_the_image() -> None:
    model = ArenaModel()
    renderer = make_renderer(model, "raycast")
    info = camera_info("rover_0")
    arena = Arena(model)
    seen = 0
    for seed in range(30):
        arena.reset(seed)
        image = renderer.camera(arena).astype(int)
        x_m, y_m, yaw = arena.pose
        ahead, left = arena.layout.beacon[0] - x_m, arena.layout.beacon[1] - y_m
        base = np.array([np.cos(yaw) * ahead + np.sin(yaw) * left, -np.sin(yaw) * ahead + np.cos(yaw) * left])
        top = np.array([*base, ARENA.beacon_height_m, 1.0])
        right_m, down_m, forward_m, _ = np.linalg.inv(to_base(camera_frame("rover_0"))) @ top
        u, v, w = np.reshape(info.p, (3, 4)) @ [right_m, down_m, forward_m, 1.0]
        red = (image[..., 0] > 2 * image[..., 1]) & (image[..., 0] > 2 * image[..., 2])
        columns = np.flatnonzero(red.any(axis=0))
        if forward_m < 0.5 or not len(columns) or columns[0] == 0 or columns[-1] == 63:
            continue
        seen += 1
        # The silhouette of a cylinder is nearly symmetric around its axis; half a pixel would show.
        assert u / w == pytest.approx((columns[0] + columns[-1]) / 2, abs=0.8)
        rows = np.flatnonzero(red.any(axis=1))
        if 0 < rows[0]:
            assert v / w == pytest.approx(rows[0], abs=1.5)
    assert seen >= 4


def test_images_of_gazebo_are_in_the_same_frame() -> None:
    (sensor,) = (
        each for each in ElementTree.fromstring(rover_sdf("rover_7")).iter("sensor") if each.get("type") == "camera"
    )
    assert sensor.findtext("gz_frame_id") == camera_frame("rover_7")


@pytest.mark.skipif(TF is not None, reason="tf2_msgs is installed")
def test_without_tf2_msgs_its_topics_are_missing_and_said(peer: Peer, capfd: pytest.CaptureFixture[str]) -> None:
    publish_fixed_transforms(peer.node, ["rover_0"])
    PosePublisher(peer.node).publish(Odometry())
    text = "".join(capfd.readouterr())
    assert text.count("/tf and /tf_static are not published: type 'tf2_msgs/msg/TFMessage' cannot be imported") == 1


@NEEDS_TF
def test_poses_and_places_of_the_sensors_are_published(peer: Peer) -> None:
    fixed: list[TransformStamped] = []
    moving: list[TransformStamped] = []
    publish_fixed_transforms(peer.node, ["rover_0", "rover_1"])
    poses = PosePublisher(peer.node)
    peer.node.create_subscription(TF, "/tf_static", lambda message: fixed.extend(message.transforms), LATCHED)
    peer.node.create_subscription(TF, "/tf", lambda message: moving.extend(message.transforms), 10)
    peer.spin_until(lambda: fixed, "the places of the sensors")
    assert {each.child_frame_id for each in fixed} == {
        f"rover_{robot}/{frame}" for robot in range(2) for frame in ("bumper", "camera", "camera_optical")
    }
    odometry = Odometry(child_frame_id="rover_0/base_link")
    odometry.header.frame_id, odometry.header.stamp.sec = "rover_0/odom", 7
    odometry.pose.pose.position.x, odometry.pose.pose.orientation.z = 1.5, 1.0
    odometry.pose.pose.orientation.w = 0.0

    def heard() -> bool:
        poses.publish(odometry)
        return bool(moving)

    peer.spin_until(heard, "the pose")
    assert (moving[0].header, moving[0].child_frame_id) == (odometry.header, "rover_0/base_link")
    assert moving[0].transform.translation.x == 1.5 and moving[0].transform.rotation.z == 1.0


@NEEDS_TF
def test_the_pose_of_a_simulated_rover_is_that_of_its_odometry(peer: Peer) -> None:
    fixed: list[str] = []
    moving: dict[int, TransformStamped] = {}
    odometries: dict[int, Odometry] = {}
    peer.node.create_subscription(
        TF, "/tf_static", lambda message: fixed.extend(each.child_frame_id for each in message.transforms), LATCHED
    )
    peer.node.create_subscription(
        TF, "/tf", lambda message: moving.update({each.header.stamp.nanosec: each for each in message.transforms}), 100
    )
    peer.node.create_subscription(
        Odometry, "rover_1/odom", lambda message: odometries.update({message.header.stamp.nanosec: message}), 100
    )
    with rover_sim("--robots", "2", "--seed", "3"):
        peer.spin_until(lambda: fixed and len(moving.keys() & odometries.keys()) > 3, "poses and odometry")
    assert "rover_1/camera_optical" in fixed
    for stamp in moving.keys() & odometries.keys():
        transform, odometry = moving[stamp], odometries[stamp]
        assert transform.child_frame_id == odometry.child_frame_id == "rover_1/base_link"
        assert transform.header.frame_id == odometry.header.frame_id == "rover_1/odom"
        assert transform.transform.translation.x == odometry.pose.pose.position.x
        assert transform.transform.rotation == odometry.pose.pose.orientation


@NEEDS_TF
def test_gazebo_watch_publishes_where_the_sensors_are(peer: Peer) -> None:
    fixed: list[str] = []
    peer.node.create_subscription(
        TF, "/tf_static", lambda message: fixed.extend(each.child_frame_id for each in message.transforms), LATCHED
    )
    process = ForkedProcess(gazebo_watch, ("--robots", "1", "--frames"))
    try:
        peer.spin_until(lambda: fixed, "the places of the sensors")
    finally:
        end(process)
        process.communicate()
    assert fixed == ["rover_0/bumper", "rover_0/camera", "rover_0/camera_optical"]
