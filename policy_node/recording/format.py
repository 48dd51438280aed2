# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert the ticks of a recording to messages and back.

The message of a tick is a DiagnosticArray, which every tool for bags shows: one status for the node, then one for each
robot. `doc/bags.md` describes the format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from policy_node.config.rules import check_value
from policy_node.config.schema import LIMITS, PARAMETERS
from policy_node.sensing.synchroniser import RobotState

TICK_TYPE = "diagnostic_msgs/msg/DiagnosticArray"
# Parameter file in the bag, with which the node can be started.
PARAMETERS_FILE = "parameters.yaml"
# Keys of the custom data in metadata.yaml.
FORMAT_KEY = "policy_node.format"
NODE_KEY = "policy_node.node"
PARAMETERS_KEY = "policy_node.parameters"
POLICY_KEY = "policy_node.policy_sha256"
FORMAT = "1"

_OK, _WARN, _ERROR = 0, 1, 2
_LEVELS = {"READY": _OK, "REJECTED": _ERROR, "FAULT": _ERROR}
_EVENTS = ("", "reset", "overruled")
_READING_PREFIX = "sample."
_SILENT = "silent"
_LIMITS = {parameter.name: parameter for parameter in PARAMETERS if parameter.name in LIMITS}
_BOOLEANS = {True: "true", False: "false"}


def ticks_topic(node: str) -> str:
    """Return the topic of the ticks, given the fully qualified name of the node."""
    return f"{node}/ticks"


class Reading(NamedTuple):
    """Sample of a sensor at a tick."""

    stamp_ns: int
    #: Index of its message among those recorded on its topic with the tick; None if the sensor was silent.
    message_index: int | None


@dataclass(frozen=True)
class RobotTick:
    """State of one robot at a tick."""

    state: str  #: Name of its `RobotState`.
    reason: str = ""  #: Reason for the state; empty when READY.
    age_s: float = float("nan")  #: Age of its oldest synchronised sample; NaN without synchronised samples.
    #: Event before the tick; empty, `reset` (see `Pipeline.reset`), or `overruled` when the safe command replaced that
    #: of the previous tick (see `Pipeline.note_overruled`).
    before: str = ""
    left_to: str = ""  #: Name of the node that commands it instead; empty without one.
    sent: bool = False  #: Whether the command of the tick was sent; it has the time of the tick.
    planned: bool = False  #: Whether its observation was taken for a plan.
    task: str | None = None  #: Text that says what it is to do; None for a policy that takes none.
    #: Samples by name of the sensor, which the policy got, and that of the safe position.
    readings: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Tick:
    """One tick of the node."""

    time_ns: int  #: Time on the node's clock.
    number: int  #: Number since activation, from 0; dropped ticks count.
    missed: int  #: Number of ticks that the node missed just before.
    dropped: int  #: Number of ticks that were not recorded so far, as the disk was too slow.
    stopped: bool  #: Whether an operator stopped all robots.
    policy_sha256: str  #: Hash of the policy.
    robots: Mapping[str, RobotTick]  #: By name, in the order of the configuration.
    limits: str = ""  #: The limits in force, see `parse_limits`; empty in older recordings.
    has_plans: bool = False  #: Whether commands follow from plans; without them the next two mean nothing.
    plan_arrived_ns: int | None = None  #: Time of the observations of the plans that arrived; None without any.
    plan_delay: int = 0  #: Steps of the previous plans that the policy was told to be executed meanwhile.


