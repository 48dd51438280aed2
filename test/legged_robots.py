# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Four scripted robots with legs, and accounts in plain NumPy of what their policies observe and command.

Each account follows the code that its trainer deploys the policy with: HIMLoco (histories, the newest step first),
`deploy_mujoco.py` of unitree_rl_gym (a gait clock and an LSTM), and trackers of motions, whose network has the motion
inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from geometry_msgs.msg import Quaternion, Twist, Vector3
from node_harness import Lockstep, Peer
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

ROBOTS = ("robot_0", "robot_1", "robot_2", "robot_3")
PERIOD_NS = 20_000_000
NUMBERS = "std_msgs/msg/Float64MultiArray"
Weights = Mapping[str, np.ndarray]
# The robot that is silent, and when.
SILENT = ROBOTS[2], range(6, 9)


class Readings(NamedTuple):
    """What one robot senses and is told at one tick."""

    turning: np.ndarray
    #: x, y, z, w
    orientation: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    command: np.ndarray
    #: Orientation of the motion in the body, as 6 numbers; another node computes it.
    anchor: np.ndarray


class Account(Protocol):
    """What the policy of one robot should command."""

    def reset(self) -> None:
        """Begin an episode."""

    def step(self, readings: Readings) -> np.ndarray:
        """Return the command at the next tick of the episode."""


def draw_readings(rng: np.random.Generator, joints: int) -> Readings:
    """Draw readings of one robot."""
    orientation = rng.normal(size=4)
    vectors = [rng.normal(size=size) for size in (3, joints, joints, 3, 6)]
    turning, position, velocity, command, anchor = vectors
    return Readings(turning, orientation / np.linalg.norm(orientation), position / 2, velocity * 3, command, anchor)


def gravity_of(orientation: np.ndarray) -> np.ndarray:
    """Return the direction of gravity in the body frame."""
    x, y, z, w = orientation
    return np.array([2 * (-z * x + w * y), -2 * (z * y + w * x), 1 - 2 * (w * w + z * z)])


