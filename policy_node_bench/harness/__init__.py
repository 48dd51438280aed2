# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Processes, synthetic robots and observers that benchmarks and chaos tests share."""
