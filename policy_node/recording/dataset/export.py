# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert a bag to a dataset of Minari or LeRobot for offline learning (`policy_replay to-dataset`).

Observations are those of the policy, in its observation space; for LeRobot without the earlier steps of a history,
which it adds itself. Actions are the recorded commands, converted to the policy's action space. An episode lasts while
a robot is READY.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console

from policy_node.config.specs import ArraySpec
from policy_node.control.tick import FleetTick
from policy_node.messages.codecs import ReadingDecoder, reading_decoder
from policy_node.messages.fields import MessageTypeError
from policy_node.messages.reading import UnusableReading
from policy_node.recording.dataset.actions import ActionInverse
from policy_node.recording.dataset.episodes import Dataset, DatasetDescription, Episode
from policy_node.recording.replay.bag import BagError
from policy_node.recording.replay.report import match_recorded
from policy_node.recording.replay.run import Replay
from policy_node.recording.replay.schedule import Tick
from policy_node.recording.replay.session import add_common_options, open_replay, options_of, run
from policy_node.sensing.synchroniser import RobotState

# Longer episodes are split: an episode is kept in memory until it is written, with images some 50 MB.
MOST_STEPS = 1000


class Rewards:
    """Sums the rewards on a topic of each robot between ticks.

    Raises
    ------
    BagError
        When the bag lacks a topic, or its messages lack the field.
    """

    def __init__(self, replay: Replay, topic: str, field: str) -> None:
        spec = ArraySpec("reward", (1,), np.float64, -np.inf, np.inf)
        #: Indices of the robots by fully qualified topic.
        self.topics: dict[str, list[int]] = {}
        self._robots = len(replay.pipeline.robots)
        self._decoders: dict[str, ReadingDecoder] = {}
        for robot, name in enumerate(replay.pipeline.robots):
            full = replay.topic_name(name, topic)
            if full not in replay.bag.topics:
                raise BagError(f"--reward-topic: {full} is not in the bag\n{replay.bag.describe()}")
            try:
                kind = replay.bag.topics[full].type
                self._decoders[full] = reading_decoder(kind, spec, topic=full, field=field)
            except MessageTypeError as error:
                raise BagError(f"--reward-topic: {error}; give --reward-field") from error
            self.topics.setdefault(full, []).append(robot)

    def take(self, tick: Tick) -> np.ndarray:
        """Return the sums `[robots]` since the previous tick."""
        sums, reward = np.zeros(self._robots), np.zeros(1)
        for arrival in tick.arrivals:
            if arrival.topic in self.topics:
                try:
                    self._decoders[arrival.topic].decode(arrival.raw, reward)
                except UnusableReading as error:
                    raise BagError(f"--reward-topic: {error}") from error
                sums[self.topics[arrival.topic]] += reward[0]
        return sums


class _Step(NamedTuple):
    """One tick of a robot; the reward is that of the step before."""

    time_ns: int
    observation: dict[str, np.ndarray]
    command: np.ndarray
    reward: float
    task: str


class DatasetWriter:
    """Writes the ticks of a replay as episodes of a dataset.

    Actions are those of the replayed policy with `replayed_actions`, else the recorded commands. Rewards default to 0.
    """

    def __init__(self, replay: Replay, dataset: Dataset, replayed_actions: bool, rewards: Rewards | None) -> None:
        self._replay = replay
        self._dataset = dataset
        self._replayed_actions = replayed_actions
        self._rewards = rewards
        deployment = replay.deployment
        self.inverse = ActionInverse(deployment.policy.spec.action, deployment.configuration.action)
        self._running: list[list[_Step]] = [[] for _ in replay.pipeline.robots]
        #: Numbers written so far.
        self.episodes = self.steps = 0
        #: Number of ticks that ended an episode because no command was recorded.
        self.without_command = 0

    def __call__(self, tick: Tick, result: FleetTick) -> None:
        """Add a tick."""
        rewards = self._rewards.take(tick) if self._rewards else np.zeros(len(self._running))
        observations = {key: tensor.cpu().numpy() for key, tensor in self._replay.pipeline.observations.items()}
        for robot, state in enumerate(result.states):
            # Where history and memory start again, so does the episode.
            if state is not RobotState.READY or result.fresh_start[robot]:
                self._end(robot)
            if state is not RobotState.READY:
                continue
            observation = {key: array[robot].copy() for key, array in observations.items()}
            task = result.tasks[robot] if result.tasks else ""
            step = _Step(tick.time_ns, observation, result.commands[robot].copy(), float(rewards[robot]), task)
            self._running[robot].append(step)
            if len(self._running[robot]) > MOST_STEPS:
                self._end(robot)
                # The next episode starts at the last observation of this one.
                self._running[robot].append(step)

    def finish(self) -> None:
        """Write all episodes that have not ended."""
        for robot in range(len(self._running)):
            self._end(robot)

    def _end(self, robot: int) -> None:
        """End the episode of a robot, split at ticks without a recorded command."""
        ended, self._running[robot] = self._running[robot], []
        count = len(ended)
        if count < 2:
            return
        commands = np.array([step.command for step in ended])
        commanded = np.ones(count, bool)
        if not self._replayed_actions:
            recorded = self._replay.recorded_of(robot)
            times_ns = np.array([step.time_ns for step in ended], np.int64)
            matched = match_recorded(times_ns, recorded, self._replay.match_ns)
            commanded = matched >= 0
            commands = recorded.values[matched] if len(recorded.values) else commands
        first = 0
        # The last observation needs no command.
        for position in range(count):
            if position == count - 1 or not commanded[position]:
                self.without_command += position < count - 1
                self._write(robot, ended[first : position + 1], commands[first:position])
                first = position + 1

    def _write(self, robot: int, ticks: Sequence[_Step], commands: np.ndarray) -> None:
        """Write an episode of `[steps + 1]` ticks and `[steps, components]` commands."""
        steps = len(commands)
        if not steps:
            return
        self._dataset.write(
            Episode(
                {key: np.array([tick.observation[key] for tick in ticks]) for key in ticks[0].observation},
                self.inverse(commands),
                np.array([tick.reward for tick in ticks[1:]]),
                np.array([tick.time_ns for tick in ticks], np.int64),
                robot,
                # Another text begins another episode.
                ticks[0].task,
            )
        )
        self.episodes += 1
        self.steps += steps


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="policy_replay to-dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument("--format", choices=("minari", "lerobot"), default="minari", help="default minari")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER/ID",
        help="folder of datasets and id of the new one, such as datasets/rover-v0, default folder: that of Minari; or "
        "for LeRobot the folder of the new one",
    )
    parser.add_argument(
        "--actions",
        choices=("recorded", "policy"),
        default="recorded",
        help="recorded commands, converted to the policy's action space (default), or actions of the policy",
    )
    parser.add_argument(
        "--reward-topic",
        metavar="TOPIC",
        help="topic of numbers, relative to each robot or absolute: a step's reward is their sum until the next tick "
        "(default: all rewards are 0)",
    )
    parser.add_argument("--reward-field", metavar="PATH", default="data", help="path to the number (default data)")
    parser.add_argument(
        "--task",
        metavar="TEXT",
        default="",
        help="what the robots do, for LeRobot (a policy that takes a text: the text that each robot had)",
    )
    parser.add_argument(
        "--lerobot-state",
        metavar="KEY",
        default="",
        help="observation to store as observation.state, which networks of LeRobot take (default: the one named state)",
    )
    parser.add_argument(
        "--lerobot-python",
        metavar="PATH",
        default="",
        help="interpreter that has lerobot[dataset], for LeRobot (default: this one)",
    )
    return parser