def layers_of(weights: Weights, prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weight and bias of the linear layers of an `nn.Sequential`."""
    names = sorted(
        {name.removesuffix(".weight") for name in weights if name.startswith(prefix) and name.endswith(".weight")},
        key=lambda name: int(name.rpartition(".")[2]),
    )
    return [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in names]


def elu_network(layers: Sequence[tuple[np.ndarray, np.ndarray]], values: np.ndarray) -> np.ndarray:
    """Return the output of linear layers with ELU between them."""
    for index, (weight, bias) in enumerate(layers):
        values = weight @ (np.where(values > 0, values, np.expm1(np.minimum(values, 0))) if index else values) + bias
    return values


class HimAccount:
    """The account of a HIMLoco policy: six observations, the newest first, and an estimator in the network."""

    def __init__(self, weights: Weights, default: np.ndarray, action_scale: np.ndarray) -> None:
        self._estimator, self._actor = layers_of(weights, "estimator."), layers_of(weights, "actor.")
        self._default, self._action_scale = default, action_scale
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        joints = len(self._default)
        self._action = np.zeros(joints)
        self._history = np.zeros(6 * (9 + 3 * joints))

    def step(self, readings: Readings) -> np.ndarray:
        """Return the joint positions to command."""
        newest = np.concatenate(
            [
                readings.command * [2.0, 2.0, 0.25],
                readings.turning * 0.25,
                gravity_of(readings.orientation),
                readings.position - self._default,
                readings.velocity * 0.05,
                self._action,
            ]
        )
        self._history = np.concatenate([newest, self._history[: -len(newest)]])
        estimate = elu_network(self._estimator, self._history)
        latent = estimate[3:] / np.linalg.norm(estimate[3:])
        self._action = elu_network(self._actor, np.concatenate([newest, estimate[:3], latent]))
        return self._action * self._action_scale + self._default


def him_parameters(path: str, default: np.ndarray, action_scale: np.ndarray) -> dict[str, Any]:
    """Return the parameters of the node for a HIMLoco policy."""
    terms = {
        "command": command_term([2.0, 2.0, 0.25]),
        "turning": {**IMU, "field": "angular_velocity", "scale": [0.25]},
        "gravity": {**IMU, "field": "orientation", "kind": "projected_gravity"},
        "position": {**joints_of(default), "default": default.tolist()},
        "velocity": {**joints_of(default), "field": "velocity", "scale": [0.05]},
        "action": {"kind": "previous_action"},
    }
    size = 6 * (9 + 3 * len(default))
    return {
        "policy": {"path": path, "trusted": True},
        "observations": {
            "keys": ["observation"],
            "observation": {
                "stack": 6,
                "stack_order": "newest_first",
                "shape": [size],
                "terms": list(terms),
                **terms,
            },
        },
        "action": {"scale": action_scale.tolist(), "offset": default.tolist()},
    }


class GaitAccount:
    """The account of an LSTM with a gait clock, as `deploy_mujoco.py` of unitree_rl_gym runs it."""

    def __init__(self, weights: Weights, default: np.ndarray) -> None:
        self._weights, self._actor, self._default = weights, layers_of(weights, "actor."), default
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._counter = 0
        self._hidden = self._cell = np.zeros(self._weights["memory.weight_hh_l0"].shape[1])
        self._action = np.zeros(len(self._default))

    def step(self, readings: Readings) -> np.ndarray:
        """Return the joint positions to command."""
        self._counter += 1
        period = 0.8
        phase = self._counter * 0.02 % period / period
        observation = np.concatenate(
            [
                readings.turning * 0.25,
                gravity_of(readings.orientation),
                readings.command * [2.0, 2.0, 0.25],
                readings.position - self._default,
                readings.velocity * 0.05,
                self._action,
                [np.sin(2 * np.pi * phase), np.cos(2 * np.pi * phase)],
            ]
        )
        self._action = elu_network(self._actor, self._remember(observation))
        return self._action * 0.25 + self._default

    def _remember(self, observation: np.ndarray) -> np.ndarray:
        """Return the output of the LSTM."""
        given = self._weights["memory.weight_ih_l0"] @ observation + self._weights["memory.bias_ih_l0"]
        kept = self._weights["memory.weight_hh_l0"] @ self._hidden + self._weights["memory.bias_hh_l0"]
        enter, forget, new, leave = np.split(given + kept, 4)
        self._cell = sigmoid(forget) * self._cell + sigmoid(enter) * np.tanh(new)
        self._hidden = sigmoid(leave) * np.tanh(self._cell)
        return self._hidden


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return the logistic function."""
    return 1.0 / (1.0 + np.exp(-values))


def gait_parameters(path: str, default: np.ndarray) -> dict[str, Any]:
    """Return the parameters of the node for an LSTM with a gait clock."""
    terms = {
        "turning": {**IMU, "field": "angular_velocity", "scale": [0.25]},
        "gravity": {**IMU, "field": "orientation", "kind": "projected_gravity"},
        "command": command_term([2.0, 2.0, 0.25]),
        "position": {**joints_of(default), "default": default.tolist()},
        "velocity": {**joints_of(default), "field": "velocity", "scale": [0.05]},
        "action": {"kind": "previous_action"},
        # The counter is 1 at the first step.
        "gait": {"kind": "phase", "period_s": 0.8, "offset": [0.025]},
    }
    return {
        "policy": {"path": path, "trusted": True},
        "observations": {
            "keys": ["observation"],
            "observation": {"shape": [11 + 3 * len(default)], "terms": list(terms), **terms},
        },
        "action": {"scale": [0.25], "offset": default.tolist()},
    }


class MotionAccount:
    """The account of a network that takes `time_step` and gives the motion, observed at the next step.

    Before the first step of an episode it is run once with zeros, as its deployment does.
    """

    def __init__(
        self,
        actor: Callable[[np.ndarray], np.ndarray],
        joint_pos: np.ndarray,
        joint_vel: np.ndarray,
        default: np.ndarray,
        action_scale: np.ndarray,
    ) -> None:
        self._actor, self._motion = actor, np.hstack([joint_pos, joint_vel])
        self._default, self._action_scale = default, action_scale
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._step = 0
        self._wanted = self._motion[0]
        self._action = np.zeros(len(self._default))

    def step(self, readings: Readings) -> np.ndarray:
        """Return the joint positions to command."""
        state = [readings.turning, readings.position - self._default, readings.velocity, self._action]
        self._action = self._actor(np.concatenate([self._wanted, readings.anchor, *state]))
        self._wanted = self._motion[min(self._step, len(self._motion) - 1)]
        self._step += 1
        return self._action * self._action_scale + self._default


def motion_parameters(path: str, default: np.ndarray, action_scale: np.ndarray) -> dict[str, Any]:
    """Return the parameters of the node for a tracker of a motion."""
    terms = {
        "joint_pos": {"kind": "policy_output", "output": "joint_pos"},
        "joint_vel": {"kind": "policy_output", "output": "joint_vel"},
        "anchor": {"topic": "anchor", "type": NUMBERS, "reliability": "reliable"},
        "turning": {**IMU, "field": "angular_velocity"},
        "position": {**joints_of(default), "default": default.tolist()},
        "velocity": {**joints_of(default), "field": "velocity"},
        "action": {"kind": "previous_action"},
    }
    return {
        "policy": {"path": path, "action": "actions"},
        "observations": {
            "keys": ["obs", "time_step"],
            "obs": {"terms": list(terms), **terms},
            "time_step": {"terms": ["step"], "step": {"kind": "step"}},
        },
        "action": {"scale": action_scale.tolist(), "offset": default.tolist()},
    }


IMU = {"topic": "imu", "type": "sensor_msgs/msg/Imu", "reliability": "reliable"}


def joints_of(default: np.ndarray) -> dict[str, Any]:
    """Return the topic of the joints, which the robot publishes in another order."""
    names = [f"joint_{index}" for index in range(len(default))]
    return {"topic": "joint_states", "type": "sensor_msgs/msg/JointState", "reliability": "reliable", "joints": names}


def command_term(scale: list[float]) -> dict[str, Any]:
    """Return the term of the operator's velocity."""
    fields = ["linear.x", "linear.y", "angular.z"]
    source = {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": fields, "reliability": "reliable"}
    return {**source, "max_age_s": 60.0, "scale": scale}


def node_parameters(parameters: dict[str, Any], joints: int) -> dict[str, Any]:
    """Return the parameters of the node that drives the four robots in simulated time."""
    action = {"topic": "joint_commands", "type": NUMBERS, "safe_command": [9.0] * joints}
    return {
        "use_sim_time": True,
        "control_rate_hz": 1e9 / PERIOD_NS,
        "robots": list(ROBOTS),
        # Readings of the tick before are too old.
        "synchronisation": {"slop_s": 0.005, "max_age_s": 0.015},
        # It is in wall time, and a busy machine may pause the node.
        "watchdog": {"timeout_s": 30.0},
        **parameters,
        "policy": {"device": "cpu", **parameters["policy"]},
        "action": {**action, **parameters["action"]},
    }


class Herd:
    """The topics of legged robots, for `Lockstep`."""

    def __init__(self, peer: Peer, robots: Sequence[str], topics: Sequence[str]) -> None:
        self._peer = peer
        self.commands: dict[str, list[Any]] = {robot: [] for robot in robots}
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        types = {"imu": Imu, "joint_states": JointState, "cmd_vel": Twist, "anchor": Float64MultiArray}
        self._publishers = {
            (robot, topic): peer.node.create_publisher(types[topic], f"/{robot}/{topic}", qos)
            for robot in robots
            for topic in topics
        }
        for robot, commands in self.commands.items():
            peer.node.create_subscription(Float64MultiArray, f"/{robot}/joint_commands", commands.append, 100)

    def clear(self) -> None:
        """Forget the commands so far."""
        for commands in self.commands.values():
            commands.clear()

    def wait_until_heard(self) -> None:
        """Wait until the node has subscribed to every topic."""
        self._peer.spin_until(
            lambda: all(publisher.get_subscription_count() for publisher in self._publishers.values()), "subscriptions"
        )

    def publish(self, robot: str, **messages: Any) -> None:
        """Publish messages of a robot by topic and wait until the node has them."""
        for topic, message in messages.items():
            self._publishers[robot, topic].publish(message)
        for topic in messages:
            assert self._publishers[robot, topic].wait_for_all_acked(Duration(seconds=30))


def messages_of(readings: Readings, stamp_ns: int) -> dict[str, Any]:
    """Return the readings of a robot as messages by topic."""
    stamp = Time(nanoseconds=stamp_ns).to_msg()
    imu = Imu(
        angular_velocity=Vector3(**dict(zip("xyz", readings.turning.tolist(), strict=True))),
        orientation=Quaternion(**dict(zip("xyzw", readings.orientation.tolist(), strict=True))),
    )
    joints = JointState(
        name=[f"joint_{index}" for index in reversed(range(len(readings.position)))],
        position=readings.position[::-1].tolist(),
        velocity=readings.velocity[::-1].tolist(),
    )
    imu.header.stamp = joints.header.stamp = stamp
    forward, left, turn = readings.command.tolist()
    return {
        "imu": imu,
        "joint_states": joints,
        "cmd_vel": Twist(linear=Vector3(x=forward, y=left), angular=Vector3(z=turn)),
        "anchor": Float64MultiArray(data=readings.anchor.tolist()),
    }


def drive(
    peer: Peer,
    start_node: Callable[..., Any],
    parameters: dict[str, Any],
    accounts: Sequence[Account],
    topics: Sequence[str],
    ticks: int = 14,
) -> tuple[float, float, Any]:
    """Drive the four robots and compare each command with its account; one robot is silent for a while.

    Returns the largest difference and the largest command, and the process of the node.
    """
    joints = len(parameters["action"]["offset"])
    process = start_node(node_parameters(parameters, joints))
    herd = Herd(peer, ROBOTS, topics)
    process.wait_for(r"\bactive: ")
    herd.wait_until_heard()
    lockstep = Lockstep(peer, herd, PERIOD_NS)  # type: ignore[arg-type]
    lockstep.start(1_000_000_000)
    rng = np.random.default_rng(0)
    largest, range_ = 0.0, 0.0
    for tick in range(ticks):
        expected = {}
        for robot, account in zip(ROBOTS, accounts, strict=True):
            readings = draw_readings(rng, joints)
            if robot == SILENT[0] and tick in SILENT[1]:
                account.reset()
                expected[robot] = np.full(joints, 9.0)
                continue
            messages = messages_of(readings, lockstep.next_ns)
            herd.publish(robot, **{topic: messages[topic] for topic in topics})
            expected[robot] = account.step(readings)
            range_ = max(range_, float(np.abs(expected[robot]).max()))
        for robot, command in lockstep.tick().items():
            largest = max(largest, float(np.abs(np.array(command.data) - expected[robot]).max()))
    return largest, range_, process
