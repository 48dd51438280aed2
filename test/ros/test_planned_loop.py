# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The control loop with plans that are computed beside the tick, with scripted time and inferences that tests hold."""

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop_rig import MAX_AGE_S, PERIOD_S, LoopRig, is_safe
from moody import SAFE
from node_harness import PATIENCE_S, Peer
from rclpy.time import Time

from policy_node.control import planned_inference, planner
from policy_node.control.planner import Planned, Planner, PlanRequest
from policy_node.ros import control_loop
from policy_node.ros.deployment import deploy
from policy_node.sensing.synchroniser import RobotState

WAITING, READY, STALE, REJECTED, FAULT, STOPPED = RobotState
# 4 s of plan.
HORIZON = 64
# A command of a plan that was made from a reading before an event is below, any later one above.
LATER = 100.0


class Plans(torch.nn.Module):
    """Plans the last two numbers of a reading, a thousandth more in each step; 14 gives NaN."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        """Return plans `[robots, 64, 2]` for readings `[robots, 8]`."""
        plans = touch[:, None, 6:] + 0.001 * torch.arange(64)[None, :, None]
        return torch.where((touch[:, 6] == 14.0)[:, None, None], torch.nan, plans)


class Gate:
    """Holds inferences beside the tick after they have computed, while it is closed, or lets them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None
        run = Planner.run

        def held(self_: Planner, request: PlanRequest) -> Planned:
            planned = run(self_, request)
            if threading.current_thread().name == "planner":
                assert self.open.wait(PATIENCE_S)
            return planned if self.error is None else planned._replace(actions=None, error=self.error)

        monkeypatch.setattr(Planner, "run", held)


class PlanRig(LoopRig):
    """A loop whose policy plans in the background."""

    def __init__(self, gate: Gate, *arguments: Any, **changes: Any) -> None:
        self.gate = gate
        # Of the clock of the stamps.
        self.offset_s = 0.0
        super().__init__(*arguments, policy__inference="background", **changes)

    def wait(self) -> None:
        """Let the current inference end, and wait for it."""
        self.gate.open.set()
        event = threading.Event()
        for _ in range(round(PATIENCE_S / 0.002)):
            if self.pipeline.planning_since_s is None:
                return
            event.wait(0.002)
        raise AssertionError("the inference hangs")

    def want(self, number: float) -> None:
        """Let all readings ask for other commands from now on."""
        self.readings = {robot: ((number + robot, number), -self.offset_s) for robot in self.readings}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("policy") / "plans.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Plans()).save(str(file))
    return file


@pytest.fixture
def make_rig(peer: Peer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., PlanRig]]:
    made: list[PlanRig] = []

    def make(**changes: Any) -> PlanRig:
        rig = PlanRig(Gate(monkeypatch), peer, policy, monkeypatch, **changes)
        made.append(rig)
        for module in (planner, planned_inference):
            monkeypatch.setattr(module, "time", rig.time)
        return rig

    yield make
    for rig in made:
        rig.gate.open.set()
        rig.destroy()


@pytest.fixture
def rig(make_rig: Callable[..., PlanRig]) -> PlanRig:
    """Return a rig whose robots are driven by their first plans, and whose next inference does not end by itself."""
    rig = make_rig()
    assert rig.tick().states == (WAITING,) * 3
    assert all(is_safe(command) for command in rig.newest().values())
    rig.wait()
    rig.gate.open.clear()
    # Takes the first plans, and requests the next ones.
    assert rig.tick().states == (READY,) * 3
    assert rig.pipeline.planning_since_s is not None
    rig.sent.clear()
    return rig


def test_the_tick_goes_on_with_the_plan_while_the_next_one_is_computed(rig: PlanRig) -> None:
    commands = [rig.tick().sent[0, 0] for _ in range(5)]
    np.testing.assert_allclose(commands, 1.0 + 0.001 * np.arange(2, 7), atol=1e-6)


