# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena without a physics engine: dimensions, layouts, conditions and the touch sensor."""
