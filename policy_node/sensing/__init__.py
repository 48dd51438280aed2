# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""From messages to observation tensors: buffering, synchronisation, decoding, upload, time stacking. No policy code."""
