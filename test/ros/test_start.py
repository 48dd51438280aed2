# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The node starts without the packages that only a configured one needs."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.both_distributions
def test_an_unconfigured_node_does_not_import_pytorch() -> None:
    program = (
        "import sys, rclpy; from policy_node.ros.main import PolicyNode; rclpy.init(); PolicyNode()\n"
        "print([name for name in ('torch', 'stable_baselines3', 'onnxruntime') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
