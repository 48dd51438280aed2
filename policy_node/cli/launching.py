# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Decide which processes the launch files start, without the launch system.

Each launch file has a tuple of arguments and a function that turns their values into processes. An empty value means
that the argument was not given: it sets nothing, so that the parameter file and `SetParameter` of other launch files
hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from policy_node.cli.process_environment import memory_environment, transport_environment
from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import parse_yaml
from policy_node.config.parameters import LOG_LEVELS


@dataclass(frozen=True)
class Argument:
    """A launch argument."""

    #: Name before `:=`.
    name: str
    #: Text in `ros2 launch --show-args`.
    description: str
    #: Value where none is given; None: the argument is required.
    default: str | None = ""
    #: Allowed values; empty: any.
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeProcess:
    """A ROS node that a launch file starts."""

    executable: str
    #: Package that installs the executable.
    package: str = "policy_node"
    #: Name of the node; empty: the one in its code.
    name: str = ""
    #: Namespace of the node; empty: the one of the including launch file.
    namespace: str = ""
    #: Parameter files and values; the last value of a parameter holds.
    parameters: tuple[str | dict[str, Any], ...] = ()
    #: Command line, without the arguments for ROS.
    arguments: tuple[str, ...] = ()
    #: Variables added to the environment.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Seconds after which an ended process is started again; None: never.
    respawn_delay_s: float | None = None
    #: Seconds after SIGINT until the process gets SIGTERM; None: those of launch.
    sigterm_timeout_s: int | None = None
    #: Whether the end of the process ends the whole launch.
    ends_launch: bool = False


@dataclass(frozen=True)
class IncludedFile:
    """A launch file, by its name in the folder `launch` of another package, and its arguments."""

    package: str
    file: str
    arguments: Mapping[str, str]


PARAMS_FILE = Argument("params_file", "ROS parameter file (YAML) of the policy node, such as config/rover.yaml", None)
NAMESPACE = Argument("namespace", "Namespace of the node and of all its relative topics")
USE_SIM_TIME = Argument(
    "use_sim_time", "Follow /clock instead of the system clock; empty: use_sim_time of the parameter file"
)
AUTOSTART = Argument(
    "autostart",
    "Configure and activate the node when it starts; false: wait for lifecycle transitions; empty: autostart of the "
    "parameter file",
)
MALLOC = Argument("malloc", "Let glibc keep freed memory, which makes ticks with large messages faster", "true")
FASTDDS_PROFILE = Argument(
    "fastdds_profile",
    "Transport of Fast DDS (XML), unless the environment names one; '' (with its quotes) leaves the transport alone",
    str(share_path("config", "fastdds.xml")),
)
LOG_LEVEL = Argument(
    "log_level",
    "Lowest severity that the node logs; empty: log_level of the parameter file",
    choices=("", *LOG_LEVELS),
)
COMMON = (AUTOSTART, MALLOC, FASTDDS_PROFILE, LOG_LEVEL)

POLICY_ARGUMENTS = (PARAMS_FILE, NAMESPACE, USE_SIM_TIME, *COMMON)
ONBOARD_ARGUMENTS = (
    PARAMS_FILE,
    Argument("robots", "Namespaces of the robots, such as [rover_0]; empty: robots of the parameter file"),
    Argument("device", "Device of the policy: cpu, cuda, cuda:0, …; empty: policy.device of the parameter file"),
    Argument(
        "priority",
        "Real-time priority of the tick from 1 to 99, 0: none; empty: realtime.priority of the parameter file",
    ),
    Argument("cpus", "CPUs of the tick, such as [2,3]; empty: realtime.cpus of the parameter file"),
    Argument("record", "Folder for recordings; empty: record.path of the parameter file"),
    Argument(
        "respawn",
        "Start the node again when its process ends; with autostart the robots then move again without an operator",
        "false",
    ),
    Argument("respawn_delay_s", "Whole seconds until the node is started again", "5"),
    Argument("rmw", "ROS middleware, such as rmw_fastrtps_cpp; empty: that of the environment"),
    NAMESPACE,
    USE_SIM_TIME,
    *COMMON,
)
FLEET_ARGUMENTS = (
    Argument(
        "params_file",
        "ROS parameter file (YAML) of the whole fleet, with a section for all node names (/**:), such as "
        "config/rover.yaml",
        None,
    ),
    Argument("shards", "Number of parts into which `robots` is divided, one node for each", None),
    Argument(
        "index",
        "Shard to start here, from 0 to shards - 1, when other computers run the others; all: all shards",
        "all",
    ),
    Argument(
        "devices",
        "Devices of the shards in turn, such as [cuda:0,cuda:1]; empty: policy.device of the parameter file",
    ),
    Argument(
        "discovery_server",
        "ADDRESS:PORT of a Fast DDS discovery server, several separated by semicolons; empty: discovery by multicast",
    ),
    NAMESPACE,
    USE_SIM_TIME,
    *COMMON,
)
# What the launch system itself takes on its command line.
_OF_LAUNCH = ("emulate_tty", "launch-prefix", "launch-prefix-filter", "sigkill_timeout", "sigterm_timeout")


