# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Contents of /diagnostics and of the log."""

import itertools
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from moody import MoodyFleet, moody_parameters, save_moody
from node_harness import CELLS, Diagnostics, NodeProcess, Peer, ScriptedFleet, parameters_of, random_reading
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

from policy_node.ros.diagnostics import ROBOTS_PER_PART
from policy_node.ros.resource_usage import DeviceLoad, ProcessLoad

# More than fit into one message.
ROBOTS = tuple(f"robot_{index}" for index in range(ROBOTS_PER_PART + 1))
CONTROL = {
    "rate_hz",
    "control_rate_hz",
    "ticks",
    "missed_ticks",
    "robots",
    "robots_ready",
    "robots_interrupted",
    "lifecycle_state",
    "inferences_per_s",
    "batch_occupancy",
    "cpu_percent",
    "rss_mb",
    "engine",
    "policy",
    "policy_sha256",
    "device",
    *(
        f"{name}_ms_{percentile}"
        for name in ("lateness", "tick", "stamp_to_command", "take", "infer", "publish")
        for percentile in ("p50", "p99")
    ),
}
ROBOT = {
    "state",
    "reason",
    "driven_percent",
    "state_changes",
    "age_at_command_ms",
    "stamp_to_command_ms_p50",
    "image_hz",
    "touch_hz",
    "rejected",
    "bounded",
    "slowed",
}

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]


@pytest.mark.both_distributions
def test_diagnostics_describe_the_node_and_every_robot(model: Model, peer: Peer, start_node: StartNode) -> None:
    process = start_node(parameters_of(model()[0], ROBOTS, {"synchronisation.max_age_s": 5.0}))
    fleet = ScriptedFleet(peer, ROBOTS)
    diagnostics = Diagnostics(peer)

    def all_are(state: str) -> bool:
        values = [diagnostics.values(f"policy_node: {robot}") for robot in ROBOTS]
        return all(each.get("state") == state and each.keys() >= ROBOT for each in values)

    fleet.drive(lambda: all_are("READY"), "diagnostics of every robot that is driven")
    fleet.drive(lambda: diagnostics.values("policy_node: control").keys() >= CONTROL, "all figures of the node")
    control = diagnostics.values("policy_node: control")
    assert control["robots"] == str(len(ROBOTS))
    assert 0.0 < float(control["batch_occupancy"]) <= 1.0
    assert "real_time_factor" not in control
    assert control["lifecycle_state"] == "active"
    # The hardware of a robot is the robot, that of the node its computer.
    hardware = {name: status.hardware_id for name, status in diagnostics.newest.items()}
    assert hardware == {
        "policy_node: control": platform.node(),
        **{f"policy_node: {robot}": robot for robot in ROBOTS},
    }
    fleet.drive(
        lambda: float(diagnostics.values(f"policy_node: {ROBOTS[-1]}")["image_hz"]) > 0.0, "the rate of the images"
    )

    peer.call(Trigger, f"{process.full_name}/stop", Trigger.Request())
    fleet.drive(lambda: all_are("STOPPED"), "the stop in the diagnostics")
    status = diagnostics.newest[f"policy_node: {ROBOTS[0]}"]
    assert status.level == DiagnosticStatus.WARN
    process.wait_for(r"robot_0[^\n]*: STOPPED, [^\n]*")


def test_in_simulated_time_both_rates_are_reported(model: Model, peer: Peer, start_node: StartNode) -> None:
    start_node(parameters_of(model()[0], ["robot"], {"use_sim_time": True}))
    clock = peer.node.create_publisher(Clock, "/clock", 1)
    diagnostics = Diagnostics(peer)
    times = itertools.count(1)

    def reported() -> bool:
        # A tenth of a second of simulated time for every twentieth of real time, or a little more on a busy machine.
        clock.publish(Clock(clock=Time(nanoseconds=next(times) * 100_000_000).to_msg()))
        peer.spin_for(0.05)
        return {"simulated_rate_hz", "real_time_factor"} <= diagnostics.values("policy_node: control").keys()

    peer.spin_until(reported, "both rates")
    control = diagnostics.values("policy_node: control")
    assert 0.0 < float(control["simulated_rate_hz"]) <= 25.0
    assert 0.0 < float(control["real_time_factor"])


