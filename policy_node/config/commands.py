# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Join the commands of several topics of a robot into one, its components one after the other."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from policy_node.config.catalogue import command_kind
from policy_node.config.parameters import ActionConfiguration, CommandConfiguration

# Stand for no bound and no limit: finite, as parameters are.
UNBOUNDED = sys.float_info.max
_FASTEST = 1e9


def with_components(commands: Sequence[CommandConfiguration]) -> tuple[CommandConfiguration, ...]:
    """Return the topics with the components of the action that each takes: those given, else the next ones."""
    found, following = [], 0
    for command in commands:
        components = command.components or tuple(range(following, following + len(command.named)))
        following = max(components) + 1
        found.append(replace(command, components=components))
    return tuple(found)


def joined(commands: Sequence[CommandConfiguration], **shared: Any) -> ActionConfiguration:
    """Return the components of some topics one after the other, with the parameters that they share."""

    def numbers(name: str, default: float) -> tuple[float, ...]:
        """Return a number for each component; empty where no topic has any."""
        given = [getattr(command, name) for command in commands]
        if not any(given):
            return ()
        counts = [len(command.components) for command in commands]
        return tuple(
            number
            for each, count in zip(given, counts, strict=True)
            for number in (each if len(each) == count else (each or (default,)) * count)
        )

    stale = {command.when_stale for command in commands}
    return ActionConfiguration(
        topic="",
        type="",
        fields=tuple(
            f"{command.key}.{name}"
            for command in commands
            for name in command.named or map(str, range(len(command.components)))
        ),
        components=tuple(component for command in commands for component in command.components),
        scale=numbers("scale", 1.0),
        offset=numbers("offset", 0.0),
        low=numbers("low", -UNBOUNDED),
        high=numbers("high", UNBOUNDED),
        max_rate=numbers("max_rate", _FASTEST),
        when_stale=stale.pop() if len(stale) == 1 else "stop",
        safe_command=tuple(number for command in commands for number in _safe_command(command)),
        safe_position_topic=next((each.safe_position_topic for each in commands if each.safe_position_topic), ""),
        safe_position_joints=tuple(
            joint
            for command in commands
            if command.safe_position_topic
            for joint in command.safe_position_joints or command.joints
        ),
        **shared,
    )


def _safe_command(command: CommandConfiguration) -> tuple[float, ...]:
    """Return the safe command of a topic, NaN where it has none or is a measured position."""
    count = len(command.components)
    return command.safe_command or (0.0 if command_kind(command.type).is_velocity else math.nan,) * count
