# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Declare the configuration as ROS parameters, read them, and resolve `package://` paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from policy_node.config.filled_in import FilledIn
from policy_node.config.package_files import share_path
from policy_node.config.rules import check_value, has_type
from policy_node.config.schema import (
    LIMITS,
    ROS_PARAMETER_PREFIXES,
    ROS_PARAMETERS,
    Configuration,
    ConfigurationError,
    Parameter,
    commands_of,
    observations_of,
    parameters_for,
    parse_configuration,
)

# Parameters that may be set while the node is configured.
SWAP_PARAMETERS = ("policy.path", "policy.format", "policy.sha256", "policy.vecnormalize", "policy.task")
# Parameters that may be set at any time.
ANYTIME_PARAMETERS = ("exit_on_failure", "log_level")
PACKAGE_SCHEME = "package://"
POLICY_PATHS = ("policy.path", "policy.vecnormalize", "policy.description")
# When a change takes effect, of parameters that are not read at configure alone.
_LIMIT = "may be changed while the node is configured, acts at the next tick"
_READ = {
    **dict.fromkeys(SWAP_PARAMETERS, "may be changed while the node is configured, also while it drives"),
    **dict.fromkeys(ANYTIME_PARAMETERS, "may be changed at any time"),
    "autostart": "read at the start of the process",
}
_LIST_TYPES = {
    "list[str]": RosParameter.Type.STRING_ARRAY,
    "list[int]": RosParameter.Type.INTEGER_ARRAY,
    "list[float]": RosParameter.Type.DOUBLE_ARRAY,
}


def is_limit(name: str) -> bool:
    """Return whether a parameter is a limit, which may be set while the node is configured."""
    is_age = name.endswith((".max_age_s", ".transform_max_age_s"))
    return name in LIMITS or (name.startswith("observations.") and is_age)


def wrong_type(node: Node, changes: Sequence[RosParameter]) -> str:
    """Return why the types of parameters that are about to be set are wrong; empty where they are right."""
    values = _values(node, changes)
    known = parameters_for(*observations_of(values), commands_of(values))
    for name in (change.name for change in changes):
        if name in known and name in values and not has_type(values[name], known[name].type):
            return next(check_value(name, known[name], values), "")
    return ""


def declare_parameters(node: Node) -> None:
    """Declare all parameters of the configuration, with their descriptors.

    The node must have been made with `automatically_declare_parameters_from_overrides`: a value of a wrong type or name
    is then kept until configure, which names it, instead of ending the process. Parameters are typed dynamically for
    the same reason.
    """
    values = _values(node)
    known = parameters_for(*observations_of(values), commands_of(values))
    lists: list[RosParameter] = []
    for name, parameter in known.items():
        descriptor = _descriptor(name, parameter)
        if not node.has_parameter(name):
            default = parameter.default
            if isinstance(default, tuple):
                # rclpy would take an empty list for one of bytes; one that is not set is null in what `ros2 param dump`
                # writes, and the text None in what `ros2 param load` makes of it.
                lists.append(RosParameter(name, _LIST_TYPES[parameter.type], list(default)))
                default = None
            # Overrides are declared already; one that an operator has removed since must not come back.
            node.declare_parameter(name, default, descriptor, ignore_override=True)
            continue
        try:
            node.set_descriptor(name, descriptor)
        except ParameterException:
            # The value lies outside the range: configure says so, with a remedy.
            descriptor.floating_point_range, descriptor.integer_range = [], []
            node.set_descriptor(name, descriptor)
    if lists:
        node.set_parameters_atomically(lists)
    for name, value in _values(node).items():
        if name in known or name in ROS_PARAMETERS or name.startswith(ROS_PARAMETER_PREFIXES):
            continue
        parts = name.split(".")
        observed = parts[0] == "observations"
        # The declaration this name would have as an observation or a term.
        once = parameters_for(parts[1:2], {parts[1]: parts[2:3]} if len(parts) > 3 else {}) if observed else {}
        if name in once and value == _default(once[name]):
            # Declared here for an observation or term that was removed later.
            node.undeclare_parameter(name)
        else:
            # A parameter of static type could not be removed by an operator.
            node.set_descriptor(name, ParameterDescriptor(dynamic_typing=True))


def check_anytime(parameters: Sequence[RosParameter]) -> list[str]:
    """Return the problems of new values of `ANYTIME_PARAMETERS`; a removed one has its default."""
    known = parameters_for((), {})
    values = {parameter.name: parameter.value for parameter in parameters if parameter.value is not None}
    return [problem for name in values for problem in check_value(name, known[name], values)]


class ReadParameters(NamedTuple):
    """All parameters of a node, with all that files say about them: parsing them reads no file."""

    #: By dotted name, with resolved paths.
    values: dict[str, Any]
    #: The part that a description filled in.
    described: FilledIn

    def parse(self, changes: Mapping[str, Any] | None = None) -> Configuration:
        """Return the configuration with other values of some parameters, None for one that was removed.

        Raises
        ------
        ConfigurationError
            When the parameters do not fit each other.
        """
        changes = changes or {}
        values = {name: value for name, value in {**self.values, **changes}.items() if value is not None}
        names = tuple(name for name in self.described.names if name not in changes)
        with replace(self.described, names=names).named_in_errors():
            return parse_configuration(values)


