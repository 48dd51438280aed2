# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Each example configuration with a policy of fitting spaces: as the policy alone would act, and over DDS."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped, Vector3, Wrench, WrenchStamped
from gymnasium import spaces
from nav_msgs.msg import Odometry
from node_harness import PATIENCE_S, NodeProcess, Peer
from rclpy.serialization import serialize_message
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Imu, JointState, LaserScan
from stable_baselines3 import PPO
from std_msgs.msg import Float64MultiArray

from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.schema import Configuration, parse_configuration, topic_of
from policy_node.messages.codecs import message_class
from policy_node.ros.deployment import deploy
from policy_node.sensing.synchroniser import RobotState
from policy_node_bench.harness.untrained import untrained_model

# JPEG gives a grey of one brightness back as it was.
GREY = 96
ARM_JOINTS = [
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
]
ARM_POSITION = np.array([0.1, -1.4, 1.7, -1.6, -1.5, 0.2])
ARM_VELOCITY = np.array([0.3, 0.0, -0.2, 0.1, 0.0, 0.4])
FINGER = 0.015
# The messages of a robot come with its ROS installation, not as wheels.
HAS_BUMPER = importlib.util.find_spec("irobot_create_msgs") is not None


@dataclass(frozen=True)
class Example:
    """A file, what its policy takes and gives, what its sensors say, and what the policy must then see."""

    file: str
    observations: dict[str, spaces.Box]
    actions: int
    image_size: tuple[int, int]
    seen: dict[str, Any]
    over_dds: bool = True


