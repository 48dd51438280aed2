# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Terms that follow from the robot's episode: its steps, the gait clock, rows of a motion, outputs of the policy."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray

from policy_node.config.schema import ConfigurationError, ObservationConfiguration, parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.ros.deployment import deploy
from policy_node.ros.parameters import with_resolved_paths
from policy_node.sensing.batch import ObservationBatch, ObservationLayout, observation_layout
from policy_node.sensing.motion import read_motion
from policy_node.sensing.terms import TermInputs

RATE_HZ = 50.0
TOPIC = {"topic": "joints", "type": "std_msgs/msg/Float64MultiArray"}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def parameters_of(terms: dict[str, dict[str, Any]], **own: Any) -> dict[str, Any]:
    """Return parameters with one observation that is made of terms, beside one whose topic is synchronised."""
    return {
        "control_rate_hz": RATE_HZ,
        "robots": ["robot"],
        "policy": {"path": "unused"},
        "observations": {"keys": ["clock", "other"], "clock": {**own, "terms": list(terms), **terms}, "other": TOPIC},
        "action": {**TOPIC, "topic": "command", "safe_command": [0.0]},
    }


def observation_of(terms: dict[str, dict[str, Any]], **own: Any) -> ObservationConfiguration:
    return parse_configuration(parameters_of(terms, **own)).observations[0]


def layout_of(size: int | None, dtype: type, terms: dict[str, dict[str, Any]], **inputs: Any) -> ObservationLayout:
    low, high = (-np.inf, np.inf) if np.dtype(dtype).kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    observation = observation_of(terms)
    wanted = ArraySpec("clock", () if size is None else (size,), dtype, low, high)
    return observation_layout("clock", wanted, observation, TermInputs(rate_hz=RATE_HZ, **inputs))


def batch_of(layout: ObservationLayout, robots: int, device: str = "cpu") -> ObservationBatch:
    return ObservationBatch({"clock": layout}, robots, torch.device(device))


def refusal_of(size: int | None, terms: dict[str, dict[str, Any]], dtype: type = np.float32, **inputs: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        layout_of(size, dtype, terms, **inputs)
    return str(error.value)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32])
def test_a_step_counts_the_ticks_of_each_robots_episode(device: str, dtype: type) -> None:
    """As the whole observation it gives an integer input such as `time_step`."""
    layout = layout_of(1, dtype, {"step": {"kind": "step", "offset": [1.0], "clip": [-1.0, 3.0]}})
    batch = batch_of(layout, 2, device)
    expected = [-1, -1]
    for tick in range(7):
        restart = np.array([tick == 0, tick in (0, 4)])
        expected = [0 if begins else count + 1 for begins, count in zip(restart, expected, strict=True)]
        found = batch.push(restart)["clock"].cpu().numpy()
        assert found.dtype == dtype
        assert found.tolist() == [[min(count, 3) + 1] for count in expected]


def test_a_step_feeds_an_input_without_an_axis() -> None:
    batch = batch_of(layout_of(None, np.int64, {"step": {"kind": "step"}}), 2)
    for tick in range(3):
        assert batch.push(np.array([tick == 0] * 2))["clock"].tolist() == [tick, tick]
    assert batch.begin_again(np.array([True, False]))["clock"].tolist() == [0, 2]
    assert "the policy wants clock: float32 [1]" in refusal_of(None, {"a": {**TOPIC, "scale": [1.0, 1.0]}})


def test_whole_numbers_are_steps_with_whole_parameters() -> None:
    assert "clock.step.scale: found [0.5], but the policy takes whole numbers" in refusal_of(
        1, {"step": {"kind": "step", "scale": [0.5]}}, np.int64
    )
    assert "observations.clock.terms: terms are real numbers" in refusal_of(1, {"a": {**TOPIC}}, np.int64)


