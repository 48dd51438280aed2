# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Replay recorded bags through the same pipeline that drives the robots."""
