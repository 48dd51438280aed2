# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Record what the node received, decided and sent; replay it and make datasets of it."""
