# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The node with a policy that takes a text for each robot, from outside."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from bag_harness import stand_in_for_lerobot
from instructed import HORIZON, STEP, save_instructed
from moody import SAFE, MoodyFleet, moody_parameters
from node_harness import CELLS, Diagnostics, LifecycleClient, NodeProcess, Peer, command_values
from rich.console import Console
from std_msgs.msg import String

from policy_node.cli.monitor import DiagnosticsView, as_table
from policy_node.cli.replay import main as replay
from policy_node.config.tasks import MAX_TASK_BYTES
from policy_node.ros.tasks import TASK_QOS

ROBOTS = ("robot_0", "robot_1")


class Teller:
    """Publishes texts to robots, which hear the newest also if they start later."""

    def __init__(self, peer: Peer) -> None:
        self._publishers = {robot: peer.node.create_publisher(String, f"{robot}/task", TASK_QOS) for robot in ROBOTS}

    def tell(self, robot: str, text: str) -> None:
        self._publishers[robot].publish(String(data=text))


def follows(fleet: MoodyFleet, numbers: Mapping[str, float]) -> bool:
    """Return whether the newest command of each robot is that of its text."""
    found = [(fleet.newest(robot), number) for robot, number in numbers.items()]
    return all(each is not None and number <= each[0] <= number + HORIZON * STEP for each, number in found)


def shown(view: DiagnosticsView) -> str:
    """Return what `policy_monitor` shows."""
    view.take()
    console = Console(file=io.StringIO(), record=True, width=200)
    console.print(as_table(view))
    return console.export_text()


