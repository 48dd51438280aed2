# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: the node in its own process, scripted robots, and clients of the node's services."""

import math
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from forked import ForkedProcess, node, node_alone
from geometry_msgs.msg import Twist, TwistStamped
from gymnasium import spaces
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from policy_node_bench.harness.untrained import untrained_model

# More threads would only wait for each other, and for the node, on a busy machine.
torch.set_num_threads(1)

# How long a time on /clock, which is subscribed with best effort, may stay without commands before it is sent again.
RESEND_CLOCK_S = 0.25
# Far beyond what anything here takes on a busy machine; every wait ends as soon as what it waits for is there.
PATIENCE_S = 120.0

# How long Fast DDS may need to recover from a process that was killed: its locks in shared memory time out after 1 s.
RECOVERY_S = 1.5
_killed_s = -math.inf

# What the executable `policy_node` runs.
NODE = "import sys; from policy_node.ros.main import main; sys.exit(main())"
# The same without the two seconds in which it listens for others that command its robots, and without the end of its
# claim when a busy machine keeps it from running for three seconds.
NODE_ALONE = (
    "import math; from policy_node.ros import ownership as claims; "
    f"claims.DISCOVERY_S, claims.EXPIRY_S = 0.0, math.inf; {NODE}"
)

CELLS = 8
OBSERVATION_SPACE = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
        "touch": spaces.Box(0.0, 10.0, (CELLS,), np.float32),
    }
)
ACTION_SPACE = spaces.Box(np.array([-0.2, -1.0], np.float32), np.array([0.5, 1.5], np.float32))
DISCRETE_ACTIONS = 5


def make_model(stack: int, discrete: bool, seed: int = 1) -> PPO:
    """Build a model of the scripted robots that was not trained, but whose actions differ from reading to reading."""
    observation_space = StackedObservations(1, stack, OBSERVATION_SPACE).stacked_observation_space
    model = untrained_model(observation_space, spaces.Discrete(DISCRETE_ACTIONS) if discrete else ACTION_SPACE, seed)
    policy = model.policy
    policy.set_training_mode(False)
    rng = np.random.default_rng(2)
    readings = [random_reading(rng) for _ in range(64 * stack)]
    images, touches = (np.stack(rows) for rows in zip(*readings, strict=True))
    rows, _ = policy.obs_to_tensor(
        {
            "image": np.concatenate(np.split(images, stack), axis=-1),
            "touch": np.concatenate(np.split(touches, stack), axis=-1),
        }
    )
    with torch.no_grad():
        features = policy.mlp_extractor.forward_actor(policy.extract_features(rows, policy.pi_features_extractor))
        # A fresh action layer gives nearly the same for everything; this one's outputs spread around the middle.
        outputs = policy.action_net(features)
        middle = 0.0 if discrete else torch.from_numpy((ACTION_SPACE.low + ACTION_SPACE.high) / 2)
        scale = 0.4 / outputs.std(0)
        policy.action_net.weight.mul_(scale[:, None])
        policy.action_net.bias.copy_(middle - outputs.mean(0) * scale)
    return model


