# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Observations made of terms, and the example of a quadruped against a plain NumPy account of what it should do."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from geometry_msgs.msg import Quaternion, Twist, Vector3
from gymnasium import spaces
from legged_robots import Herd
from node_harness import Lockstep, Peer
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rclpy.time import Time
from sensor_msgs.msg import Imu, JointState
from stable_baselines3 import PPO
from std_msgs.msg import Float64MultiArray, Int32MultiArray

from policy_node.config.schema import Configuration, ConfigurationError, flatten, parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.control.pipeline import Pipeline
from policy_node.messages.reading import UnusableReading
from policy_node.ros.deployment import deploy
from policy_node.ros.parameters import declare_parameters, read_parameters
from policy_node.sensing.batch import ObservationBatch, observation_layout
from policy_node.sensing.synchroniser import RobotState
from policy_node.sensing.terms import TermInputs, TermLayout, checked_decode, projected_gravity

WAITING, READY, STALE, REJECTED, FAULT, _ = RobotState
CPU = torch.device("cpu")
EXAMPLE = Path(__file__).parents[2] / "config" / "quadruped.yaml"
PERIOD_NS = 20_000_000
JOINTS = [f"{leg}_{part}_joint" for part in ("hip", "thigh", "calf") for leg in ("FL", "FR", "RL", "RR")]
POSE = np.array([0.1, -0.1, 0.1, -0.1, 0.8, 0.8, 1.0, 1.0, -1.5, -1.5, -1.5, -1.5])
# The joints as the robot publishes them: in another order, among others.
PUBLISHED = ["arm_joint", *sorted(JOINTS, reverse=True)]


