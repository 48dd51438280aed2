# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Valid readings of every type but images, with what the typed messages say."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
from geometry_msgs.msg import (
    Point,
    PointStamped,
    Pose,
    PoseArray,
    PoseStamped,
    PoseWithCovarianceStamped,
    Quaternion,
    Twist,
    TwistStamped,
    Vector3,
    Wrench,
    WrenchStamped,
)
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from sensor_msgs.msg import BatteryState, Imu, JointState, LaserScan, PointCloud2, PointField, Range
from std_msgs.msg import Bool, Float32MultiArray, Float64MultiArray, Int32, MultiArrayDimension, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policy_node.config.specs import ArraySpec
from policy_node.messages.adapters.hazards import BUMPER, HAZARDS
from policy_node.messages.cdr import serialise
from policy_node.messages.codecs import ReadingDecoder
from policy_node.messages.fields import message_class
from policy_node.messages.joint_joining import JointJoiner
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.contacts import CONTACTS
from policy_node.messages.types.joint_states import JointSource
from policy_node.messages.vectors import VectorReader
from policy_node_bench.fuzz.case import HEADER, Case, again


def _fields(*paths: str) -> Callable[[Any], list[float]]:
    def read(message: Any) -> list[float]:
        values = (attrgetter(path)(message) for path in paths)
        return [number for value in values for number in (value if hasattr(value, "__len__") else [value])]

    return read


def _xyz(path: str, names: str = "xyz") -> list[str]:
    return [f"{path}.{name}" for name in names]


def _joint_efforts(*joints: str) -> Callable[[JointState], list[float] | None]:
    def read(message: JointState) -> list[float] | None:
        if len(message.effort) != len(message.name) or any(message.name.count(joint) != 1 for joint in joints):
            return None
        return [message.effort[message.name.index(joint)] for joint in joints]

    return read


def _elements(read: Callable[[Any], list[float]]) -> Callable[[Any], list[float] | None]:
    def read_if_there(message: Any) -> list[float] | None:
        try:
            return read(message)
        except IndexError:
            return None

    return read_if_there


def _distances(values: str, lowest: str, highest: str) -> Callable[[Any], list[float] | None]:
    def read(message: Any) -> list[float] | None:
        low, high = getattr(message, lowest), getattr(message, highest)
        if not -np.inf < low < high < np.inf:
            return None
        distances = _fields(values)(message)
        if distances and all(value != value for value in distances):
            return None
        return [high if value != value else min(max(value, low), high) for value in distances]

    return read


_ONE_TO_THREE, _FOUR_TO_SIX = Vector3(x=1.0, y=2.0, z=3.0), Vector3(x=4.0, y=-5.0, z=6.0)
_TURN = Quaternion(x=0.1, y=0.2, z=0.3, w=0.9)
_TWIST = Twist(linear=_ONE_TO_THREE, angular=_FOUR_TO_SIX)
_ODOMETRY = Odometry(header=HEADER, child_frame_id="base_link")
_ODOMETRY.pose.pose.orientation, _ODOMETRY.twist.twist = _TURN, _TWIST
_POSE = PoseWithCovarianceStamped(header=HEADER)
_POSE.pose.pose.orientation, _POSE.pose.covariance = _TURN, np.arange(36.0)
_POSE_STAMPED = PoseStamped(header=HEADER)
_POSE_STAMPED.pose.orientation.w = 1.0
_JOINTS = [
    JointState(header=HEADER, name=["a", "b", "ccc"], position=[1.0, 2.0, 3.0], effort=[7.0, 8.0, 9.0]),
    JointState(name=["ccc", "long_name", "b", "a"], position=[4.0, 3.0, 2.0, 1.0], effort=[1.0, 2.0, 3.0, 4.0]),
    JointState(header=HEADER, name=["a", "ccc"], velocity=[1.0], effort=[7.0, 8.0]),
]
_SCAN = LaserScan(header=HEADER, range_min=0.5, range_max=8.0, ranges=[1.0, np.inf, -np.inf, 0.25, 9.0, 7.5])

