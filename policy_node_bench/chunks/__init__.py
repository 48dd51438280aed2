# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Measure policies that give plans, in the tick and beside it."""
