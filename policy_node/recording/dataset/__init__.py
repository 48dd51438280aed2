# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert recorded drives to datasets for offline training."""
