# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Answers and log lines of the operator's services and topics, in one process with a scripted loop."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from std_msgs.msg import String
from std_srvs.srv import Trigger

from policy_node.ros import throttle
from policy_node.ros.services import MOST_UNKNOWN, Operation
from policy_node.ros.throttle import LOG_PERIOD_S

ROBOTS = ("rover_0", "rover_1", "rover_2")


class FakeNode:
    """A node that keeps the callbacks of its services and topics, and the lines that it logs."""

    def __init__(self) -> None:
        self.services: dict[str, Any] = {}
        self.topics: dict[str, Any] = {}
        self.lines: list[tuple[str, str]] = []

    def get_logger(self) -> Any:
        return SimpleNamespace(
            warning=lambda text: self.lines.append(("warning", text)),
            error=lambda text: self.lines.append(("error", text)),
        )

    def get_parameter_or(self, name: str) -> Any:
        return SimpleNamespace(value=list(ROBOTS))

    def create_service(self, kind: Any, name: str, callback: Any) -> None:
        self.services[name] = callback

    def create_subscription(self, kind: Any, name: str, callback: Any, depth: int) -> None:
        self.topics[name] = callback


class FakeLoop:
    """A loop of which some robots are yielded, and that fails to send while `error` is set."""

    def __init__(self) -> None:
        self.owners: dict[int, str] = {}
        self.error: Exception | None = None

    def stop_robots(self, robots: Iterable[int] | None = None) -> int:
        if self.error is not None:
            raise self.error
        return len(set(range(len(ROBOTS)) if robots is None else robots) - set(self.owners))

    def request_stop(self, robots: Iterable[int]) -> None:
        """Do nothing."""

    def resume_robots(self, robots: Iterable[int]) -> None:
        """Do nothing."""


class Rig:
    """An operator of three robots."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.node, self.loop = FakeNode(), FakeLoop()
        self.operation = Operation(self.node)  # type: ignore[arg-type]
        self.operation.attach(self.loop, ROBOTS)  # type: ignore[arg-type]

    def call(self, name: str) -> tuple[bool, str]:
        response = self.node.services[f"~/{name}"](Trigger.Request(), Trigger.Response())
        return response.success, response.message

    def send(self, topic: str, robot: str) -> list[tuple[str, str]]:
        """Send a robot's name; return the lines that this logs."""
        self.node.lines.clear()
        self.node.topics[f"~/{topic}"](String(data=robot))
        return list(self.node.lines)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_a_robot_of_another_node_is_not_said_to_be_stopped(rig: Rig) -> None:
    rig.loop.owners = {1: "/other"}
    ((level, text),) = rig.send("stop", "rover_1")
    assert level == "warning"
    assert text == "~/stop: rover_1 is stopped here, but /other drives it: stop it there, too"
    assert "rover_0 is stopped and got its safe command" in rig.send("stop", "rover_0")[0][1]
    success, text = rig.call("stop")
    assert success and "2 of 3 robots got their safe command" in text
    assert text.endswith("; other nodes drive 1 of them (/other): stop there, too")
    assert "/other drives it" in rig.send("resume", "rover_1")[0][1]


def test_robots_without_a_safe_command_are_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.loop, "stop_robots", lambda: 1)
    success, text = rig.call("stop")
    assert success and "1 of 3 robots got their safe command" in text
    assert text.endswith("; for 2 no safe command is known (action.safe_command): they may go on with their last one")


def test_a_safe_command_that_fails_is_told_with_the_emergency_stop(rig: Rig) -> None:
    rig.loop.error = RuntimeError("no route")
    success, text = rig.call("stop")
    assert not success
    assert text.startswith("stopped until ~/resume is called, but a safe command could not be sent")
    assert text.endswith("(RuntimeError: no route): use the emergency stop")
    assert rig.call("resume")[0]
    ((level, text),) = rig.send("stop", "rover_0")
    assert level == "error" and "rover_0 is stopped until it is resumed, but its safe command could not" in text
    assert text.endswith("(RuntimeError: no route): use the emergency stop")
    # The next attempt succeeds, which is said at once.
    rig.loop.error = None
    assert "rover_0 is already stopped and got its safe command" in rig.send("stop", "rover_0")[0][1]


def test_a_wrong_name_is_logged_although_others_were_sent(rig: Rig) -> None:
    assert len(rig.send("reset", "rover_9")) == len(rig.send("reset", "rover_8")) == 1
    assert "~/stop: found 'rover_9', which is no robot of this node" in rig.send("stop", "rover_9")[0][1]
    # The same again is not.
    assert not rig.send("stop", "rover_9")
    rig.now_s += LOG_PERIOD_S
    assert rig.send("stop", "rover_9")


def test_many_wrong_names_do_not_flood_the_log(rig: Rig) -> None:
    lines = [line for number in range(10 * MOST_UNKNOWN) for line in rig.send("stop", f"rover_{number + 3}")]
    assert len(lines) == MOST_UNKNOWN and "other names are not logged for 5 s" in lines[-1][1]
    # They hide no known robot.
    assert rig.send("stop", "rover_0")
    rig.now_s += LOG_PERIOD_S
    assert rig.send("stop", "rover_9")
