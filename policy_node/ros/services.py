# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serve an operator: `~/stop`, `~/resume`, `~/reset`, of all robots or of one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from policy_node.config.rules import has_type
from policy_node.ros.control_loop import ControlLoop

# Least period of the warnings about unknown names.
UNKNOWN_NAME_PERIOD_S = 5.0
# Longest part of an unknown name that is logged.
SHOWN_CHARACTERS = 80
# Most robots named in a log line.
MOST_NAMED = 20

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
        # Whether all robots are stopped, and the names of those of which the opposite holds.
        self._all_stopped = False
        self._exceptions: set[str] = set()
        # Time of the last log line by topic and robot: many messages must not flood the log.
        self._logged_s: dict[tuple[str, str], float] = {}
        services = {"stop": self._stop, "resume": self._resume, "reset": self._reset}
        topics = {"stop": self._stop_one, "resume": self._resume_one, "reset": self._reset_one}
        for name, act in services.items():
            node.create_service(Trigger, f"~/{name}", self._served(name, act))
        for name, act_on in topics.items():
            node.create_subscription(String, f"~/{name}", self._heard(name, act_on), 10)

    def attach(self, loop: ControlLoop, robots: tuple[str, ...]) -> None:
        """Serve a loop that is about to start; robots are stopped from the first tick on if a stop holds."""
        self._loop, self._robots = loop, robots
        self._logged_s.clear()
        stopped = [robot for robot, name in enumerate(robots) if self._is_stopped(name)]
        loop.request_stop(stopped)
        if stopped:
            named = f"{len(stopped)} of {len(robots)} robots stay" if self._exceptions else f"{len(robots)} robots stay"
            self._logger.warning(f"{named} stopped until ~/resume is called")

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
        safe = self._loop.stop_robots()
        return True, f"{again}; {safe} of {len(self._robots)} robots got their safe command, until ~/resume is called"

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

    def _heard(self, topic: str, act: Callable[[str], str]) -> Callable[[String], None]:
        """Return what serves a topic with the names of robots; `act` returns what it did to a robot."""

        def hear(message: String) -> None:
            name = message.data.strip("/")
            known = self._known()
            if name not in known:
                self._logger.warning(
                    f"~/{topic}: found {name[:SHOWN_CHARACTERS]!r}, which is no robot of this node; driven are "
                    f"{', '.join(known[:MOST_NAMED])}{' and more' if len(known) > MOST_NAMED else ''}",
                    throttle_duration_sec=UNKNOWN_NAME_PERIOD_S,
                )
                return
            try:
                done = act(name)
            except Exception as error:  # a message must never end the process that drives the robots
                self._logger.error(f"~/{topic}: {name}: {type(error).__name__}: {error}")
                return
            now_s = time.monotonic()
            if now_s - self._logged_s.get((topic, name), -math.inf) >= UNKNOWN_NAME_PERIOD_S:
                self._logged_s[topic, name] = now_s
                self._logger.warning(f"~/{topic}: {done}")

        return hear

    def _known(self) -> list[str]:
        """Return the names of the robots, of a node that is not active those of its parameter."""
        robots = self._robots
        if self._loop is None:
            value = self._node.get_parameter_or("robots").value
            robots = tuple(value) if has_type(value, "list[str]") else ()
        return [robot.strip("/") for robot in robots]

    def _set_stopped(self, name: str, stopped: bool) -> str:
        """Note whether a robot is stopped; return the word for a state that it had before."""
        again = " already" if self._is_stopped(name) is stopped else ""
        if stopped is self._all_stopped:
            self._exceptions.discard(name)
        else:
            self._exceptions.add(name)
        # A repeated message may be limited in the log, a change never.
        if not again:
            self._logged_s.pop(("stop" if stopped else "resume", name), None)
        return again

    def _stop_one(self, name: str) -> str:
        again = self._set_stopped(name, True)
        if self._loop is None:
            return f"{name} is{again} stopped: it will not be driven after activation, until it is resumed"
        has_safe = self._loop.stop_robots([self._known().index(name)])
        got = "got its safe command" if has_safe else "has no safe command and gets nothing"
        return f"{name} is{again} stopped and {got}, until it is resumed"

    def _resume_one(self, name: str) -> str:
        again = self._set_stopped(name, False)
        if self._loop is None:
            return f"{name} is{again} resumed: it will be driven after activation"
        self._loop.resume_robots([self._known().index(name)])
        return f"{name} is{again} resumed: the policy drives it if its data are good"

    def _reset_one(self, name: str) -> str:
        if self._loop is None:
            return f"found {name!r}, but the node is not active; activation starts fresh"
        self._loop.reset_robots([self._known().index(name)])
        return f"history and memory of {name} restart"
