# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Operators, other nodes, the watchdog and late commands against a tick that is held at the wrong moment."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from loop_rig import MAX_AGE_S, PERIOD_S, TIMEOUT_S, LoopRig, is_safe, wanted
from moody import SAFE
from node_harness import PATIENCE_S

from policy_node.config.schema import Configuration
from policy_node.ros.control_loop import RECENT_S
from policy_node.sensing.synchroniser import RobotState

READY, STALE, FAULT, STOPPED = RobotState.READY, RobotState.STALE, RobotState.FAULT, RobotState.STOPPED

MakeRig = Callable[..., LoopRig]


@pytest.fixture
def rig(make_rig: MakeRig) -> LoopRig:
    """Return a rig that drives all its robots."""
    rig = make_rig()
    assert rig.tick().states == (READY,) * 3
    assert rig.sent == [(robot, wanted(robot), True) for robot in range(3)]
    rig.sent.clear()
    return rig


# Robots of other nodes.


def test_a_robot_that_is_yielded_during_a_tick_gets_one_safe_command_and_no_other(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.loop.yield_robots({1: "/other"})
    tick = rig.end_tick()
    assert rig.sent == [(1, SAFE, False), (0, wanted(0), True), (2, wanted(2), True)]
    assert tick.states == (READY, STOPPED, READY) and tick.reasons[1] == "/other commands it"
    np.testing.assert_array_equal(tick.sent, [wanted(0), SAFE, wanted(2)])
    assert tick.driven.tolist() == tick.commanded.tolist() == [True, False, True]
    rig.tick()
    assert rig.commands(1) == [SAFE]


def test_the_pipeline_is_told_of_robots_of_other_nodes(rig: LoopRig) -> None:
    """Also of one without readings, and until they come back."""
    rig.loop.yield_robots({1: "/other"})
    rig.readings[1] = None
    rig.time.now_s += 2 * MAX_AGE_S
    tick = rig.tick()
    assert tick.owners == {1: "/other"} and tick.publish.tolist() == [True, False, True]
    assert tick.states[1] is STOPPED and tick.reasons[1] == "/other commands it"
    assert np.isnan(rig.pipeline.safe_commands[1]).all()
    rig.loop.yield_robots({})
    tick = rig.tick()
    assert tick.owners == {} and tick.states[1] is STALE and rig.commands(1)[-1] == SAFE


def yield_again(rig: LoopRig) -> None:
    rig.loop.yield_robots({1: "/another"})


def stop_robots(rig: LoopRig) -> None:
    assert rig.loop.stop_robots() == 2


def stop_loop(rig: LoopRig) -> None:
    assert rig.loop.stop()
    # Robots of other nodes are named with those that have no safe command.
    assert rig.publishers.without_safe_command == ("robot_1",)


def lose_claim(rig: LoopRig) -> None:
    rig.has_claim = False
    rig.tick()


def hang(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.let_hang()
    rig.watch()
    rig.end_tick()


def let_all_be_late(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.time.now_s += 2 * MAX_AGE_S
    rig.end_tick()


def fail(rig: LoopRig) -> None:
    rig.pipeline.observe = None  # type: ignore[assignment, method-assign]
    rig.clock.released.release()
    rig.loop._thread.join()
    assert rig.failures


@pytest.mark.parametrize("happens", [yield_again, stop_robots, stop_loop, lose_claim, hang, let_all_be_late, fail])
@pytest.mark.parametrize("is_ticked", [False, True])
def test_nothing_is_sent_to_a_robot_of_another_node(
    rig: LoopRig, happens: Callable[[LoopRig], None], is_ticked: bool
) -> None:
    """Neither before the tick that follows its loss, nor later."""
    rig.loop.yield_robots({1: "/other"})
    if is_ticked:
        rig.tick()
    rig.sent.clear()
    happens(rig)
    assert not rig.commands(1)
    if happens is not yield_again:
        assert is_safe(rig.newest()[0]) and is_safe(rig.newest()[2])


def test_the_watchdog_commands_no_robot_that_is_yielded_while_the_tick_hangs(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.let_hang()
    rig.loop.yield_robots({1: "/other"})
    rig.sent.clear()
    rig.watch()
    assert rig.sent == [(0, SAFE, False), (2, SAFE, False)]
    rig.end_tick()
    assert not rig.commands(1)


def test_a_safe_command_before_a_tick_is_not_one_of_the_tick(rig: LoopRig) -> None:
    rig.loop.yield_robots({1: "/other"})
    assert rig.sent == [(1, SAFE, False)]
    tick = rig.tick()
    assert tick.before[1] == "overruled" and np.isnan(tick.sent[1]).all()


def test_a_robot_that_was_not_driven_gets_no_command_when_it_is_yielded(rig: LoopRig) -> None:
    rig.has_claim = False
    rig.tick()
    rig.sent.clear()
    rig.loop.yield_robots({0: "/other"})
    assert not rig.sent
    # A claim that holds again tells nothing about robots that this node has not driven since.
    rig.has_claim = True
    rig.loop.yield_robots({0: "/other", 1: "/other"})
    assert not rig.sent


def test_a_robot_is_not_made_safe_for_another_node_after_a_pause(rig: LoopRig) -> None:
    # The last tick drove it, but the claim has ended meanwhile.
    rig.has_claim = False
    rig.loop.yield_robots({0: "/other"})
    assert not rig.sent


def test_a_robot_that_comes_back_is_driven_and_starts_an_episode(rig: LoopRig) -> None:
    rig.loop.yield_robots({1: "/other"})
    rig.tick()
    rig.sent.clear()
    rig.loop.yield_robots({})
    assert not rig.sent
    tick = rig.tick()
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}
    assert tick.states == (READY,) * 3 and tick.fresh_start.tolist() == [False, True, False]


# Late commands.


def let_one_be_late(rig: LoopRig) -> None:
    """Hold up the first command until the readings of the second robot are too old."""
    rig.time.now_s += MAX_AGE_S
    rig.readings[1] = (wanted(1), 0.75 * MAX_AGE_S)

    def hold_up() -> None:
        rig.senders[0].before = lambda: None
        rig.time.now_s += MAX_AGE_S / 2

    rig.senders[0].before = hold_up


def test_one_late_command_stops_one_robot(rig: LoopRig) -> None:
    let_one_be_late(rig)
    tick = rig.tick()
    assert rig.sent == [(0, wanted(0), True), (2, wanted(2), True), (1, SAFE, False)]
    assert tick.states == (READY, STALE, READY)
    assert "too old while commands were sent" in tick.reasons[1] and not tick.reasons[0] and not tick.reasons[2]
    np.testing.assert_array_equal(tick.sent, [wanted(0), SAFE, wanted(2)])
    rig.sent.clear()
    rig.readings[1] = (wanted(1), 0.0)
    tick = rig.tick()
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}
    assert tick.fresh_start.tolist() == [False, True, False]
    assert tick.before == ("", "overruled", "")


@pytest.mark.parametrize("ages_s", [(0.1875, 0.0, 0.0), (0.0, 0.1875, 0.1875)])
def test_each_command_is_late_by_its_own_readings(rig: LoopRig, ages_s: tuple[float, ...]) -> None:
    rig.time.now_s += MAX_AGE_S
    rig.readings = {robot: (wanted(robot), age_s) for robot, age_s in enumerate(ages_s)}
    rig.begin_tick()
    # The guard judges once more, with the time that the policy took.
    rig.time.now_s += MAX_AGE_S / 2
    tick = rig.end_tick()
    late = [age_s > 0.0 for age_s in ages_s]
    assert [state is STALE for state in tick.states] == late
    assert [is_safe(command) for command in tick.sent] == late
    assert all(f"{0.1875 + 0.125:.3f} s old" in reason for reason in tick.reasons if reason)


# The watchdog.


def test_the_watchdog_makes_all_robots_safe_while_a_tick_hangs(make_rig: MakeRig) -> None:
    # The readings would still be good when the tick returns.
    rig = make_rig(synchronisation__max_age_s=2 * TIMEOUT_S)
    rig.begin_tick()
    rig.let_hang()
    assert rig.loop.hanging_since_s == rig.time.now_s - TIMEOUT_S
    for _ in range(2):
        rig.watch()
    assert rig.sent == [(robot, SAFE, False) for robot in range(3)] * 2
    tick = rig.end_tick()
    # The command that the tick has computed is dropped.
    assert len(rig.sent) == 6
    assert tick.states == (FAULT,) * 3 and "watchdog.timeout_s" in tick.reasons[0]
    assert not tick.driven.any() and not tick.commanded.any()
    np.testing.assert_array_equal(tick.sent, [SAFE] * 3)
    tick = rig.tick()
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}
    assert tick.fresh_start.all() and tick.before == ("overruled",) * 3


def test_readings_from_before_a_tick_that_hung_drive_nobody(make_rig: MakeRig) -> None:
    # They would still be young enough.
    rig = make_rig(synchronisation__max_age_s=2 * TIMEOUT_S)
    rig.begin_tick()
    rig.let_hang()
    rig.watch()
    rig.end_tick()
    rig.sent.clear()
    rig.readings = {}
    assert rig.tick().states == (RobotState.WAITING,) * 3
    assert rig.newest() == dict.fromkeys(range(3), SAFE)


def test_the_watchdog_leaves_a_tick_alone_that_has_not_taken_too_long(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.time.now_s += 0.9 * TIMEOUT_S
    assert rig.loop.hanging_since_s is None
    rig.watch()
    assert not rig.sent
    rig.end_tick()


def test_the_watchdog_does_not_act_on_a_tick_that_has_ended_meanwhile(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.let_hang()
    # The watchdog has found the tick hanging, but gets its turn only now.
    rig.end_tick()
    rig.sent.clear()
    assert rig.loop.hanging_since_s is None
    rig.watch()
    assert not rig.sent
    assert rig.tick().states == (READY,) * 3
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}


def test_the_watchdog_waits_for_commands_that_are_being_sent(make_rig: MakeRig) -> None:
    rig = make_rig(synchronisation__max_age_s=2 * TIMEOUT_S)
    sends, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        rig.senders[0].before = lambda: None
        sends.set()
        assert go_on.wait(PATIENCE_S)

    rig.senders[0].before = hold
    rig.clock.waits.clear()
    rig.clock.released.release()
    assert sends.wait(PATIENCE_S)
    rig.let_hang()
    watch = threading.Thread(target=rig.watch, daemon=True)
    watch.start()
    # It gets its turn after the tick, which has ended by then.
    watch.join(0.1)
    go_on.set()
    watch.join(PATIENCE_S)
    assert rig.clock.waits.wait(PATIENCE_S)
    assert rig.sent == [(robot, wanted(robot), True) for robot in range(3)]


def test_the_tick_ends_for_the_watchdog_before_it_may_send(rig: LoopRig) -> None:
    """Otherwise it could overrule the next tick, for a tick that hung while its commands were sent."""
    is_locked: list[bool] = []
    end = rig.loop._watchdog.end_tick

    def look() -> None:
        is_locked.append(rig.loop._sending.locked())
        end()

    rig.loop._watchdog.end_tick = look  # type: ignore[method-assign]
    rig.tick()
    assert is_locked == [True]


def test_the_watchdog_commands_no_robot_that_may_be_another_nodes_after_a_pause(make_rig: MakeRig) -> None:
    rig = make_rig(synchronisation__max_age_s=2 * TIMEOUT_S)
    rig.begin_tick()
    # The process was suspended: the tick has taken long, and the claim has ended.
    rig.let_hang()
    rig.has_claim = False
    rig.watch()
    tick = rig.end_tick()
    assert not rig.sent
    assert tick.states == (STOPPED,) * 3 and "claim" in tick.reasons[0]


# Claims.


def test_robots_get_one_safe_command_when_the_claim_ends(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.has_claim = False
    tick = rig.end_tick()
    assert rig.sent == [(robot, SAFE, False) for robot in range(3)]
    assert not tick.commanded.any() and np.isnan(tick.sent).all()
    for _ in range(2):
        rig.tick()
    assert len(rig.sent) == 3
    rig.has_claim = True
    tick = rig.tick()
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}
    assert tick.fresh_start.all() and tick.before == ("reset",) * 3


def test_robots_get_no_outdated_safe_command_after_a_pause(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.has_claim = False
    rig.time.now_s += RECENT_S
    rig.end_tick()
    rig.tick()
    assert not rig.sent


def test_an_operator_stops_robots_of_a_tick_whose_claim_has_ended(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.loop.stop_robots()
    rig.has_claim = False
    tick = rig.end_tick()
    # The stop came first and is what the tick reports; the claim counts from the next tick on.
    assert tick.states == (STOPPED,) * 3 and "operator" in tick.reasons[0]


# Operators.


def test_no_command_follows_the_safe_one_of_an_operator(rig: LoopRig) -> None:
    rig.begin_tick()
    assert rig.loop.stop_robots() == 3
    assert rig.sent == [(robot, SAFE, False) for robot in range(3)]
    tick = rig.end_tick()
    assert len(rig.sent) == 3
    assert tick.states == (STOPPED,) * 3 and not tick.driven.any()
    tick = rig.tick()
    assert tick.stopped and tick.states == (STOPPED,) * 3
    assert set(rig.commands(0)) == {SAFE}
    rig.loop.request_stop(())
    rig.sent.clear()
    tick = rig.tick()
    assert not tick.stopped and rig.newest() == {robot: wanted(robot) for robot in range(3)}
    assert tick.fresh_start.all()


@pytest.mark.parametrize("robots", [None, [1]])
def test_a_stop_does_not_wait_for_limits_that_hang_on_the_device(rig: LoopRig, robots: list[int] | None) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang(configuration: Configuration) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    rig.pipeline.change_limits = hang  # type: ignore[method-assign]
    rig.loop.change_limits(rig.loop._configuration)
    rig.clock.waits.clear()
    rig.clock.released.release()
    stop = threading.Thread(target=rig.loop.stop_robots, args=[robots], daemon=True)
    try:
        assert begun.wait(PATIENCE_S)
        stop.start()
        stop.join(PATIENCE_S / 2)
        is_stopped, sent = not stop.is_alive(), list(rig.sent)
    finally:
        go_on.set()
    stopped = robots or range(3)
    assert is_stopped and sent == [(robot, SAFE, False) for robot in stopped]
    tick = rig.end_tick()
    # The tick that had begun commands the other robots only.
    assert rig.sent[len(sent) :] == [(robot, wanted(robot), True) for robot in range(3) if robot not in stopped]
    assert all(tick.states[robot] is STOPPED for robot in stopped)
    rig.sent.clear()
    rig.tick()
    assert rig.newest() == {robot: SAFE if robot in stopped else wanted(robot) for robot in range(3)}


def test_a_requested_stop_waits_for_the_next_tick(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.loop.request_stop(range(3))
    assert not rig.sent
    rig.end_tick()
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}
    rig.sent.clear()
    assert rig.tick().states == (STOPPED,) * 3
    assert rig.sent == [(robot, SAFE, True) for robot in range(3)]


def test_a_reset_of_one_robot_restarts_one_episode(rig: LoopRig) -> None:
    rig.loop.reset_robots([1])
    tick = rig.tick()
    assert tick.fresh_start.tolist() == [False, True, False] and tick.before == ("", "reset", "")
    # Once for each request.
    assert not rig.tick().fresh_start.any()
    rig.loop.reset_robots()
    assert rig.tick().fresh_start.all()
    assert not rig.tick().fresh_start.any()


# The last command after safe ones.


def stop_between_ticks(rig: LoopRig) -> None:
    rig.loop.stop_robots()
    rig.loop.request_stop(())


def stop_during_a_tick(rig: LoopRig) -> None:
    rig.begin_tick()
    rig.loop.stop_robots()
    rig.loop.request_stop(())
    rig.end_tick()


def yield_for_a_moment(rig: LoopRig) -> None:
    rig.loop.yield_robots({1: "/other"})
    rig.loop.yield_robots({})


@pytest.mark.parametrize("happens", [stop_between_ticks, stop_during_a_tick, hang, let_one_be_late, yield_for_a_moment])
def test_after_a_safe_command_the_change_is_limited_from_it(
    make_rig: MakeRig, happens: Callable[[LoopRig], None]
) -> None:
    change = 2.0
    rig = make_rig(action__max_rate=[change / PERIOD_S])
    rig.readings = {robot: ((9.0, 9.0), 0.0) for robot in range(3)}
    for _ in range(8):
        rig.tick()
    assert rig.newest()[1] == (9.0, 9.0)
    rig.sent.clear()
    happens(rig)
    if happens is let_one_be_late:
        rig.tick()
    assert is_safe(rig.newest()[1])
    rig.readings[1] = ((9.0, 9.0), 0.0)
    tick = rig.tick()
    np.testing.assert_allclose(rig.newest()[1], np.add(SAFE, change))
    assert tick.slowed[1] > 0 and tick.before[1] == "overruled" and tick.fresh_start[1]


@pytest.mark.parametrize("happens", [stop_between_ticks, stop_during_a_tick, hang, yield_for_a_moment])
def test_the_command_before_a_safe_one_is_not_held(make_rig: MakeRig, happens: Callable[[LoopRig], None]) -> None:
    rig = make_rig(action__when_stale="hold", action__hold_s=60.0)
    rig.tick()
    assert rig.newest()[1] == wanted(1)
    rig.readings = {}
    happens(rig)
    rig.sent.clear()
    rig.time.now_s += 2 * MAX_AGE_S
    # No readings follow.
    tick = rig.tick()
    assert rig.commands(1) == [SAFE] and tick.states[1] is not READY


def test_the_last_command_is_held_where_nothing_else_happened(make_rig: MakeRig) -> None:
    rig = make_rig(action__when_stale="hold", action__hold_s=60.0)
    rig.tick()
    rig.readings = {}
    rig.time.now_s += 2 * MAX_AGE_S
    rig.sent.clear()
    tick = rig.tick()
    assert tick.states == (STALE,) * 3
    assert rig.newest() == {robot: wanted(robot) for robot in range(3)}


# The end, failures and accounts.


def test_no_command_follows_the_last_safe_one_at_the_end(rig: LoopRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy_node.ros.control_loop.STOP_TIMEOUT_S", 0.01)
    rig.begin_tick()
    assert not rig.loop.stop()
    assert rig.sent == [(robot, SAFE, False) for robot in range(3)]
    rig._go_on.set()
    rig.loop._thread.join()
    assert len(rig.sent) == 3
    assert rig.loop.latest is not None
    assert rig.loop.latest.states == (STOPPED,) * 3 and "stops driving" in rig.loop.latest.reasons[0]
    assert rig.loop.stop()


def test_threads_that_hang_do_not_keep_the_process_from_ending(rig: LoopRig) -> None:
    assert {"control_loop", "watchdog"} <= {thread.name for thread in threading.enumerate() if thread.daemon}


def test_a_publisher_that_fails_keeps_no_other_robot_from_its_commands(rig: LoopRig) -> None:
    def refuse_once() -> None:
        rig.senders[0].before = lambda: None
        raise RuntimeError("nobody foresaw this")

    rig.senders[0].before = refuse_once
    rig.clock.released.release()
    rig.loop._thread.join()
    assert rig.sent[:2] == [(1, wanted(1), True), (2, wanted(2), True)]
    assert rig.sent[2:] == [(robot, SAFE, False) for robot in range(3)]
    assert rig.loop.latest is not None
    assert rig.loop.latest.states == (FAULT, READY, READY) and "could not be sent" in rig.loop.latest.reasons[0]
    assert [str(error) for error in rig.failures] == ["nobody foresaw this"] and rig.loop.failure is rig.failures[0]


def test_a_failed_command_hides_no_robot_that_was_yielded_during_the_tick(rig: LoopRig) -> None:
    def refuse_once() -> None:
        rig.senders[0].before = lambda: None
        raise RuntimeError("nobody foresaw this")

    rig.begin_tick()
    rig.loop.yield_robots({1: "/other"})
    rig.senders[0].before = refuse_once
    rig._go_on.set()
    rig.loop._thread.join()
    tick = rig.loop.latest
    assert tick is not None and tick.states == (FAULT, STOPPED, READY) and tick.reasons[1] == "/other commands it"
    np.testing.assert_array_equal(tick.driven, [False, False, True])


def test_a_failed_safe_command_is_reported_after_all_others_were_sent(rig: LoopRig) -> None:
    def refuse() -> None:
        raise RuntimeError("nobody foresaw this")

    rig.senders[0].before = refuse
    with pytest.raises(RuntimeError, match="nobody foresaw this"):
        rig.loop.stop_robots()
    assert rig.newest() == {1: SAFE, 2: SAFE}
    rig.senders[0].before = lambda: None
    rig.sent.clear()
    # The robots are stopped nevertheless.
    assert rig.tick().stopped and rig.newest() == dict.fromkeys(range(3), SAFE)


def test_a_stop_without_memory_uses_the_reserve(rig: LoopRig) -> None:
    def refuse_until_released() -> None:
        if not rig.loop._reserve._pages.closed:
            raise MemoryError

    rig.senders[1].before = refuse_until_released
    assert rig.loop.stop_robots() == 3
    assert rig.newest() == dict.fromkeys(range(3), SAFE)
    assert rig.tick().stopped and not rig.failures


def test_the_account_of_a_tick_has_its_lateness_durations_ages_and_missed_ticks(rig: LoopRig) -> None:
    rig.loop.statistics.collect()
    rig.readings[1] = None
    rig.readings[2] = (wanted(2), 0.0625)
    rig.time.now_s += 2 * MAX_AGE_S
    rig.begin_tick()
    rig.time.now_s += 0.125
    rig.end_tick()
    rig.tick()
    (first, second), ticks, missed = rig.loop.statistics.collect()
    assert (ticks, missed) == (3, second.missed) and first.missed == 0
    # The first tick was due one period after the one before.
    assert first.lateness_s == 2 * MAX_AGE_S - PERIOD_S
    assert first.duration_s == 0.125 and second.duration_s == 0.0
    # Nine periods have passed since it was due; the last deadline is the second tick's.
    assert second.missed == 8 and second.lateness_s == 0.0
    np.testing.assert_allclose(first.command_ages_s, [0.125, np.nan, 0.1875])
    assert set(first.stages_s) == {"take", "select", "stage", "infer", "guard", "publish"}
    assert first.stages_s["take"] == first.stages_s["publish"] == 0.0


def test_changes_of_state_are_counted_by_robot(rig: LoopRig) -> None:
    assert rig.loop.changes == [1, 1, 1]
    rig.readings[1] = None
    rig.time.now_s += 2 * MAX_AGE_S
    for _ in range(3):
        rig.tick()
    assert rig.loop.changes == [1, 2, 1]


def test_a_policy_is_not_replaced_during_a_tick(make_rig: MakeRig) -> None:
    rig = make_rig(watchdog__timeout_s=0.05)
    rig.tick()
    rig.begin_tick()
    with pytest.raises(TimeoutError, match="hangs"):
        rig.loop.replace_policy(rig.pipeline)
    rig.end_tick()
    rig.loop.replace_policy(rig.pipeline)
    assert rig.tick().states == (READY,) * 3
