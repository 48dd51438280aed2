# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""From messages to one host batch: samples, synchronisation, staging. Knows no policy."""