def vector(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


IMAGE = spaces.Box(0, 255, (60, 80, 3), np.uint8)
SQUARE = spaces.Box(0, 255, (64, 64, 3), np.uint8)
EXAMPLES = (
    Example("turtlebot3.yaml", {"image": IMAGE, "bumper": vector(4)}, 2, (240, 320), {"bumper": [0.0, 0.0, 1.0, 0.0]}),
    Example(
        "turtlebot4.yaml",
        {"image": SQUARE, "motion": vector(8), **({"bumper": vector(5)} if HAS_BUMPER else {})},
        2,
        (250, 250),
        {
            "motion": [0.2, -0.5, 0.01, 0.02, -0.5, 0.1, -0.2, 0.98],
            **({"bumper": [0.0, 1.0, 0.0, 0.0, 0.0]} if HAS_BUMPER else {}),
        },
    ),
    Example(
        "arm_wrist_camera.yaml",
        {"image": SQUARE, "joints": vector(12), "wrench": vector(6)},
        6,
        (480, 640),
        {"joints": [*ARM_POSITION, *ARM_VELOCITY], "wrench": [1.0, -2.0, 9.0, 0.1, 0.2, -0.3]},
    ),
    Example(
        "arm_gripper.yaml",
        {"image": SQUARE, "joints": vector(7)},
        7,
        (480, 640),
        {"joints": [*ARM_POSITION, FINGER]},
        over_dds=False,
    ),
    Example(
        "lidar_goal.yaml",
        {"scan": vector(36), "state": vector(4)},
        2,
        (0, 0),
        {"scan": [8.0, *[1.5] * 35], "state": [2.0, -1.0, 0.2, -0.5]},
        over_dds=False,
    ),
    Example(
        "depth_camera.yaml",
        {"depth": spaces.Box(0.0, 10.0, (48, 48, 1), np.float32), "motion": vector(2)},
        2,
        (96, 128),
        {"depth": np.full((48, 48, 1), 1.25), "motion": [0.2, -0.5]},
        over_dds=False,
    ),
)


def message(example: Example, type_name: str, stamp_ns: int) -> Any:
    """Return what a sensor of a type says."""
    if type_name.startswith("turtlebot3_msgs"):
        made = message_class(type_name)(bumper=2)
    elif type_name.startswith("irobot_create_msgs"):
        pressed = message_class("irobot_create_msgs/msg/HazardDetection")(type=1)
        pressed.header.frame_id = "bump_front_left"
        made = message_class(type_name)(detections=[pressed])
    else:
        made = {
            "sensor_msgs/msg/LaserScan": scan,
            "geometry_msgs/msg/PoseStamped": goal,
            "sensor_msgs/msg/CompressedImage": lambda: (
                depth(example.image_size)
                if "depth" in example.observations
                else CompressedImage(
                    format="jpeg",
                    data=cv2.imencode(".jpg", np.full((*example.image_size, 3), GREY, np.uint8))[1].tobytes(),
                )
            ),
            "sensor_msgs/msg/Imu": lambda: Imu(
                angular_velocity=Vector3(x=0.01, y=0.02, z=-0.5), linear_acceleration=Vector3(x=1.0, y=-2.0, z=9.8)
            ),
            "nav_msgs/msg/Odometry": odometry,
            # In another order than the controller's, as the broadcaster has it.
            "sensor_msgs/msg/JointState": lambda: JointState(
                name=["finger_joint", *ARM_JOINTS[::-1]],
                position=[FINGER, *ARM_POSITION[::-1]],
                velocity=[0.0, *ARM_VELOCITY[::-1]],
            ),
            "geometry_msgs/msg/WrenchStamped": lambda: WrenchStamped(
                wrench=Wrench(force=Vector3(x=1.0, y=-2.0, z=9.0), torque=Vector3(x=0.1, y=0.2, z=-0.3))
            ),
        }[type_name]()
    made.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
    return made


def scan() -> LaserScan:
    """Return a scan of 360 rays from ahead on, with nothing behind the robot, and one ray in each sector nearer."""
    ranges = np.full(360, 3.0)
    ranges[::10] = 1.5
    ranges[171:190:2], ranges[172:189:2] = 0.0, np.inf
    return LaserScan(angle_increment=np.pi / 180, range_min=0.1, range_max=12.0, ranges=ranges.tolist())


def goal() -> PoseStamped:
    made = PoseStamped()
    made.pose.position.x, made.pose.position.y = 2.0, -1.0
    return made


def depth(size: tuple[int, int]) -> CompressedImage:
    """Return depth in millimetres with holes."""
    millimetres = np.full(size, 1250, np.uint16)
    millimetres[::3, ::5] = 0
    data = cv2.imencode(".png", millimetres)[1].tobytes()
    return CompressedImage(format="16UC1; compressedDepth png", data=bytes(12) + data)


def odometry() -> Odometry:
    made = Odometry()
    made.twist.twist = Twist(linear=Vector3(x=0.2), angular=Vector3(z=-0.5))
    return made


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda example: example.file)
def example(request: pytest.FixtureRequest) -> Example:
    chosen: Example = request.param
    if "turtlebot3" in chosen.file and importlib.util.find_spec("turtlebot3_msgs") is None:
        pytest.skip("turtlebot3_msgs comes with the robot's ROS installation, not as a wheel")
    return chosen


@pytest.fixture(scope="module")
def policy(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, PPO]]:
    actions = spaces.Box(-1.0, 1.0, (example.actions,), np.float32)
    model = untrained_model(spaces.Dict(example.observations), actions)
    file = tmp_path_factory.mktemp("examples") / "policy.zip"
    model.save(file)
    yield file, model


def parameters(example: Example, file: Path, **changes: Any) -> dict[str, Any]:
    """Return the parameters of the example with another policy."""
    given = read_parameter_file(share_path("config", example.file))
    if "bumper" in given["observations.keys"] and "bumper" not in example.observations:
        # As the file says for computers without its messages.
        given["observations.keys"] = [key for key in given["observations.keys"] if key != "bumper"]
        given = {name: value for name, value in given.items() if not name.startswith("observations.bumper.")}
    own = {"policy.path": str(file), "policy.trusted": True, "policy.device": "cpu", "policy.engine": "direct"}
    return {name: value for name, value in {**given, **own, **changes}.items() if value is not None}