_SCAN_TURN = LaserScan(
    header=HEADER,
    angle_min=-0.5,
    angle_increment=0.25,
    range_min=0.5,
    range_max=8.0,
    ranges=[1.0, np.nan, 2.0, 9.0, 3.0],
)
_CLOUD = PointCloud2(
    header=HEADER,
    height=1,
    width=6,
    fields=[PointField(name=name, offset=4 * place, datatype=7, count=1) for place, name in enumerate("xyz")],
    point_step=16,
    row_step=96,
    data=np.random.default_rng(8).normal(size=(6, 4)).astype("<f4").tobytes(),
)
_GRID = OccupancyGrid(header=HEADER, data=[0, 100, -1, 50, -1, 1])
_GRID.info.height, _GRID.info.width = 2, 3
_ARRAY = Float32MultiArray(data=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
_ARRAY.layout.dim = [MultiArrayDimension(size=2, stride=6), MultiArrayDimension(size=3, stride=3)]
_IMU = Imu(header=HEADER, orientation=_TURN, angular_velocity=_ONE_TO_THREE, linear_acceleration=_FOUR_TO_SIX)
_RANGE = Range(header=HEADER, min_range=0.5, max_range=4.0, range=2.5)
_TWIST_STAMPED = TwistStamped(header=HEADER, twist=_TWIST)
_WRENCH = WrenchStamped(header=HEADER, wrench=Wrench(force=_ONE_TO_THREE, torque=_FOUR_TO_SIX))
_BATTERY = BatteryState(header=HEADER, voltage=12.5, cell_voltage=[4.0, 4.25, 4.25])
_POSES = PoseArray(header=HEADER, poses=[Pose(position=Point(x=x, y=-x)) for x in (1.0, 2.0, 3.0)])
_TRAJECTORY = JointTrajectory(
    header=HEADER,
    joint_names=["a", "bcd"],
    points=[JointTrajectoryPoint(positions=[x, -x, 2 * x]) for x in (1.0, 2.0)],
)
_LIMITS = ParameterDescriptor(name="limit", floating_point_range=[FloatingPointRange(from_value=1.0, to_value=2.0)])
_IMU_PATHS = [*_xyz("orientation", "xyzw"), *_xyz("angular_velocity"), *_xyz("linear_acceleration")]
_POSE_PATHS = [*_xyz("pose.pose.position"), *_xyz("pose.pose.orientation", "xyzw")]
_ODOMETRY_PATHS = [*_POSE_PATHS, *_xyz("twist.twist.linear"), *_xyz("twist.twist.angular")]
_TURN_AND_SPEED = ["twist.angular.z", "twist.linear.x"]
_STAMP = ["header.stamp.sec", "header.stamp.nanosec"]

_MIXED_DTYPE = np.dtype([("x", ">f8"), ("y", ">f4"), ("z", ">i2"), ("intensity", "u1"), ("gap", "u1")])
_MIXED = np.array([(1.0, 2.0, 3, 4, 0), (-1.5, 0.5, -2, 255, 0), (np.nan, 0.0, 1, 7, 0)], _MIXED_DTYPE)
_MIXED_CLOUD = PointCloud2(
    header=HEADER,
    height=1,
    width=len(_MIXED),
    is_bigendian=True,
    fields=[
        PointField(name=name, offset=offset, datatype=datatype, count=1)
        for name, offset, datatype in (("x", 0, 8), ("y", 8, 7), ("z", 12, 3), ("intensity", 14, 2))
    ],
    point_step=_MIXED_DTYPE.itemsize,
    row_step=_MIXED.nbytes,
    data=_MIXED.tobytes(),
)
# Of an arm and its gripper on one topic: the gripper's message has come before.
_ARM = [
    JointState(header=HEADER, name=["a", "ccc"], position=[1.0, 2.0], velocity=[3.0, 4.0]),
    JointState(header=HEADER, name=["ccc", "b", "a"], position=[1.0, 2.0, 3.0]),
    JointState(header=HEADER, name=["finger", "a"], position=[0.5, 3.0]),
]
_GRIPPER_POSITION = 0.25
_JOINED = ("a", "finger")


class JoinedReader:
    """Reads the joints of an arm from a message, and those that it lacks from one of the gripper before it."""

    parallel = False

    def __init__(self) -> None:
        spec = ArraySpec("seen", (len(_JOINED),), "float32", 0, 1)
        self._read = VectorReader(JointState, JointSource("position", _JOINED), spec)
        self._gripper = serialise(JointState(name=["finger"], position=[_GRIPPER_POSITION]))

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        joiner = JointJoiner([("position", joint) for joint in _JOINED])
        joiner.add(1, self._gripper)
        joiner.add(2, raw)
        if joiner.missing:
            raise UnusableReading(f"no message with {joiner.missing}")
        self._read(joiner.message(), out)


def _joined(message: JointState) -> list[float] | None:
    if len(set(message.name)) != len(message.name):
        return None
    found = (
        dict(zip(message.name, message.position, strict=False)) if len(message.position) == len(message.name) else {}
    )
    return [found["a"], found.get("finger", _GRIPPER_POSITION)] if "a" in found else None


def _hazards() -> Case:
    detection = message_class("irobot_create_msgs/msg/HazardDetection")
    found = [detection(header=HEADER, type=1), detection(type=1)]
    found[1].header.frame_id = "bump_front_left"
    messages = [message_class(HAZARDS)(header=HEADER, detections=found), message_class(HAZARDS)()]

    def read(message: Any) -> list[float]:
        frames = [detection.header.frame_id for detection in message.detections]
        return [float(frame in frames) for frame in BUMPER]

    return Case("hazards", messages, (len(BUMPER),), read)


def _contacts() -> Case:
    message = message_class(CONTACTS)()
    contact = message_class("ros_gz_interfaces/msg/Contact")()
    contact.collision1.name, contact.collision2.name = "rover::touch_1", "wall"
    push = message_class("ros_gz_interfaces/msg/JointWrench")()
    push.body_1_wrench.force.x = 3.0
    contact.normals, contact.wrenches = [Vector3(x=-1.0)], [push]
    message.contacts = [contact]
    return again("contacts", [message], (2,))


# Types whose packages do not come as wheels.
OPTIONAL = {HAZARDS: _hazards, CONTACTS: _contacts}

READING_CASES = (
    Case(
        "joint_state_effort",
        _JOINTS,
        (2,),
        _joint_efforts("ccc", "a"),
        choices={"field": "effort", "joints": ["ccc", "a"]},
    ),
    Case("joint_state", _JOINTS[:1], (3,), _fields("position")),
    Case("laser_scan", [_SCAN], (6,), _distances("ranges", "range_min", "range_max")),
    Case("range", [_RANGE], (1,), _distances("range", "min_range", "max_range")),
    Case("imu", [_IMU], (10,), _fields(*_IMU_PATHS)),
    Case("odometry", [_ODOMETRY], (13,), _fields(*_ODOMETRY_PATHS), "float64"),
    Case("twist", [_TWIST], (6,), _fields(*_xyz("linear"), *_xyz("angular"))),
    Case("twist_stamped", [_TWIST_STAMPED], (2,), _fields(*_TURN_AND_SPEED), choices={"fields": _TURN_AND_SPEED}),
    Case("wrench", [_WRENCH], (6,), _fields(*_xyz("wrench.force"), *_xyz("wrench.torque")), "float64"),
    Case("float32_array", [Float32MultiArray(data=[1.5, -2.5])], (2,), _fields("data"), "float64"),
    Case("float64_array", [Float64MultiArray(data=[1.5, -2.5, 3.0])], (3,), _fields("data")),
    Case("covariance", [_POSE], (36,), _fields("pose.covariance"), choices={"field": "pose.covariance"}),
    Case("stamp", [PointStamped(header=HEADER)], (2,), _fields(*_STAMP), "float64", {"field": "header.stamp"}),
    Case("bool", [Bool(data=True)], (1,), _fields("data")),
    Case("int32", [Int32(data=-9)], (1,), _fields("data")),
    Case("bytes", [UInt8MultiArray(data=[3, 255])], (2,), _fields("data"), choices={"field": "data"}),
    Case("battery", [_BATTERY], (1,), _fields("voltage"), choices={"field": "voltage"}),
    again("scan_rays", [_SCAN_TURN], (4,), rays=4),
    again("pose_yaw", [_POSE_STAMPED], (4,), pose_as="position_yaw", base_frame="base"),
    again("cloud", [_CLOUD], (4, 3)),
    again("cloud_map", [_CLOUD], (3, 3), projection="map", bounds=[-2.0, 2.0, -2.0, 2.0]),
    again("grid", [_GRID], (2, 3)),
    again("array_layout", [_ARRAY], (2, 3)),
    again("list_padded", [Float32MultiArray(data=[1.5, -2.5])], (4,), padding="zeros_and_count"),
    again("list_zeros", [Float64MultiArray(data=[1.5, -2.5])], (1,), "float64", padding="zeros"),
    again("scan_mean", [_SCAN_TURN], (2,), rays=2, angle_min=-0.4, angle_max=0.4, reduce="mean", out_of_range=[9.0]),
    again("scan_nearest", [_SCAN_TURN], (3,), rays=3, angle_min=-0.4, angle_max=0.4, reduce="nearest"),
    again("range_replaced", [_RANGE], (1,), out_of_range=[9.0]),
    again("pose", [_POSE_STAMPED], (7,)),
    again("cloud_mixed", [_MIXED_CLOUD], (4, 5), fields=["x", "y", "z", "intensity", "mask"]),
    again("cloud_image", [_CLOUD], (3, 4), projection="range_image", bounds=[-3.0, 3.0, -1.5, 1.5]),
    again("cloud_count", [_CLOUD], (1,), field="count"),
    again("grid_bytes", [_GRID], (2, 3, 1), "uint8"),
    Case(
        "elements_of_messages",
        [_POSES],
        (2,),
        _elements(lambda message: [message.poses[1].position.x, message.poses[0].position.y]),
        "float64",
        {"fields": ["poses[1].position.x", "poses[0].position.y"]},
    ),
    Case(
        "elements_of_elements",
        [_TRAJECTORY],
        (2,),
        _elements(lambda message: [point.positions[2] for point in (message.points[0], message.points[1])]),
        choices={"field": "points[0:2].positions[2]"},
    ),
    Case(
        "element_of_an_array",
        [_POSE],
        (2,),
        lambda message: [message.pose.covariance[35], message.pose.pose.orientation.w],
        choices={"fields": ["pose.covariance[35]", "pose.pose.orientation.w"]},
    ),
    Case(
        "element_of_a_bounded_sequence",
        [_LIMITS],
        (1,),
        _elements(lambda message: [message.floating_point_range[0].to_value]),
        choices={"field": "floating_point_range[0].to_value"},
    ),
    Case("joints_joined", _ARM, (2,), _joined, make=lambda: ReadingDecoder(JointState, "seen", JoinedReader())),
    *(make() for name, make in OPTIONAL.items() if importlib.util.find_spec(name.split("/")[0])),
)
