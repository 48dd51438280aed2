# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Replace the policy while the node drives: the new one takes over, or the old one keeps driving."""

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_harness import (
    Diagnostics,
    LifecycleClient,
    Lockstep,
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
    """Robots with constant readings, so that every policy has one command for each once its stack is full.

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
        """Return the actions of `model.predict` for each robot with a full stack."""
        commands = {}
        for robot, reading in self._readings.items():
            predictor = Predictor(model, STACK)
            commands[robot] = [predictor(*reading) for _ in range(STACK)][-1]
        return commands

    def drive(self, model: Any) -> None:
        """Wait until the model drives every robot, then forget the commands so far."""
        self._peer.spin_until(lambda: self.driven_by(model), "commands of the policy")
        self.fleet.clear()

    def assert_driven_by(self, model: Any) -> None:
        """Wait for more commands; all since the last `drive` must be the model's."""
        counts = {robot: len(commands) + 5 for robot, commands in self.fleet.commands.items()}
        self._peer.spin_until(
            lambda: all(len(self.fleet.commands[robot]) >= count for robot, count in counts.items()), "commands"
        )
        for robot, command in self.expected(model).items():
            found = np.array([command_values(message) for message in self.fleet.commands[robot]])
            assert np.all(np.abs(found - command) <= 1e-5), robot

    def driven_by(self, model: Any) -> bool:
        """Whether every robot's newest command is the model's."""
        newest = {robot: self.fleet.newest(robot) for robot in ROBOTS}
        return all(
            newest[robot] is not None and np.allclose(newest[robot], command, rtol=0.0, atol=1e-5)
            for robot, command in self.expected(model).items()
        )


# Runs the node with a file system on which `slow.zip` is not found before the pipe beside it was opened and closed.
SLOW_FILE = """
import os, sys
stat = os.stat
def slow_stat(path, *rest, **more):
    if str(path).endswith("/slow.zip"):
        with open(f"{path}.gate", "rb") as gate:
            gate.read()
    return stat(path, *rest, **more)
os.stat = slow_stat
program, sys.argv = sys.argv[3], ["policy_node", *sys.argv[4:]]
exec(program)
"""


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.both_distributions
def test_a_new_policy_takes_over_between_two_ticks(model: Model, peer: Peer, start_node: StartNode) -> None:
    (old_file, old), (new_file, new) = model(STACK), model(STACK, seed=5)
    changes = {**PARAMETERS, "policy.sha256": sha256(old_file), "policy.engine": "auto"}
    process = start_node(parameters_of(old_file, ROBOTS, changes))
    operator = LifecycleClient(peer, process.full_name)
    diagnostics = Diagnostics(peer)
    robots = ConstantRobots(peer)
    peer.spin_until(lambda: "engine" in diagnostics.values("policy_node: control"), "diagnostics")
    engine = process.wait_for(r"engine (\w+), 2 robots at a time; measured: [^\n]*direct [\d.]+ ms").group(1)
    found = diagnostics.values("policy_node: control")
    assert found["engine"] == engine and "onnxruntime" in found["engine_measured"]
    robots.drive(old)
    robots.assert_driven_by(old)

    # The hash of the old file does not fit the new one, so both are set at once.
    assert "has the SHA-256" in operator.set(policy__path=str(new_file))
    assert operator.set_atomically(policy__path=str(new_file), policy__sha256=sha256(new_file)) == ""
    peer.spin_until(lambda: robots.driven_by(new), "commands of the new policy")
    found = operator.get("policy.path", "policy.sha256")
    assert found == [str(new_file), sha256(new_file)]
    for robot in ROBOTS:
        commands = np.array([command_values(message) for message in robots.fleet.commands[robot]])
        by_old, by_new = (np.abs(commands - robots.expected(which)[robot]).max(axis=1) <= 1e-5 for which in (old, new))
        # Only these two, in this order: the stack is not refilled, and no tick uses another policy.
        assert np.all(by_old ^ by_new)
        assert by_old[0] and by_new[-1] and np.all(np.diff(by_new.astype(int)) >= 0), by_new
    match = process.wait_for(r"the policy is now (\S+), SHA-256 (\w+): loaded in [\d.]+ s, swapped between two ticks; ")
    assert match.groups() == (str(new_file), sha256(new_file))

    diagnostics.newest.clear()
    peer.spin_until(lambda: diagnostics.values("policy_node: control").get("policy") == str(new_file), "diagnostics")
    values = diagnostics.values("policy_node: control")
    # Nothing is measured while a policy drives: the new one takes the engine of the old one.
    assert values["policy_sha256"] == sha256(new_file) and values["engine"] == engine and not values["engine_measured"]
    assert process.send(signal.SIGINT) == 0
    assert "Traceback" not in process.text


def test_a_policy_that_does_not_fit_is_refused_and_the_old_one_keeps_driving(
    model: Model, peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    old_file, old = model(STACK)
    process = start_node(parameters_of(old_file, ROBOTS, PARAMETERS))
    operator = LifecycleClient(peer, process.full_name)
    robots = ConstantRobots(peer)
    robots.drive(old)
    (tmp_path / "damaged.zip").write_bytes(old_file.read_bytes()[:-1000])
    os.mkfifo(tmp_path / "pipe.onnx")
    with open(tmp_path / "huge.bundle", "wb") as file:
        file.truncate(3 * 2**30)
    other_hash = "0" * 64
    # Parameters, and the reason of the refusal.
    refusals: list[tuple[dict[str, Any], list[str]]] = [
        (
            {"policy.path": str(model(stack=1)[0])},
            ["observations.image.stack: found 4, but the policy wants image: uint8 [3, 36, 36]", "configured sensor"],
        ),
        ({"policy.path": str(model(STACK, discrete=True)[0])}, ["action.table: found 0 numbers"]),
        ({"policy.path": str(tmp_path / "missing.zip")}, ["missing.zip' cannot be read: No such file or directory"]),
        ({"policy.path": str(tmp_path / "damaged.zip")}, ["damaged.zip' is cut off or damaged"]),
        (
            {"policy.path": str(tmp_path / "pipe.onnx")},
            ["pipe.onnx' cannot be read: it is a named pipe, not a"],
        ),
        ({"policy.path": str(tmp_path / "huge.bundle")}, ["it has 3221225472 bytes, allowed are 2147483648; see that"]),
        ({"policy.path": "package://no_such_package/a.zip"}, ["there is no package 'no_such_package' here"]),
        ({"policy.path": 5}, ["policy.path: found 5 (int), but it must be a string"]),
        ({"policy.path": None}, ["policy.path: missing"]),
        ({"policy.sha256": "5"}, ["policy.sha256: found '5', but a SHA-256 is 64 hexadecimal digits"]),
        ({"policy.sha256": other_hash}, ["has the SHA-256", f"but {other_hash} is wanted"]),
        (
            {"policy.path": str(model(STACK, seed=5)[0]), "policy.sha256": other_hash},
            ["has the SHA-256", f"but {other_hash} is wanted"],
        ),
        ({"policy.vecnormalize": str(tmp_path / "missing.pkl")}, ["missing.pkl", "No such file or directory"]),
        (
            {"policy.path": str(model(STACK, seed=5)[0]), "control_rate_hz": 10.0},
            ["policy.path, control_rate_hz: parameters are read at configure", "policy.path, policy.format"],
        ),
    ]
    for values, reasons in refusals:
        refused = operator.set_atomically(**{name.replace(".", "__"): value for name, value in values.items()})
        assert all(reason in refused for reason in reasons), refused
        assert operator.get("policy.path", "policy.sha256", "policy.vecnormalize") == [str(old_file), "", ""]
    robots.assert_driven_by(old)
    assert "the policy is now" not in process.text and "Traceback" not in process.text


def test_a_policy_is_changed_before_the_node_drives(model: Model, peer: Peer, start_node: StartNode) -> None:
    (old_file, old), (new_file, new) = model(STACK), model(STACK, seed=5)
    process = start_node(parameters_of(old_file, ROBOTS, {**PARAMETERS, "autostart": False}))
    operator = LifecycleClient(peer, process.full_name)
    robots = ConstantRobots(peer)
    # Unconfigured: nothing is loaded yet, so that nothing can be refused.
    assert operator.set(policy__path="missing.zip") == ""
    assert operator.set(policy__path=str(old_file)) == ""
    assert operator.change("configure")
    # Inactive: loaded at once.
    assert "missing.zip' cannot be read" in operator.set(policy__path="missing.zip")
    assert operator.set(policy__path=str(new_file)) == ""
    assert operator.change("activate")
    robots.drive(new)
    robots.assert_driven_by(new)
    assert operator.change("deactivate")
    assert operator.set(policy__path=str(old_file)) == ""
    assert operator.change("activate")
    robots.drive(old)
    robots.assert_driven_by(old)


def test_the_node_serves_other_requests_while_a_policy_loads(
    model: Model, peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    (old_file, old), (new_file, new) = model(STACK), model(STACK, seed=5)
    slow_file, gate = tmp_path / "slow.zip", tmp_path / "slow.zip.gate"
    slow_file.write_bytes(new_file.read_bytes())
    os.mkfifo(gate)
    process = start_node(parameters_of(old_file, ROBOTS, PARAMETERS), wrapper=[sys.executable, "-c", SLOW_FILE])
    operator = LifecycleClient(peer, process.full_name)
    robots = ConstantRobots(peer)
    diagnostics = Diagnostics(peer)

    for ending in ("swap", "cleanup"):
        robots.drive(old)
        answer = operator.begin_to_set(policy__path=str(slow_file))
        with gate.open("wb"):  # opens once the node reads
            diagnostics.arrays.clear()
            peer.spin_until(lambda: len(diagnostics.arrays) >= 2, "diagnostics")
            robots.assert_driven_by(old)
            assert operator.state() == "active"
            if ending == "cleanup":
                assert operator.change("deactivate") and operator.change("cleanup")
        refused = answer()
        if ending == "swap":
            assert refused == ""
            robots.drive(new)
            assert operator.set(policy__path=str(old_file)) == ""
        else:
            assert "policy.path: the node was cleaned up while the policy was loading; set it again" in refused
            assert operator.get("policy.path") == [str(old_file)]
    assert operator.change("configure")

    # The end of the node does not wait for it.
    operator.begin_to_set(policy__path=str(slow_file))
    with gate.open("wb"):
        assert process.send(signal.SIGTERM) == 0
    assert "Traceback" not in process.text


def test_a_policy_swap_while_simulated_time_is_paused_keeps_the_stack(
    model: Model, peer: Peer, start_node: StartNode
) -> None:
    (old_file, old), (new_file, new) = model(STACK), model(STACK, seed=5)
    reliable = {f"observations.{key}.reliability": "reliable" for key in ("image", "touch")}
    robot = ROBOTS[0]
    process = start_node(parameters_of(old_file, [robot], {**PARAMETERS, **reliable, "use_sim_time": True}))
    operator = LifecycleClient(peer, process.full_name)
    fleet = ScriptedFleet(peer, [robot], reliable=True)
    fleet.wait_until_heard()
    process.wait_for("active: driving")
    lockstep = Lockstep(peer, fleet, 50_000_000)
    lockstep.start(1_000_000_000)
    rng = np.random.default_rng(13)
    # Both see every reading; the node's policy is changed halfway, between two ticks.
    predictors = [Predictor(each, STACK) for each in (old, new)]
    for step in range(8):
        if step == 4:
            assert operator.set(policy__path=str(new_file)) == ""
        reading = random_reading(rng)
        fleet.publish(robot, lockstep.next_ns, *reading)
        fleet.wait_until_received()
        expected = [predictor(*reading) for predictor in predictors][step >= 4]
        found = command_values(lockstep.tick()[robot])
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-5)
