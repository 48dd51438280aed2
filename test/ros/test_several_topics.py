# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Robots with two command topics, in one process with scripted time and over DDS: each has its command or safe one."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from geometry_msgs.msg import Twist
from loop_rig import PERIOD_S, LoopRig, save_echo
from moody import MoodyFleet, moody_parameters
from node_harness import Diagnostics, NodeProcess, Peer
from rclpy.serialization import deserialize_message
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from policy_node.control.tick import SentCommands
from policy_node.ros import preview
from policy_node.sensing.synchroniser import RobotState

SAFE_GRIP = 0.5
# The policy commands (robot + 1, 10): the gripper takes the first component, the base the second.
ALONE = {f"action__{name}": None for name in ("topic", "type", "fields", "safe_command")}
TOPICS: dict[str, Any] = {
    **ALONE,
    "actions__keys": ["base", "gripper"],
    "actions__base__topic": "cmd_vel",
    "actions__base__type": "geometry_msgs/msg/Twist",
    "actions__base__fields": ["linear.x"],
    "actions__base__components": [1],
    "actions__base__high": [4.0],
    "actions__gripper__topic": "gripper",
    "actions__gripper__type": "std_msgs/msg/Float64MultiArray",
    "actions__gripper__components": [0],
    "actions__gripper__safe_command": [SAFE_GRIP],
}
BASE, GRIPPER = "base", "gripper"


class TopicsRig(LoopRig):
    """Notes of each command its topic: robot, topic, number."""

    def _note(self, commands: SentCommands) -> None:
        for index, message in commands.messages.items():
            robot, topic = divmod(index, 2)
            name = (BASE, GRIPPER)[topic]
            found = deserialize_message(message, (Twist, Float64MultiArray)[topic])
            number = found.linear.x if isinstance(found, Twist) else found.data[0]
            self.sent.append((robot, (name, number), commands.of_tick))  # type: ignore[arg-type]

    def take_sent(self, robot: int) -> list[Any]:
        """Return topic and number of the commands that a robot got since the last call of this method."""
        found = [command for each, command, _ in self.sent if each == robot]
        self.sent = [each for each in self.sent if each[0] != robot]
        return found


MakeRig = Callable[..., TopicsRig]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_echo(tmp_path_factory.mktemp("policy") / "echo.pt")


@pytest.fixture
def make_rig(peer: Peer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRig]:
    made: list[TopicsRig] = []

    def make(**changes: Any) -> TopicsRig:
        made.append(TopicsRig(peer, policy, monkeypatch, robots=2, **{**TOPICS, **changes}))
        return made[-1]

    yield make
    for rig in made:
        rig.destroy()


