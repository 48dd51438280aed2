# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Message types of single robots: `setup.py` names them as entry points, as any other package adds its own."""
