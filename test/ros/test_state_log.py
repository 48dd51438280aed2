# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Log lines about states of robots and about missed ticks."""

from collections.abc import Sequence

import numpy as np

from policy_node.control.timing import TickRecord
from policy_node.ros.state_log import (
    FINDING_PERIOD_S,
    MAX_REASONS,
    PERSISTENT_REPORTS,
    UNSTEADY_CHANGES,
    UNSTEADY_S,
    BoundLog,
    OverloadLog,
    StateLog,
)
from policy_node.sensing.synchroniser import RobotState

READY, STALE, WAITING = RobotState.READY, RobotState.STALE, RobotState.WAITING
OLD = (STALE, "touch: is 0.231 s old")


class Fleet:
    """The states of two robots, and the lines about them."""

    def __init__(self) -> None:
        self.log = StateLog(("left", "right"), "stop")
        self.now_s = 0.0
        self.changes = [0, 0]
        self.interruptions: list[tuple[RobotState, str] | None] = [None, None]

    def check(
        self, *states: tuple[RobotState, str], changed: Sequence[int] = (0, 0), shares: Sequence[float] = (1.0, 1.0)
    ) -> list[str]:
        """Check a quarter of a second later, after so many changes; return the lines."""
        self.now_s += 0.25
        self.changes = [sum(pair) for pair in zip(self.changes, changed, strict=True)]
        lines = self.log.lines(
            self.now_s,
            [state for state, _ in states],
            [reason for _, reason in states],
            self.changes,
            self.interruptions,
            np.array(shares),
        )
        return [line.text for line in lines]


def test_a_state_gets_one_line_with_all_its_robots() -> None:
    fleet = Fleet()
    assert fleet.check((WAITING, "no image"), (WAITING, "no image")) == []
    assert fleet.check((READY, ""), (READY, ""), changed=(1, 1)) == ["left, right: READY, driven by the policy"]
    assert fleet.check((READY, ""), (READY, "")) == []
    assert fleet.check((READY, ""), OLD, changed=(0, 1)) == ["right: STALE, touch: is 0.231 s old; when_stale: stop"]
    # Another age is no other reason; another sensor is.
    assert fleet.check((READY, ""), (STALE, "touch: is 0.281 s old")) == []
    assert fleet.check((READY, ""), (STALE, "image: is 0.3 s old")) == [
        "right: STALE, image: is 0.3 s old; when_stale: stop"
    ]


def test_a_change_and_back_between_two_checks_is_logged() -> None:
    fleet = Fleet()
    fleet.check((READY, ""), (READY, ""), changed=(1, 1))
    assert fleet.check((READY, ""), (READY, ""), changed=(2, 0)) == [
        "left (after 2 changes): READY, driven by the policy"
    ]


def test_a_robot_that_changes_again_and_again_gets_one_line_a_minute() -> None:
    fleet = Fleet()
    fleet.interruptions[0] = OLD
    fleet.check((READY, ""), (READY, ""), changed=(1, 1))
    lines = []
    seconds = FINDING_PERIOD_S + 1.0
    for check in range(round(seconds / 0.25)):
        state = (READY, "") if check % 2 else OLD
        lines += fleet.check(state, (READY, ""), changed=(5, 0), shares=(0.48, 1.0))
    unsteady = [line for line in lines if "again and again" in line]
    assert len(unsteady) == 2 and len(lines) <= 2 + UNSTEADY_CHANGES
    assert all(line.startswith("left (driven in 48% of the ticks, ") for line in unsteady)
    assert all("): STALE, again and again: touch: is 0.231 s old; when_stale: stop" in line for line in unsteady)
    # A new reason gets its line.
    (line,) = fleet.check((STALE, "image: is 0.3 s old"), (READY, ""), changed=(5, 0))
    assert line.endswith(" changes): STALE, image: is 0.3 s old; when_stale: stop")
    # Steady again: one line, when it was so for some seconds.
    lines = []
    for _ in range(round(3 * UNSTEADY_S / 0.25)):
        lines += fleet.check((READY, ""), (READY, ""))
    assert lines == ["left: READY, driven by the policy"]


def test_a_reason_that_changes_again_and_again_gets_one_line() -> None:
    fleet = Fleet()
    fleet.check((READY, ""), (READY, ""), changed=(1, 1))
    lines = []
    for check in range(40):
        reason = "image: an unknown encoding" if check % 2 else "touch: not finite"
        lines += fleet.check((RobotState.REJECTED, reason), (READY, ""), changed=(0 if check else 1, 0))
    assert len(lines) <= UNSTEADY_CHANGES + 1
    assert "left (driven" in lines[-1] and "REJECTED" in lines[-1]


def test_new_reasons_of_an_unsteady_robot_do_not_flood_the_log() -> None:
    fleet = Fleet()
    lines = []
    for check in range(100):
        # Reasons quote what was found, which a sender chooses.
        lines += fleet.check((RobotState.REJECTED, f"image: encoding {'x' * check}"), (READY, ""), changed=(2, 0))
    assert len(lines) <= MAX_REASONS + UNSTEADY_CHANGES


def record(missed: int, duration_s: float) -> TickRecord:
    stages_s = {"take": 0.001, "infer": duration_s - 0.002, "publish": 0.001}
    return TickRecord(0.0, duration_s, missed, stages_s, np.zeros(2))


def test_overload_is_logged_once_a_minute_with_what_takes_the_time() -> None:
    log = OverloadLog(20.0)
    lines = [line for second in range(90) for line in log.lines(second, [record(2, 0.12)] * 8, 1.0)]
    assert [line.is_warning for line in lines] == [True, True]
    assert lines[0].text.startswith(
        "overload: 16 of 24 ticks were missed in the last 1.0 s, the robots get 8.0 instead of 20 commands a second: a "
        "tick takes 120.0 ms (p50, infer 118.0 ms), the control period is 50.0 ms; lower control_rate_hz below 8.33, "
    )


def test_the_end_of_an_overload_is_logged() -> None:
    log = OverloadLog(20.0)
    late, fine = [record(2, 0.12)] * 8, [record(0, 0.01)] * 20
    for second in range(PERSISTENT_REPORTS):
        log.lines(second, late, 1.0)
    lines = [line.text for second in range(10) for line in log.lines(second, fine, 1.0)]
    assert lines == ["the overload has ended: no tick is missed"]


def test_a_few_missed_ticks_are_no_overload() -> None:
    log = OverloadLog(20.0)
    late, fine = [record(1, 0.02)] * 10, [record(0, 0.02)] * 20
    lines = [log.lines(second, late if second % PERSISTENT_REPORTS else fine, 1.0) for second in range(30)]
    assert not any(lines)


def test_ticks_that_are_short_enough_are_missed_by_the_machine() -> None:
    assert "relieve the machine, or set realtime.priority" in OverloadLog(20.0).text([record(1, 0.01)], 1.0)
    assert "control_rate_hz" not in OverloadLog(20.0).text([record(1, 0.01)], 1.0)


def test_bounds_that_change_every_command_are_reported_once() -> None:
    log = BoundLog(("left", "right", "idle"))
    total, ticks = np.zeros(3, np.int64), np.array([20, 20, 0])
    lines = []
    for report in range(3 * PERSISTENT_REPORTS):
        # The bounds change each command of the left robot, and now and then one of the right robot.
        total = total + np.array([20, report % 2, 0])
        lines += log.lines(total, ticks)
        assert len(lines) == int(report + 1 >= PERSISTENT_REPORTS)
    (line,) = lines
    assert line.is_warning and line.text.startswith("left: action.low or action.high changes every command")
