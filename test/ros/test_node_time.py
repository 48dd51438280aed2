# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Simulated time that starts late or pauses: no tick and no command, only a warning, and driving resumes with it."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from moody import CALM, MoodyFleet, moody_parameters, save_moody
from node_harness import CELLS, Diagnostics, Lockstep, NodeProcess, Peer, command_values

pytestmark = pytest.mark.both_distributions

ROBOT = "robot"
PERIOD_NS = 50_000_000

StartNode = Callable[..., NodeProcess]


def test_no_command_is_sent_while_simulated_time_is_paused(peer: Peer, start_node: StartNode, tmp_path: Path) -> None:
    parameters = moody_parameters(
        save_moody(tmp_path / "moody.pt"), [ROBOT], use_sim_time=True, watchdog__timeout_s=0.2
    )
    process = start_node(parameters)
    fleet = MoodyFleet(peer, [ROBOT])
    diagnostics = Diagnostics(peer)

    # It starts late.
    process.wait_for("waiting for the first message of /clock, as use_sim_time is set")
    peer.spin_until(lambda: "ticks" in diagnostics.values("policy_node: control"), "diagnostics")
    assert diagnostics.newest["policy_node: control"].level == DiagnosticStatus.WARN
    assert not fleet.commands[ROBOT]
    lockstep = Lockstep(peer, fleet, PERIOD_NS)
    lockstep.start(1_000_000_000)

    def drive() -> None:
        """Send a reading of the next tick and check that its command is the policy's."""
        touch = np.full(CELLS, CALM)
        touch[6:] = lockstep.next_ns / 1e9
        fleet.publish_touch(ROBOT, lockstep.next_ns, touch)
        # Readings are sent with best effort.
        peer.spin_for(0.1)
        assert command_values(lockstep.tick()[ROBOT])[0] == np.float32(touch[6])

    for _ in range(3):
        drive()
    # It pauses, for longer than a tick may take.
    diagnostics.arrays.clear()
    diagnostics.newest.clear()

    def warned() -> bool:
        status = diagnostics.newest.get("policy_node: control")
        return status is not None and "is simulated time running?" in status.message

    peer.spin_until(warned, "a warning in diagnostics")
    assert diagnostics.newest["policy_node: control"].level == DiagnosticStatus.WARN
    assert not fleet.commands[ROBOT]
    for _ in range(3):
        drive()
    assert "hangs" not in process.text
    assert process.send(signal.SIGINT) == 0
