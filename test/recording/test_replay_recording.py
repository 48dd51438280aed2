# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A simulated drive, recorded by the node over DDS and replayed: every command is the one that was sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ForkedProcess
from geometry_msgs.msg import Twist
from node_harness import PATIENCE_S, Peer, parameters_of
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations
from std_srvs.srv import Trigger

from policy_node.cli.replay import main
from policy_node_bench.harness.untrained import SpacesOnly, untrained_model
from policy_node_rover.mujoco import rover_sim
from policy_node_rover.mujoco.environment import action_space, observation_space

ROVERS = ["rover_0", "rover_1"]
COMMANDS = 40


@pytest.fixture
def rovers() -> Iterator[None]:
    """Run two simulated rovers."""
    simulation = ForkedProcess(rover_sim.main, ["--robots", "2", "--renderer", "raycast", "--seed", "3"], capture=False)
    yield
    simulation.terminate()
    simulation.wait(PATIENCE_S)


def make_policy(kind: str, folder: Path) -> tuple[Path, int]:
    """Save a policy whose commands depend much on what it sees; return its file and its stack."""
    file, stack = folder / "policy.zip", 4 if kind == "frame stack" else 1
    if kind == "memory":
        env = SpacesOnly(observation_space(), action_space())
        model: Any = RecurrentPPO("MultiInputLstmPolicy", env, n_steps=2, batch_size=2, seed=1, device="cpu")
    else:
        model = untrained_model(
            StackedObservations(1, stack, observation_space()).stacked_observation_space, action_space()
        )
    with torch.no_grad():
        model.policy.action_net.weight.mul_(100.0)
    model.save(file)
    return file, stack


@pytest.mark.parametrize("kind", [pytest.param("frame stack", marks=pytest.mark.slow), "memory"])
def test_a_recorded_drive_replays_to_the_sent_commands(
    kind: str, rovers: None, peer: Peer, start_node: Callable[..., Any], tmp_path: Path
) -> None:
    policy, stack = make_policy(kind, tmp_path)
    node = start_node(
        parameters_of(
            policy,
            ROVERS,
            {
                "observations.image.stack": stack,
                "observations.touch.stack": stack,
                "record.path": str(tmp_path / "recordings"),
                "record.max_bag_duration_s": 0.5,
                "action.ramp_s": 0.5,
                "action.max_rate": [2.0],
            },
        )
    )
    node.wait_for("READY, driven by the policy")
    heard: list[Twist] = []
    subscription = peer.node.create_subscription(Twist, "/rover_0/cmd_vel", heard.append, 10)
    for service in ("", "reset", "stop", "resume"):
        if service:
            peer.call(Trigger, f"/policy_node/{service}", Trigger.Request())
        end = len(heard) + COMMANDS // 2
        peer.spin_until(lambda end=end: len(heard) >= end, f"commands after {service}")
    peer.node.destroy_subscription(subscription)
    node.end()
    (bag,) = (tmp_path / "recordings").iterdir()
    assert len(list(bag.glob("*.mcap"))) > 2

    report_file = tmp_path / "report.json"
    assert main([str(bag), "--json", str(report_file), "--output", str(tmp_path / "commands")]) == 0
    report = json.loads(report_file.read_text())
    assert report["time"] == "ticks" and report["complete"] and not report["notes"]
    for robot in ROVERS:
        compared = report["robots"][robot]["compare"]
        assert compared["ticks"] >= COMMANDS
        assert compared["largest"] <= 1e-5
        assert report["robots"][robot]["states"].keys() >= {"READY", "STOPPED"}
    # What was recorded can be replayed as any other bag, too.
    assert main([str(bag), "--time", "recorded", "--json", str(report_file), "-p", "robots:=[rover_1]"]) == 0
    again = json.loads(report_file.read_text())
    assert again["robots"].keys() == {"rover_1"} and again["robots"]["rover_1"]["states"]["READY"] > 0.3
