# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What a recording holds beside the messages themselves: one message per tick, and what is said of the whole.

The format is described in `doc/bags.md`. The message of a tick is a DiagnosticArray, which every tool for bags shows:
one status about the node, then one per robot, each with keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from policy_node.sensing.synchroniser import RobotState

TICK_TYPE = "diagnostic_msgs/msg/DiagnosticArray"
# The parameters of the node, as a file beside the messages that the node can be started with.
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
_BOOLEANS = {True: "true", False: "false"}


def ticks_topic(node: str) -> str:
    """Return the topic of the ticks of a node, given its fully qualified name."""
    return f"{node}/ticks"


class Reading(NamedTuple):
    """Which message of a tick a sensor's reading was.

    Attributes
    ----------
    stamp_ns
        Of the reading.
    place
        Which of the messages of its topic that were recorded with the tick, counted from 0; None: the sensor's silence.
    """

    stamp_ns: int
    place: int | None


@dataclass(frozen=True)
class RobotTick:
    """One robot at one tick.

    Attributes
    ----------
    state
        Name of its `RobotState`.
    reason
        Why it was not READY; empty when it was.
    age_s
        Age of its oldest synchronised reading; NaN where there was no set.
    before
        What happened to its episode before the tick: nothing (empty), `reset` (as by `Pipeline.reset`) or `overruled`
        (its safe command left in place of the last tick's, see `Pipeline.note_overruled`).
    left_to
        Name of the node that commands it instead; empty: none does.
    sent
        Whether the command that the tick decided on left: recorded with the time of the tick.
    readings
        By name of the sensor what the policy was given, or the safe position was read from.
    """

    state: str
    reason: str = ""
    age_s: float = float("nan")
    before: str = ""
    left_to: str = ""
    sent: bool = False
    readings: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Tick:
    """One tick of the node.

    Attributes
    ----------
    time_ns
        Its time on the node's clock.
    number
        Counts from 0 at activation, also ticks that were not recorded.
    missed
        Ticks that the node missed just before it.
    dropped
        Ticks that were not recorded so far, as the disk was too slow.
    stopped
        Whether an operator has stopped the robots.
    policy_sha256
        Of the policy that drives.
    robots
        By name, in the order of the configuration.
    """

    time_ns: int
    number: int
    missed: int
    dropped: int
    stopped: bool
    policy_sha256: str
    robots: Mapping[str, RobotTick]


def tick_message(tick: Tick, node: str, types: Mapping[str, Any]) -> Any:
    """Return a tick as a message.

    Parameters
    ----------
    tick
        The tick.
    node
        Fully qualified name of the node.
    types
        Message classes by name, those of a typestore of rosbags.
    """
    status_type = types["diagnostic_msgs/msg/DiagnosticStatus"]
    pair_type = types["diagnostic_msgs/msg/KeyValue"]

    def status(level: int, name: str, text: str, values: dict[str, str]) -> Any:
        pairs = [pair_type(key=key, value=value) for key, value in values.items()]
        return status_type(level=level, name=name, message=text, hardware_id=name, values=pairs)

    own = {
        "tick": str(tick.number),
        "missed": str(tick.missed),
        "dropped": str(tick.dropped),
        "stopped": _BOOLEANS[tick.stopped],
        "policy_sha256": tick.policy_sha256,
    }
    robots = [
        status(_LEVELS.get(robot.state, _WARN), name, robot.reason, _robot_values(robot))
        for name, robot in tick.robots.items()
    ]
    seconds, nanoseconds = divmod(tick.time_ns, 1_000_000_000)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    return types[TICK_TYPE](header=header, status=[status(_OK, node, "", own), *robots])


def _robot_values(robot: RobotTick) -> dict[str, str]:
    readings = {
        f"{_READING_PREFIX}{sensor}": f"{reading.stamp_ns} {_SILENT if reading.place is None else reading.place}"
        for sensor, reading in robot.readings.items()
    }
    return {
        "state": robot.state,
        "age_s": repr(robot.age_s),
        "before": robot.before,
        "left_to": robot.left_to,
        "sent": _BOOLEANS[robot.sent],
        **readings,
    }


def parse_tick(message: Any) -> Tick:
    """Return what the message of a tick says.

    Parameters
    ----------
    message
        A DiagnosticArray, as any library deserialises it.

    Raises
    ------
    ValueError
        When it is not of this format; says what is missing.
    """
    stamp = message.header.stamp
    try:
        own, *robots = message.status
        values = _values(own)
        return Tick(
            time_ns=stamp.sec * 1_000_000_000 + stamp.nanosec,
            number=int(values["tick"]),
            missed=int(values["missed"]),
            dropped=int(values["dropped"]),
            stopped=values["stopped"] == _BOOLEANS[True],
            policy_sha256=values["policy_sha256"],
            robots={status.name: _parse_robot(status.message, _values(status)) for status in robots},
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"the tick at {stamp.sec}.{stamp.nanosec:09d} is not of this format: {error}") from error


def _values(status: Any) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def _parse_robot(reason: str, values: Mapping[str, str]) -> RobotTick:
    readings = {}
    for key, value in values.items():
        if key.startswith(_READING_PREFIX):
            stamp, _, place = value.partition(" ")
            reading = Reading(int(stamp), None if place == _SILENT else int(place))
            if abs(reading.stamp_ns) >= 2**63 or (reading.place or 0) < 0:
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
        readings=readings,
    )
