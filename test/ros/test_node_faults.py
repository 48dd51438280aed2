# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A fault of one robot is reported, makes that robot safe, recovers, and does not affect other robots."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_harness import (
    CELLS,
    Diagnostics,
    Lockstep,
    NodeProcess,
    Peer,
    Predictor,
    ScriptedFleet,
    command_values,
    parameters_of,
    random_reading,
)

ROBOTS = ("robot_0", "robot_1", "robot_2")
SAFE = (0.0625, -0.125)
PERIOD_NS = 50_000_000

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]


def is_safe(fleet: ScriptedFleet, robot: str) -> bool:
    """Whether the robot's newest command is the safe one."""
    return np.array_equal(fleet.newest(robot), SAFE)


def drives(fleet: ScriptedFleet, robot: str) -> bool:
    """Whether the robot's newest command comes from the policy."""
    return bool(fleet.commands[robot]) and not is_safe(fleet, robot)


@pytest.mark.both_distributions
def test_bad_and_missing_data_stop_one_robot_only(model: Model, peer: Peer, start_node: StartNode) -> None:
    parameters = parameters_of(model()[0], ROBOTS, {"action.safe_command": list(SAFE)})
    process = start_node(parameters)
    fleet = ScriptedFleet(peer, ROBOTS)
    diagnostics = Diagnostics(peer)

    def status(robot: str) -> dict[str, str]:
        return diagnostics.values(f"policy_node: {robot}")

    def logged(pattern: str, start: int) -> Callable[[], object]:
        # The node logs once a second.
        return lambda: re.search(pattern, process.text[start:])

    # Until every topic has a message, the node logs those that it waits for, and its robots are safe.
    fleet.drive(lambda: drives(fleet, "robot_0"), "commands of the policy for robot_0", ["robot_0"])
    process.wait_for(
        r"waiting for the first message of robot_1: camera/image_raw, touch; robot_2: camera/image_raw, touch"
    )
    peer.spin_until(lambda: is_safe(fleet, "robot_2"), "the safe command of a robot that was never heard")
    fleet.drive(lambda: status("robot_1").get("state") == "WAITING", "diagnostics of robot_1", ["robot_0"])
    fleet.drive(lambda: all(drives(fleet, robot) for robot in ROBOTS), "commands of the policy for all")

    # The log describes the node once a second.
    diagnostics.arrays.clear()
    fleet.drive(
        lambda: (
            len(diagnostics.arrays) >= 3
            and diagnostics.values("policy_node: control").get("robots_ready") == "3"
            and all(status(robot).get("state") == "READY" for robot in ROBOTS)
        ),
        "diagnostics of a fleet that is driven",
    )
    names = {"policy_node: control", *(f"policy_node: {robot}" for robot in ROBOTS)}
    assert all({entry.name for entry in array.status} == names for array in diagnostics.arrays)
    control = diagnostics.values("policy_node: control")
    assert control["device"] == "cpu" and control["algorithm"] == "PPO"
    assert 0.0 < float(control["rate_hz"]) <= 25.0
    assert int(control["ticks"]) > 0 and int(control["missed_ticks"]) >= 0
    for timed in ("lateness", "tick", "take", "select", "stage", "infer", "guard", "publish", "stamp_to_command"):
        assert 0.0 <= float(control[f"{timed}_ms_p50"]) <= float(control[f"{timed}_ms_p99"])
    for robot in ROBOTS:
        assert status(robot)["rejected"] == "0"
        # Not older than max_age_s at the tick; the command is sent when the tick has computed, on a busy machine later.
        assert 0.0 <= float(status(robot)["age_at_command_ms"]) <= 5000.0

    # Messages that cannot be used: one robot sends them, the others drive on.
    rng = np.random.default_rng(1)
    image, touch = random_reading(rng)
    for bad_image, encoding, bad_touch, reason in (
        (image, "rgb8", touch[:-1], f"touch: {CELLS - 1} numbers found, the policy takes {CELLS}"),
        (image, "rgb8", np.where(touch == touch[0], np.nan, touch), "touch: effort[0] is nan"),
        (image[:, :, :2], "rgb8", touch, "camera/image_raw"),
        (image, "nonsense", touch, "nonsense"),
    ):
        start = len(process.text)

        def rejected(reason: str = reason) -> bool:
            found = status("robot_1")
            is_stopped = found["state"] == "REJECTED" and reason in found["reason"] and is_safe(fleet, "robot_1")
            return is_stopped and drives(fleet, "robot_0") and drives(fleet, "robot_2")

        def send_bad(image: np.ndarray = bad_image, encoding: str = encoding, touch: np.ndarray = bad_touch) -> None:
            now_ns = peer.node.get_clock().now().nanoseconds
            fleet.publish_image("robot_1", now_ns, image, encoding)
            fleet.publish_touch("robot_1", now_ns, touch)

        fleet.drive(rejected, f"robot_1 alone to be rejected: {reason}", ["robot_0", "robot_2"], send_bad)
        fleet.drive(logged(r"robot_1[^:]*: REJECTED, .*; when_stale: stop", start), "the log", ROBOTS[::2], send_bad)
        fleet.drive(lambda: drives(fleet, "robot_1"), "robot_1 to drive again")
    assert int(status("robot_1")["rejected"]) > 0 and status("robot_0")["rejected"] == "0"

    # A robot without new readings.
    start = len(process.text)
    fleet.drive(lambda: is_safe(fleet, "robot_2"), "the safe command of a silent robot", ["robot_0", "robot_1"])
    fleet.drive(
        lambda: (
            status("robot_2")["state"] == "STALE"
            and "max_age_s allows 0.500 s" in status("robot_2")["reason"]
            and drives(fleet, "robot_0")
            and drives(fleet, "robot_1")
        ),
        "robot_2 alone to be called stale",
        ["robot_0", "robot_1"],
    )
    said = r"robot_2[^:]*: STALE, .* old, synchronisation\.max_age_s allows 0\.500 s"
    fleet.drive(logged(said, start), "the log", ROBOTS[:2])
    fleet.drive(lambda: drives(fleet, "robot_2"), "robot_2 to drive again")
    fleet.drive(logged(r"robot_2[^:]*: READY", start), "the log")


