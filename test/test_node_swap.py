# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy that is changed while the node drives: the new one from some tick on, or the old one goes on."""

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from node_harness import (
    Diagnostics,
    LifecycleClient,
    NodeProcess,
    Peer,
    Predictor,
    ScriptedFleet,
    command_values,
    parameters_of,
    random_reading,
)

ROBOTS = ("robot_0", "robot_1")
SAFE = np.array([0.0625, -0.125])
STACK = 4
STACKED = {f"observations.{key}.stack": STACK for key in ("image", "touch")}
PARAMETERS = {**STACKED, "action.safe_command": SAFE.tolist(), "synchronisation.max_age_s": 10.0}

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]


class ConstantRobots:
    """Robots that always send the same, so that every policy has one command for each once its stack is full.

    Parameters
    ----------
    peer
        The test's node.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.fleet = ScriptedFleet(peer, ROBOTS)
        rng = np.random.default_rng(11)
        self._readings = {robot: random_reading(rng) for robot in ROBOTS}
        peer.node.create_timer(0.05, self._publish)

    def _publish(self) -> None:
        now_ns = self._peer.node.get_clock().now().nanoseconds
        for robot, reading in self._readings.items():
            self.fleet.publish(robot, now_ns, *reading)

    def expected(self, model: Any) -> dict[str, np.ndarray]:
        """Return what `model.predict` says for each robot with a full stack."""
        commands = {}
        for robot, reading in self._readings.items():
            predictor = Predictor(model, STACK)
            commands[robot] = [predictor(*reading) for _ in range(STACK)][-1]
        return commands

    def driven_by(self, model: Any) -> bool:
        """Whether every robot's newest command is the model's."""
        newest = {robot: self.fleet.newest(robot) for robot in ROBOTS}
        return all(
            newest[robot] is not None and np.allclose(newest[robot], command, rtol=0.0, atol=1e-5)
            for robot, command in self.expected(model).items()
        )


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_new_policy_drives_from_some_tick_on(model: Model, peer: Peer, start_node: StartNode) -> None:
    (old_file, old), (new_file, new) = model(STACK), model(STACK, seed=5)
    process = start_node(parameters_of(old_file, ROBOTS, {**PARAMETERS, "policy.sha256": sha256(old_file)}))
    operator = LifecycleClient(peer, process.full_name)
    diagnostics = Diagnostics(peer)
    robots = ConstantRobots(peer)
    peer.spin_until(lambda: robots.driven_by(old), "commands of the old policy")
    peer.spin_until(lambda: "policy_node: control" in diagnostics.newest, "diagnostics")
    robots.fleet.clear()

    # The hash of the old file does not fit the new one, so both are set at once.
    assert "has the SHA-256" in operator.set(policy__path=str(new_file))
    assert operator.set_atomically(policy__path=str(new_file), policy__sha256=sha256(new_file)) == ""
    peer.spin_until(lambda: robots.driven_by(new), "commands of the new policy")
    found = operator.get("policy.path", "policy.sha256")
    assert found == [str(new_file), sha256(new_file)]
    for robot in ROBOTS:
        commands = np.array([command_values(message) for message in robots.fleet.commands[robot]])
        by_old, by_new = (np.abs(commands - robots.expected(which)[robot]).max(axis=1) <= 1e-5 for which in (old, new))
        # Only these two, in this order: the stack is not filled anew, and no tick is anybody else's.
        assert np.all(by_old ^ by_new)
        assert by_old[0] and by_new[-1] and np.all(np.diff(by_new.astype(int)) >= 0)
    match = process.wait_for(r"the policy is now (\S+), SHA-256 (\w+): loaded in [\d.]+ s, swapped between two ticks; ")
    assert match.groups() == (str(new_file), sha256(new_file))

    diagnostics.newest.clear()
    peer.spin_until(lambda: diagnostics.values("policy_node: control").get("policy") == str(new_file), "diagnostics")
    assert diagnostics.values("policy_node: control")["policy_sha256"] == sha256(new_file)
    assert process.send(signal.SIGINT) == 0
    assert "Traceback" not in process.text
