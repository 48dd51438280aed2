# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Record demonstrations over DDS (`policy_demo record`): the scripted driver drives whole episodes of a fleet.

The bag has what any recorder of ROS would store: sensors, commands and `/clock`. `policy_replay to-dataset` converts
it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from geometry_msgs.msg import Twist
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rich.console import Console
from rosbags.rosbag2 import WriterError
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.options import INTERRUPTED, number
from policy_node.cli.output import check_folder
from policy_node.cli.process_environment import transport_environment
from policy_node.recording.bag import RecordingBag, typestore_of
from policy_node.ros.domain import keep_to_itself
from policy_node.ros.process import ros_process
from policy_node.ros.rclpy_internals import poll_topic
from policy_node_rover.demo.over_dds import (
    POLL_PERIOD_S,
    SILENCE_TIMEOUT_S,
    EpisodeClient,
    EpisodeScheduler,
)
from policy_node_rover.evaluation.progress import EpisodeProgress, print_errors
from policy_node_rover.evaluation.results import describe_summary, summarise_episodes
from policy_node_rover.mujoco.rendering import KINDS

# Of each rover; time is recorded beside them.
TOPICS: dict[str, tuple[type, str]] = {
    "camera/image_raw": (Image, "sensor_msgs/msg/Image"),
    "touch": (JointState, "sensor_msgs/msg/JointState"),
    "cmd_vel": (Twist, "geometry_msgs/msg/Twist"),
}
CLOCK = "/clock"
# Messages of a topic that wait while this process writes.
QUEUE = 1000
# Messages of several topics are written in the order in which they were sent, after this time.
REORDERED_NS = 200_000_000
# Longer than readings may be old, so that each episode is one in the dataset.
RESET_PAUSE_S = 0.3


class BagRecorder:
    """Write the messages of a fleet into a bag, in the order in which they were sent."""

    def __init__(self, node: Node, robots: Sequence[str], folder: Path) -> None:
        topics = {f"/{robot}/{topic}": kinds for robot in robots for topic, kinds in TOPICS.items()}
        topics[CLOCK] = (Clock, "rosgraph_msgs/msg/Clock")
        types = {topic: name for topic, (_, name) in topics.items()}
        self._bag = RecordingBag(folder, types, typestore_of(types.values()), {})
        qos = QoSProfile(depth=QUEUE)
        self._takes = {
            topic: poll_topic(node, message_type, topic, qos, raw=True)[1]
            for topic, (message_type, _) in topics.items()
        }
        self._waiting: list[tuple[int, str, bytes]] = []

    def poll(self) -> None:
        """Take all messages, and write those that no earlier one can follow."""
        now_ns = time.time_ns()
        for topic, take in self._takes.items():
            for raw, information in iter(take, None):
                self._waiting.append((_sent_ns(information), topic, raw))
        self._write(now_ns - REORDERED_NS)

    def close(self) -> None:
        """Write all that waits, and the index."""
        self._write(None)
        self._bag.close()

    def _write(self, until_ns: int | None) -> None:
        self._waiting.sort(key=lambda sent: sent[0])
        count = sum(until_ns is None or sent_ns < until_ns for sent_ns, *_ in self._waiting)
        for sent_ns, topic, raw in self._waiting[:count]:
            self._bag.write(topic, sent_ns, raw)
        del self._waiting[:count]


def _sent_ns(information: Any) -> int:
    return int(information["source_timestamp"])


def record(options: argparse.Namespace, console: Console, stopping: Callable[[], bool]) -> int:
    """Record the episodes; return the exit status."""
    robots = tuple(f"rover_{robot}" for robot in range(min(options.robots, options.episodes)))
    seeds = range(options.seed, options.seed + options.episodes)
    scheduler = EpisodeScheduler(len(robots), seeds)
    simulation = [
        *("--robots", str(len(robots)), "--seed", str(seeds.start), "--renderer", options.renderer, "--lockstep"),
        *("--scripted", "--disturb", str(options.disturb), "--reset-pause-s", str(RESET_PAUSE_S)),
    ]
    node = Node("policy_demo", start_parameter_services=False)
    try:
        with ExitStack() as stack:
            stack.callback(node.destroy_node)
            recorder = BagRecorder(node, robots, options.output)
            stack.callback(recorder.close)
            client = EpisodeClient(node, robots, scheduler)
            log = options.output.with_suffix(".log")
            arguments = ["-m", "policy_node_rover.mujoco.rover_sim", *simulation]
            child = Child("rover_sim", arguments, log, transport_environment())
            stack.callback(child.stop)
            progress = stack.enter_context(EpisodeProgress(console, "recording", len(seeds), stopping=stopping))
            while scheduler.running:
                client.poll()
                recorder.poll()
                child.check()
                if client.silence_s > SILENCE_TIMEOUT_S:
                    raise child.error(f"published no episode status for {SILENCE_TIMEOUT_S:g} s")
                progress.show(len(scheduler.finished), sum(episode.result.success for episode in scheduler.finished))
                time.sleep(POLL_PERIOD_S)
    except (ToolError, WriterError, OSError) as error:
        return print_errors(console, [str(error)])
    summary = summarise_episodes([episode.result for episode in scheduler.finished])
    console.print(f"{options.output}: {describe_summary(summary)}", highlight=False, soft_wrap=True)
    return 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of `policy_demo record`."""
    parser = argparse.ArgumentParser(
        prog="policy_demo record",
        description="Let the scripted driver drive whole episodes over DDS, and record them in a bag (MCAP) for "
        "policy_replay to-dataset. Each episode is one of the dataset.",
    )
    add = parser.add_argument
    add("output", type=Path, help="folder of the bag, which must not exist; the log of the simulation goes beside it")
    add("--episodes", type=number(int, 1), default=100, help="number of episodes (default 100)")
    add("--robots", type=number(int, 1, 256), default=8, help="number of rovers (default 8)")
    # Not those of evaluations.
    add("--seed", type=number(int, 0, 2**31), default=1_000_000, help="seed of the first episode (default 1000000)")
    add(
        "--disturb",
        type=number(float, 0, 1),
        default=0.2,
        metavar="SHARE",
        help="share of the time in which rovers are pushed off their way (default 0.2)",
    )
    add("--renderer", choices=KINDS, default="auto", help="auto: EGL if it works, else ray casting")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Record; Ctrl-C ends it with exit status 130 and a bag of what was recorded."""
    options = parse_options(arguments)
    check_folder("policy_demo record", options.output.parent)
    keep_to_itself()
    console = Console()
    with ros_process() as stopping:
        try:
            return record(options, console, stopping.is_set)
        except KeyboardInterrupt:
            console.print("policy_demo record: stopped")
            return INTERRUPTED
