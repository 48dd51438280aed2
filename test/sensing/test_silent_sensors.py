# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A contact sensor over DDS that speaks only while it touches: its silence drives the robot, its end stops it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from node_harness import CELLS, Diagnostics, NodeProcess, Peer, Predictor, ScriptedFleet, parameters_of, random_reading

SAFE = [0.0625, -0.125]
# More of them per tick than the queue holds, as a contact sensor at every physics step sends.
BURST = 50

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]


def test_a_silent_sensor_reads_zeros_until_its_publisher_is_gone(
    model: Model, peer: Peer, start_node: StartNode
) -> None:
    file, ppo = model()
    changes = {"observations.touch.when_silent": "zeros", "action.safe_command": SAFE}
    process = start_node(parameters_of(file, ["robot_0"], changes))
    fleet = ScriptedFleet(peer, ["robot_0"])
    diagnostics = Diagnostics(peer)
    image, touch = random_reading(np.random.default_rng(1))
    predictor = Predictor(ppo, 1)
    silent, touching = (predictor(image, cells) for cells in (np.zeros(CELLS, np.float32), touch))
    assert np.abs(silent - touching).max() > 0.01

    def now_ns() -> int:
        return peer.node.get_clock().now().nanoseconds

    def drive_until(condition: Callable[[], Any], what: str, also: Callable[[], None] = lambda: None) -> None:
        def publish() -> None:
            fleet.publish_image("robot_0", now_ns(), image)
            also()

        fleet.drive(condition, what, robots=[], publish_more=publish)

    def gets(command: Any) -> bool:
        return fleet.newest("robot_0") is not None and np.allclose(fleet.newest("robot_0"), command, atol=1e-4)

    def burst() -> None:
        for _ in range(BURST):
            fleet.publish_touch("robot_0", now_ns(), touch)

    drive_until(lambda: gets(silent), "commands from zeros")
    drive_until(lambda: gets(touching), "commands from contacts", also=burst)
    drive_until(lambda: gets(silent), "commands from zeros after the contact")
    drive_until(lambda: diagnostics.values("policy_node: robot_0").get("state") == "READY", "READY in diagnostics")
    assert not any("touch" in key and key != "touch_hz" for key in diagnostics.values("policy_node: control"))
    assert not any("waiting for the first message" in line and "touch" in line for line in process.text.splitlines())
    fleet.close_touch("robot_0")
    drive_until(lambda: gets(SAFE), "the safe command")
    said = "robot_0: WAITING, no message on touch, and nobody publishes it"
    drive_until(lambda: said in process.text, said)
    fleet.open_touch("robot_0")
    drive_until(lambda: gets(silent), "commands from zeros with a new publisher")
