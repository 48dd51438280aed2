# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate drivers of the rover: episodes in process, statistics, animations, and comparison with episodes over DDS."""
