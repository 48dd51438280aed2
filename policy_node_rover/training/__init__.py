# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Train the policy that drives the rover, by imitation and reinforcement learning."""
