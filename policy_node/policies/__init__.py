# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Trained policies behind one small contract, `Policy`; `load_policy` reads a file.

One module of `formats` reads each file format. This subpackage knows tensors and files, but no topic.
"""

from __future__ import annotations

from policy_node.policies.contract import Observations, Policy, PolicyError, State, WrappedPolicy
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.loading import load_policy, select_device

__all__ = [
    "Observations",
    "Policy",
    "PolicyError",
    "PolicyInterface",
    "State",
    "WrappedPolicy",
    "load_policy",
    "select_device",
]
