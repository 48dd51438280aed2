# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serve an operator: `~/stop`, `~/resume`, `~/reset`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from policy_node.ros.control_loop import ControlLoop

# Least period of the warnings about unknown names.
UNKNOWN_NAME_PERIOD_S = 5.0
# Longest part of an unknown name that is logged.
SHOWN_CHARACTERS = 80

Answer = tuple[bool, str]


class Operation:
    """Serves an operator in every lifecycle state.

    A stop holds until it is resumed, also through transitions of the node.
    """

    def __init__(self, node: Node) -> None:
        self._logger = node.get_logger()
        self._loop: ControlLoop | None = None
        self._robots: tuple[str, ...] = ()
        self._stopped = False
        # Time of the last log line about a reset, by robot: many resets must not flood the log.
        self._reset_logged_s: dict[str, float] = {}
        for name, act in (("stop", self._stop), ("resume", self._resume), ("reset", self._reset)):
            node.create_service(Trigger, f"~/{name}", self._served(name, act))
        node.create_subscription(String, "~/reset", self._on_reset, 10)

    def attach(self, loop: ControlLoop, robots: tuple[str, ...]) -> None:
        """Serve a loop that is about to start; its robots are stopped from the first tick on if a stop holds."""
        self._loop, self._robots = loop, robots
        self._reset_logged_s.clear()
        loop.request_stop(self._stopped)
        if self._stopped:
            self._logger.warning(f"{len(self._robots)} robots stay stopped until ~/resume is called")

    def detach(self) -> None:
        """Serve without a loop."""
        self._loop = None

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
        again = "already stopped" if self._stopped else "stopped"
        self._stopped = True
        if self._loop is None:
            return True, f"{again}; no robot is driven now, and none will be after activation, until ~/resume is called"
        safe = self._loop.stop_robots()
        return True, f"{again}; {safe} of {len(self._robots)} robots got their safe command, until ~/resume is called"

    def _resume(self) -> Answer:
        if not self._stopped:
            return True, "nothing to resume: the robots were not stopped"
        self._stopped = False
        if self._loop is None:
            return True, "resumed; no robot is driven now, the policy will drive after activation"
        self._loop.request_stop(False)
        return True, f"resumed; the policy drives each of the {len(self._robots)} robots whose data are good"

    def _reset(self) -> Answer:
        if self._loop is None:
            return True, "nothing to reset: no robot is driven now, and activation starts fresh"
        self._loop.reset_robots()
        return True, f"reset; histories and memories of {len(self._robots)} robots restart"

    def _on_reset(self, message: String) -> None:
        name = message.data.strip("/")
        if self._loop is None:
            self._logger.warning(
                f"~/reset: found {name[:SHOWN_CHARACTERS]!r}, but the node is not active; activation starts fresh",
                throttle_duration_sec=UNKNOWN_NAME_PERIOD_S,
            )
            return
        known = [robot.strip("/") for robot in self._robots]
        if name not in known:
            self._logger.warning(
                f"~/reset: found {name[:SHOWN_CHARACTERS]!r}, which is no robot of this node; driven are "
                f"{', '.join(known)}",
                throttle_duration_sec=UNKNOWN_NAME_PERIOD_S,
            )
            return
        self._loop.reset_robots([known.index(name)])
        now_s = time.monotonic()
        if now_s - self._reset_logged_s.get(name, -math.inf) >= UNKNOWN_NAME_PERIOD_S:
            self._reset_logged_s[name] = now_s
            self._logger.warning(f"~/reset: history and memory of {name} restart")
