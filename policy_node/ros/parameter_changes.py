# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Set parameters of the node: all before configure, then limits, the policy and those that act at any time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter

from policy_node.config.schema import (
    LIMITS,
    Configuration,
    ConfigurationError,
    check_same_sensors,
    check_same_wiring,
)
from policy_node.config.tasks import task_of_each
from policy_node.ros.parameter_services import ParameterServices
from policy_node.ros.parameters import (
    ANYTIME_PARAMETERS,
    SWAP_PARAMETERS,
    ReadParameters,
    check_anytime,
    is_limit,
    read_parameters,
    value_of,
    wrong_type,
)

if TYPE_CHECKING:
    from policy_node.ros.loading import Loading
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
        # What configure or a swap has read, and the limits that were set since configure.
        self._read: ReadParameters | None = None
        self._limits: dict[str, Any] = {}
        self._loading: Loading | None = None
        self._loaded: Loading | None = None
        self.use_log_level()
        node.add_on_set_parameters_callback(self._on_set_parameters)
        ParameterServices(node, self._set)

    @property
    def threads(self) -> list[Future[Any]]:
        """Futures of the threads that load a policy, see `exit_without`."""
        return [self._loading.step] if self._loading is not None else []

    def begin(self, read: ReadParameters) -> None:
        """Accept changes of the parameters that configure has read."""
        self._read, self._limits = read, {}

    async def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Set parameters, all or none; load a new policy first, while the executor serves other callbacks."""
        node, names = self._node, {parameter.name for parameter in parameters}.difference(ANYTIME_PARAMETERS)
        if node.deployment is None or not names or not names <= set(SWAP_PARAMETERS):
            return node.set_parameters_atomically(parameters)
        if self._loading is not None:
            reason = f"{', '.join(sorted(names))}: another policy is being loaded; set it when that has been answered"
            return SetParametersResult(successful=False, reason=reason)
        loop = node.loop
        missed = loop.statistics.missed if loop is not None else 0
        assert node.executor is not None  # a service is being answered
        from policy_node.ros.loading import Loading

        try:
            loading = Loading(lambda: read_parameters(node, parameters), node.deployment.pipeline, node.executor)
        except RuntimeError as error:  # no memory for a thread
            return SetParametersResult(successful=False, reason=f"the policy cannot be loaded: {error}; free memory")
        self._loading = loading
        await loading.ended
        # Nothing else runs in this thread from here on: the callback of the parameters uses it.
        self._loaded = loading
        try:
            result = node.set_parameters_atomically(parameters)
        finally:
            self._loading = self._loaded = None
        if result.successful:
            driving = ""
            if loop is not None and loop is node.loop:
                count = loop.statistics.missed - missed
                driving = f", swapped between two ticks; {count or 'no'} tick{'s were' if count > 1 else ' was'} missed"
            policy = node.describe_policy()
            node.get_logger().info(
                f"the policy is now {policy['policy']}, SHA-256 {policy['policy_sha256']}: loaded in "
                f"{loading.duration_s:.2f} s{driving}"
            )
        return result

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        anytime = [parameter for parameter in parameters if parameter.name in ANYTIME_PARAMETERS]
        others = [parameter for parameter in parameters if parameter.name not in ANYTIME_PARAMETERS]
        reason = "\n".join(check_anytime(anytime)) or (self._use(others) if others else "")
        if not reason:
            for parameter in anytime:
                if parameter.name == "log_level":
                    self._set_log_level(parameter.value or "unset")
        return SetParametersResult(successful=not reason, reason=reason)

    def _use(self, parameters: Sequence[Parameter]) -> str:
        """Use the loaded policy or other limits if the node is configured; return why the parameters cannot be set."""
        if self._loaded is not None:
            try:
                self._swap(self._loaded)
            except ConfigurationError as error:
                reason = str(error)
            except Exception as error:  # the current policy goes on
                names = ", ".join(parameter.name for parameter in parameters)
                reason = f"{names}: {type(error).__name__}: {error}"
            else:
                return ""
            return f"{reason}\nThe present policy goes on."
        try:
            reason = wrong_type(self._node, parameters)
            return reason if reason or self._node.deployment is None else self._change_limits(parameters)
        except ConfigurationError as error:
            return str(error)

    def _change_limits(self, parameters: Sequence[Parameter]) -> str:
        """Use other limits from the next tick on; return why the parameters cannot be set.

        Raises
        ------
        ConfigurationError
            When the parameters do not fit all others; nothing is changed then.
        """
        # Also use_sim_time: the tick keeps the clock that it was started with.
        if names := [parameter.name for parameter in parameters if not is_limit(parameter.name)]:
            return (
                f"{', '.join(names)}: parameters are read at configure; deactivate and clean up the node, set them, "
                f"then configure it again. Only limits ({', '.join(LIMITS)}, the max_age_s of a topic) and "
                f"{', '.join(ANYTIME_PARAMETERS)} may be set meanwhile, and {', '.join(SWAP_PARAMETERS)} through the "
                "services, in a request without limits"
            )
        assert self._read is not None and self._node.deployment is not None
        limits = {**self._limits, **{each.name: value_of(each) for each in parameters}}
        configuration = self._read.parse(limits)
        check_same_sensors(self._node.deployment.configuration, configuration)
        self._node.deployment.pipeline.check_limits(configuration)
        self._use_limits(configuration)
        self._limits = limits
        values = (each.value if isinstance(each.value, float) else list(each.value or ()) for each in parameters)
        changes = ", ".join(f"{each.name} {value}" for each, value in zip(parameters, values, strict=True))
        self._node.get_logger().info(f"limits from the next tick on: {changes}")
        return ""

    def _use_limits(self, configuration: Configuration) -> None:
        """Use the limits of a configuration, which were checked, from the next tick on."""
        node = self._node
        assert node.deployment is not None and node.sensors is not None
        if node.loop is not None:
            node.loop.change_limits(configuration)
        else:
            node.deployment.pipeline.change_limits(configuration)
        node.sensors.change_limits(configuration)
        node.deployment = replace(node.deployment, configuration=configuration)

    def use_log_level(self) -> None:
        """Apply the parameter `log_level`."""
        self._set_log_level(self._node.get_parameter("log_level").value)

    def _set_log_level(self, level: object) -> None:
        """Set the lowest severity of this node's logger only; an unknown one changes nothing, configure reports it."""
        severity = getattr(LoggingSeverity, str(level).upper(), None)
        if severity is not None:
            self._node.get_logger().set_level(severity)

    def _swap(self, loading: Loading) -> None:
        """Replace the policy by the loaded one; an exception changes nothing."""
        node = self._node
        read, deployment = loading.result()
        if node.deployment is None or node.deployment.pipeline is not loading.replaced:
            raise ConfigurationError("policy.path: the node was cleaned up while the policy was loading; set it again")
        # Limits may have been changed while the policy was loading.
        configuration = read.parse(self._limits)
        check_same_sensors(node.deployment.configuration, configuration)
        check_same_wiring(node.deployment.configuration, configuration)
        deployment.pipeline.change_limits(configuration)
        if node.loop is not None:
            node.loop.replace_policy(deployment.pipeline)
        else:
            loading.replaced.adopt(deployment.pipeline)
        robots = len(configuration.robots)
        before = node.deployment.configuration.policy.task
        if task_of_each(configuration.policy.task, robots) != task_of_each(before, robots):
            assert node.tasks is not None
            node.tasks.forget()
        self._read = read
        # The pipeline stays: it has the samples and the last commands.
        node.deployment = replace(deployment, pipeline=loading.replaced)
        self._use_limits(configuration)
        from policy_node.ros.deployment import slowness

        if text := slowness(deployment):
            node.get_logger().warning(text)
        if node.reporter is not None:
            node.reporter.description = node.describe_policy()