def check_known(words: Sequence[str], arguments: Sequence[Argument]) -> None:
    """Check that a launch file has the arguments `NAME:=VALUE` of its command line; launch ignores others.

    Raises
    ------
    ValueError
        When there is another one.
    """
    known = [argument.name for argument in arguments]
    for word in words:
        if word.partition(":=")[0] not in (*known, *_OF_LAUNCH):
            raise ValueError(f"{word}: there is no such argument; allowed are {', '.join(known)}")


def policy(given: Mapping[str, str]) -> list[NodeProcess]:
    """Return the policy node of policy.launch.py."""
    return [policy_process(given)]


def onboard(given: Mapping[str, str]) -> list[NodeProcess]:
    """Return the policy node of onboard.launch.py."""
    parameters = {
        "robots": given["robots"] and listed(given, "robots", str, "[rover_0,rover_1]"),
        "policy.device": given["device"],
        "realtime.priority": given["priority"] and whole_number(given, "priority", 0, 99),
        "realtime.cpus": given["cpus"] and listed(given, "cpus", int, "[2,3]"),
        "record.path": given["record"],
    }
    process = policy_process(given, parameters, environment={"RMW_IMPLEMENTATION": given["rmw"]})
    if not truth(given, "respawn"):
        return [process]
    return [replace(process, respawn_delay_s=whole_number(given, "respawn_delay_s", 0, 3600))]


def fleet(given: Mapping[str, str]) -> list[NodeProcess]:
    """Return the policy nodes of fleet.launch.py, one for each shard that runs here."""
    count = whole_number(given, "shards", 1, 1000)
    shards = range(count) if given["index"] == "all" else [whole_number(given, "index", 0, count - 1)]
    devices = listed(given, "devices", str, "[cuda:0,cuda:1]") if given["devices"] else [""]
    environment = {"ROS_DISCOVERY_SERVER": given["discovery_server"]}
    return [
        policy_process(
            given,
            {"shard": f"{shard}/{count}", "policy.device": devices[shard % len(devices)]},
            name=f"policy_node_{shard}",
            environment=environment,
        )
        for shard in shards
    ]


def policy_process(
    given: Mapping[str, str],
    parameters: Mapping[str, Any] = MappingProxyType({}),
    *,
    name: str = "",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> NodeProcess:
    """Return the policy node for the values of the launch arguments.

    Parameters
    ----------
    given
        Values of the launch arguments.
    parameters, environment
        Values that override the parameter file, and variables added to the environment; empty ones are left out.
    name
        Name of the node; empty: policy_node.
    """
    truths = {each: truth(given, each) for each in ("use_sim_time", "autostart") if given.get(each)}
    parameters = {"log_level": given["log_level"], **parameters}
    overrides = truths | {parameter: value for parameter, value in parameters.items() if value != ""}
    return NodeProcess(
        "policy_node",
        name=name,
        namespace=given.get("namespace", ""),
        parameters=(str(parameter_file(given)), *([overrides] if overrides else [])),
        environment={
            **transport(given),
            **(memory_environment() if truth(given, "malloc") else {}),
            **{variable: value for variable, value in environment.items() if value},
        },
        # Loading a policy cannot be interrupted. Until it is loaded no robot moves.
        sigterm_timeout_s=30,
    )


def transport(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variable for the transport of Fast DDS; raise ValueError if its profile is missing."""
    if not given["fastdds_profile"]:
        return {}
    profile = Path(given["fastdds_profile"]).expanduser()
    if not profile.is_file():
        raise ValueError(
            f"fastdds_profile:={profile}: there is no such file; give the path of a profile (XML), or '' with quotes"
        )
    return transport_environment(profile.resolve())


def parameter_file(given: Mapping[str, str]) -> Path:
    """Return the path of the parameter file; raise ValueError if it is missing, of which launch would only warn."""
    file = Path(given["params_file"])
    if not file.is_file():
        raise ValueError(
            f"params_file:={given['params_file']}: there is no such file; give the path of a ROS parameter file (YAML)"
        )
    return file


def truth(given: Mapping[str, str], name: str) -> bool:
    """Return the value of an argument that is true or false; raise ValueError for any other."""
    value = given[name].lower()
    if value not in ("true", "1", "false", "0"):
        raise ValueError(f"{name}:={given[name]}: give true or false")
    return value in ("true", "1")


def whole_number(given: Mapping[str, str], name: str, minimum: int, maximum: int) -> int:
    """Return the value of an argument that is a whole number; raise ValueError for any other, and out of range."""
    value = given[name]
    if not (value.isdecimal() and minimum <= int(value) <= maximum):
        raise ValueError(f"{name}:={value}: give a whole number from {minimum} to {maximum}")
    return int(value)


def listed(given: Mapping[str, str], name: str, kind: type, example: str) -> list[Any]:
    """Return the value of an argument that is a list of `kind`; raise ValueError for any other, and an empty one."""
    try:
        values = parse_yaml(given[name])
    except ValueError:
        values = None
    if not isinstance(values, list) or not values or not all(type(value) is kind for value in values):
        raise ValueError(f"{name}:={given[name]}: give a list such as {example}, without spaces")
    return values