def _describe(arguments: argparse.Namespace, replay: Replay) -> DatasetDescription:
    deployment, replayed = replay.deployment, arguments.actions == "policy"
    source = "the policy of the replay" if replayed else "recorded commands"
    configuration, spec = deployment.configuration, deployment.policy.spec
    alone = list(spec.observations) == ["observation"]
    return DatasetDescription(
        spec,
        frozenset("observation" if alone else entry.key for entry in configuration.observations if entry.history),
        configuration.control_rate_hz,
        spec.algorithm if replayed else "recorded",
        f"{replay.bag.path.name}: {len(replay.pipeline.robots)} robots, actions are {source}",
        arguments.task,
    )


def _dataset_kind(arguments: argparse.Namespace) -> Callable[[DatasetDescription], Dataset]:
    """Return the function that opens the dataset; raises BagError if it cannot be written there."""
    output = arguments.output
    if arguments.format == "lerobot":
        from policy_node.recording.dataset.lerobot_dataset import LeRobotDataset

        LeRobotDataset.place(output)
        python, state = arguments.lerobot_python, arguments.lerobot_state
        return lambda description: LeRobotDataset(output, description, python, state)
    from policy_node.recording.dataset.minari_dataset import MinariDataset

    MinariDataset.place(output)
    return lambda description: MinariDataset(output, description)


def main(argv: Sequence[str], console: Console) -> int:
    """Run `policy_replay to-dataset`; errors are raised."""
    arguments = make_parser().parse_args(argv)
    options = options_of(arguments)
    replayed_actions = arguments.actions == "policy"
    open_dataset = _dataset_kind(arguments)
    with open_replay(options, console) as replay:
        silent = [name for robot, name in enumerate(replay.pipeline.robots) if robot not in replay.compared]
        if silent and not replayed_actions:
            raise BagError(
                f"--actions recorded: the bag has no commands of {', '.join(silent)}; name their topic with --compare, "
                f"or take the policy's with --actions policy\n{replay.bag.describe()}"
            )
        topic = arguments.reward_topic
        rewards = Rewards(replay, topic, arguments.reward_field) if topic else None
        dataset = open_dataset(_describe(arguments, replay))
        writer = DatasetWriter(replay, dataset, replayed_actions, rewards)
        _, complete = run(replay, [writer], 0.0, console, list(rewards.topics) if rewards else ())
        writer.finish()
        dataset.close()
    if not writer.episodes:
        raise BagError("no robot was READY for two ticks with a command; run policy_replay to see the reasons")
    _print_summary(writer, dataset, complete)
    return 0


def _print_summary(writer: DatasetWriter, dataset: Dataset, complete: bool) -> None:
    load, *notes = dataset.how_to_load()
    print(f"{dataset.path}: {writer.episodes} episodes, {writer.steps} steps; {load}")
    for note in notes:
        print(f"  {note}")
    if not complete:
        print("  ended early: the rest of the bag is missing", file=sys.stderr)
    if writer.without_command:
        print(f"  {writer.without_command} ticks without a recorded command end an episode", file=sys.stderr)
    if writer.inverse.moved:
        print(f"  {writer.inverse.moved} commands cannot come from the policy; the nearest actions were taken")