def test_a_new_reason_within_a_state_is_logged_once(model: Model, peer: Peer, start_node: StartNode) -> None:
    process = start_node(parameters_of(model()[0], ["robot"], {"synchronisation.max_age_s": 10.0}))
    fleet = ScriptedFleet(peer, ["robot"])
    fleet.drive(lambda: "robot: READY" in process.text, "the robot to be driven")
    image, touch = random_reading(np.random.default_rng(1))
    sent: list[str] = []
    for encoding in ("unknown", "nonsense"):

        def bad_image(encoding: str = encoding) -> None:
            now_ns = peer.node.get_clock().now().nanoseconds
            fleet.publish_touch("robot", now_ns, touch)
            fleet.publish_image("robot", now_ns, image, encoding)
            sent.append(encoding)

        # The state stays the same; its reason changes.
        fleet.drive(lambda: encoding in process.text, f"the reason {encoding}", [], bad_image)  # noqa: B023
        enough = len(sent) + 20
        fleet.drive(lambda: len(sent) >= enough, "twenty more of them", [], bad_image)  # noqa: B023
        assert len(re.findall(rf"robot[^\n]*: REJECTED, [^\n]*{encoding}", process.text)) == 1


def test_a_robot_that_is_driven_at_some_ticks_only_is_a_warning(
    peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    process = start_node(moody_parameters(save_moody(tmp_path / "moody.pt"), ["left", "right"]), namespace="/north")
    fleet = MoodyFleet(peer, ["left", "right"], namespace="/north")
    diagnostics = Diagnostics(peer)
    fleet.live(fleet.is_driven, "commands of the policy")
    full_name = "north/policy_node"

    def values(part: str) -> dict[str, str]:
        return diagnostics.values(f"{full_name}: {part}")

    fleet.live(lambda: float(values("left").get("driven_percent", 0)) == 100.0, "a robot that is always driven")
    assert diagnostics.newest[f"{full_name}: left"].level == DiagnosticStatus.OK
    assert diagnostics.newest[f"{full_name}: left"].hardware_id == "north/left"

    def send() -> None:
        # Every reading is good for one tick and bad for the next: a missing joint.
        fleet.send()
        if fleet.number % 2:
            fleet.publish_touch("left", peer.node.get_clock().now().nanoseconds, np.zeros(CELLS - 1))

    def flaps() -> bool:
        share = float(values("left").get("driven_percent", 0))
        return 10.0 < share < 90.0 and values("left")["state"] == "READY" and int(values("left")["state_changes"]) > 3

    fleet.drive(flaps, "a robot that is READY, but not at every tick", [], send)
    status = diagnostics.newest[f"{full_name}: left"]
    assert status.level == DiagnosticStatus.WARN
    assert re.fullmatch(r"driven in \d+% of the ticks; before: REJECTED: touch: .*", status.message)
    assert values("left")["reason"].startswith("REJECTED: touch")
    assert diagnostics.newest[f"{full_name}: control"].level == DiagnosticStatus.WARN
    assert values("control")["robots_interrupted"] == "1"
    assert values("right")["driven_percent"] == "100.000"
    line = "left .driven in .*% of the ticks, .* changes in 5 s.: REJECTED, again and again: touch"
    fleet.drive(lambda: re.search(line, process.text), "the line about it", [], send)
    logged = len(re.findall(r"left[^\n]*: (REJECTED|READY)", process.text))
    enough = fleet.number + 60
    fleet.drive(lambda: fleet.number > enough, "three more seconds of it", [], send)
    assert len(re.findall(r"left[^\n]*: (REJECTED|READY)", process.text)) == logged


def test_diagnostics_contain_the_resource_usage() -> None:
    load = ProcessLoad()
    sum(range(100_000))
    values = load.values()
    assert values["cpu_percent"] > 0.0
    assert values["rss_mb"] > 10.0
    assert DeviceLoad(torch.device("cpu")).values() == {}