@pytest.mark.both_distributions
def test_time_that_jumps_back_restarts_the_episodes(model: Model, peer: Peer, start_node: StartNode) -> None:
    model_file, built_model = model(stack=4)
    process = start_node(
        parameters_of(
            model_file,
            ROBOTS[:1],
            {
                "use_sim_time": True,
                "action.safe_command": list(SAFE),
                **{f"observations.{key}.stack": 4 for key in ("image", "touch")},
                **{f"observations.{key}.reliability": "reliable" for key in ("image", "touch")},
            },
        )
    )
    robot = ROBOTS[0]
    fleet = ScriptedFleet(peer, [robot], reliable=True)
    fleet.wait_until_heard()
    process.wait_for(r"\bactive: ")
    lockstep = Lockstep(peer, fleet, PERIOD_NS)
    predictor = Predictor(built_model, 4)
    rng = np.random.default_rng(9)
    for start_ns in (100_000_000_000, 2_000_000_000, 1_900_000_000):
        # No reading from before the jump is left.
        commands = lockstep.start(start_ns)
        assert np.array_equal(command_values(commands[robot]), SAFE)
        predictor.reset()
        for _ in range(6):
            reading = random_reading(rng)
            fleet.publish(robot, lockstep.next_ns, *reading)
            fleet.wait_until_received()
            found = command_values(lockstep.tick()[robot])
            np.testing.assert_allclose(found, predictor(*reading), rtol=0.0, atol=1e-5)


def test_nodes_in_two_namespaces_do_not_interfere(model: Model, peer: Peer, start_node: StartNode) -> None:
    namespaces = ("/left", "/right")
    for namespace in namespaces:
        start_node(parameters_of(model()[0], ROBOTS[:1], {"action.safe_command": list(SAFE)}), namespace=namespace)
    left, right = (ScriptedFleet(peer, ROBOTS[:1], namespace=namespace) for namespace in namespaces)
    diagnostics = Diagnostics(peer)
    peer.spin_until(lambda: right.newest("robot_0") is not None, "commands of the right node")
    left.drive(lambda: drives(left, "robot_0"), "commands of the policy on the left")
    assert is_safe(right, "robot_0")
    right.drive(lambda: drives(right, "robot_0"), "commands of the policy on the right")
    peer.spin_until(lambda: is_safe(left, "robot_0"), "the left robot, which fell silent, to be safe")
    peer.spin_until(
        lambda: {f"{namespace[1:]}/policy_node: robot_0" for namespace in namespaces} <= diagnostics.newest.keys(),
        "diagnostics of both nodes",
    )


def test_hold_repeats_the_last_command_of_a_robot_without_readings(
    model: Model, peer: Peer, start_node: StartNode
) -> None:
    changes = {
        "action.safe_command": list(SAFE),
        "action.when_stale": "hold",
        "action.hold_s": 60.0,
        "synchronisation.max_age_s": 0.5,
    }
    start_node(parameters_of(model()[0], ["robot_0"], changes))
    fleet = ScriptedFleet(peer, ["robot_0"])
    diagnostics = Diagnostics(peer)
    fleet.drive(lambda: len(fleet.commands["robot_0"]) > 10 and drives(fleet, "robot_0"), "commands of the policy")
    peer.spin_until(lambda: diagnostics.values("policy_node: robot_0").get("state") == "STALE", "a robot that is stale")
    held = fleet.newest("robot_0")
    assert held is not None and not is_safe(fleet, "robot_0")
    fleet.clear()
    peer.spin_until(lambda: len(fleet.commands["robot_0"]) > 20, "a second of commands")
    assert all(np.array_equal(command_values(command), held) for command in fleet.commands["robot_0"])
