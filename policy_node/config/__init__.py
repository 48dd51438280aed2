# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of a deployment: names, defaults, checks, parameter files. Imports no other subpackage."""
