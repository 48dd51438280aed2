# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The simulation is killed and restarted while the node drives its rovers with the shipped policy."""

import time
from collections.abc import Callable

import yaml
from forked import ForkedProcess
from geometry_msgs.msg import Twist
from node_harness import PATIENCE_S, Diagnostics, NodeProcess, Peer, command_values, kill

from policy_node.config.package_files import share_path
from policy_node.config.schema import flatten
from policy_node_rover.mujoco.rover_sim import main

ROVERS = ("rover_0", "rover_1", "rover_2", "rover_3")


def start_simulation() -> ForkedProcess:
    return ForkedProcess(main, ["--robots", str(len(ROVERS))], capture=False)


def end(simulation: ForkedProcess) -> None:
    kill(simulation)
    simulation.wait(PATIENCE_S)


def test_the_fleet_stops_with_the_simulation_and_drives_again_with_it(
    peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    configuration = yaml.safe_load(share_path("config", "rover.yaml").read_text())
    commands: dict[str, list[Twist]] = {rover: [] for rover in ROVERS}
    for rover in ROVERS:
        peer.node.create_subscription(Twist, f"{rover}/cmd_vel", commands[rover].append, 10)
    diagnostics = Diagnostics(peer)

    def all_are(state: str) -> bool:
        return all(diagnostics.values(f"policy_node: {rover}").get("state") == state for rover in ROVERS)

    def all_move() -> bool:
        return all(received and command_values(received[-1]).any() for received in commands.values())

    simulation = start_simulation()
    try:
        node = start_node(flatten(configuration["/**"]["ros__parameters"]))
        peer.spin_until(lambda: all_are("READY") and all_move(), "the fleet to drive")

        said_before = len(node.text)
        end(simulation)
        for rover in ROVERS:
            node.wait_for(rf"{rover}[^\n]*: STALE", said_before)
        peer.spin_until(lambda: all_are("STALE"), "the rovers to be stale")
        for received in commands.values():
            received.clear()
        peer.spin_until(lambda: all(len(received) >= 5 for received in commands.values()), "safe commands")
        for rover, received in commands.items():
            assert not any(command_values(command).any() for command in received), f"{rover} was not stopped"
        assert node.alive

        simulation = start_simulation()
        peer.spin_until(lambda: any(peer.node.count_publishers(f"{rover}/touch") for rover in ROVERS), "the simulation")
        back_s = time.monotonic()
        peer.spin_until(all_move, "the fleet to drive again")
        print(f"driving again {time.monotonic() - back_s:.2f} s after the simulation was back")
    finally:
        end(simulation)
