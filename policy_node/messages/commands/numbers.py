# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of one number, such as the opening of a gripper: the numbers of std_msgs."""

from __future__ import annotations

from policy_node.messages.command_fields import of_one_number

_NAMES = ("Bool", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")

COMMAND_TYPES = tuple(of_one_number(f"std_msgs/msg/{name}") for name in _NAMES)