def parameters_of(model_file: Path, robots: Sequence[str], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters by dotted name of a node that drives scripted robots, with changes; None removes one."""
    parameters: dict[str, Any] = {
        "control_rate_hz": 20.0,
        "robots": list(robots),
        "policy.path": str(model_file),
        "policy.trusted": True,
        "policy.device": "cpu",
        # What is measured at configure takes time, and is no subject of most tests.
        "policy.engine": "direct",
        "observations.keys": ["image", "touch"],
        "observations.image.topic": "camera/image_raw",
        "observations.image.type": "sensor_msgs/msg/Image",
        "observations.touch.topic": "touch",
        "observations.touch.type": "sensor_msgs/msg/JointState",
        "observations.touch.field": "effort",
        "synchronisation.slop_s": 0.03,
        "synchronisation.max_age_s": 0.5,
        "action.topic": "cmd_vel",
        "action.type": "geometry_msgs/msg/Twist",
        "action.fields": ["linear.x", "angular.z"],
        **changes,
    }
    return {name: value for name, value in parameters.items() if value is not None}


class NodeProcess:
    """The node in its own process.

    Parameters
    ----------
    parameters
        By dotted name.
    file
        Where the parameter file is written.
    name, namespace
        Of the node.
    alone
        Whether no other node commands its robots, so that it neither waits to hear of one nor leaves the robots after a
        pause of the process.
    fresh
        Whether to start a new interpreter, as users do, instead of forking one that has imported everything.
    wrapper
        Command that runs the one after it, as `prlimit` does, in place of itself; implies `fresh`.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        file: Path,
        name: str = "policy_node",
        namespace: str = "",
        alone: bool = True,
        fresh: bool = False,
        wrapper: Sequence[str] = (),
    ) -> None:
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters)}}))
        self.full_name = f"{namespace}/{name}" if namespace else f"/{name}"
        remappings = ["-r", f"__node:={name}", *(["-r", f"__ns:={namespace}"] if namespace else [])]
        arguments = ["--ros-args", "--params-file", str(file), *remappings]
        self._process: subprocess.Popen[str] | ForkedProcess
        if fresh or wrapper:
            command = [*wrapper, sys.executable, "-c", NODE_ALONE if alone else NODE, *arguments]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        else:
            self._process = ForkedProcess(node_alone if alone else node, arguments)
        self._text = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._text += line
                self._changed.notify_all()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def text(self) -> str:
        """Everything that the node has said."""
        with self._changed:
            return self._text

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Exit status, None while the process is running."""
        return self._process.poll()

    def wait_for(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Wait until the node's output from position `start` on matches a regular expression, across lines."""
        deadline_s = time.monotonic() + PATIENCE_S
        with self._changed:
            while not (match := re.search(pattern, self._text[start:], re.DOTALL)):
                remaining_s = deadline_s - time.monotonic()
                assert remaining_s > 0 and self._reader.is_alive(), f"the node never said {pattern!r}:\n{self._text}"
                self._changed.wait(min(remaining_s, 0.5))
        return match

    def send(self, number: signal.Signals) -> int:
        """Send a signal that ends the node and return its exit status."""
        if number == signal.SIGKILL:
            kill(self._process)
        else:
            self._process.send_signal(number)
        return self._process.wait(PATIENCE_S)

    def end(self) -> None:
        """End the process if it still runs: politely, then for good."""
        if not end(self._process):
            raise AssertionError(f"the node did not end on SIGINT and was killed:\n{self.text}")
        self._reader.join(5.0)
        assert self._process.stdout is not None
        self._process.stdout.close()


def kill(process: Any) -> None:
    """Kill a process that publishes or subscribes.

    If it was writing to the shared memory of the test process, a lock there stays locked. Destroying a node before Fast
    DDS has recovered hangs or crashes, so `Peer.destroy` waits.
    """
    global _killed_s
    process.kill()
    _killed_s = time.monotonic()


def end(process: Any) -> bool:
    """End a process that publishes or subscribes, if it still runs: politely, then for good, see `kill`.

    Returns whether it ended politely, or had ended before.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            kill(process)
            process.wait()
            return False
    return True


class Peer:
    """The ROS node of the test process, spun only while something is waited for."""

    def __init__(self, name: str = "scripted_robots") -> None:
        self.node = rclpy.create_node(name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def destroy(self) -> None:
        """Close all topics and services."""
        time.sleep(max(0.0, _killed_s + RECOVERY_S - time.monotonic()))
        self._executor.shutdown()
        self.node.destroy_node()

    def spin_until(self, condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Spin until a condition holds; fails with `what` when it never does."""
        assert self.spin_for(timeout_s, condition), f"waited {timeout_s:g} s in vain for {what}"

    def spin_for(self, duration_s: float, condition: Callable[[], Any] = lambda: False) -> bool:
        """Spin for a time, or until a condition holds; return whether it held.

        It spins for as long as the condition took: one message for each look at a page would leave old ones behind.
        """
        deadline_s = time.monotonic() + duration_s
        asked_s = time.monotonic()
        while not condition():
            now_s = time.monotonic()
            if now_s >= deadline_s:
                return False
            spun_until_s = 2.0 * now_s - asked_s
            self._executor.spin_once(timeout_sec=0.02)
            while time.monotonic() < spun_until_s:
                self._executor.spin_once(timeout_sec=0.0)
            asked_s = time.monotonic()
        return True

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        return self.begin_call(service_type, name, request)()

    def begin_call(self, service_type: Any, name: str, request: Any) -> Callable[[], Any]:
        """Call a service and return what waits for its response and returns it."""
        client = self.node.create_client(service_type, name)
        self.spin_until(client.service_is_ready, f"the service {name}")
        future = client.call_async(request)

        def end() -> Any:
            self.spin_until(future.done, f"the response of {name}")
            self.node.destroy_client(client)
            return future.result()

        return end