def test_a_robot_whose_sensor_dies_is_stopped_however_good_its_plan_is(rig: PlanRig) -> None:
    rig.readings[1] = None
    ticks = 0
    while not is_safe(rig.newest().get(1)):
        rig.tick()
        ticks += 1
    # Within the largest age and a period.
    assert ticks <= MAX_AGE_S / PERIOD_S + 1
    assert rig.loop.latest is not None
    assert rig.loop.latest.states == (READY, STALE, READY)


def lose_readings(rig: PlanRig) -> None:
    rig.readings = dict.fromkeys(rig.readings)
    while rig.tick().states != (STALE,) * 3:
        pass


def pause(rig: PlanRig) -> None:
    rig.time.now_s += 2 * MAX_AGE_S


def set_clock(rig: PlanRig, offset_s: float) -> None:
    """Set the clock of the stamps, but not the steady one."""
    rig.offset_s = offset_s
    rig.time.now = lambda: Time(nanoseconds=round((rig.time.now_s + offset_s) * 1e9))  # type: ignore[method-assign]


def set_clock_back(rig: PlanRig) -> None:
    set_clock(rig, -10.0)


def set_clock_forward(rig: PlanRig) -> None:
    set_clock(rig, 10.0)


def reset(rig: PlanRig) -> None:
    rig.loop.reset_robots([0, 1, 2])


def stop_and_resume(rig: PlanRig) -> None:
    rig.loop.stop_robots()
    rig.loop.resume_robots(range(3))


def stop_for_a_tick(rig: PlanRig) -> None:
    rig.loop.request_stop(range(3))
    assert rig.tick().states == (STOPPED,) * 3
    rig.loop.resume_robots(range(3))


def leave_to_another_node(rig: PlanRig) -> None:
    rig.loop.yield_robots(dict.fromkeys(range(3), "/other"))
    rig.tick()
    rig.loop.yield_robots({})


def hang_in_a_tick(rig: PlanRig) -> None:
    rig.begin_tick()
    rig.let_hang()
    rig.watch()
    rig.end_tick()


def lose_claim(rig: PlanRig) -> None:
    rig.has_claim = False
    rig.tick()
    rig.has_claim = True


@pytest.mark.parametrize(
    "happens",
    [
        lose_readings,
        pause,
        set_clock_back,
        set_clock_forward,
        reset,
        stop_and_resume,
        stop_for_a_tick,
        leave_to_another_node,
        hang_in_a_tick,
        lose_claim,
    ],
)
def test_nothing_of_an_old_plan_reaches_a_new_episode(rig: PlanRig, happens: Callable[[PlanRig], None]) -> None:
    """Neither of the plan that was followed nor of the one that was computed when it happened."""
    happens(rig)
    rig.want(LATER)
    rig.sent.clear()
    states = [rig.tick().states for _ in range(2)]
    # The inference that was under way ends, and its plans are dropped; the next ones are computed.
    rig.wait()
    for _ in range(4):
        states.append(rig.tick().states)
        rig.wait()
    assert READY not in states[0] and states[-1] == (READY,) * 3
    assert all(is_safe(command) or command[0] >= LATER for _, command, _ in rig.sent)
    assert not any(is_safe(command) for command in rig.newest().values())


def test_a_new_policy_gets_new_plans(rig: PlanRig, policy: Path) -> None:
    rig.want(LATER)
    # Requested of the old policy, whose inference does not end.
    rig.tick()
    rig.loop.replace_policy(deploy(rig.loop._configuration).pipeline)
    rig.sent.clear()
    assert rig.tick().states == (WAITING,) * 3
    assert all(is_safe(command) for command in rig.newest().values())
    rig.wait()
    assert rig.tick().states == (READY,) * 3
    assert min(command[0] for command in rig.newest().values()) >= LATER