def read_parameters(node: Node, changes: Sequence[RosParameter] = ()) -> ReadParameters:
    """Read all parameters of the node, and the files that they take from elsewhere.

    What a description fills in is logged.

    Parameters
    ----------
    node
        Node with the parameters.
    changes
        Parameters that are about to be set.

    Raises
    ------
    ConfigurationError
        When a `package://` path names an unknown package, `use_sim_time` is not a boolean, or the description of the
        trainer cannot be read.
    """
    values = _values(node, changes)
    simulated = values.get("use_sim_time")
    if not isinstance(simulated, bool):
        found = f"found {simulated!r} ({type(simulated).__name__}), but it must be a boolean"
        # ROS fixes its type at the start and ignores a wrong one.
        raise ConfigurationError(f"use_sim_time: {found}; start the node again with true or false")
    filled, described = with_resolved_paths(values, (*POLICY_PATHS, "record.path")), FilledIn()
    if filled.get("policy.description"):
        # Only a description needs PyTorch this early.
        from policy_node.policies.described_parameters import fill_in

        filled, described = fill_in(filled)
    if described.report:
        node.get_logger().info(described.report)
    return ReadParameters(filled, described)


def with_resolved_paths(values: Mapping[str, Any], names: Sequence[str] = POLICY_PATHS) -> dict[str, Any]:
    """Return parameters by dotted name, the paths in `names` and of motions resolved, see `resolve_path`."""
    names = (*names, *(name for name in values if name.startswith("observations.") and name.endswith(".path")))
    paths = {name: values[name] for name in names if isinstance(values.get(name), str) and values[name]}
    return {**values, **{name: resolve_path(path, name) for name, path in paths.items()}}


def uses_sim_time(values: Mapping[str, Any]) -> bool:
    """Whether parameters by dotted name, as from a file, set `use_sim_time`.

    Raises
    ------
    ConfigurationError
        When it is not a boolean.
    """
    simulated = values.get("use_sim_time", False)
    if not isinstance(simulated, bool):
        raise ConfigurationError(f"use_sim_time: found {simulated!r}, but it must be a boolean; give true or false")
    return simulated


def resolve_path(path: str, parameter: str) -> str:
    """Turn `package://PACKAGE/PATH` and `~` into a path.

    Raises
    ------
    ConfigurationError
        When the package is not installed, or the home folder is unknown.
    """
    if not path.startswith(PACKAGE_SCHEME):
        try:
            return str(Path(path).expanduser())
        except RuntimeError as error:
            raise ConfigurationError(
                f"{parameter}: found {path!r}, but that home folder is unknown; set HOME, or give an absolute path"
            ) from error
    package, _, rest = path.removeprefix(PACKAGE_SCHEME).partition("/")
    if package == "policy_node":
        try:
            return str(share_path(rest))
        except FileNotFoundError as error:
            raise ConfigurationError(f"{parameter}: found {path!r}, but {error}") from error
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return str(Path(get_package_share_directory(package)) / rest)
    except (PackageNotFoundError, ValueError, OSError) as error:  # OSError: no ROS installation is sourced
        raise ConfigurationError(
            f"{parameter}: found {path!r}, but there is no package '{package}' here; install or source it, "
            f"or give a path"
        ) from error


def _values(node: Node, changes: Sequence[RosParameter] = ()) -> dict[str, Any]:
    parameters: Mapping[str, RosParameter] = node.get_parameters_by_prefix("")
    parameters = {**parameters, **{parameter.name: parameter for parameter in changes}}
    values = {name: value_of(parameter) for name, parameter in parameters.items()}
    return {name: value for name, value in values.items() if value is not None}


def value_of(parameter: RosParameter) -> Any:
    """Return the value of a parameter, numbers as a list; None for one that was removed."""
    has_array = parameter.type_ in (RosParameter.Type.DOUBLE_ARRAY, RosParameter.Type.INTEGER_ARRAY)
    return list(parameter.value) if has_array else parameter.value


def _default(parameter: Parameter) -> Any:
    return list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default


def _descriptor(name: str, parameter: Parameter) -> ParameterDescriptor:
    unit = f" [{parameter.unit}]" if parameter.unit else ""
    # Not read-only in ROS: it must be correctable before the node is configured again.
    live = _LIMIT if is_limit(name) else "read at configure: cannot be changed while the node is configured"
    when = _READ.get(name, live)
    descriptor = ParameterDescriptor(
        name=name,
        description=parameter.description + unit,
        additional_constraints="; ".join(filter(None, (parameter.range_text, when))),
        dynamic_typing=True,
    )
    low, high = parameter.limits or (0, math.inf)
    if math.isfinite(high) and parameter.type == "float":
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    if math.isfinite(high) and parameter.type == "int":
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return descriptor