class LifecycleClient:
    """The services of one node under test."""

    def __init__(self, peer: Peer, full_name: str) -> None:
        self._peer = peer
        self._name = full_name

    def change(self, transition: str) -> bool:
        """Request `configure`, `activate`, `deactivate`, `cleanup` or a shutdown and return whether it succeeded."""
        return self.begin_to_change(transition)()

    def begin_to_change(self, transition: str) -> Callable[[], bool]:
        """Request a transition as `change` does, but return at once what waits for the answer and returns it."""
        request = ChangeState.Request(transition=Transition(id=getattr(Transition, f"TRANSITION_{transition.upper()}")))
        end = self._peer.begin_call(ChangeState, f"{self._name}/change_state", request)
        return lambda: bool(end().success)

    def state(self) -> str:
        """Return the present state: `unconfigured`, `inactive`, `active`."""
        response: GetState.Response = self._peer.call(GetState, f"{self._name}/get_state", GetState.Request())
        state: State = response.current_state
        return state.label

    def set(self, **values: Any) -> str:
        """Set parameters, `__` standing for a dot in their names, None removing one; return why some were refused."""
        request = SetParameters.Request(parameters=_parameter_messages(values))
        response: SetParameters.Response = self._peer.call(SetParameters, f"{self._name}/set_parameters", request)
        assert all(bool(result.reason) is not result.successful for result in response.results)
        return "; ".join(result.reason for result in response.results if not result.successful)

    def begin_to_set(self, **values: Any) -> Callable[[], str]:
        """Set parameters as `set_atomically` does, but return at once what waits for the answer and returns it."""
        request = SetParametersAtomically.Request(parameters=_parameter_messages(values))
        end = self._peer.begin_call(SetParametersAtomically, f"{self._name}/set_parameters_atomically", request)
        return lambda: str(end().result.reason)

    def set_atomically(self, **values: Any) -> str:
        """Set parameters as `set` does, all or none; return why they were refused."""
        return self.begin_to_set(**values)()

    def get(self, *names: str) -> list[Any]:
        """Return the values of parameters."""
        request = GetParameters.Request(names=names)
        response: GetParameters.Response = self._peer.call(GetParameters, f"{self._name}/get_parameters", request)
        return [parameter_value_to_python(value) for value in response.values]


class Diagnostics:
    """The newest diagnostics by their name, and all of them."""

    def __init__(self, peer: Peer) -> None:
        self.arrays: list[DiagnosticArray] = []
        self.newest: dict[str, DiagnosticStatus] = {}
        peer.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_array, 10)

    def _on_array(self, array: DiagnosticArray) -> None:
        self.arrays.append(array)
        self.newest.update({status.name: status for status in array.status})

    def values(self, name: str) -> dict[str, str]:
        """Return the newest values under a name, empty when there are none."""
        status = self.newest.get(name)
        return {pair.key: pair.value for pair in status.values} if status else {}


