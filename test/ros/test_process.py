# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A signal ends a process wherever it comes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from node_harness import PATIENCE_S

# The lock is held for a moment at the beginning and at the end of every `wait`.
SCRIPT = """
import signal, sys
from policy_node.ros.process import ros_process
with ros_process() as stopping:
    with stopping._cond:
        signal.raise_signal(int(sys.argv[1]))
    stopping.wait()
print("ended")
"""


@pytest.mark.both_distributions
@pytest.mark.parametrize("signal_number", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_signal_within_a_wait_ends_it(signal_number: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(signal_number)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout == "ended\n" and ended.returncode == 0, ended.stderr
