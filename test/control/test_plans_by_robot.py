# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Plans robot by robot, as parts of the fleet are planned at a time: memory, faults, choices, parameters, replay."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_planned_pipeline import FAULT, HORIZON, READY, SAFE, STALE, TRAJECTORY, WAITING, Echo, Plans, Rig, Told, save

from policy_node.config.schema import ConfigurationError, parse_configuration
from policy_node.config.specs import ArraySpec, DiscreteSpec, PolicySpec
from policy_node.control.planned_inference import RecordedPlans, check_plans
from policy_node.control.tick import FleetTick


class Faulty(torch.nn.Module):
    """Plans the readings, and NaN for 14."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        return torch.where(touch == 14.0, torch.nan, touch)[:, None, :].repeat(1, 4, 1)


class Choosing(torch.nn.Module):
    """Prefers in each step the choice after the one before, beginning with the first reading."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        wanted = (touch[:, :1].long() + torch.arange(4)[None]) % 3
        return torch.nn.functional.one_hot(wanted, 3).float()


class Summing(torch.nn.Module):
    """Sums the readings that it has planned for in its memory and plans the sum."""

    def forward(self, touch: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = total + touch
        return total[:, None, :].repeat(1, 4, 1), total


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    for module in (Faulty(), Choosing(), Summing(), Plans(), Told(), Echo()):
        save(module, folder / f"{type(module).__name__}.pt")
    return folder


@pytest.fixture
def rigs() -> Iterator[list[Rig]]:
    made: list[Rig] = []
    yield made
    for rig in made:
        assert rig.pipeline.end(20.0)


def test_each_robot_keeps_its_own_memory_where_a_part_is_planned_at_a_time(folder: Path) -> None:
    rig = Rig(folder / "Summing.pt", robots=5, chunk__stagger=2, policy__memory=["total=next:-1,2"])
    everybody = rig.readings = {robot: (1.0 + robot, -robot / 4.0) for robot in range(5)}
    totals, requests = np.zeros((5, 2)), []
    for number in range(24):
        # For a while one robot only is planned.
        rig.readings = {3: everybody[3]} if 4 <= number < 14 else everybody
        tick = rig.tick()
        assert tick.planned is not None
        requests.append(tick.planned.requested)
        totals[[state is STALE for state in tick.states]] = 0.0
        for robot in tick.planned.requested:
            totals[robot] += everybody[robot]
        for robot, state in enumerate(tick.states):
            np.testing.assert_allclose(tick.commands[robot], totals[robot] if state is READY else SAFE)
    assert requests[:2] == [(0, 1, 2), (0, 3, 4)] and (3,) in requests and tick.states == (READY,) * 5


def test_a_plan_that_is_not_finite_is_the_fault_of_its_robot_until_it_gets_another_one(folder: Path) -> None:
    rig = Rig(folder / "Faulty.pt", robots=4, chunk__stagger=2)
    rig.readings = {0: (14.0, 0.0), 1: (1.0, 0.0), 2: (2.0, 14.0), 3: (3.0, 0.0)}
    assert rig.tick().states == (FAULT, READY, WAITING, WAITING)
    tick = rig.tick()
    assert tick.states == (FAULT, READY, FAULT, READY)
    assert tick.reasons[0] == tick.reasons[2] == "its plan is not finite"
    np.testing.assert_array_equal(tick.commands[[0, 2]], [SAFE] * 2)
    rig.readings[0] = (5.0, 0.0)
    ticks = [rig.tick() for _ in range(2)]
    assert ticks[-1].states == (READY, READY, FAULT, READY) and ticks[-1].commands[0].tolist() == [5.0, 0.0]
    assert ticks[-1].planned is not None and ticks[-1].planned.taken[2] == 0


def test_a_robot_whose_plans_cannot_be_used_keeps_no_other_from_its_own(folder: Path) -> None:
    # One robot is planned at a time.
    rig = Rig(folder / "Faulty.pt", robots=4, chunk__stagger=4)
    rig.readings[0] = (14.0, 0.0)
    requested = []
    for _ in range(8):
        tick = rig.tick()
        assert tick.planned is not None
        requested += tick.planned.requested
    assert tick.states == (FAULT, READY, READY, READY)
    assert requested == [0, 1, 2, 3] * 2


def test_choices_are_planned(folder: Path) -> None:
    table = [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]
    rig = Rig(
        folder / "Choosing.pt",
        policy__discrete=3,
        action__table=[number for row in table for number in row],
        chunk__replan_every=HORIZON,
        chunk__aggregate="ensemble",
    )
    rig.readings = {robot: (float(robot), 0.0) for robot in range(3)}
    for step in range(HORIZON):
        assert rig.tick().commands.tolist() == [table[(robot + step) % 3] for robot in range(3)]


def test_what_a_tick_says_of_its_plans(folder: Path, rigs: list[Rig]) -> None:
    rig = Rig(folder / "Plans.pt", chunk__replan_every=HORIZON)
    for step in range(2 * HORIZON):
        planned = rig.tick().planned
        assert planned is not None and planned.taken.tolist() == [1 + step // HORIZON] * 3
        assert planned.taken.dtype == planned.exhausted.dtype == np.int64
        assert (planned.inference_s is None, planned.latency_s) == ((False, 0.0) if planned.requested else (True, None))
        assert planned.delay == 0
    assert rig.pipeline.session == "" and rig.pipeline.inference_s > 0.0
    beside = Rig(folder / "Plans.pt", policy__inference="background")
    rigs.append(beside)
    beside.pipeline.start()
    beside.tick()
    beside.wait()
    planned = beside.tick(skip=2).planned
    assert planned is not None and planned.latency_s == 0.1 and planned.inference_s is not None
    assert planned.taken.tolist() == [1] * 3


def test_an_action_that_is_too_old_is_told_with_its_limit_and_the_inference_that_takes_long(
    folder: Path, rigs: list[Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(folder / "Echo.pt", policy__inference="background", chunk__max_age_s=0.2)
    rigs.append(rig)
    rig.pipeline.start()
    rig.tick()
    rig.wait()
    rig.tick()
    rig.wait()
    planner = rig.pipeline._inference.planner  # type: ignore[union-attr]
    planner.collect()
    monkeypatch.setattr(planner, "busy_since_s", time.monotonic())
    ticks = [rig.tick() for _ in range(4)]
    assert [tick.states[1] for tick in ticks] == [READY] * 3 + [STALE]
    assert all(tick.planned is not None and tick.planned.requested == () for tick in ticks)
    told = "its plan is 0.250 s old, chunk.max_age_s allows 0.200 s; the current inference takes 0."
    assert ticks[-1].reasons[1].startswith(told)


def test_the_thread_beside_the_tick_has_a_name_and_ends_with_the_process(folder: Path, rigs: list[Rig]) -> None:
    rig = Rig(folder / "Plans.pt", policy__inference="background")
    rigs.append(rig)
    before = set(threading.enumerate())
    rig.pipeline.start()
    (thread,) = set(threading.enumerate()) - before
    # Its first plan comes after its name.
    rig.tick()
    rig.wait()
    assert thread.name == "planner" and thread.daemon
    assert Path(f"/proc/self/task/{thread.native_id}/comm").read_text() == "planner\n"


def test_the_longest_of_the_last_inferences_is_the_delay_that_the_next_one_is_told(
    folder: Path, rigs: list[Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = {"aggregate": "prefix", "prefix_input": "rest", "delay_input": "delay"}
    changes: dict[str, Any] = {f"chunk__{name}": value for name, value in prefix.items()}
    rig = Rig(folder / "Told.pt", policy__inference="background", policy__horizon=HORIZON, **changes)
    rigs.append(rig)
    durations_s = iter([9.0, 0.101, *[0.05] * 11, 1.0])
    run = rig.pipeline._inference.planner.run  # type: ignore[union-attr]
    monkeypatch.setattr(
        rig.pipeline._inference.planner,  # type: ignore[union-attr]
        "run",
        lambda request: run(request)._replace(inference_s=next(durations_s)),
    )
    rig.pipeline.start()
    delays = []
    for _ in range(13):
        tick = rig.tick()
        rig.wait()
        assert tick.planned is not None
        delays.append(tick.planned.delay)
    # The first is told that of the warm-up; that of the first run of the thread does not count.
    assert delays[1:] == [3] * 10 + [1, 1]


def repeat(rig: Rig, plans: RecordedPlans) -> FleetTick:
    """Run a tick as `Rig.tick` does, with recorded plans."""
    step = rig.pipeline.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.pipeline, "step", lambda now_ns: step(now_ns, plans=plans))
        return rig.tick()


def test_recorded_plans_give_the_commands_of_before(folder: Path, rigs: list[Rig]) -> None:
    """Whatever time the inferences take now."""
    changes = {"policy__memory": ["total=next:-1,2"], "policy__inference": "background", "chunk__stagger": 2}
    live, replayed = (Rig(folder / "Summing.pt", robots=4, **changes) for _ in range(2))
    rigs.append(live)
    live.pipeline.start()
    for number in range(15):
        for rig in (live, replayed):
            rig.readings = {robot: (number + robot, 0.5) for robot in range(4) if robot != 1 or number != 6}
        tick = live.tick()
        assert tick.planned is not None
        # At the end all robots have new plans.
        if number % 3 == 2 or number > 9:
            live.wait()
        plans = RecordedPlans(tick.planned.requested, tick.planned.arrived_ns, tick.planned.delay)
        replayed.readings = live.readings
        again = repeat(replayed, plans)
        assert again.states == tick.states and again.planned is not None
        np.testing.assert_array_equal(again.commands, tick.commands)
        assert again.planned.taken.tolist() == tick.planned.taken.tolist()
    assert tick.states == (READY,) * 4


JOINTS = {name: value for name, value in TRAJECTORY.items() if name != "action__points"}


@pytest.mark.parametrize(
    ("changes", "nearest", "expected"),
    [
        ({}, "1", [[0.25, 0.5], [0.75, 1.5]]),
        (JOINTS, "elbow", [[0.25, 0.5], [0.75, 1.5]]),
        # The commands have the components of the plan in another order.
        ({**JOINTS, "action__components": [1, 0]}, "elbow", [[0.75, 0.0], [1.25, 1.0]]),
    ],
)
def test_components_that_are_not_interpolated_are_named_or_numbered(
    folder: Path, changes: dict[str, Any], nearest: str, expected: list[list[float]]
) -> None:
    rig = Rig(folder / "Plans.pt", chunk__step_s=0.2, chunk__replan_every=4, chunk__nearest=[nearest], **changes)
    sent = [rig.tick().sent[0].tolist() for _ in range(4)]
    np.testing.assert_allclose([sent[1], sent[3]], expected)
    allowed = "shoulder, elbow" if changes else "the numbers 0 to 1"
    with pytest.raises(ConfigurationError, match=rf"chunk\.nearest: found '2', but the components are {allowed}$"):
        Rig(folder / "Plans.pt", chunk__nearest=["2"], **changes)


def test_a_trajectory_of_one_joint_is_limited_by_the_time_from_point_to_point(folder: Path) -> None:
    one = {"action__joints": ["elbow"], "action__components": [1], "action__safe_command": [0.5]}
    for time_s, expected in ((0.0, [1.0, 1.5, 2.0]), (0.1, [1.5, 2.25, 2.25])):
        limits = {"action__max_rate": [10.0], "action__high": [2.25], "action__time_from_start_s": time_s}
        rig = Rig(folder / "Plans.pt", 2, chunk__replan_every=4, **{**TRAJECTORY, **one, **limits})
        rig.readings[1] = (0.0, 3.0)
        tick = rig.tick()
        assert tick.planned is not None and tick.planned.following is not None
        assert tick.planned.following[0].tolist() == [[number] for number in expected]
        # The second robot is beyond its bound, and far from its safe command.
        assert tick.bounded.tolist() == tick.slowed.tolist() == [0, 1]
        assert tick.sent.tolist() == [[0.5], [1.0]]


def test_of_robots_that_have_waited_equally_long_the_first_are_planned(folder: Path) -> None:
    rig = Rig(folder / "Plans.pt", robots=40, chunk__stagger=2)
    first, second = (rig.tick().planned for _ in range(2))
    assert first is not None and second is not None
    assert first.requested == tuple(range(20)) and second.requested == tuple(range(20, 40))


POINTS = {"action.type": TRAJECTORY["action__type"], "action.joints": TRAJECTORY["action__joints"], "action.points": 2}
REQUIRED: dict[str, Any] = {
    "control_rate_hz": 20.0,
    "robots": ["robot"],
    "observations.keys": ["touch"],
    "observations.touch.topic": "touch",
    "observations.touch.type": "sensor_msgs/msg/JointState",
    "action.topic": "command",
    "action.type": "std_msgs/msg/Float64MultiArray",
    "action.safe_command": SAFE,
}


def planned_spec(horizon: int, action: DiscreteSpec | None = None) -> PolicySpec:
    shapes = {"touch": (2,), "rest": (horizon, 2), "delay": ()}
    float32 = np.dtype(np.float32)
    observations = {name: ArraySpec(name, shape, float32, -np.inf, np.inf) for name, shape in shapes.items()}
    array = ArraySpec("action", (2,), float32, -np.inf, np.inf)
    return PolicySpec(observations, action or array, "", "", horizon=horizon)


PREFIX = {"chunk.aggregate": "prefix", "chunk.prefix_input": "rest", "chunk.delay_input": "delay"}
OUTPUTS = {
    "observations.keys": ["touch", "more"],
    "observations.more.terms": ["pose"],
    "observations.more.pose.kind": "policy_output",
    "observations.more.pose.output": "pose",
}


@pytest.mark.parametrize(
    ("changes", "spec", "problem"),
    [
        (PREFIX, planned_spec(4), ""),
        (
            {**PREFIX, "chunk.prefix_input": "missing"},
            planned_spec(4),
            "chunk.prefix_input: found 'missing', but the policy takes ['touch', 'rest', 'delay']; name an input of 8 ",
        ),
        (
            {**PREFIX, "chunk.prefix_input": "touch"},
            planned_spec(4),
            "chunk.prefix_input: found 'touch', but the policy takes touch: float32 [2]",
        ),
        (
            {**PREFIX, "chunk.delay_input": "touch"},
            planned_spec(4),
            "chunk.delay_input: found 'touch', but the policy takes touch: float32 [2]",
        ),
        (
            {**PREFIX, "chunk.delay_input": "missing"},
            planned_spec(4),
            "chunk.delay_input: found 'missing', but the policy takes ['touch', 'rest', 'delay']; name an input of 1 ",
        ),
        # Only numbers can be told.
        (PREFIX, planned_spec(4, DiscreteSpec("action", 2)), "chunk.prefix_input: found 'rest', but"),
        ({"chunk.aggregate": "ensemble"}, planned_spec(2), ""),
        ({"chunk.aggregate": "ensemble"}, planned_spec(1), "chunk.aggregate: found ensemble, but the policy gives one"),
        ({"chunk.replan_every": 4}, planned_spec(4), ""),
        ({"chunk.replan_every": 4, "policy.inference": "background"}, planned_spec(0), ""),
        ({"chunk.replan_every": 5}, planned_spec(4), "chunk.replan_every: found 5, but a plan of this policy has 4"),
        (POINTS, planned_spec(2), ""),
        (POINTS, planned_spec(1), "action.points: found 2, but the policy gives one action, not a plan"),
        (OUTPUTS, planned_spec(0), ""),
        ({**OUTPUTS, "policy.inference": "background"}, planned_spec(0), "observations.more.pose.kind: found policy_"),
        ({"chunk.hold_s": 1.0}, planned_spec(0), "chunk.hold_s: given, but the policy gives one action and runs in"),
    ],
)
def test_parameters_of_plans_must_fit_the_policy(changes: dict[str, Any], spec: PolicySpec, problem: str) -> None:
    configuration = parse_configuration({**REQUIRED, "policy.path": "plans.pt", **changes})
    policy: Any = SimpleNamespace(spec=spec)
    if not problem:
        check_plans(configuration, policy)
        return
    with pytest.raises(ConfigurationError) as error:
        check_plans(configuration, policy)
    assert problem in str(error.value)
