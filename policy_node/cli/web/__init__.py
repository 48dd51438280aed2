# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The page that shows the fleet in a browser, `policy_monitor --web`: topics in, messages to the page out."""