class ScriptedFleet:
    """Robots that publish what the test says and note the commands that they get.

    Parameters
    ----------
    peer
        The test's node.
    robots
        Names below `namespace`.
    command_type
        Message class of the commands.
    reliable
        Whether readings are sent reliably.
    """

    def __init__(
        self, peer: Peer, robots: Sequence[str], command_type: type = Twist, namespace: str = "", reliable: bool = False
    ) -> None:
        self._peer = peer
        self.robots = tuple(robots)
        self.commands: dict[str, list[Any]] = {robot: [] for robot in robots}
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        # With a depth of 1 Fast DDS asks for the acknowledgement of a reading at once, otherwise only every 3 s.
        self._qos = qos = QoSProfile(depth=1, reliability=reliability)
        self._namespace = namespace
        self._images: dict[str, Any] = {}
        self._touches: dict[str, Any] = {}
        for robot in robots:
            prefix = f"{namespace}/{robot}"
            self._images[robot] = peer.node.create_publisher(Image, f"{prefix}/camera/image_raw", qos)
            self.open_touch(robot)
            peer.node.create_subscription(command_type, f"{prefix}/cmd_vel", self.commands[robot].append, 100)

    def open_touch(self, robot: str) -> None:
        """Offer touch of a robot."""
        topic = f"{self._namespace}/{robot}/touch"
        self._touches[robot] = self._peer.node.create_publisher(JointState, topic, self._qos)

    def close_touch(self, robot: str) -> None:
        """Offer touch of a robot no more."""
        self._peer.node.destroy_publisher(self._touches.pop(robot))

    def wait_until_heard(self) -> None:
        """Wait until the node has subscribed to every reading."""
        publishers = [*self._images.values(), *self._touches.values()]
        self._peer.spin_until(
            lambda: all(publisher.get_subscription_count() for publisher in publishers), "the node's subscriptions"
        )

    def publish(self, robot: str, stamp_ns: int, image: np.ndarray, touch: np.ndarray) -> None:
        """Publish one reading of a robot: image `[height, width, 3]` uint8 and touch `[cells]`."""
        self.publish_image(robot, stamp_ns, image)
        self.publish_touch(robot, stamp_ns, touch)

    def publish_image(self, robot: str, stamp_ns: int, image: np.ndarray, encoding: str = "rgb8") -> None:
        """Publish one image `[height, width, channels]` uint8."""
        height, width, channels = image.shape
        message = Image(height=height, width=width, encoding=encoding, step=width * channels, data=image.tobytes())
        message.header.stamp = _stamp(stamp_ns)
        self._images[robot].publish(message)

    def publish_touch(self, robot: str, stamp_ns: int, touch: np.ndarray) -> None:
        """Publish touch `[cells]`."""
        message = JointState(name=[f"touch_{cell}" for cell in range(len(touch))], effort=touch.astype(float).tolist())
        message.header.stamp = _stamp(stamp_ns)
        self._touches[robot].publish(message)

    def wait_until_received(self) -> None:
        """Wait until the node has received every reading; only for reliable ones."""
        for publisher in (*self._images.values(), *self._touches.values()):
            assert publisher.wait_for_all_acked(Duration(seconds=PATIENCE_S))

    def drive(
        self,
        condition: Callable[[], Any],
        what: str,
        robots: Sequence[str] | None = None,
        publish_more: Callable[[], None] = lambda: None,
    ) -> None:
        """Publish 20 readings a second of some robots, and whatever else, until a condition holds."""
        rng = np.random.default_rng(3)
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._peer.spin_for(0.05, condition):
            assert time.monotonic() < deadline_s, f"waited in vain for {what}"
            for robot in self.robots if robots is None else robots:
                self.publish(robot, self._peer.node.get_clock().now().nanoseconds, *random_reading(rng))
            publish_more()

    def clear(self) -> None:
        """Forget the commands so far."""
        for commands in self.commands.values():
            commands.clear()

    def newest(self, robot: str) -> np.ndarray | None:
        """Return the robot's newest command, None before the first."""
        return command_values(self.commands[robot][-1]) if self.commands[robot] else None


