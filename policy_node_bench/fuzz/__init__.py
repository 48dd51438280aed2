# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Fuzz the parsers of messages and policy files."""
