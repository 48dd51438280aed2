# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serve an operator: `~/stop`, `~/resume`, `~/reset`, of all robots or of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from policy_node.config.rules import has_type
from policy_node.config.schema import named
from policy_node.ros.throttle import LOG_PERIOD_S, Throttle

if TYPE_CHECKING:
    from policy_node.ros.control_loop import ControlLoop

# Most unknown names that a topic logs within it.
MOST_UNKNOWN = 20
# Longest part of an unknown name that is logged.
SHOWN_CHARACTERS = 80

# Success and text.
Answer = tuple[bool, str]


class Operation:
    """Serves an operator in every lifecycle state.

    A stop holds until it is resumed, also through transitions of the node. The services concern all robots, the topics
    of the same names the robot whose name is sent.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._logger = node.get_logger()
        self._loop: ControlLoop | None = None
        self._robots: tuple[str, ...] = ()
        # Whether robots are stopped, and the names of the exceptions.
        self._all_stopped = False
        self._exceptions: set[str] = set()
        services = {"stop": self._stop, "resume": self._resume, "reset": self._reset}
        topics = {"stop": self._stop_one, "resume": self._resume_one, "reset": self._reset_one}
        # Many messages must not flood the log; by topic, because a wrong name on one must not hide that on another.
        self._answers = {name: Throttle() for name in topics}
        self._unknown = {name: Throttle(MOST_UNKNOWN) for name in topics}
        for name, act in services.items():
            node.create_service(Trigger, f"~/{name}", self._served(name, act))
        for name, act_on in topics.items():
            node.create_subscription(String, f"~/{name}", self._heard(name, act_on), 10)

    def attach(self, loop: ControlLoop, robots: tuple[str, ...]) -> None:
        """Serve a loop that is about to start; robots are stopped from the first tick on if a stop holds."""
        self._loop, self._robots = loop, robots
        self._answers = {name: Throttle() for name in self._answers}
        stopped = [robot for robot, name in enumerate(robots) if self._is_stopped(name)]
        loop.request_stop(stopped)
        if stopped:
            count = f"{len(stopped)} of {len(robots)}" if self._exceptions else f"{len(robots)}"
            self._logger.warning(f"{count} robots stay stopped until ~/resume is called")

    def detach(self) -> None:
        """Serve without a loop."""
        self._loop = None

    def _is_stopped(self, robot: str) -> bool:
        return self._all_stopped != (robot.strip("/") in self._exceptions)

    def _served(self, name: str, act: Callable[[], Answer]) -> Callable[[Trigger.Request, Trigger.Response], object]:
        def serve(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                response.success, response.message = act()
            except Exception as error:  # a request must never end the process that drives the robots
                response.success, response.message = False, f"{type(error).__name__}: {error}"
            log = self._logger.warning if response.success else self._logger.error
            log(f"~/{name}: {response.message}")
            return response

        return serve

    def _stop(self) -> Answer:
        again = "already stopped" if self._all_stopped and not self._exceptions else "stopped"
        self._all_stopped, self._exceptions = True, set()
        if self._loop is None:
            return True, f"{again}; no robot is driven now, and none will be after activation, until ~/resume is called"
        try:
            safe = self._loop.stop_robots()
        except Exception as error:  # the robots are stopped nevertheless
            return False, f"{again} until ~/resume is called, but a safe command {_not_sent(error)}"
        owners = self._loop.owners
        nodes = ", ".join(sorted(set(owners.values())))
        others = f"; other nodes drive {len(owners)} of them ({nodes}): stop there, too" if owners else ""
        got = f"{safe} of {len(self._robots)} robots got their safe command, until ~/resume is called"
        return True, f"{again}; {got}{self._without_safe_command(safe + len(owners))}{others}"

    def _without_safe_command(self, others: int) -> str:
        """Return how many robots go on with their last command; empty if none does."""
        count = len(self._robots) - others
        if count <= 0:
            return ""
        return f"; for {count} no safe command is known (action.safe_command): they may go on with their last one"

    def _resume(self) -> Answer:
        if not self._all_stopped and not self._exceptions:
            return True, "nothing to resume: the robots were not stopped"
        self._all_stopped, self._exceptions = False, set()
        if self._loop is None:
            return True, "resumed; no robot is driven now, the policy will drive after activation"
        self._loop.request_stop(())
        return True, f"resumed; the policy drives each of the {len(self._robots)} robots whose data are good"

    def _reset(self) -> Answer:
        if self._loop is None:
            return True, "nothing to reset: no robot is driven now, and activation starts fresh"
        self._loop.reset_robots()
        return True, f"reset; histories and memories of {len(self._robots)} robots restart"

    def _heard(self, topic: str, act: Callable[[str], Answer]) -> Callable[[String], None]:
        """Return the callback of a topic with names of robots, which calls `act` with each known name."""

        def hear(message: String) -> None:
            name = message.data.strip("/")
            known = self._known()
            if name not in known:
                self._warn_unknown(topic, name[:SHOWN_CHARACTERS], known)
                return
            try:
                success, text = act(name)
            except Exception as error:  # a message must never end the process that drives the robots
                success, text = False, f"{name}: {type(error).__name__}: {error}"
            if self._answers[topic].allows((name, success)):
                log = self._logger.warning if success else self._logger.error
                log(f"~/{topic}: {text}")

        return hear

    def _warn_unknown(self, topic: str, name: str, known: list[str]) -> None:
        unknown = self._unknown[topic]
        if unknown.allows(name):
            last = f"; other names are not logged for {LOG_PERIOD_S:g} s" if unknown.is_full else ""
            self._logger.warning(
                f"~/{topic}: found {name!r}, which is no robot of this node; driven are {named(known)}{last}"
            )

    def _known(self) -> list[str]:
        """Return the names of the robots; those of the parameter `robots` if the node is not active."""
        robots = self._robots
        if self._loop is None:
            value = self._node.get_parameter_or("robots").value
            robots = tuple(value) if has_type(value, "list[str]") else ()
        return [robot.strip("/") for robot in robots]

    def _set_stopped(self, name: str, stopped: bool) -> str:
        """Store whether a robot is stopped; return " already" if it was in that state, else an empty text."""
        again = " already" if self._is_stopped(name) is stopped else ""
        if stopped is self._all_stopped:
            self._exceptions.discard(name)
        else:
            self._exceptions.add(name)
        # A repeated message may be limited in the log, a change never.
        if not again:
            self._answers["stop" if stopped else "resume"].forget((name, True))
        return again

    def _stop_one(self, name: str) -> Answer:
        again = self._set_stopped(name, True)
        if self._loop is None:
            return True, f"{name} is{again} stopped: it will not be driven after activation, until it is resumed"
        robot = self._known().index(name)
        try:
            has_safe = self._loop.stop_robots([robot])
        except Exception as error:  # the robot is stopped nevertheless
            return (
                False,
                f"{name} is{again} stopped until it is resumed, but its safe command {_not_sent(error)}",
            )
        if owner := self._loop.owners.get(robot):
            return True, f"{name} is{again} stopped here, but {owner} drives it: stop it there, too"
        got = "got its safe command" if has_safe else "has no safe command and gets nothing"
        return True, f"{name} is{again} stopped and {got}, until it is resumed"

    def _resume_one(self, name: str) -> Answer:
        again = self._set_stopped(name, False)
        if self._loop is None:
            return True, f"{name} is{again} resumed: it will be driven after activation"
        robot = self._known().index(name)
        self._loop.resume_robots([robot])
        if owner := self._loop.owners.get(robot):
            return True, f"{name} is{again} resumed here, but {owner} drives it"
        return True, f"{name} is{again} resumed: the policy drives it if its data are good"

    def _reset_one(self, name: str) -> Answer:
        if self._loop is None:
            return True, f"found {name!r}, but the node is not active; activation starts fresh"
        self._loop.reset_robots([self._known().index(name)])
        return True, f"history and memory of {name} restart"


def _not_sent(error: Exception) -> str:
    return f"could not be sent ({type(error).__name__}: {error}): use the emergency stop"