class Lockstep:
    """Steps a node on simulated time, one tick at a time.

    Parameters
    ----------
    peer
        The test's node.
    fleet
        Who gets the commands.
    period_ns
        The control period.
    """

    def __init__(self, peer: Peer, fleet: ScriptedFleet, period_ns: int) -> None:
        self._peer = peer
        self._fleet = fleet
        self._period_ns = period_ns
        self._publisher = peer.node.create_publisher(Clock, "/clock", 10)
        self.now_ns = 0

    @property
    def next_ns(self) -> int:
        """The time of the next tick."""
        return self.now_ns + self._period_ns

    def _send_clock(self, wait_s: float) -> bool:
        """Send the present time, again and again, and return whether every robot then got a command."""
        for _ in range(round(wait_s / RESEND_CLOCK_S)):
            self._publisher.publish(Clock(clock=_stamp(self.now_ns)))
            if self._peer.spin_for(RESEND_CLOCK_S, lambda: all(self._fleet.commands.values())):
                return True
        return False

    def start(self, now_ns: int) -> dict[str, Any]:
        """Let time begin, or jump, and run on without readings until every robot got a command; return these."""
        self._peer.spin_until(self._publisher.get_subscription_count, "the node's subscription to /clock")
        self.now_ns = now_ns
        # No tick here: the first deadline lies one period after the first time that the node sees.
        self._send_clock(4 * RESEND_CLOCK_S)
        for _ in range(10):
            self.now_ns += self._period_ns
            if self._send_clock(PATIENCE_S / 10):
                return self._collect()
        raise AssertionError("the node does not tick")

    def tick(self) -> dict[str, Any]:
        """Move time on to the next tick and return the one command of each robot."""
        self.now_ns += self._period_ns
        assert self._send_clock(PATIENCE_S), f"no tick at {self.now_ns / 1e9:.3f} s"
        return self._collect()

    def _collect(self) -> dict[str, Any]:
        assert {len(commands) for commands in self._fleet.commands.values()} == {1}
        commands = {robot: commands[0] for robot, commands in self._fleet.commands.items()}
        self._fleet.clear()
        return commands


class Predictor:
    """What `model.predict` and `VecFrameStack` say for one robot.

    Parameters
    ----------
    model
        The model.
    stack
        Time steps that it takes.
    """

    def __init__(self, model: PPO, stack: int) -> None:
        self._model = model
        self._stacks = StackedObservations(1, stack, OBSERVATION_SPACE)
        self._begins = True

    def reset(self) -> None:
        """Begin an episode with the next reading."""
        self._begins = True

    def __call__(self, image: np.ndarray, touch: np.ndarray) -> np.ndarray:
        """Return the action for the next reading."""
        reading = {"image": image[np.newaxis], "touch": touch[np.newaxis]}
        if self._begins:
            stacked = self._stacks.reset(reading)
        else:
            stacked, _ = self._stacks.update(reading, np.array([False]), [{}])
        self._begins = False
        action, _ = self._model.predict({key: rows[0] for key, rows in stacked.items()}, deterministic=True)
        return action


def random_reading(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image, of one colour so that policies tell it from others, and touch."""
    image = (rng.integers(0, 256, 3) * rng.uniform(0.5, 1.0, (36, 36, 1))).astype(np.uint8)
    return image, rng.uniform(0.0, 10.0, CELLS).astype(np.float32)


def command_values(message: Any) -> np.ndarray:
    """Return the components of a command, for the scripted robots' velocity commands linear.x and angular.z."""
    if isinstance(message, TwistStamped):
        message = message.twist
    return np.array([message.linear.x, message.angular.z] if isinstance(message, Twist) else message.data)


def _parameter_messages(values: Mapping[str, Any]) -> list[Any]:
    return [
        Parameter(name.replace("__", "."), Parameter.Type.NOT_SET if value is None else None, value).to_parameter_msg()
        for name, value in values.items()
    ]


def _stamp(stamp_ns: int) -> Any:
    return Time(nanoseconds=stamp_ns).to_msg()
