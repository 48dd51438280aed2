# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Check parameters as configure does, without a node, a ROS graph or a GPU, and report all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from rclpy.exceptions import NameValidationException
from rclpy.expand_topic_name import expand_topic_name

from policy_node.config.catalogue import command_kind
from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration
from policy_node.config.warning import warnings_to
from policy_node.control.command_mapping import CommandMapper
from policy_node.control.realtime import check_realtime
from policy_node.policies import PolicyError, load_policy
from policy_node.policies.described_parameters import fill_in
from policy_node.recording.recorder import plan_recording
from policy_node.ros.bond import check_bond
from policy_node.ros.deployment import (
    Deployment,
    check_task_is_taken,
    configured_encoders,
    deploy_paired,
    load_configured,
    pair,
    slowness,
)
from policy_node.ros.parameters import POLICY_PATHS, uses_sim_time, with_resolved_paths
from policy_node.ros.subscriptions import check_topics

T = TypeVar("T")


@dataclass
class Checked:
    """What a check found.

    Attributes
    ----------
    problems
        What keeps the node from being configured; empty if nothing does.
    warnings
        What configure would log as warnings.
    notes
        What was checked in another way than on the robot, and what a description filled in.
    configuration, deployment
        None where a problem kept them from being made.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    configuration: Configuration | None = None
    deployment: Deployment | None = None

    def collect(self, act: Callable[[], T], name: str = "") -> T | None:
        """Return the result of a step; None with its problems, those of an unknown kind behind `name`."""
        try:
            return act()
        except ConfigurationError as error:
            self.problems += error.problems
        except Exception as error:  # such as an error inside the policy
            self.problems.append(f"{name}{type(error).__name__}: {error}")
        return None


class NodeNames:
    """The names of a node that does not run."""

    def __init__(self, full_name: str) -> None:
        self._namespace, _, self._name = full_name.rpartition("/")
        if not self._name.isidentifier():
            raise ConfigurationError(f"--node: found {full_name!r}, allowed is a full name such as /policy_node")

    def get_name(self) -> str:
        """Return the name without the namespace."""
        return self._name

    def get_namespace(self) -> str:
        """Return the namespace."""
        return self._namespace or "/"

    def resolve_topic_name(self, topic: str) -> str:
        """Return the full name of a topic, without remapping."""
        try:
            return expand_topic_name(topic, self.get_name(), self.get_namespace())
        except NameValidationException:
            return topic  # `check_topics` says so


def check_parameters(values: Mapping[str, Any], node: str = "/policy_node") -> Checked:
    """Check parameters by dotted name for a node of a full name: everything that configure checks.

    The policy is loaded and runs on example observations; a GPU that is not there is replaced by the CPU.
    """
    found = Checked()
    with warnings_to(found.warnings.append):
        names = found.collect(lambda: NodeNames(node))
        found.collect(lambda: uses_sim_time(values))
        filled = found.collect(lambda: fill_in(with_resolved_paths(values, (*POLICY_PATHS, "record.path"))))
        if filled is None or names is None:
            return found
        parameters, described = filled
        if described.report:
            found.notes.append(described.report)

        def parse() -> Configuration:
            with described.named_in_errors():
                return parse_configuration(parameters)

        configuration = found.collect(parse)
        if configuration is None:
            _check_policy_file(parameters, found)
            return found
        found.configuration = configuration
        found.notes += _without_safe_command(configuration)
        found.collect(lambda: check_topics(names, configuration))
        found.collect(lambda: check_realtime(configuration.realtime))
        found.collect(lambda: check_bond(configuration.bond_period_s))
        found.collect(lambda: plan_recording(node, names.resolve_topic_name, configuration, parameters))
        _check_policy(_without_gpu(configuration, found), found)
    return found


def _check_policy_file(parameters: Mapping[str, Any], found: Checked) -> None:
    """Check the policy file where the other parameters are wrong."""
    path = parameters.get("policy.path")
    if not isinstance(path, str) or any(problem.startswith("policy.") for problem in found.problems):
        return
    try:
        load_policy(
            path,
            trusted=parameters.get("policy.trusted") is True,
            sha256=parameters.get("policy.sha256") or None,
            format=parameters.get("policy.format", "auto"),
        )
    except PolicyError as error:
        if not error.is_missing:
            found.problems.append(f"{error.parameter}: {error}")
    except Exception:  # may need parameters that are wrong now; the next check says it
        found.notes.append("the policy file was not checked, as other parameters are wrong")


def _without_safe_command(configuration: Configuration) -> list[str]:
    """Return a note on each command topic where a stop sends nothing."""
    return [
        f"{command.prefix}: no safe command is known, so nothing is sent to a robot that is stopped or lacks data, and "
        f"it may go on with its last command; give {command.prefix}.safe_command, or safe_position_topic there"
        for command in configuration.commands
        if not (command.safe_command or command.safe_position_topic or command_kind(command.type).is_velocity)
    ]


def _without_gpu(configuration: Configuration, found: Checked) -> Configuration:
    """Return the configuration, on the CPU where it names a GPU that is not there."""
    policy = configuration.policy
    if not policy.device.startswith("cuda") or torch.cuda.is_available():
        return configuration
    found.notes.append(f"policy.device is {policy.device}, and there is no GPU here: checked on the CPU")
    # Another engine may need the GPU.
    return replace(configuration, policy=replace(policy, device="cpu", engine="auto", precision="float32"))


def _check_policy(configuration: Configuration, found: Checked) -> None:
    """Load the policy, pair it with sensors and command, and run it."""
    torch.set_num_threads(configuration.policy.threads)
    policy = found.collect(lambda: load_configured(configuration), "policy.path: ")
    if policy is None:
        return
    found.collect(lambda: check_task_is_taken(configuration, policy))
    paired = found.collect(lambda: pair(configuration, policy), "observations: ")
    mapper = found.collect(lambda: CommandMapper(policy.spec.action, configuration.action, policy.device), "action: ")
    if mapper is not None:
        found.collect(lambda: configured_encoders(configuration, mapper.components), "action: ")
    if paired is None or found.problems:
        return
    found.deployment = found.collect(lambda: deploy_paired(configuration, policy, *paired), "policy.path: ")
    if found.deployment is not None and (text := slowness(found.deployment)):
        found.warnings.append(text)
