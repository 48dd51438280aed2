# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The tick thread with scripted time: simulated time, recording, limits, another policy, priority and failures."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loop_rig import MAX_AGE_S, PERIOD_S, TIMEOUT_S, LoopRig, wanted
from moody import SAFE

from policy_node.control.tick import FleetTick
from policy_node.control.timing import GAP_S
from policy_node.ros import control_loop
from policy_node.ros.deployment import deploy
from policy_node.sensing.synchroniser import RobotState

READY, STALE, STOPPED, WAITING = RobotState.READY, RobotState.STALE, RobotState.STOPPED, RobotState.WAITING

MakeRig = Callable[..., LoopRig]


def test_what_may_wait_begins_after_a_tick(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.loop.delay_until_gap(1.0) == 1.0
    rig.tick()
    # The 16th tick from now on is at 1.0 s, and then the 15th at 0.96875 s.
    assert rig.loop.delay_until_gap(1.0) == pytest.approx(1.0 + GAP_S)
    rig.time.now_s += PERIOD_S / 2
    assert rig.loop.delay_until_gap(1.0) == pytest.approx(0.96875 + GAP_S)
    simulated = make_rig(simulated=True)
    simulated.tick()
    assert simulated.loop.delay_until_gap(1.0) == 1.0


# Simulated time.


def test_messages_of_a_simulated_tick_are_read_with_its_time(make_rig: MakeRig) -> None:
    rig = make_rig(simulated=True)
    assert rig.loop.simulated
    for _ in range(2):
        rig.tick()
    assert rig.taken_ns == [round((1000.0 + tick * PERIOD_S) * 1e9) for tick in (1, 2)]
    steady = make_rig()
    steady.tick()
    assert steady.taken_ns == [None] and not steady.loop.simulated


def test_simulated_time_may_not_have_begun(make_rig: MakeRig) -> None:
    rig = make_rig(simulated=True)
    assert not rig.loop.waits_for_clock
    rig.time.now_s = 0.0
    assert rig.loop.waits_for_clock
    steady = make_rig()
    steady.time.now_s = 0.0
    assert not steady.loop.waits_for_clock


def test_ticks_restart_when_simulated_time_jumps_back(make_rig: MakeRig) -> None:
    rig = make_rig(simulated=True)
    rig.tick()
    rig.jump_back(500.0)
    assert rig.clock.deadlines_ns[-1] == round((rig.time.now_s + PERIOD_S) * 1e9)
    tick = rig.tick()
    assert tick.states == (READY,) * 3 and tick.before == ("reset",) * 3 and tick.fresh_start.all()
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}
    records, _, _ = rig.loop.statistics.collect()
    assert [(record.lateness_s, record.missed) for record in records] == [(0.0, 0)] * 2


def test_simulated_time_may_jump_back_while_the_loop_waits_for_its_beginning(make_rig: MakeRig) -> None:
    rig = make_rig(simulated=True)
    rig.tick()
    rig.clock.jumps_at_beginning = True
    rig.jump_back(500.0)
    tick = rig.tick()
    assert not rig.clock.jumps_at_beginning
    assert tick.states == (READY,) * 3 and tick.before == ("reset",) * 3 and tick.fresh_start.all()


def test_commands_are_not_late_while_simulated_time_stands_still(make_rig: MakeRig) -> None:
    rig = make_rig(simulated=True)

    def hold_up() -> None:
        rig.senders[0].before = lambda: None
        rig.time.now_s += 2 * MAX_AGE_S

    rig.senders[0].before = hold_up
    assert rig.tick().states == (READY,) * 3 and len(rig.sent) == 3


@pytest.mark.parametrize("simulated", [False, True])
def test_a_simulated_tick_is_repeated_until_the_claim_holds(make_rig: MakeRig, simulated: bool) -> None:
    """Simulated time may stand still until robots get commands; the steady clock goes on."""
    rig = make_rig(simulated=simulated)
    rig.has_claim = False
    for _ in range(2):
        assert rig.tick().states == (STOPPED,) * 3
    periods = np.diff(rig.clock.deadlines_ns) / (PERIOD_S * 1e9)
    assert periods.tolist() == [0.0, 0.0] if simulated else [1.0, 1.0]
    rig.has_claim = True
    rig.tick()
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}
    assert rig.clock.deadlines_ns[-1] - rig.clock.deadlines_ns[-2] == round(PERIOD_S * 1e9)