def test_each_topic_gets_its_components_with_its_limits_and_its_safe_command(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    assert rig.take_sent(0) == [(BASE, 4.0), (GRIPPER, 1.0)]
    assert rig.take_sent(1) == [(BASE, 4.0), (GRIPPER, 2.0)]
    rig.readings[1] = None
    rig.time.now_s += 1.0
    rig.readings[0] = ((3.0, -1.0), 0.0)
    tick = rig.tick()
    assert tick.states[1] is RobotState.STALE
    assert rig.take_sent(0) == [(BASE, -1.0), (GRIPPER, 3.0)]
    assert rig.take_sent(1) == [(BASE, 0.0), (GRIPPER, SAFE_GRIP)]
    # A stop by an operator reaches both topics at once.
    assert rig.loop.stop_robots() == 2
    assert rig.take_sent(0) == [(BASE, 0.0), (GRIPPER, SAFE_GRIP)]


def test_without_good_data_each_topic_does_what_its_parameters_say(make_rig: MakeRig) -> None:
    held = {"actions__gripper__when_stale": "hold", "actions__gripper__hold_s": 2 * PERIOD_S}
    rig = make_rig(**held)
    rig.tick()
    rig.sent.clear()
    rig.readings[0] = None
    rig.time.now_s += 0.3
    first = rig.tick()
    assert first.states[0] is RobotState.STALE and first.commanded[0]
    # That pause was longer than the gripper holds its command.
    assert rig.take_sent(0) == [(BASE, 0.0), (GRIPPER, SAFE_GRIP)]


def test_a_preview_has_the_topics_side_by_side(make_rig: MakeRig) -> None:
    """A topic without a bound has none there, and a topic that is silent has no number."""
    rig = make_rig(actions__base__when_stale="silent")
    described = preview._described(rig.configuration, 2)
    assert described["components"] == ["base.linear.x", "gripper.0"]
    assert (described["low"], described["high"]) == ([None, None], [4.0, None])
    rig.tick()
    rig.readings[0] = None
    rig.time.now_s += 1.0
    figures = json.loads(json.dumps(preview._figures(rig.tick()), allow_nan=False))
    assert figures["commands"] == [[None, SAFE_GRIP], [4.0, 2.0]]


def test_a_gripper_holds_its_command_while_the_base_stops(make_rig: MakeRig) -> None:
    rig = make_rig(actions__gripper__when_stale="hold", actions__gripper__hold_s=1.0)
    rig.tick()
    rig.sent.clear()
    rig.readings[0] = None
    rig.time.now_s += 0.3
    rig.tick()
    assert rig.take_sent(0) == [(BASE, 0.0), (GRIPPER, 1.0)]
    rig.time.now_s += 1.0
    rig.tick()
    assert rig.take_sent(0) == [(BASE, 0.0), (GRIPPER, SAFE_GRIP)]


def test_a_silent_topic_gets_nothing_and_the_others_get_their_safe_command(make_rig: MakeRig) -> None:
    rig = make_rig(actions__gripper__when_stale="silent", actions__gripper__safe_command=None)
    rig.tick()
    rig.sent.clear()
    rig.readings[0] = None
    rig.time.now_s += 0.3
    tick = rig.tick()
    assert tick.commanded[0] and not tick.driven[0]
    assert rig.take_sent(0) == [(BASE, 0.0)]
    # Not all topics of any robot have a safe command.
    assert rig.loop.stop_robots() == 0
    assert rig.take_sent(0) == [(BASE, 0.0)] and rig.take_sent(1)[-1:] == [(BASE, 0.0)]
    # Driven again, also the silent topic gets commands.
    rig.loop.resume_robots([0, 1])
    rig.readings[0] = ((5.0, 2.0), 0.0)
    rig.tick()
    assert rig.take_sent(0) == [(BASE, 2.0), (GRIPPER, 5.0)]


def test_a_topic_that_fails_leaves_its_robot_without_a_command_of_the_policy(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()

    gripper_of_robot_0 = rig.senders[1]

    def fail() -> None:
        gripper_of_robot_0.before = lambda: None
        raise RuntimeError("no route")

    gripper_of_robot_0.before = fail
    rig.sent.clear()
    rig.clock.released.release()
    rig.loop._thread.join(10.0)
    assert "no route" in str(rig.loop.failure)
    assert rig.loop.latest is not None
    assert rig.loop.latest.driven.tolist() == [False, True]
    for robot in (0, 1):
        assert rig.take_sent(robot)[-2:] == [(BASE, 0.0), (GRIPPER, SAFE_GRIP)]


def test_a_base_and_its_gripper_are_driven_recorded_and_made_safe_over_dds(
    policy: Path, peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    process = start_node(moody_parameters(policy, ["robot"], record__path=str(tmp_path), **TOPICS))
    diagnostics = Diagnostics(peer)
    fleet = MoodyFleet(peer, ["robot"])
    found = "nobody subscribes to /robot/gripper"
    fleet.live(lambda: found in diagnostics.values("policy_node: robot").get("commands_unheard", ""), "the finding")
    grips: list[Float64MultiArray] = []
    peer.node.create_subscription(Float64MultiArray, "/robot/gripper", grips.append, 100)
    # The base is limited to 4.
    fleet.live(
        lambda: (
            fleet.commands["robot"] and fleet.commands["robot"][-1].linear.x == 4.0 and grips and grips[-1].data[0] > 4
        ),
        "commands on both topics",
    )
    peer.call(Trigger, f"{process.full_name}/stop", Trigger.Request())
    peer.spin_until(
        lambda: fleet.commands["robot"][-1].linear.x == 0.0 and list(grips[-1].data) == [SAFE_GRIP],
        "the safe command of both topics",
    )
    assert process.send(signal.SIGINT) == 0
    (metadata,) = tmp_path.glob("*/metadata.yaml")
    information = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]
    counts = {
        each["topic_metadata"]["name"]: each["message_count"] for each in information["topics_with_message_count"]
    }
    assert counts["/robot/cmd_vel"] == counts["/robot/gripper"] > 0