def quadruped(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the parameters of the example by dotted name, changed; None removes one."""
    parameters = flatten(yaml.safe_load(EXAMPLE.read_text())["/**"]["ros__parameters"])
    return {name: value for name, value in {**parameters, **(changes or {})}.items() if value is not None}


def observation_of(terms: dict[str, dict[str, Any]], **own: Any) -> Any:
    """Return the configuration of an observation that is made of terms."""
    source = {"topic": "readings", "type": "std_msgs/msg/Float64MultiArray"}
    entries = {
        name: term if term.get("kind") == "previous_action" else {**source, **term} for name, term in terms.items()
    }
    if not any("topic" in entry for entry in entries.values()):
        entries["anything"] = source
    changes = flatten({"policy": {"terms": list(entries), **entries, **own}}, "observations.")
    whole = quadruped({"observations.policy.terms": []})
    kept = {name: value for name, value in whole.items() if not name.startswith("observations.policy.")}
    return parse_configuration({**kept, **changes}).observations[0]


def vector(*shape: int, dtype: type = np.float32) -> ArraySpec:
    return ArraySpec("observation", shape, dtype, -np.inf, np.inf)


def compose(
    terms: dict[str, dict[str, Any]], size: int, readings: dict[str, list[float]], **options: Any
) -> np.ndarray:
    """Return the observation of one robot made of readings by term."""
    observation = observation_of(terms)
    layout = observation_layout("policy", vector(size, **options), observation, TermInputs(action_size=3))
    batch = ObservationBatch({"policy": layout}, 1, CPU)
    for name, row in batch.readings(0).items():
        row[...] = readings.get(name.removeprefix("policy."), np.zeros(row.shape))
    batch.remember(torch.tensor([[1.0, -2.0, 3.0]]), {})
    return batch.push(np.array([False]))["policy"].numpy()[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_term_subtracts_clips_scales_and_offsets_in_this_order(dtype):
    """Clip before scale, as Isaac Lab: [-1, 1] holds for value - default."""
    term = {"default": [0.5, -0.5, 0.0], "clip": [-1.0, 1.0], "scale": [2.0, 2.0, 3.0], "offset": [0.25]}
    found = compose({"a": term}, 3, {"a": [0.75, -3.0, 9.0]}, dtype=dtype)
    assert found.dtype == dtype
    assert found.tolist() == [0.75, -1.75, 3.25]


def test_terms_follow_one_another_as_configured_and_keep_what_has_no_parameters_as_it_is():
    terms = {
        "gear": {"kind": "one_hot", "categories": 4},
        "action": {"kind": "previous_action", "scale": [0.5]},
        "readings": {},
        "up": {"kind": "projected_gravity"},
    }
    odd = np.float32([0.1, 1e-30, -7e30])
    readings = {"gear": [2.0], "readings": odd.tolist(), "up": [0.0, 0.0, 0.0, 1.0]}
    found = compose(terms, 4 + 3 + 3 + 3, readings)
    assert found[:7].tolist() == [0, 0, 1, 0, 0.5, -1.0, 1.5]
    np.testing.assert_array_equal(found[7:10], odd)
    assert found[10:].tolist() == [0, 0, -1]


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """Return the matrix of a unit quaternion xyzw, from how it turns the axes: q v q*."""

    def product(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        vector = p[3] * q[:3] + q[3] * p[:3] + np.cross(p[:3], q[:3])
        return np.append(vector, p[3] * q[3] - p[:3] @ q[:3])

    inverse = quaternion * [-1, -1, -1, 1]
    return np.stack([product(product(quaternion, np.append(axis, 0)), inverse)[:3] for axis in np.eye(3)], axis=1)


def test_gravity_is_the_worlds_down_in_the_body_frame():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(50, 4))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    expected = np.stack([rotation(quaternion).T @ [0.0, 0.0, -1.0] for quaternion in drawn])
    np.testing.assert_allclose(projected_gravity(torch.from_numpy(drawn)).numpy(), expected, atol=1e-12)
    # Leaning forward by 30 degrees, about the y axis to the left, the nose points down and gravity pulls ahead.
    half = np.pi / 12
    lean = projected_gravity(torch.tensor([[0.0, np.sin(half), 0.0, np.cos(half)]], dtype=torch.float64))
    np.testing.assert_allclose(lean[0], [0.5, 0.0, -np.sqrt(0.75)], atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "numbers", "reason"),
    [
        ("projected_gravity", [0.0, 0.0, 0.0, 0.0], "has length 0, an orientation has length 1"),
        ("projected_gravity", [0.0, 0.0, 0.0, 1.02], "has length 1.02"),
        ("projected_gravity", [0.0, 0.0, 0.0, 1.005], None),
        ("one_hot", [3.0], "category 3 found, allowed are whole numbers from 0 to 2"),
        ("one_hot", [-1.0], "category -1 found"),
        ("one_hot", [0.5], "category 0.5 found"),
        ("one_hot", [2.0], None),
    ],
)
def test_readings_that_mean_nothing_for_the_kind_are_refused(kind, numbers, reason):
    (term,) = observation_of({"a": {"kind": kind, **({"categories": 3} if kind == "one_hot" else {})}}).terms
    decode = checked_decode(TermLayout(term, len(numbers), 3), lambda message, out: np.copyto(out, message))
    out = np.zeros(len(numbers), np.float32)
    if reason is None:
        decode(numbers, out)
    else:
        with pytest.raises(UnusableReading) as error:
            decode(numbers, out)
        assert reason in str(error.value)


@pytest.mark.parametrize(
    ("terms", "wanted", "sizes", "problem"),
    [
        ({"a": {"scale": [1.0, 2.0]}}, vector(3), {}, "the terms give 2 numbers: a 2"),
        ({"a": {}, "b": {}}, vector(3), {}, "say how many numbers observations.policy.a, observations.policy.b have"),
        ({"a": {}, "b": {}}, vector(3), {"policy.a": 3}, "say how many numbers observations.policy.b have"),
        ({"a": {}, "b": {}}, vector(3), {"policy.a": 2, "policy.b": 2}, "the terms give 4 numbers: a 2, b 2"),
        (
            {"a": {}, "b": {}},
            vector(12),
            {"policy.a": 2, "policy.b": 2},
            "; 12 = 3 × 4: trained with VecFrameStack(3)?",
        ),
        ({"a": {"scale": [1.0, 2.0]}}, vector(3), {"policy.a": 3}, "observations.policy.a.scale: found 2 numbers, but"),
        ({"a": {}, "b": {"kind": "previous_action"}}, vector(5), {}, None),
        ({"a": {}}, vector(2, 3), {}, "terms give one vector"),
        ({"a": {}}, ArraySpec("observation", (3,), np.uint8, 0, 255), {}, "terms are real numbers"),
    ],
)
def test_terms_that_do_not_fit_the_policy_are_named(terms, wanted, sizes, problem):
    observation = observation_of(terms)
    if problem is None:
        layout = observation_layout("policy", wanted, observation, TermInputs(sizes, 3))
        assert [term.size for term in layout.terms] == [2, 3]
        return
    with pytest.raises(ConfigurationError) as error:
        observation_layout("policy", wanted, observation, TermInputs(sizes, 3))
    assert problem in str(error.value)
    assert str(error.value).startswith("observations.policy")


@pytest.mark.parametrize(
    ("wanted", "stack", "sizes", "problem"),
    [
        (270, 5, [3, 42], "but the terms give 225 numbers: a 3 × 5, b 42 × 5; "),
        (270, 5, [3, 42], "; 270 = 6 × 45: set `stack: 6`; found 5"),
        (270, 7, [3, 42], "; 270 = 6 × 45: set `stack: 6`; found 7"),
        (90, 5, [3, 42], "; 90 = 2 × 45: set `stack: 2`; found 5"),
        (48, 4, [3, 45], "; 48 = 1 × 48: remove `stack`; found 4"),
        (48, 4, [3, 44], "but the terms give 188 numbers: a 3 × 4, b 44 × 4"),
        (48, 4, [50, None], "name their joints, or give their default or scale a number for each; or correct `stack`"),
        (50, 4, [3, None], "; or correct `stack`, found 4"),
    ],
)
def test_another_stack_is_proposed_where_it_gives_the_observation(
    wanted: int, stack: int, sizes: list[int | None], problem: str
) -> None:
    inputs = TermInputs({"policy.a": sizes[0], "policy.b": sizes[1]})
    with pytest.raises(ConfigurationError) as error:
        observation_layout("policy", vector(wanted), observation_of({"a": {}, "b": {}}, stack=stack), inputs)
    assert problem in str(error.value)


def test_a_previous_action_needs_a_vector_of_numbers():
    observation = observation_of({"a": {"kind": "previous_action"}})
    with pytest.raises(ConfigurationError, match=r"observations.policy.a.kind: found previous_action, but"):
        observation_layout("policy", vector(3), observation)


@pytest.mark.parametrize("own", [{"history": 4}, {"stack": 4}])
def test_histories_keep_their_axis_and_begin_with_zeros(own):
    """Three robots, one of which is reset on the way; oldest first, the newest last."""
    terms = {"a": {"scale": [2.0, 2.0]}, "action": {"kind": "previous_action"}}
    observation = observation_of(terms, **own)
    layout = observation_layout(
        "policy", vector(4, 5) if "history" in own else vector(20), observation, TermInputs({}, 3)
    )
    batch = ObservationBatch({"policy": layout}, 3, CPU)
    rng = np.random.default_rng(0)
    expected = np.zeros((3, 4, 5), np.float32)
    previous = np.zeros((3, 3), np.float32)
    for tick in range(9):
        reset = np.array([tick == 0, tick in (0, 5), tick == 0])
        readings, actions = rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
        for robot in range(3):
            batch.readings(robot)["policy.a"][...] = readings[robot]
        expected[reset], previous[reset] = 0, 0
        expected = np.concatenate([expected[:, 1:], np.hstack([2 * readings, previous])[:, None]], axis=1)
        found = batch.push(reset)["policy"].numpy()
        np.testing.assert_array_equal(found, expected if "history" in own else expected.reshape(3, -1))
        batch.remember(torch.from_numpy(actions), {})
        previous = actions


@pytest.mark.parametrize("terms", [{"a": {"scale": [1.0, 1.0]}, "action": {"kind": "previous_action"}}, {}])
def test_isaac_lab_stacks_term_after_term_and_fills_with_the_first_step(terms):
    """Against a buffer per term and robot; of an observation without terms, the only one."""
    stacked = {"stack": 4, "stack_as": "isaac_lab"}
    if terms:
        observation = observation_of(terms, **stacked)
    else:
        plain = {f"observations.policy.{name}": value for name, value in {"topic": "a", "type": "b/msg/C"}.items()}
        kept = {name: value for name, value in quadruped().items() if not name.startswith("observations.policy.")}
        plain |= {f"observations.policy.{name}": value for name, value in stacked.items()}
        (observation,) = parse_configuration({**kept, **plain}).observations
    layout = observation_layout("policy", vector(20 if terms else 8), observation, TermInputs({}, 3))
    batch = ObservationBatch({"policy": layout}, 2, CPU)
    rng = np.random.default_rng(0)
    buffers: list[list[list[np.ndarray]]] = [[], []]
    previous = np.zeros((2, 3), np.float32)
    for tick in range(10):
        reset = np.array([tick == 0, tick in (0, 2, 7)])
        previous[reset] = 0.0
        for robot in range(2):
            reading = rng.normal(size=2).astype(np.float32)
            (row,) = batch.readings(robot).values()
            row[...] = np.nan if robot == 1 and tick == 6 else reading
            step = [row.copy(), previous[robot].copy()] if terms else [row.copy()]
            if reset[robot]:
                buffers[robot] = [[part] * 4 for part in step]
            buffers[robot] = [[*buffer[1:], part] for buffer, part in zip(buffers[robot], step, strict=True)]
        found = batch.push(reset)["policy"].numpy()
        expected = [np.concatenate([part for buffer in buffers[robot] for part in buffer]) for robot in range(2)]
        np.testing.assert_array_equal(found, expected)
        previous = rng.normal(size=(2, 3)).astype(np.float32)
        batch.remember(torch.from_numpy(previous), {})


def test_isaac_lab_stacks_no_images():
    parameters = {"topic": "a", "type": "sensor_msgs/msg/Image", "stack": 2, "stack_as": "isaac_lab"}
    kept = {name: value for name, value in quadruped().items() if not name.startswith("observations.policy.")}
    image = {f"observations.policy.{name}": value for name, value in parameters.items()}
    (observation,) = parse_configuration({**kept, **image}).observations
    with pytest.raises(
        ConfigurationError, match=r"observations.policy.stack_as: found isaac_lab, which stacks vectors"
    ):
        observation_layout("policy", ArraySpec("image", (36, 36, 6), np.uint8, 0, 255), observation)


def test_a_history_that_is_not_the_policys_is_named():
    observation = observation_of({"a": {}}, history=4)
    with pytest.raises(ConfigurationError, match=r"observations.policy.history: found 4, but the policy wants"):
        observation_layout("policy", vector(5, 3), observation)


class Network:
    """A network of random weights, as ONNX and in NumPy."""

    def __init__(self, inputs: int = 45, outputs: int = 12, units: int = 32) -> None:
        rng = np.random.default_rng(1)
        # Actions that are large enough for the bounds of the commands to be met.
        self._layers = [
            (gain * rng.normal(size=(wide, narrow)).astype(np.float32) / np.sqrt(wide), rng.normal(size=narrow) / 4)
            for wide, narrow, gain in ((inputs, units, 1), (units, units, 1), (units, outputs, 3))
        ]

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Return the action for one observation."""
        for index, (weight, bias) in enumerate(self._layers):
            observation = observation @ weight + bias
            if index < 2:
                observation = np.where(observation > 0, observation, np.expm1(observation))
        return observation

    def save(self, file: Path) -> Path:
        """Write what PyTorch exports of the same network."""
        modules: list[torch.nn.Module] = []
        for weight, bias in self._layers:
            layer = torch.nn.Linear(*weight.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight.T.copy()))
                layer.bias.copy_(torch.from_numpy(bias))
            modules += [layer, torch.nn.ELU()]
        network = torch.nn.Sequential(*modules[:-1])
        example = torch.zeros(2, self._layers[0][0].shape[0])
        names = {"input_names": ["obs"], "output_names": ["actions"], "dynamic_axes": {"obs": {0: "robots"}}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own age
            torch.onnx.export(network, (example,), str(file), dynamo=False, **names)
        return file


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture(scope="module")
def file(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return network.save(tmp_path_factory.mktemp("quadruped") / "quadruped.onnx")


class Dog:
    """What one robot senses, and a plain account of what the policy should see and command."""

    def __init__(self, network: Network, seed: int) -> None:
        self._network = network
        self._rng = np.random.default_rng(seed)
        self.action = np.zeros(12)
        self.twist = np.zeros(3)

    def sense(self, stamp_ns: int) -> tuple[Imu, JointState]:
        """Draw new readings and return their messages."""
        stamp = Time(nanoseconds=stamp_ns).to_msg()
        self.turning, self.orientation = self._rng.normal(size=3), self._rng.normal(size=4)
        self.orientation /= np.linalg.norm(self.orientation)
        self.positions, self.velocities = POSE + self._rng.normal(size=12) / 4, self._rng.normal(size=12) * 5
        imu = Imu(
            angular_velocity=Vector3(**dict(zip("xyz", self.turning.tolist(), strict=True))),
            orientation=Quaternion(**dict(zip("xyzw", self.orientation.tolist(), strict=True))),
        )
        order = [JOINTS.index(name) if name in JOINTS else None for name in PUBLISHED]
        joints = JointState(
            name=PUBLISHED,
            position=[9.0 if index is None else self.positions[index] for index in order],
            velocity=[9.0 if index is None else self.velocities[index] for index in order],
        )
        imu.header.stamp = joints.header.stamp = stamp
        return imu, joints

    def operate(self) -> Twist:
        """Draw what the operator wants and return the message."""
        self.twist = self._rng.normal(size=3)
        forward, left, turn = self.twist.tolist()
        return Twist(linear=Vector3(x=forward, y=left, z=7.0), angular=Vector3(x=7.0, y=7.0, z=turn))

    def expected(self) -> np.ndarray:
        """Return the joint positions that should be commanded."""
        gravity = rotation(self.orientation).T @ [0, 0, -1]
        parts = [0.2 * self.turning, gravity, self.twist, self.positions - POSE, 0.05 * self.velocities, self.action]
        self.action = self._network(np.concatenate(parts))
        limits = yaml.safe_load(EXAMPLE.read_text())["/**"]["ros__parameters"]["action"]
        return np.clip(POSE + 0.25 * self.action, limits["low"], limits["high"])

    def reset(self) -> None:
        """Begin a new episode."""
        self.action = np.zeros(12)


def configured(file: Path, **changes: Any) -> Configuration:
    return parse_configuration(quadruped({"policy.path": str(file), "policy.device": "cpu", **changes}))


def add(pipeline: Pipeline, robot: int, topic: str, stamp_ns: int, message: Any) -> None:
    """Hand a message to the pipeline, as the node does."""
    sensor = [name for name in pipeline.keys if name.endswith(topic)]
    pipeline.add(robot, pipeline.keys.index(sensor[0]), stamp_ns, serialize_message(message))


def test_the_quadruped_is_driven_as_a_plain_account_says(network, file):
    """Gaps in one robot's data and a silent operator included; both start its previous action anew."""
    configuration = configured(file)
    deployment = deploy(configuration)
    pipeline, now_ns = deployment.pipeline, 10**18
    assert pipeline.keys == ("policy.angular_velocity", "policy.joint_position", "policy.velocity_command")
    dogs = [Dog(network, seed) for seed in range(2)]
    bound = 0
    for tick in range(60):
        now_ns += PERIOD_NS
        for robot, dog in enumerate(dogs):
            imu, joints = dog.sense(now_ns - 5_000_000)
            if robot == 0 and tick in range(20, 26):
                continue  # silent: STALE once its last reading is older than 0.06 s
            add(pipeline, robot, "angular_velocity", now_ns - 5_000_000, imu)
            add(pipeline, robot, "joint_position", now_ns - 4_000_000, joints)
            # The operator's stamps fit nothing; from tick 30 on that of robot 1 says nothing any more.
            if tick % 10 == 0 and not (robot == 1 and tick >= 30):
                add(pipeline, robot, "velocity_command", now_ns - 9_000_000, dog.operate())
        result = pipeline.step(now_ns)
        for robot, dog in enumerate(dogs):
            if robot == 0 and tick in range(20, 26):
                # The readings of the last good tick go on for two ticks; what they give is not of interest here.
                assert result.states[0] is (READY if tick < 22 else STALE)
                dog.reset()
                continue
            # The newest command is of tick 20: 0.5 s later it is too old.
            if robot == 1 and tick >= 45:
                assert result.states[1] is STALE
                expected = r"policy.velocity_command: is 0.\d+ s old, its max_age_s allows 0.500 s"
                assert re.match(expected, result.reasons[1])
                np.testing.assert_array_equal(result.commands[1], POSE)
                continue
            assert result.states[robot] is READY, result.reasons
            expected = dog.expected()
            np.testing.assert_allclose(result.commands[robot], expected, atol=1e-5)
            limits = configuration.action
            assert (result.commands[robot] >= limits.low).all() and (result.commands[robot] <= limits.high).all()
            bound += int(np.isin(expected, [*limits.low, *limits.high]).sum())
            assert result.ages_s[robot] == pytest.approx(0.005)
    assert bound


def test_a_robot_waits_for_its_first_command_and_refuses_what_is_no_orientation(network, file):
    pipeline = deploy(configured(file, robots=["quadruped"])).pipeline
    dog, now_ns = Dog(network, 0), 10**18
    imu, joints = dog.sense(now_ns)
    for topic, message in (("angular_velocity", imu), ("joint_position", joints)):
        add(pipeline, 0, topic, now_ns, message)
    result = pipeline.step(now_ns)
    assert (result.states, result.reasons) == ((WAITING,), ("no message on policy.velocity_command",))
    assert result.unheard == {"quadruped": ["policy.velocity_command"]}
    add(pipeline, 0, "velocity_command", now_ns, dog.operate())
    imu.orientation = Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)
    add(pipeline, 0, "angular_velocity", now_ns, imu)
    result = pipeline.step(now_ns)
    assert result.states == (REJECTED,)
    assert result.reasons[0].startswith("policy.gravity: the quaternion [0.0, 0.0, 0.0, 0.0] has length 0")
    assert result.rejected.tolist() == [1]
    add(pipeline, 0, "velocity_command", now_ns + 10**9, dog.operate())
    assert pipeline.step(now_ns).states == (REJECTED,)


def test_terms_that_read_the_same_numbers_share_a_decoder(file):
    """Staging then decodes a message of theirs once."""
    decoders = deploy(configured(file, **{"observations.policy.joint_velocity.field": "position"})).decoders
    assert decoders["policy.joint_velocity"] is decoders["policy.joint_position"]
    decoders = deploy(configured(file)).decoders
    assert decoders["policy.joint_velocity"] is not decoders["policy.joint_position"]


def test_what_does_not_fit_is_shown_side_by_side(file):
    changes = {"observations.policy.terms": ["angular_velocity", "gravity", "velocity_command", "joint_position"]}
    rest = {name: None for name in quadruped() if ".joint_velocity." in name or ".previous_action." in name}
    with pytest.raises(ConfigurationError) as error:
        deploy(configured(file, **changes, **rest))
    assert "the terms give 21 numbers: angular_velocity 3, gravity 3, velocity_command 3, joint_position 12" in str(
        error.value
    )
    assert "terms angular_velocity, gravity, velocity_command, joint_position" in str(error.value)
    terms = [*quadruped()["observations.policy.terms"], "walk"]
    walk = {"observations.policy.walk.kind": "motion", "observations.policy.walk.path": "/no/walk.npz"}
    with pytest.raises(ConfigurationError) as error:
        deploy(configured(file, **{"observations.policy.terms": terms, **walk}))
    # The table of the policy and its sensors says nothing about a file.
    assert error.value.problems == (
        "observations.policy.walk.path: '/no/walk.npz' cannot be read: No such file or directory; give the "
        "path of a CSV or NPZ file",
    )
    with pytest.raises(ConfigurationError, match=r"observations.policy.gravity: .*has no field 'attitude'"):
        deploy(configured(file, **{"observations.policy.gravity.field": "attitude"}))
    with pytest.raises(ConfigurationError, match=r"observations.policy.gravity: .*the message gives 3 numbers"):
        deploy(configured(file, **{"observations.policy.gravity.field": "linear_acceleration"}))


class LooksBack(torch.nn.Module):
    """Gives the means of the steps in its history and of all that its memory was given."""

    def forward(
        self, history: torch.Tensor, memory: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the action `[robots, 4]` and the memory `[1, robots, 3]`, whose last number counts the steps."""
        newest = history[torch.arange(history.shape[0]), lengths - 1]
        after = memory + torch.cat([newest, torch.ones_like(newest[:, :1])], dim=1)[None]
        steps = torch.arange(history.shape[1])[None, :, None] < lengths[:, None, None]
        recent = (history * steps).sum(1) / lengths[:, None]
        return torch.cat([recent, after[0, :, :2] / after[0, :, 2:]], dim=1), after


def test_a_policy_that_looks_back_is_told_how_far(tmp_path: Path) -> None:
    """History, lengths, memory, order of the inputs and bounds, all as configured for TorchScript."""
    file = tmp_path / "looks_back.pt"
    torch.jit.script(LooksBack()).save(str(file))
    sensor = {"topic": "numbers", "type": "std_msgs/msg/Float64MultiArray"}
    pipeline = deploy(
        parse_configuration(
            {
                "control_rate_hz": 50.0,
                "robots": ["a", "b"],
                "policy": {
                    "path": str(file),
                    "trusted": True,
                    "device": "cpu",
                    "memory": ["memory=after:1,-1,3"],
                    "lengths": "lengths",
                    "padding": "end",
                    "low": [-0.75],
                    "high": [0.75],
                },
                "observations": {"keys": ["numbers"], "numbers": {**sensor, "history": 4, "shape": [4, 2]}},
                "synchronisation": {"max_age_s": 0.01},
                "action": {**sensor, "topic": "commands", "safe_command": [9.0] * 4},
            }
        )
    ).pipeline
    rng, now_ns = np.random.default_rng(0), 10**18
    seen: list[list[np.ndarray]] = [[], []]
    for tick in range(12):
        now_ns += PERIOD_NS
        for robot in range(2):
            if robot == 1 and tick == 5:
                seen[1].clear()
                continue
            seen[robot].append(rng.uniform(-1, 1, 2))
            add(pipeline, robot, "numbers", now_ns, Float64MultiArray(data=seen[robot][-1].tolist()))
        result = pipeline.step(now_ns)
        for robot, readings in enumerate(seen):
            expected = [np.mean(readings[-4:], axis=0), np.mean(readings, axis=0)] if readings else [[9.0] * 4]
            bounded = np.concatenate(expected) if not readings else np.clip(np.concatenate(expected), -0.75, 0.75)
            np.testing.assert_allclose(result.commands[robot], bounded, atol=1e-6)


class SpacesOnly(gymnasium.Env):
    """An environment that is never stepped: a model takes its spaces from it."""

    def __init__(self, observation_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize(
    ("space", "numbers", "no_choice"),
    [
        (spaces.Discrete(4), [3], [4]),
        (spaces.MultiDiscrete([3, 4]), [1, 3], [3, 0]),
        (spaces.MultiBinary(2), [1, 0], None),
    ],
    ids=str,
)
def test_categories_are_fed_from_whole_numbers(space, numbers, no_choice, tmp_path):
    file = tmp_path / "policy.zip"
    model = PPO("MlpPolicy", SpacesOnly(space), n_steps=2, batch_size=2, device="cpu", seed=0)
    model.save(file)
    sensor = {"topic": "gear", "type": "std_msgs/msg/Int32MultiArray", "field": "data"}
    parameters = {
        "control_rate_hz": 50.0,
        "robots": ["robot"],
        "policy": {"path": str(file), "trusted": True, "device": "cpu"},
        "observations": {"keys": ["gear"], "gear": sensor},
        "action": {"topic": "command", "type": "std_msgs/msg/Float64MultiArray", "safe_command": [9.0, 9.0]},
    }
    pipeline = deploy(parse_configuration(parameters)).pipeline
    add(pipeline, 0, "gear", 10**18, Int32MultiArray(data=numbers))
    expected, _ = model.predict(np.array(numbers).reshape(space.shape), deterministic=True)
    np.testing.assert_allclose(pipeline.step(10**18).commands[0], expected, atol=1e-6)
    if no_choice:
        add(pipeline, 0, "gear", 10**18 + 1, Int32MultiArray(data=no_choice))
        result = pipeline.step(10**18 + 1)
        assert (result.states, result.commands.tolist()) == ((FAULT,), [[9.0, 9.0]])


def test_the_node_drives_quadrupeds(network: Network, file: Path, peer: Peer, start_node: Callable[..., Any]) -> None:
    """The whole example over DDS, in simulated time; a Twist has no stamp and counts from its tick."""
    robots = ["quadruped_0", "quadruped_1"]
    terms = quadruped()["observations.policy.terms"][:-1]
    process = start_node(
        quadruped(
            {
                "use_sim_time": True,
                "policy.path": str(file),
                "action.type": "std_msgs/msg/Float64MultiArray",
                "action.joints": None,
                **{f"observations.policy.{term}.reliability": "reliable" for term in terms},
            }
        )
    )
    dogs = Herd(peer, robots, ["imu", "joint_states", "cmd_vel"])
    dogs.wait_until_heard()
    process.wait_for(r"\bactive: ")
    lockstep = Lockstep(peer, dogs, PERIOD_NS)  # type: ignore[arg-type]
    lockstep.start(1_000_000_000)
    accounts = {robot: Dog(network, seed) for seed, robot in enumerate(robots)}
    for tick in range(8):
        expected = {}
        for robot, dog in accounts.items():
            imu, joints = dog.sense(lockstep.next_ns)
            dogs.publish(robot, imu=imu, joint_states=joints, **({"cmd_vel": dog.operate()} if tick == 0 else {}))
            expected[robot] = dog.expected()
        for robot, command in lockstep.tick().items():
            np.testing.assert_allclose(command.data, expected[robot], atol=1e-5)


def test_parameters_of_terms_come_and_go_with_their_names(ros: None) -> None:
    """Also of an observation whose terms are named while the node runs; what an operator has set stays."""
    given = {"observations.keys": ["a"], "observations.a.terms": ["t", "u"], "observations.a.t.scale": [2.0]}
    node = Node(
        "terms",
        allow_undeclared_parameters=True,
        automatically_declare_parameters_from_overrides=True,
        parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
    )
    try:
        seen = []
        for terms in (["t", "u"], ["u"], None):
            kind = Parameter.Type.NOT_SET if terms is None else None
            node.set_parameters([Parameter("observations.a.terms", kind, terms)])
            declare_parameters(node)
            parts = [name.split(".") for name in read_parameters(node)[0] if name.startswith("observations.a.")]
            seen.append({part[2] for part in parts if len(part) == 4 or part[2] == "encoding"})
            seen[-1] |= {".".join(part[2:]) for part in parts if part[2:] == ["t", "scale"]}
        assert seen == [{"t", "u", "t.scale"}, {"t", "u", "t.scale"}, {"t", "encoding", "t.scale"}]
        assert not node.has_parameter("observations.a.t.kind")
    finally:
        node.destroy_node()