@pytest.mark.parametrize("device", DEVICES)
@given(
    period_s=st.floats(0.05, 5.0),
    offsets=st.lists(st.floats(-2.0, 2.0), max_size=4),
    gives=st.sampled_from(["sin_cos", "sin", "cos", "number"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=30)
def test_a_phase_follows_the_clock_of_each_robot(
    device: str, period_s: float, offsets: list[float], gives: str, seed: int
) -> None:
    """As gait clocks of trainers: time since the episode began % period / period, sines first."""
    term = {"kind": "phase", "period_s": period_s, "offset": offsets, "phase_as": gives}
    shares = offsets or [0.0]
    count = len(shares) * (2 if gives == "sin_cos" else 1)
    batch = batch_of(layout_of(count, np.float64, {"gait": term}), 2, device)
    rng = np.random.default_rng(seed)
    steps = [0, 0]
    for tick in range(12):
        restart = rng.random(2) < (1.0 if tick == 0 else 0.2)
        found = batch.push(restart)["clock"].cpu().numpy()
        for robot in range(2):
            steps[robot] = 0 if restart[robot] else steps[robot] + 1
            phases = [steps[robot] / RATE_HZ / period_s + share for share in shares]
            waves = {"sin": [math.sin(math.tau * phase) for phase in phases]}
            waves["cos"] = [math.cos(math.tau * phase) for phase in phases]
            if gives == "number":
                assert ((found[robot] >= 0.0) & (found[robot] <= 1.0)).all()
                distance = (found[robot] - np.array(phases) + 0.5) % 1.0 - 0.5
                np.testing.assert_allclose(distance, 0.0, atol=1e-9)
            else:
                expected = [number for name in gives.split("_") for number in waves[name]]
                np.testing.assert_allclose(found[robot], expected, atol=1e-9)


def test_a_phase_is_zeros_while_a_low_speed_is_commanded() -> None:
    """The clock goes on meanwhile."""
    twist = {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x", "linear.y", "angular.z"]}
    term = {"kind": "phase", "period_s": 0.8, "stop_below": 0.1, **twist}
    batch = batch_of(layout_of(2, np.float32, {"gait": term}, sizes={"clock.gait": 3}), 2)
    for tick in range(6):
        velocities = [[0.0, -0.3, 0.0], [0.0, 0.06, 0.06] if tick in (2, 3) else [0.0, 0.08, 0.08]]
        for robot, velocity in enumerate(velocities):
            batch.readings(robot)["clock.gait"][...] = velocity
        found = batch.push(np.array([tick == 0] * 2))["clock"].numpy()
        angle = math.tau * tick / 40.0
        moving = [math.sin(angle), math.cos(angle)]
        np.testing.assert_allclose(found, [moving, [0.0, 0.0] if tick in (2, 3) else moving], atol=1e-6)
    changing = {**term, "fields": [], "type": "std_msgs/msg/Float64MultiArray"}
    assert "clock.gait.stop_below: each std_msgs/msg/Float64MultiArray chooses how many numbers" in refusal_of(
        2, {"gait": changing}
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("restarts", [False, True])
def test_a_phase_stands_at_a_share_and_may_begin_again(device: str, restarts: bool) -> None:
    """As the clocks of MuJoCo Playground, which go on, and of holosoma, which begin again."""
    speed = {"topic": "speed", "type": "std_msgs/msg/Int32"}
    term = {"kind": "phase", "period_s": 0.2, "offset": [0.0, 0.5], "phase_as": "number", **speed}
    stop = {"stop_below": 0.5, "stop_at": [0.25], "stop_restarts": restarts}
    layout = layout_of(2, np.float64, {"gait": {**term, **stop}}, sizes={"clock.gait": 1})
    batch, robots = batch_of(layout, 2, device), range(2)
    rng = np.random.default_rng(0)
    clocks, steps = [0, 0], [0, 0]
    for tick in range(30):
        restart, stands = rng.random(2) < (1.0 if tick == 0 else 0.1), rng.random(2) < 0.3
        for robot in robots:
            batch.readings(robot)["clock.gait"][...] = 0.0 if stands[robot] else 1.0
            steps[robot] = 0 if restart[robot] else steps[robot] + 1
            clocks[robot] = 0 if restart[robot] or (restarts and stands[robot]) else clocks[robot] + 1
            # The tick after a stop is the first of the new clock.
            clocks[robot] = -1 if restarts and stands[robot] else clocks[robot]
        shares = [(clocks if restarts else steps)[robot] / 10 for robot in robots]
        expected = [
            [0.25, 0.25] if stands[robot] else [shares[robot] % 1, (shares[robot] + 0.5) % 1] for robot in robots
        ]
        found = batch.push(restart)["clock"].cpu().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-12)
        batch.begin_again(np.array([False, False]))


def test_a_clock_that_began_again_goes_on_with_another_policy() -> None:
    speed = {"topic": "speed", "type": "std_msgs/msg/Int32"}
    term = {"kind": "phase", "period_s": 0.2, "phase_as": "number", "stop_below": 0.5, "stop_restarts": True, **speed}
    layout = layout_of(1, np.float64, {"gait": term}, sizes={"clock.gait": 1})
    old, new = batch_of(layout, 2), batch_of(layout, 2)

    def push(batch: ObservationBatch, begins: bool, *speeds: float) -> list[list[float]]:
        for robot, value in enumerate(speeds):
            batch.readings(robot)["clock.gait"][...] = value
        return batch.push(np.array([begins] * 2))["clock"].tolist()

    # Only the first robot stands, for three ticks.
    for begins in (True, False, False):
        push(old, begins, 0.0, 1.0)
    assert push(old, False, 1.0, 1.0) == [[0.0], [pytest.approx(0.3)]]
    push(new, True, 1.0, 1.0)
    new.take_over(old)
    assert push(new, False, 1.0, 1.0) == [[pytest.approx(0.1)], [pytest.approx(0.4)]]


@pytest.fixture
def motion(tmp_path: Path) -> dict[str, Any]:
    """Return the arrays of a motion, and the files that hold them."""
    rng = np.random.default_rng(0)
    position, body = rng.normal(size=(5, 3)), rng.normal(size=(5, 2, 2))
    np.savez(
        tmp_path / "motion.npz", fps=np.array([RATE_HZ]), joint_pos=position, body_pos_w=body, name=np.array("walk")
    )
    np.savetxt(tmp_path / "plain.csv", position, "%.17g", ",")
    np.savetxt(tmp_path / "named.csv", position, "%.17g", ",", header="hip, knee,ankle", comments="")
    return {"folder": tmp_path, "position": position, "body": body.reshape(5, 4)}


@pytest.mark.parametrize("device", DEVICES)
def test_a_motion_gives_the_row_of_each_robots_step_and_stays_at_its_last(device: str, motion: dict[str, Any]) -> None:
    term = {"kind": "motion", "path": str(motion["folder"] / "motion.npz"), "arrays": ["body_pos_w", "joint_pos"]}
    default = [0.5, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    batch = batch_of(layout_of(7, np.float64, {"reference": {**term, "default": default}}), 2, device)
    rows, steps = np.hstack([motion["body"], motion["position"]]) - default, [-1, -1]
    for tick in range(8):
        restart = [tick == 0, tick in (0, 3)]
        steps = [0 if begins else step + 1 for begins, step in zip(restart, steps, strict=True)]
        found = batch.push(np.array(restart))["clock"].cpu().numpy()
        np.testing.assert_array_equal(found, rows[np.minimum(steps, 4)])


def test_a_motion_is_read_from_columns_or_arrays(motion: dict[str, Any]) -> None:
    folder, position = motion["folder"], motion["position"]
    for name, arrays, columns in (
        ("plain.csv", [], [0, 1, 2]),
        ("plain.csv", ["2", "0:2"], [2, 0, 1]),
        ("named.csv", ["ankle", "hip"], [2, 0]),
        ("named.csv", ["knee", "0"], [1, 0]),
        ("motion.npz", ["joint_pos"], [0, 1, 2]),
    ):
        np.testing.assert_array_equal(read_motion(str(folder / name), arrays, RATE_HZ), position[:, columns])


def test_a_motion_that_cannot_be_used_is_named(motion: dict[str, Any]) -> None:
    folder = motion["folder"]
    (folder / "text.csv").write_text("a,b\n1,2\n3,x\n")
    (folder / "semicolons.csv").write_text("0.1;0.2;0.3\n0.4;0.5;0.6\n")
    (folder / "named_semicolons.csv").write_text("a;b\n1;2\n")
    (folder / "spaces.csv").write_text("1 2\n3 4\n")
    (folder / "short.csv").write_text("a,b\n\n1,2\n# half\n3\n")
    (folder / "empty.csv").write_text("")
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04")
    (folder / "hole.csv").write_text("1,2\n3,nan\n")
    np.savez(folder / "objects.npz", rows=np.array([{}, {}], dtype=object))
    np.savez(folder / "uneven.npz", a=np.zeros(3), b=np.zeros(4))
    for name, arrays, rate_hz, problem in (
        ("missing.csv", [], RATE_HZ, "missing.csv' cannot be read: No such file"),
        ("text.csv", [], RATE_HZ, "text.csv' is no table of numbers: line 3 has 'x' instead of a number; correct it"),
        ("semicolons.csv", [], RATE_HZ, ": line 2 has '0.4;0.5;0.6' instead of a number; separate numbers with commas"),
        ("named_semicolons.csv", [], RATE_HZ, ": line 2 has '1;2' instead of a number; separate numbers with commas"),
        ("spaces.csv", [], RATE_HZ, ": line 2 has '3 4' instead of a number; separate numbers with commas"),
        ("short.csv", [], RATE_HZ, ": line 5 has 1 numbers, but the lines before it have 2; correct it"),
        ("empty.csv", [], RATE_HZ, "empty.csv' is empty"),
        ("hole.csv", [], RATE_HZ, "hole.csv' has nan as number 1 of row 1; correct the file"),
        ("named.csv", ["toe"], RATE_HZ, "named.csv' has no column 'toe', but ['hip', 'knee', 'ankle']"),
        ("plain.csv", ["hip"], RATE_HZ, "plain.csv' has no column 'hip', but 3 columns without names"),
        ("plain.csv", ["1:5"], RATE_HZ, "plain.csv' has no column 4, but 3 columns, counted from 0"),
        ("motion.npz", [], RATE_HZ, "motion.npz' has the arrays body_pos_w, fps, joint_pos, name; name those to take"),
        ("motion.npz", ["joint_vel"], RATE_HZ, "motion.npz' has no array 'joint_vel', but body_pos_w, fps"),
        ("motion.npz", ["joint_pos"], 60.0, "has 50 rows per second, but control_rate_hz is 60; resample it"),
        ("motion.npz", ["name"], RATE_HZ, "motion.npz' has arrays with different rows"),
        ("damaged.npz", ["a"], RATE_HZ, "damaged.npz' is no NPZ file of numbers: "),
        ("objects.npz", ["rows"], RATE_HZ, "objects.npz' is no NPZ file of numbers: "),
        ("uneven.npz", ["a", "b"], RATE_HZ, "uneven.npz' has arrays with different rows: {'a': (3,), 'b': (4,)}"),
    ):
        with pytest.raises(ValueError) as error:
            read_motion(str(folder / name), arrays, rate_hz)
        assert problem in str(error.value)
    term = {"kind": "motion", "path": str(folder / "missing.csv")}
    assert "observations.clock.reference.path: '/" in refusal_of(3, {"reference": term})
    with pytest.raises(ConfigurationError, match=r"observations.clock.reference.path: found 'package://no_such/m.csv'"):
        with_resolved_paths({"observations.clock.reference.path": "package://no_such/m.csv"})


@pytest.mark.parametrize("device", DEVICES)
def test_outputs_of_the_policy_are_those_of_the_last_step(device: str) -> None:
    terms = {"reference": {"kind": "policy_output", "output": "joint_pos", "scale": [2.0]}, "step": {"kind": "step"}}
    batch = batch_of(layout_of(3, np.float32, terms, outputs={"joint_pos": 2}), 2, device)
    first = torch.tensor([[0.5, 1.0]] * 2, device=device)
    batch.set_first_outputs({"output.joint_pos": first})
    rng = np.random.default_rng(0)
    outputs, steps = first.cpu().numpy(), np.array([-1, -1])
    for tick in range(6):
        restart = np.array([tick == 0, tick in (0, 3)])
        outputs, steps = np.where(restart[:, None], [0.5, 1.0], outputs), np.where(restart, 0, steps + 1)
        found = batch.push(restart)["clock"].cpu().numpy()
        np.testing.assert_array_equal(found, np.column_stack([2.0 * outputs, steps]))
        outputs = rng.normal(size=(2, 2)).astype(np.float32)
        batch.remember(torch.zeros(2, 1), {"output.joint_pos": torch.from_numpy(outputs).to(device)})
    other = batch_of(layout_of(3, np.float32, terms, outputs={"joint_pos": 2}), 2, device)
    other.set_first_outputs({"output.joint_pos": 3.0 * first})
    other.take_over(batch)
    found = other.push(np.array([False, False]))["clock"].cpu().numpy()
    np.testing.assert_array_equal(found, np.column_stack([[[3.0, 6.0]] * 2, steps + 1]))
    assert "clock.reference.output: found 'joint_pos', but the policy has ['joint_vel']" in refusal_of(
        3, terms, outputs={"joint_vel": 2}
    )
    assert "clock.reference.output: found 'joint_pos', but the policy gives its action only" in refusal_of(3, terms)


@pytest.mark.parametrize(
    ("term", "problem"),
    [
        ({"kind": "step", "topic": "a"}, "topic: given for a step, which comes from no topic; remove it"),
        ({"kind": "phase"}, "period_s: missing or 0; a phase has a period in seconds, more than 0.0"),
        ({"kind": "phase", "period_s": 0.0}, "period_s: missing or 0; a phase has a period in seconds, more than 0.0"),
        ({"kind": "step", "period_s": 1.0}, "period_s: given for a step; a phase has a period in seconds, more than"),
        ({"kind": "phase", "period_s": 1.0, "topic": "a"}, "topic: given for a phase, which is read from a topic only"),
        ({"kind": "phase", "period_s": 1.0, "stop_below": 0.1}, "topic: missing; a term that is a phase needs"),
        ({"kind": "step", "stop_below": 0.1}, "stop_below: given for a step; only a phase has it; remove it"),
        ({"kind": "phase", "period_s": 1.0, "stop_at": [0.5]}, "stop_at: given without stop_below; give the norm"),
        ({"kind": "phase", "period_s": 1.0, "stop_restarts": True}, "stop_restarts: given without stop_below"),
        ({"kind": "step", "stop_at": [0.5]}, "stop_at: given for a step; only a phase has it; remove it"),
        (
            {"kind": "phase", "period_s": 1.0, "stop_below": 0.1, "offset": [0.0] * 3, "stop_at": [0.5] * 2, **TOPIC},
            "stop_at: found 2 numbers, but there are 3 phases in offset; give 1 or 3",
        ),
        ({"kind": "step", "phase_as": "sin"}, "phase_as: given for a step; only a phase has it; remove it"),
        ({"kind": "phase", "phase_as": "tan", "period_s": 1.0}, "phase_as: found 'tan', but it must be one of"),
        ({"kind": "motion"}, "path: missing; a motion has a file"),
        ({"kind": "step", "path": "a.csv"}, "path: given for a step; a motion has a file, any other kind has none"),
        ({"kind": "step", "arrays": ["a"]}, "arrays: given for a step; only a motion has them; remove it"),
        ({"kind": "policy_output"}, "output: missing; a policy_output names an output of the network"),
        ({"kind": "step", "output": "a"}, "output: given for a step; a policy_output names an output"),
        ({"kind": "step", "default": [1.0]}, "default: given for a step; only numbers of a sensor or a motion"),
        ({"kind": "step", "stack": 1001}, "stack: found 1001, but it must be finite, 0 to 1000"),
    ],
)
def test_parameters_of_other_kinds_are_refused(term: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        observation_of({"t": term})
    assert any(found.startswith(f"observations.clock.t.{problem}") for found in error.value.problems)


@pytest.mark.parametrize(
    ("term", "kind"),
    [
        ({"period_s": 0.8}, "phase"),
        ({"phase_as": "sin"}, "phase"),
        ({"path": "walk.csv", "arrays": ["0"]}, "motion"),
        ({"output": "joint_pos"}, "policy_output"),
    ],
)
def test_a_forgotten_kind_is_one_problem(term: dict[str, Any], kind: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        observation_of({"t": term})
    (problem,) = error.value.problems
    assert problem.startswith(f"observations.clock.t.{next(iter(term))}: given for a sensor; ")
    assert problem.endswith(f"; did you mean `kind: {kind}`? Else remove it")


@pytest.mark.parametrize(
    ("own", "term", "problem"),
    [
        ({"history": 3, "stack_order": "newest_first"}, {}, "stack_order: found newest_first, but a history has its"),
        ({"history": 3}, {"stack": 2}, "t.stack: given beside observations.clock.history; remove one of the two"),
        ({"history_start": "first"}, {}, "history_start: given without observations.clock.history; give the number"),
        ({"stack_grouping": "by_age"}, {}, "stack_grouping: found 'by_age', but it must be one of"),
    ],
)
def test_stacks_that_contradict_the_history_are_refused(
    own: dict[str, Any], term: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        observation_of({"t": {"kind": "step", **term}}, **own)
    assert any(found.startswith(f"observations.clock.{problem}") for found in error.value.problems)


class Echo(torch.nn.Module):
    """Acts as it observes."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the observation as the action."""
        return observation * 1.0


def test_the_clock_begins_with_the_robots_episode(tmp_path: Path) -> None:
    """At the first tick, after stale data, `stop` and `resume`, `reset`, a safe command in between, and a pause."""
    torch.jit.script(Echo()).save(str(tmp_path / "echo.pt"))
    terms: dict[str, dict[str, Any]] = {"reading": {**TOPIC, "stack": 1}, "step": {"kind": "step"}}
    parameters = parameters_of(terms, stack=2, stack_order="newest_first", shape=[3])
    parameters["robots"] = ["a", "b"]
    parameters["policy"] = {"path": str(tmp_path / "echo.pt"), "trusted": True, "device": "cpu"}
    parameters["observations"]["keys"] = ["clock"]
    del parameters["observations"]["other"]
    parameters["action"]["safe_command"] = [9.0] * 3
    parameters["synchronisation"] = {"max_age_s": 0.015}
    pipeline = deploy(parse_configuration(parameters)).pipeline
    now_ns, period_ns = 10**18, 20_000_000

    def tick(silent: bool = False) -> list[list[float]]:
        """Run a tick, in which robot b may be silent, and return the commands."""
        nonlocal now_ns
        now_ns += period_ns
        for robot in range(1 if silent else 2):
            pipeline.add(robot, 0, now_ns, serialize_message(Float64MultiArray(data=[0.5])))
        return pipeline.step(now_ns).commands.tolist()

    safe = [9.0, 9.0, 9.0]
    assert tick() == [[0.5, 0, 0], [0.5, 0, 0]]
    assert tick() == [[0.5, 1, 0], [0.5, 1, 0]]
    assert tick(silent=True) == [[0.5, 2, 1], safe]
    assert tick() == [[0.5, 3, 2], [0.5, 0, 0]]
    pipeline.reset([1])
    assert tick() == [[0.5, 4, 3], [0.5, 0, 0]]
    assert tick() == [[0.5, 5, 4], [0.5, 1, 0]]
    pipeline.stop()
    assert tick() == [safe, safe]
    pipeline.stop(())
    assert tick() == [[0.5, 0, 0], [0.5, 0, 0]]
    pipeline.note_overruled([0])
    assert tick() == [[0.5, 0, 0], [0.5, 1, 0]]
    pipeline.adopt(deploy(parse_configuration(parameters)).pipeline)
    assert tick() == [[0.5, 1, 0], [0.5, 2, 1]]
    now_ns += 10 * period_ns
    assert tick() == [[0.5, 0, 0], [0.5, 0, 0]]
