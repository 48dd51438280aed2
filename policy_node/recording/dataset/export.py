# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert a bag to a Minari dataset for offline learning (`policy_replay to-dataset`).

Observations are those of the policy, in its observation space. Actions are the recorded commands, converted to its
action space. An episode lasts while a robot is READY.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from rich.console import Console

from policy_node.config.specs import ArraySpec
from policy_node.control.tick import FleetTick
from policy_node.messages.codecs import ReadingDecoder, reading_decoder
from policy_node.messages.fields import MessageTypeError
from policy_node.messages.reading import UnusableReading
from policy_node.policies.spaces import action_space, observation_space
from policy_node.recording.dataset.actions import ActionInverse
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


class DatasetWriter:
    """Writes the ticks of a replay as episodes of a dataset.

    Actions are those of the replayed policy with `replayed_actions`, else the recorded commands. Rewards default to 0.
    """

    def __init__(self, replay: Replay, dataset_id: str, replayed_actions: bool, rewards: Rewards | None) -> None:
        self._replay = replay
        self._dataset_id = dataset_id
        self._replayed_actions = replayed_actions
        self._rewards = rewards
        spec = replay.deployment.policy.spec
        self._single = list(spec.observations) == ["observation"]
        self._observation_space, self._action_space = observation_space(spec), action_space(spec.action)
        self.inverse = ActionInverse(spec.action, replay.deployment.configuration.action)
        self._running: list[list[_Step]] = [[] for _ in replay.pipeline.robots]
        self._dataset: Any = None
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
            step = _Step(tick.time_ns, observation, result.commands[robot].copy(), float(rewards[robot]))
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
        observations: Any = {key: np.array([tick.observation[key] for tick in ticks]) for key in ticks[0].observation}
        buffer = EpisodeBuffer(
            id=self.episodes,
            observations=observations["observation"] if self._single else observations,
            actions=self.inverse(commands),
            rewards=[tick.reward for tick in ticks[1:]],
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
            infos={
                "time_ns": np.array([tick.time_ns for tick in ticks], np.int64),
                "robot": np.full(steps + 1, robot, np.int64),
            },
        )
        if self._dataset is None:
            self._dataset = self._create(buffer)
        else:
            self._dataset.update_dataset_from_buffer([buffer])
        self.episodes += 1
        self.steps += steps

    def _create(self, first: EpisodeBuffer) -> Any:
        # Minari warns of a missing author and environment.
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        deployment = self._replay.deployment
        source = "the policy of the replay" if self._replayed_actions else "recorded commands"
        return minari.create_dataset_from_buffers(
            dataset_id=self._dataset_id,
            buffer=[first],
            observation_space=self._observation_space,
            action_space=self._action_space,
            algorithm_name=deployment.policy.spec.algorithm if self._replayed_actions else "recorded",
            description=f"{self._replay.bag.path.name}: {len(self._running)} robots, actions are {source}",
            **({"jpeg_encoding": False} if keeps_images() else {}),
        )


def keeps_images() -> bool:
    """Return whether images are stored without loss; Minari before 0.5.4, as on Python 3.10, stores JPEG."""
    return "jpeg_encoding" in inspect.signature(minari.create_dataset_from_buffers).parameters


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="policy_replay to-dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER/ID",
        help="folder of datasets and id of the new one, such as datasets/rover-v0; default folder: that of Minari",
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
    return parser


def place_of(output: str) -> tuple[Path | None, str]:
    """Split FOLDER/ID and check the id.

    Raises
    ------
    BagError
        When the id is invalid.
    """
    folder, _, dataset_id = output.rpartition("/")
    try:
        minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: it has no version
        raise BagError(f"--output: found '{output}', but an id is a name with a version, such as rover-v0") from error
    return (Path(folder).resolve() if folder else None), dataset_id


def main(argv: Sequence[str], console: Console) -> int:
    """Run `policy_replay to-dataset`; errors are raised."""
    arguments = make_parser().parse_args(argv)
    options = options_of(arguments)
    folder, dataset_id = place_of(arguments.output)
    if folder is not None:
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
    path = minari.storage.get_dataset_path(dataset_id)
    if path.exists():
        raise BagError(f"--output: {path} exists already; give another name or version")
    replayed_actions = arguments.actions == "policy"
    with open_replay(options, console) as replay:
        silent = [name for robot, name in enumerate(replay.pipeline.robots) if robot not in replay.compared]
        if silent and not replayed_actions:
            raise BagError(
                f"--actions recorded: the bag has no commands of {', '.join(silent)}; name their topic with --compare, "
                f"or take the policy's with --actions policy\n{replay.bag.describe()}"
            )
        topic = arguments.reward_topic
        rewards = Rewards(replay, topic, arguments.reward_field) if topic else None
        writer = DatasetWriter(replay, dataset_id, replayed_actions, rewards)
        _, complete = run(replay, [writer], 0.0, console, list(rewards.topics) if rewards else ())
        writer.finish()
    if not writer.episodes:
        raise BagError("no robot was READY for two ticks with a command; run policy_replay to see the reasons")
    _print_summary(writer, path, dataset_id, folder, complete)
    return 0


def _print_summary(writer: DatasetWriter, path: Path, dataset_id: str, folder: Path | None, complete: bool) -> None:
    print(f"{path}: {writer.episodes} episodes, {writer.steps} steps; minari.load_dataset('{dataset_id}')")
    if folder is not None:
        print(f"  with MINARI_DATASETS_PATH={folder}")
    if not keeps_images():
        print("  images are stored as JPEG; Minari 0.5.4 (Python 3.11) stores them without loss")
    if not complete:
        print("  ended early: the rest of the bag is missing", file=sys.stderr)
    if writer.without_command:
        print(f"  {writer.without_command} ticks without a recorded command end an episode", file=sys.stderr)
    if writer.inverse.moved:
        print(f"  {writer.inverse.moved} commands cannot come from the policy; the nearest actions were taken")