def expected_command(example: Example, model: PPO, configuration: Configuration) -> np.ndarray:
    """Return what the policy itself says of these readings, scaled and clipped as the file says."""
    observation = {key: np.array(seen, np.float32) for key, seen in example.seen.items()}
    if "image" in example.observations:
        observation["image"] = np.full(example.observations["image"].shape, GREY, np.uint8)
    action, _ = model.predict(observation, deterministic=True)
    settings = configuration.action
    scaled = action.astype(float) * (settings.scale or (1.0,)) + (settings.offset or (0.0,))
    return np.clip(scaled, settings.low, settings.high)


def test_the_policy_acts_as_it_would_alone(example: Example, policy: tuple[Path, PPO]) -> None:
    """Apart from what limits its change, which the file asks for."""
    file, model = policy
    given = parameters(example, file)
    free = {name: value for name, value in given.items() if not name.endswith((".max_rate", ".ramp_s"))}
    configuration = parse_configuration(free)
    pipeline, now_ns = deploy(configuration).pipeline, 10**18
    types = {source.name: source.type for source in configuration.sources}
    if configuration.safe_position is not None:
        types[configuration.safe_position.name] = configuration.safe_position.type
    for index, sensor in enumerate(pipeline.keys):
        pipeline.add(0, index, now_ns, serialize_message(message(example, types[sensor], now_ns)))
    result = pipeline.step(now_ns)
    assert result.states == (RobotState.READY,), result.reasons
    np.testing.assert_allclose(result.commands[0], expected_command(example, model, configuration), atol=1e-4)


def test_the_robot_is_driven_over_dds(
    example: Example, policy: tuple[Path, PPO], peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    """Sensors of the robot's types and topics, and the command where and how the robot expects it."""
    if not example.over_dds:
        pytest.skip("test_driven_examples.py drives it, in one process")
    file, model = policy
    # A pause of a busy machine is no silence.
    given = parameters(example, file, **{"synchronisation.max_age_s": 5.0, "synchronisation.slop_s": 1.0})
    configuration = parse_configuration(given)
    robot = configuration.robots[0]
    commands: list[Any] = []
    command_type = message_class(configuration.action.type)
    peer.node.create_subscription(command_type, topic_of(robot, configuration.action.topic), commands.append, 100)
    publishers = {
        (source.topic, source.type): peer.node.create_publisher(
            message_class(source.type), topic_of(robot, source.topic), 10
        )
        for source in configuration.sources
    }
    start_node(given)
    expected = expected_command(example, model, configuration)

    def arrived() -> bool:
        return bool(commands) and np.allclose(values(commands[-1]), expected, atol=1e-4)

    for _ in range(round(PATIENCE_S / 0.05)):
        if peer.spin_for(0.05, arrived):
            break
        for (_, type_name), publisher in publishers.items():
            publisher.publish(message(example, type_name, peer.node.get_clock().now().nanoseconds))
    assert arrived(), f"expected {expected}, got {[values(command) for command in commands[-3:]]}"


def values(command: Any) -> np.ndarray:
    if isinstance(command, Float64MultiArray):
        return np.array(command.data)
    assert isinstance(command, TwistStamped)
    return np.array([command.twist.linear.x, command.twist.angular.z])


@pytest.mark.parametrize(
    ("example", "bumper", "message_type"),
    [
        (EXAMPLES[0], 4, "turtlebot3_msgs/msg/SensorState"),
        (EXAMPLES[1], 5, "irobot_create_msgs/msg/HazardDetectionVector"),
    ],
)
def test_a_turtlebot_whose_message_type_is_missing_is_refused_with_the_package_to_install(
    example: Example, bumper: int, message_type: str, tmp_path: Path
) -> None:
    package = message_type.split("/")[0]
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    complete = replace(example, observations={**example.observations, "bumper": vector(bumper)})
    file = tmp_path / "policy.zip"
    untrained_model(spaces.Dict(complete.observations), spaces.Box(-1.0, 1.0, (2,), np.float32)).save(file)
    with pytest.raises(ValueError, match=rf"{message_type}' cannot be imported.*install and source"):
        deploy(parse_configuration(parameters(complete, file)))