def tick_message(tick: Tick, node: str, types: Mapping[str, Any]) -> Any:
    """Convert a tick of a node to a message; `types` are the message classes of a typestore of rosbags by name."""
    pair_type, status_type = types["diagnostic_msgs/msg/KeyValue"], types["diagnostic_msgs/msg/DiagnosticStatus"]

    def status(level: int, name: str, text: str, values: Mapping[str, str]) -> Any:
        pairs = [pair_type(key=key, value=value) for key, value in values.items()]
        return status_type(level=level, name=name, message=text, hardware_id=name, values=pairs)

    of_node = {
        "tick": str(tick.number),
        "missed": str(tick.missed),
        "dropped": str(tick.dropped),
        "stopped": _BOOLEANS[tick.stopped],
        "policy_sha256": tick.policy_sha256,
        "limits": tick.limits,
    }
    if tick.has_plans:
        arrived = "" if tick.plan_arrived_ns is None else str(tick.plan_arrived_ns)
        of_node |= {"plan_arrived": arrived, "plan_delay": str(tick.plan_delay)}
    statuses = [status(_OK, node, "", of_node)]
    for name, robot in tick.robots.items():
        values = {
            "state": robot.state,
            "age_s": repr(robot.age_s),
            "before": robot.before,
            "left_to": robot.left_to,
            "sent": _BOOLEANS[robot.sent],
        }
        if tick.has_plans:
            values["planned"] = _BOOLEANS[robot.planned]
        if robot.task is not None:
            values["task"] = robot.task
        for sensor, (stamp_ns, message_index) in robot.readings.items():
            values[f"{_READING_PREFIX}{sensor}"] = f"{stamp_ns} {_SILENT if message_index is None else message_index}"
        statuses.append(status(_LEVELS.get(robot.state, _WARN), name, robot.reason, values))
    seconds, nanoseconds = divmod(tick.time_ns, 1_000_000_000)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types[TICK_TYPE](header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=""), status=statuses)


def parse_tick(message: Any) -> Tick:
    """Convert a DiagnosticArray of any library to a tick.

    Raises
    ------
    ValueError
        When a value is missing or invalid.
    """
    stamp = message.header.stamp
    try:
        node, *robots = message.status
        values = _values(node)
        return Tick(
            time_ns=stamp.sec * 1_000_000_000 + stamp.nanosec,
            number=int(values["tick"]),
            missed=int(values["missed"]),
            dropped=int(values["dropped"]),
            stopped=values["stopped"] == _BOOLEANS[True],
            policy_sha256=values["policy_sha256"],
            limits=values.get("limits", ""),
            has_plans="plan_delay" in values,
            plan_arrived_ns=int(values["plan_arrived"]) if values.get("plan_arrived") else None,
            plan_delay=int(values.get("plan_delay", 0)),
            robots={status.name: _parse_robot(status.message, _values(status)) for status in robots},
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"the tick at {stamp.sec}.{stamp.nanosec:09d} is not of this format: {error}") from error


def parse_limits(text: str) -> dict[str, Any]:
    """Return the values of parameters in the limits of a tick, by name.

    Raises
    ------
    ValueError
        When they are not values of `LIMITS`.
    """
    try:
        values = json.loads(text)
        problems = [problem for name in values for problem in check_value(name, _LIMITS[name], values)]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"limits is {text[:200]!r}") from error
    if problems:
        raise ValueError(problems[0])
    return dict(values)


def _values(status: Any) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def _parse_robot(reason: str, values: Mapping[str, str]) -> RobotTick:
    readings = {}
    for key, value in values.items():
        if key.startswith(_READING_PREFIX):
            stamp, _, message_index = value.partition(" ")
            reading = Reading(int(stamp), None if message_index == _SILENT else int(message_index))
            if abs(reading.stamp_ns) >= 2**63 or (reading.message_index or 0) < 0:
                raise ValueError(f"{key} is {value!r}")
            readings[key.removeprefix(_READING_PREFIX)] = reading
    state, before, age_s = values["state"], values["before"], float(values["age_s"])
    if state not in RobotState.__members__ or before not in _EVENTS or math.isinf(age_s):
        raise ValueError(f"state is {state!r}, before {before!r}, age_s {age_s}")
    return RobotTick(
        state=state,
        reason=reason,
        age_s=age_s,
        before=before,
        left_to=values["left_to"],
        sent=values["sent"] == _BOOLEANS[True],
        planned=values.get("planned") == _BOOLEANS[True],
        task=values.get("task"),
        readings=readings,
    )
