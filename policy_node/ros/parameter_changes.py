# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Set parameters of the node: all before configure, then limits, the policy and those that act at any time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rcl_interfaces.msg import SetParametersResult
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter

from policy_node.config.schema import (
    LIMITS,
    Configuration,
    ConfigurationError,
    check_same_sensors,
    parse_configuration,
)
from policy_node.ros.deployment import slowness
from policy_node.ros.loading import Loading
from policy_node.ros.parameter_services import ParameterServices
from policy_node.ros.parameters import (
    ANYTIME_PARAMETERS,
    SWAP_PARAMETERS,
    check_anytime,
    is_limit,
    read_parameters,
    wrong_type,
)

if TYPE_CHECKING:
    from policy_node.ros.node import PolicyNode


class ParameterChanges:
    """Checks parameters that are about to be set, and lets the running node use them.

    Parameters
    ----------
    node
        The node, created with `start_parameter_services=False`, its parameters declared.
    """

    def __init__(self, node: PolicyNode) -> None:
        self._node = node
        self._loading: Loading | None = None
        self._loaded: Loading | None = None
        self._set_log_level(node.get_parameter("log_level").value)
        node.add_on_set_parameters_callback(self._on_set_parameters)
        ParameterServices(node, self._set)

    @property
    def threads(self) -> list[threading.Thread]:
        """Threads that load a policy, see `exit_without`."""
        return [self._loading.thread] if self._loading is not None else []

    async def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Set parameters, all or none; load a new policy first, while the executor serves other callbacks."""
        names = {parameter.name for parameter in parameters}
        if self._node.deployment is None or not names or not names <= set(SWAP_PARAMETERS):
            return self._node.set_parameters_atomically(parameters)
        loop = self._node.loop
        missed = loop.statistics.missed if loop is not None else 0
        assert self._node.executor is not None  # a service is being answered
        try:
            loading = self._loading = Loading(
                lambda: self._parse(parameters), self._node.deployment.pipeline, self._node.executor
            )
        except RuntimeError as error:  # no memory for a thread
            return SetParametersResult(successful=False, reason=f"the policy cannot be loaded: {error}; free memory")
        await loading.ended
        # Nothing else runs in this thread from here on: the callback of the parameters uses it.
        self._loaded = loading
        try:
            result = self._node.set_parameters_atomically(parameters)
        finally:
            self._loading = self._loaded = None
        if result.successful:
            driving = ""
            if loop is not None and loop is self._node.loop:
                count = loop.statistics.missed - missed
                driving = f", swapped between two ticks; {count or 'no'} tick{'s were' if count > 1 else ' was'} missed"
            policy = self._node.describe_policy()
            self._node.get_logger().info(
                f"the policy is now {policy['policy']}, SHA-256 {policy['policy_sha256']}: loaded in {loading.duration_s:.2f} s{driving}"
            )
        return result

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        names = ", ".join(parameter.name for parameter in parameters)
        if parameters and all(parameter.name in ANYTIME_PARAMETERS for parameter in parameters):
            return self._set_anytime(parameters)
        if self._loaded is not None:
            try:
                self._swap(self._loaded, parameters)
            except ConfigurationError as error:
                reason = str(error)
            except Exception as error:  # the current policy goes on
                reason = f"{names}: {type(error).__name__}: {error}"
            else:
                return SetParametersResult(successful=True)
            return SetParametersResult(successful=False, reason=f"{reason}\nThe present policy goes on.")
        try:
            reason = wrong_type(self._node, parameters)
            if not reason and self._node.deployment is not None:
                reason = self._change_limits(parameters)
        except ConfigurationError as error:
            reason = str(error)
        return SetParametersResult(successful=not reason, reason=reason)

    def _change_limits(self, parameters: Sequence[Parameter]) -> str:
        """Use other limits from the next tick on; return why the parameters cannot be set.

        Raises
        ------
        ConfigurationError
            When the parameters do not fit all others; nothing is changed then.
        """
        names = ", ".join(parameter.name for parameter in parameters)
        # Also use_sim_time: the tick keeps the clock that it was started with.
        if not all(is_limit(parameter.name) for parameter in parameters):
            return (
                f"{names}: parameters are read at configure; deactivate and clean up the node, set them, "
                f"then configure it again. Only limits ({', '.join(LIMITS)}, the max_age_s of a topic) and "
                f"{', '.join(ANYTIME_PARAMETERS)} may be set meanwhile, and {', '.join(SWAP_PARAMETERS)} through the "
                "services"
            )
        self._use_limits(self._parse(parameters))
        values = (each.value if isinstance(each.value, float) else list(each.value or ()) for each in parameters)
        changes = ", ".join(f"{each.name} {value}" for each, value in zip(parameters, values, strict=True))
        self._node.get_logger().info(f"limits from the next tick on: {changes}")
        return ""

    def _parse(self, changes: Sequence[Parameter]) -> Configuration:
        """Return the configuration with parameters that are about to be set; raises ConfigurationError."""
        values, described = read_parameters(self._node, changes)
        with described.named_in_errors():
            return parse_configuration(values)

    def _use_limits(self, configuration: Configuration) -> None:
        """Use the limits of a configuration from the next tick on; raises ConfigurationError, and changes nothing."""
        assert self._node.deployment is not None and self._node.sensors is not None
        check_same_sensors(self._node.deployment.configuration, configuration)
        pipeline = self._node.deployment.pipeline
        pipeline.check_limits(configuration)
        if self._node.loop is not None:
            self._node.loop.change_limits(configuration)
        else:
            pipeline.change_limits(configuration)
        self._node.sensors.change_limits(configuration)
        self._node.deployment = replace(self._node.deployment, configuration=configuration)

    def _set_anytime(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        if problems := check_anytime(parameters):
            return SetParametersResult(successful=False, reason="\n".join(problems))
        for parameter in parameters:
            if parameter.name == "log_level":
                self._set_log_level(parameter.value or "unset")
        return SetParametersResult(successful=True)

    def _set_log_level(self, level: object) -> None:
        """Set the lowest severity of this node's logger only; an unknown one changes nothing, configure reports it."""
        severity = getattr(LoggingSeverity, str(level).upper(), None)
        if severity is not None:
            self._node.get_logger().set_level(severity)

    def _swap(self, loading: Loading, parameters: Sequence[Parameter]) -> None:
        """Replace the policy by the loaded one; an exception changes nothing."""
        deployment = loading.result()
        if self._node.deployment is None or self._node.deployment.pipeline is not loading.replaced:
            raise ConfigurationError("policy.path: the node was cleaned up while the policy was loading; set it again")
        # Limits may have been changed while the policy was loading.
        configuration = self._parse(parameters)
        deployment.pipeline.check_limits(configuration)
        if self._node.loop is not None:
            self._node.loop.replace_policy(deployment.pipeline)
        else:
            loading.replaced.adopt(deployment.pipeline)
        if text := slowness(deployment):
            self._node.get_logger().warning(text)
        # The pipeline stays: it has the samples and the last commands.
        self._node.deployment = replace(deployment, pipeline=loading.replaced)
        self._use_limits(configuration)
        if self._node.reporter is not None:
            self._node.reporter.description = self._node.describe_policy()