def test_the_end_closes_the_clock_of_simulated_time_and_releases_memory(make_rig: MakeRig) -> None:
    rig = make_rig(simulated=True)
    assert not rig.clock.is_closed
    assert rig.loop.stop()
    assert rig.clock.is_closed and rig.loop._reserve._pages.closed


# Accounts of the ticks.


def test_every_tick_is_recorded_with_the_ticks_missed_before_it(make_rig: MakeRig) -> None:
    noted: list[tuple[FleetTick, int]] = []
    rig = make_rig(recording=SimpleNamespace(note_tick=lambda tick, missed: noted.append((tick, missed))))
    ticks = [rig.tick()]
    rig.time.now_s += 4 * PERIOD_S
    ticks += [rig.tick(), rig.tick()]
    assert all(tick is expected for (tick, _), expected in zip(noted, ticks, strict=True))
    assert [missed for _, missed in noted] == [0, 0, 2]


def test_the_state_before_a_robot_was_ready_again_is_kept(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.loop.interruptions == [None] * 3
    rig.readings[2] = None
    rig.tick()
    assert rig.loop.interruptions == [(WAITING, ""), (WAITING, ""), None]
    rig.readings[1] = None
    rig.time.now_s += 2 * MAX_AGE_S
    reason = rig.tick().reasons[1]
    rig.tick()
    assert rig.loop.interruptions == [(WAITING, ""), (WAITING, ""), None]
    rig.readings[1] = (wanted(1), 0.0)
    rig.tick()
    assert rig.loop.interruptions == [(WAITING, ""), (STALE, reason), None] and reason


# Requests.


def test_limits_change_at_the_next_tick_and_the_timeout_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    configuration = rig.configuration
    changed = replace(
        configuration, watchdog_timeout_s=2 * TIMEOUT_S, action=replace(configuration.action, high=(2.0, 2.0))
    )
    rig.begin_tick()
    rig.loop.change_limits(changed)
    rig.time.now_s += 1.5 * TIMEOUT_S
    assert rig.loop.hanging_since_s is None
    rig.time.now_s += TIMEOUT_S
    assert rig.loop.hanging_since_s is not None
    rig.end_tick()
    rig.sent.clear()
    rig.tick()
    assert rig.newest() == {0: (1.0, 2.0), 1: (2.0, 2.0), 2: (2.0, 2.0)}
    # Not once more at every tick.
    rig.pipeline.change_limits = lambda configuration: pytest.fail("changed twice")  # type: ignore[method-assign]
    rig.tick()
    assert not rig.failures


def test_another_policy_drives_from_the_next_tick_on(make_rig: MakeRig, tmp_path: Path) -> None:
    class Negative(torch.nn.Module):
        def forward(self, touch: torch.Tensor) -> torch.Tensor:
            return -touch[:, 6:]

    rig = make_rig()
    rig.tick()
    torch.jit.trace(Negative(), torch.zeros(1, 8)).save(str(tmp_path / "negative.pt"))
    other = replace(rig.configuration.policy, path=str(tmp_path / "negative.pt"))
    pipeline = deploy(replace(rig.configuration, policy=other)).pipeline
    pipeline.warm_up()
    # Also with a changed timeout.
    rig.loop.change_limits(replace(rig.configuration, watchdog_timeout_s=1.0))
    rig.loop.replace_policy(pipeline)
    assert rig.tick().states == (READY,) * 3
    assert rig.newest() == {robot: tuple(-number for number in wanted(robot)) for robot in range(3)}


def test_a_policy_that_cannot_be_used_leaves_the_old_one(make_rig: MakeRig) -> None:
    rig = make_rig(watchdog__timeout_s=0.05)
    for _ in range(2):
        with pytest.raises(AttributeError):
            rig.loop.replace_policy(None)  # type: ignore[arg-type]
    assert rig.tick().states == (READY,) * 3


def test_operators_stop_and_resume_robot_by_robot(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    assert rig.loop.stop_robots([0]) == 1
    assert rig.loop.stop_robots([1, 0]) == 2
    tick = rig.tick()
    assert tick.states == (STOPPED, STOPPED, READY) and not tick.stopped
    rig.loop.resume_robots([0, 2])
    assert rig.tick().states == (READY, STOPPED, READY)
    # Several requests of one kind before a tick: the newest holds.
    rig.loop.request_stop([2])
    rig.loop.request_stop([0, 1])
    assert rig.tick().states == (STOPPED, STOPPED, READY)


def test_a_robot_that_is_resumed_before_the_next_tick_is_driven_by_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.begin_tick()
    rig.loop.stop_robots([1])
    rig.loop.resume_robots([1])
    assert rig.end_tick().states == (READY, STOPPED, READY)
    tick = rig.tick()
    assert tick.states == (READY,) * 3 and rig.newest()[1] == wanted(1)
    assert tick.fresh_start.tolist() == [False, True, False]


def test_a_robot_that_is_stopped_and_yielded_during_a_tick_is_of_the_other_node(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    rig.begin_tick()
    rig.loop.stop_robots([0, 1])
    rig.loop.yield_robots({1: "/other"})
    assert rig.loop.owners == {1: "/other"}
    tick = rig.end_tick()
    assert tick.states == (STOPPED, STOPPED, READY)
    assert "operator" in tick.reasons[0] and tick.reasons[1] == "/other commands it"


def test_resets_of_several_robots_are_all_served(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    rig.loop.reset_robots([0])
    rig.loop.reset_robots([2])
    assert rig.tick().before == ("reset", "", "reset")
    rig.loop.reset_robots()
    rig.loop.reset_robots([1])
    assert rig.tick().before == ("reset",) * 3


# Claims.


def test_a_loop_that_never_held_its_claim_sends_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.has_claim = False
    rig.tick()
    assert not rig.sent


def test_a_safe_command_that_fails_when_the_claim_ends_is_a_failure(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    rig.sent.clear()

    def refuse() -> None:
        rig.senders[0].before = lambda: None
        raise RuntimeError("nobody foresaw this")

    rig.senders[0].before = refuse
    rig.has_claim = False
    rig.clock.released.release()
    rig.loop._thread.join()
    assert [str(error) for error in rig.failures] == ["nobody foresaw this"]
    assert rig.commands(1)[0] == rig.commands(2)[0] == SAFE


# The thread, and its end.


def test_the_thread_has_its_name_and_its_number_of_threads(make_rig: MakeRig) -> None:
    rig = make_rig(policy__threads=3)
    found: list[Any] = []
    observe = rig.pipeline.observe

    def look(*given: Any, **named: Any) -> Any:
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip()
        found.append((comm, torch.get_num_threads()))
        return observe(*given, **named)

    rig.pipeline.observe = look  # type: ignore[method-assign]
    rig.tick()
    assert found == [("control_loop", 3)]


def test_the_watchdog_has_the_priority_of_the_tick_thread_but_any_cpu(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: dict[str, Any] = {}
    both = threading.Event()

    def apply(realtime: Any) -> None:
        applied[threading.current_thread().name] = realtime
        if len(applied) == 2:
            both.set()

    monkeypatch.setattr(control_loop, "apply_realtime", apply)
    rig = make_rig(realtime__priority=7, realtime__cpus=[0])
    assert both.wait(10.0)
    assert applied == {
        "control_loop": rig.configuration.realtime,
        "watchdog": replace(rig.configuration.realtime, cpus=()),
    }


class Bye(SystemExit):
    """What a module of the policy raises that ends the process."""


@pytest.mark.parametrize(
    ("error", "failure"), [(Bye("good night"), "Bye: good night"), (RuntimeError("nobody foresaw this"), "nobody")]
)
def test_an_error_of_any_kind_makes_the_robots_safe_and_is_reported(
    make_rig: MakeRig, error: BaseException, failure: str
) -> None:
    rig = make_rig()
    rig.tick()
    rig.sent.clear()

    def fail(*given: Any, **named: Any) -> None:
        raise error

    rig.pipeline.observe = fail  # type: ignore[method-assign]
    rig.clock.released.release()
    rig.loop._thread.join()
    assert rig.sent == [(robot, SAFE, False) for robot in range(3)]
    assert rig.failures == [rig.loop.failure] and failure in str(rig.loop.failure)
    assert isinstance(rig.loop.failure, RuntimeError) and rig.loop._reserve._pages.closed
    # Nothing hangs: the watchdog leaves the robots to whom takes them over.
    rig.time.now_s += 2 * TIMEOUT_S
    assert rig.loop.hanging_since_s is None
    rig.watch()
    assert len(rig.sent) == 3


def test_a_failure_is_reported_although_no_safe_command_can_be_sent(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    rig.tick()

    def refuse() -> None:
        raise OSError("the middleware is gone")

    for sender in rig.senders:
        sender.before = refuse
    # The error of the safe commands ends the thread, too.
    ends: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ends.append)
    rig.clock.released.release()
    rig.loop._thread.join()
    assert [str(error) for error in rig.failures] == ["the middleware is gone"] and len(ends) == 1
    for sender in rig.senders:
        sender.before = lambda: None
