# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Keep a bond with Nav2's lifecycle_manager, which takes its nodes down when the bond of one breaks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter

from policy_node.config.schema import ConfigurationError

# All nodes of a manager share the topic; the name of the node identifies its bond.
TOPIC = "bond"
# As in Nav2: longest silence of the manager.
TIMEOUT_S = 4.0
# Longest wait at the end for the manager to hear that the bond ends.
ACKNOWLEDGE_S = 0.2


class _BondNode:
    """The node as bondpy sees it: bondpy declares a parameter at each timeout, which a configured node refuses."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def declare_parameter(self, name: str, value: object) -> None:
        """Do nothing."""

    def get_parameter(self, name: str) -> Parameter:
        """Return that timeouts are not disabled."""
        return Parameter(name, value=False)


def check_bond(period_s: float) -> None:
    """Raise ConfigurationError if a bond is wanted, but bondpy cannot be imported."""
    if not period_s:
        return
    try:
        importlib.import_module("bondpy.bondpy")
    except ImportError as error:
        raise ConfigurationError(
            f"bond_period_s: found {period_s:g}, but a bond needs bondpy, which cannot be imported ({error}); install "
            "ros-$ROS_DISTRO-bondpy, or set 0.0 here and bond_timeout: 0.0 in Nav2's lifecycle_manager"
        ) from error


@contextmanager
def bond(node: Node, period_s: float) -> Iterator[None]:
    """Keep a bond within the context, with a heartbeat each period; a period of 0: do nothing.

    A broken bond is logged. The node drives on, because the manager decides what ends.
    """
    if not period_s:
        yield
        return
    made = importlib.import_module("bondpy.bondpy").Bond(_BondNode(node), TOPIC, node.get_name())
    is_formed = False

    def formed() -> None:
        nonlocal is_formed
        is_formed = True
        node.get_logger().info("bound to Nav2's lifecycle_manager")

    def broken() -> None:
        reason = "is broken" if is_formed else "was not formed: no manager answers on its topic"
        node.get_logger().warning(f"the bond with Nav2's lifecycle_manager {reason}; the node drives on")

    made.set_formed_callback(formed)
    made.set_broken_callback(broken)
    made.heartbeat_period = period_s
    made.heartbeat_timeout = TIMEOUT_S
    made.start()
    try:
        yield
    finally:
        made.set_broken_callback(None)
        made.break_bond()
        made.pub.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))
        made.shutdown()
        # bondpy closes them, but the node would still list them.
        node.destroy_subscription(made.sub)
        node.destroy_publisher(made.pub)