@pytest.mark.both_distributions
def test_texts_reach_their_robots_and_a_recording_of_them_replays(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    teller = Teller(peer)
    # Before the node starts.
    teller.tell("robot_1", "go 5")
    changes = {
        "policy__inference": "background",
        "policy__task_topic": "task",
        "observations__touch__shape": None,
        "record__path": str(tmp_path / "bags"),
    }
    node = start_node(moody_parameters(save_instructed(tmp_path / "plans.pt", CELLS), ROBOTS, **changes))
    fleet, diagnostics = MoodyFleet(peer, ROBOTS), Diagnostics(peer)
    fleet.live(lambda: follows(fleet, {"robot_1": 5.0}), "commands that follow the text")
    assert fleet.is_safe("robot_0")
    fleet.live(
        lambda: diagnostics.values("policy_node: robot_0").get("reason", "").endswith("text on robot_0/task"), "WAITING"
    )
    teller.tell("robot_0", "go 2")
    fleet.live(lambda: follows(fleet, {"robot_0": 2.0, "robot_1": 5.0}), "commands that follow both texts")

    fleet.clear()
    teller.tell("robot_1", "go 80")
    fleet.live(lambda: follows(fleet, {"robot_1": 8.0}), "commands that follow the new text")
    # Between those of the two plans there is the safe command, and nothing else.
    sent = [command_values(command) for command in fleet.commands["robot_1"]]
    assert all(np.array_equal(each, SAFE) or 5.0 <= each[0] < 6.0 or 8.0 <= each[0] < 9.0 for each in sent)
    assert any(np.array_equal(each, SAFE) for each in sent)
    assert np.all(np.diff([int(each[0] > 6.0) for each in sent if each[0] > 0.0]) >= 0)

    # Without effect.
    for count, text in enumerate((" ", "x" * (MAX_TASK_BYTES + 1)), 1):
        teller.tell("robot_1", text)
        fleet.live(
            lambda count=count: diagnostics.values("policy_node: robot_1").get("tasks_rejected") == str(count),
            "rejected texts",
        )
    assert diagnostics.values("policy_node: robot_1")["task"] == "go 80"
    assert diagnostics.values("policy_node: robot_0")["tasks_rejected"] == "0"
    node.wait_for(r"robot_1/task: found ' ', but it is empty; say what the robot is to do; the text before goes on")

    view = DiagnosticsView(peer.node, "")
    fleet.live(lambda: "go 80" in shown(view), "the text in policy_monitor")

    # The texts stay through a deactivation.
    lifecycle = LifecycleClient(peer, node.full_name)
    assert lifecycle.change("deactivate") and lifecycle.change("activate")
    fleet.clear()
    fleet.live(lambda: follows(fleet, {"robot_0": 2.0, "robot_1": 8.0}), "commands after activation")
    assert lifecycle.change("deactivate")

    bags = sorted((tmp_path / "bags").iterdir())
    assert len(bags) == 2
    for bag in bags:
        report_file = tmp_path / "report.json"
        assert replay([str(bag), "--json", str(report_file)]) == 0
        report = json.loads(report_file.read_text())
        assert report["time"] == "ticks" and not report["notes"]
        for robot in report["robots"].values():
            assert robot["compare"]["ticks"] and robot["compare"]["largest"] == 0.0
    monkeypatch.setenv("PYTHONPATH", str(stand_in_for_lerobot(tmp_path / "site")))
    output = tmp_path / "dataset"
    words = ["to-dataset", str(bags[0]), "--output", str(output), "--format", "lerobot", "--task", "another"]
    assert replay(words) == 0
    _, _, features, episodes = json.loads((output / "all.json").read_text())
    assert set(features) == {"observation.touch", "action"}
    # Each text has its own episodes, whose commands follow it.
    told = {"go 2": 2.0, "go 5": 5.0, "go 80": 8.0}
    assert {frame["task"] for episode in episodes for frame in episode} == set(told)
    for episode in episodes:
        (text,) = {frame["task"] for frame in episode}
        assert all(told[text] <= frame["action"][0] < told[text] + 1 for frame in episode)


def test_a_policy_that_takes_a_text_needs_one(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    parameters = moody_parameters(
        save_instructed(tmp_path / "plans.pt", CELLS), ROBOTS, observations__touch__shape=None
    )
    node = start_node(parameters)
    node.wait_for(r"configure failed:\s+policy\.task: missing, but the policy takes a text")
    lifecycle = LifecycleClient(peer, node.full_name)
    assert lifecycle.set(policy__task=["go 3"]) == ""
    assert lifecycle.change("configure") and lifecycle.change("activate")
    fleet = MoodyFleet(peer, ROBOTS)
    fleet.live(lambda: follows(fleet, {"robot_0": 3.0, "robot_1": 3.0}), "commands that follow the text")


@pytest.mark.both_distributions
def test_a_policy_that_takes_no_text_takes_over_while_driving_and_gives_back(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    told = save_instructed(tmp_path / "plans.pt", CELLS)
    untold = save_instructed(tmp_path / "untold.pt", CELLS, takes_task=False)
    parameters = moody_parameters(told, ROBOTS, policy__task_topic="task", observations__touch__shape=None)
    node = start_node(parameters)
    teller, fleet, diagnostics = Teller(peer), MoodyFleet(peer, ROBOTS), Diagnostics(peer)
    teller.tell("robot_0", "go 5")
    fleet.live(lambda: follows(fleet, {"robot_0": 5.0}) and fleet.is_safe("robot_1"), "commands that follow the text")

    lifecycle = LifecycleClient(peer, node.full_name)
    assert lifecycle.set(policy__path=str(untold)) == ""
    node.wait_for(r"policy\.task_topic: given, but the policy takes no text; the texts are kept for the next policy")
    fleet.live(fleet.is_driven, "commands of the policy without a text")
    diagnostics.newest.clear()
    fleet.live(lambda: bool(diagnostics.values("policy_node: robot_0")), "diagnostics")
    assert "task" not in diagnostics.values("policy_node: robot_0")
    # Heard while the policy takes none.
    teller.tell("robot_0", "go 7")
    assert lifecycle.set(policy__path=str(told)) == ""
    fleet.live(lambda: follows(fleet, {"robot_0": 7.0}) and fleet.is_safe("robot_1"), "commands that follow the text")
    fleet.live(
        lambda: diagnostics.values("policy_node: robot_1").get("reason", "").endswith("text on robot_1/task"), "WAITING"
    )
    # The parameter and the topic: the newer one holds, also if the topic repeats what it has told before.
    assert lifecycle.set(policy__task=["go 3"]) == ""
    fleet.live(lambda: follows(fleet, {"robot_0": 3.0, "robot_1": 3.0}), "commands that follow the parameter")
    assert lifecycle.change("deactivate") and lifecycle.change("activate")
    fleet.clear()
    fleet.live(lambda: follows(fleet, {"robot_0": 3.0, "robot_1": 3.0}), "commands after activation")
    teller.tell("robot_0", "go 7")
    fleet.live(lambda: follows(fleet, {"robot_0": 7.0, "robot_1": 3.0}), "commands that follow the topic")


@pytest.mark.both_distributions
def test_a_policy_that_takes_a_text_takes_over_together_with_it(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    told = save_instructed(tmp_path / "plans.pt", CELLS)
    untold = save_instructed(tmp_path / "untold.pt", CELLS, takes_task=False)
    node = start_node(moody_parameters(untold, ROBOTS, observations__touch__shape=None))
    fleet, lifecycle = MoodyFleet(peer, ROBOTS), LifecycleClient(peer, node.full_name)
    fleet.live(fleet.is_driven, "commands of the policy without a text")
    assert "policy.task: missing, but the policy takes a text" in lifecycle.set(policy__path=str(told))
    assert lifecycle.set_atomically(policy__path=str(told), policy__task=["go 5"]) == ""
    fleet.live(lambda: follows(fleet, {"robot_0": 5.0, "robot_1": 5.0}), "commands that follow the text")
    assert lifecycle.set(policy__task=["go 6", "go 8"]) == ""
    fleet.live(lambda: follows(fleet, {"robot_0": 6.0, "robot_1": 8.0}), "commands that follow the new texts")
    assert "found 3 texts for 2 robots" in lifecycle.set(policy__task=["1", "2", "3"])