def test_a_plan_that_is_not_finite_is_the_fault_of_one_robot(rig: PlanRig) -> None:
    rig.wait()
    rig.readings[1] = ((14.0, 10.0), 0.0)
    for _ in range(2):
        tick = rig.tick()
        rig.wait()
    tick = rig.tick()
    assert tick.states == (READY, FAULT, READY) and tick.reasons[1] == "its plan is not finite"
    assert is_safe(rig.newest()[1]) and not is_safe(rig.newest()[0])
    # It stays so until a plan is good.
    rig.wait()
    assert rig.tick().states == (READY, FAULT, READY)
    rig.readings[1] = ((5.0, 10.0), 0.0)
    for _ in range(4):
        rig.wait()
        tick = rig.tick()
    assert tick.states == (READY,) * 3 and rig.newest()[1][0] >= 5.0


def test_a_policy_that_fails_beside_the_tick_leaves_the_safe_commands(rig: PlanRig) -> None:
    rig.wait()
    rig.gate.error = RuntimeError("wrong shapes")
    for _ in range(3):
        tick = rig.tick()
        rig.wait()
    assert tick.states == (FAULT,) * 3 and tick.reasons[0] == "the policy failed: RuntimeError: wrong shapes"
    assert all(is_safe(command) for command in rig.newest().values())
    rig.gate.error = None
    for _ in range(4):
        tick = rig.tick()
        rig.wait()
    assert tick.states == (READY,) * 3 and not rig.failures


def test_a_device_that_fails_beside_the_tick_ends_the_loop_with_safe_commands(rig: PlanRig) -> None:
    rig.wait()
    rig.gate.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    rig.tick()
    rig.wait()
    rig.sent.clear()
    rig.clock.released.release(3)
    rig.loop._thread.join(PATIENCE_S)
    assert rig.failures == [rig.gate.error]
    assert all(is_safe(command) for command in rig.newest().values())


def test_an_inference_that_hangs_is_told_from_a_slow_one_and_the_tick_goes_on(
    rig: PlanRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasts_s = HORIZON * PERIOD_S
    assert rig.loop.plan_lasts_s == lasts_s
    began_s = rig.time.now_s
    states = []
    while rig.time.now_s - began_s <= lasts_s:
        states.append(rig.tick().states[0])
        assert rig.loop.planning_s is not None
    assert states.count(READY) >= HORIZON - 3 and states[-1] is STALE
    assert rig.loop.planning_s > rig.loop.plan_lasts_s
    assert is_safe(rig.newest()[0])
    assert rig.loop.latest is not None
    assert rig.loop.latest.reasons[0].startswith("its plan has ended before the next one came; the current inference")
    monkeypatch.setattr(control_loop, "STOP_TIMEOUT_S", 0.1)
    # A deactivation does not wait for it.
    assert not rig.loop.stop()


def test_limits_hold_for_the_commands_as_sent_where_plans_differ(make_rig: Callable[..., PlanRig]) -> None:
    rig = make_rig(action__max_rate=[1.6, 1000.0])
    rig.tick()
    rig.wait()
    rig.tick()
    rig.want(50.0)
    sent = []
    for _ in range(12):
        sent.append(rig.tick().sent[:, 0])
        rig.wait()
    steps = np.diff(np.array([[SAFE[0]] * 3, *sent]), axis=0)
    assert np.abs(steps[1:]).max() <= 1.6 * PERIOD_S + 1e-9
    assert rig.loop.latest is not None and rig.loop.latest.slowed.min() >= 10


def test_a_ramp_begins_with_the_first_command_of_a_plan_not_with_the_wait_for_it(
    make_rig: Callable[..., PlanRig],
) -> None:
    rig = make_rig(action__ramp_s=10.0)
    rig.gate.open.clear()
    for _ in range(5):
        rig.tick()
    rig.wait()
    first = rig.tick().sent[0]
    np.testing.assert_allclose(first, SAFE)
    second = rig.tick().sent[0]
    share = PERIOD_S / 10.0
    np.testing.assert_allclose(second, (1 - share) * np.array(SAFE) + share * np.array([1.0, 10.0]), atol=0.01)
