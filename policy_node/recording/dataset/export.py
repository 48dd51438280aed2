# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Make a Minari dataset of a bag, for offline learning (`policy_replay to-dataset`).

Observations are what the policy was given, in its own spaces; an episode is an uninterrupted stretch in which a robot
was READY. Actions are the recorded commands, brought back to the policy's action space.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from rich.console import Console

from policy_node.config.specs import ArraySpec
from policy_node.control.tick import FleetTick
from policy_node.messages.fields import MessageTypeError
from policy_node.messages.registry import ReadingDecoder, reading_decoder
from policy_node.policies.spaces import action_space, observation_space
from policy_node.recording.dataset.actions import ActionInverse
from policy_node.recording.replay.bag import BagError
from policy_node.recording.replay.report import match_recorded
from policy_node.recording.replay.run import Replay
from policy_node.recording.replay.schedule import Tick
from policy_node.recording.replay.session import add_common_options, open_replay, options_of, run
from policy_node.sensing.samples import UnusableReading
from policy_node.sensing.synchroniser import RobotState

# An episode of fewer steps teaches nothing; each step needs the observation after it, too.
LEAST_STEPS = 1
# Until it is written, an episode is kept in memory: one of images takes some 50 MB.
MOST_STEPS = 1000


class Rewards:
    """Numbers on one topic of each robot, summed between ticks.

    Parameters
    ----------
    replay
        Whose bag.
    topic
        Relative to each robot, or absolute.
    field
        Dotted path to the number in a message.

    Attributes
    ----------
    topics
        By fully qualified name the indices of the robots.

    Raises
    ------
    BagError
        When the bag lacks a topic, or it has no such number.
    """

    def __init__(self, replay: Replay, topic: str, field: str) -> None:
        self.topics: dict[str, list[int]] = {}
        self._robots = len(replay.pipeline.robots)
        self._decoders: dict[str, ReadingDecoder] = {}
        for robot, name in enumerate(replay.pipeline.robots):
            full = replay.topic_name(name, topic)
            if full not in replay.bag.topics:
                raise BagError(f"--reward-topic: {full} is not in the bag\n{replay.bag.describe()}")
            spec = ArraySpec("reward", (1,), np.float64, -np.inf, np.inf)
            try:
                kind = replay.bag.topics[full].type
                self._decoders[full] = reading_decoder(kind, spec, topic=full, field=field)
            except MessageTypeError as error:
                raise BagError(f"--reward-topic: {error}; give --reward-field") from error
            self.topics.setdefault(full, []).append(robot)

    def take(self, tick: Tick) -> np.ndarray:
        """Return the sums `[robots]` of what has come since the tick before."""
        sums = np.zeros(self._robots)
        for arrival in tick.arrivals:
            if arrival.topic in self.topics:
                reward = np.zeros(1)
                try:
                    self._decoders[arrival.topic].decode(arrival.raw, reward)
                except UnusableReading as error:
                    raise BagError(f"--reward-topic: {error}") from error
                sums[self.topics[arrival.topic]] += reward[0]
        return sums


class _Stretch:
    """The ticks of one robot since it is READY, as many as make an episode."""

    def __init__(self) -> None:
        self.times_ns: list[int] = []
        self.observations: list[dict[str, np.ndarray]] = []
        self.commands: list[np.ndarray] = []
        # Of the step that ends with each observation but the first.
        self.rewards: list[float] = []

    def add(self, time_ns: int, observation: dict[str, np.ndarray], command: np.ndarray) -> None:
        """Add a tick."""
        self.times_ns.append(time_ns)
        self.observations.append(observation)
        self.commands.append(command)


class DatasetWriter:
    """Turns the ticks of a replay into episodes of a dataset, each written when it ends.

    Parameters
    ----------
    replay
        The replay that is observed.
    dataset_id
        For Minari, such as rover-v0.
    replayed_actions
        Whether actions are those of the replayed policy instead of the recorded commands.
    rewards
        None: all rewards are 0.

    Attributes
    ----------
    episodes, steps
        Written so far.
    without_command
        Ticks that ended an episode as no command was recorded for them.
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
        self._stretches = [_Stretch() for _ in replay.pipeline.robots]
        self._dataset: Any = None
        self.episodes = self.steps = self.without_command = 0

    def __call__(self, tick: Tick, result: FleetTick) -> None:
        """Take one tick."""
        rewards = self._rewards.take(tick) if self._rewards else np.zeros(len(self._stretches))
        observations = {key: tensor.cpu().numpy() for key, tensor in self._replay.pipeline.observations.items()}
        for robot, state in enumerate(result.states):
            # Also after a reset, or a gap that no tick saw: history and memory begin anew, so does the episode.
            if state is not RobotState.READY or result.fresh_start[robot]:
                self._end(robot)
            if state is not RobotState.READY:
                continue
            stretch = self._stretches[robot]
            if stretch.times_ns:
                stretch.rewards.append(float(rewards[robot]))
            observation = {key: array[robot].copy() for key, array in observations.items()}
            entry = (tick.time_ns, observation, result.commands[robot].copy())
            stretch.add(*entry)
            if len(stretch.times_ns) > MOST_STEPS:
                self._end(robot)
                # The next episode goes on from what the last action has led to.
                self._stretches[robot].add(*entry)

    def finish(self) -> None:
        """Write what has not ended."""
        for robot in range(len(self._stretches)):
            self._end(robot)

    def _end(self, robot: int) -> None:
        """Write the episodes of a robot's stretch: more than one where recorded commands are missing between them."""
        stretch, self._stretches[robot] = self._stretches[robot], _Stretch()
        count = len(stretch.times_ns)
        if count <= LEAST_STEPS:
            return
        commands = np.array(stretch.commands)
        commanded = np.ones(count, bool)
        if not self._replayed_actions:
            recorded = self._replay.recorded_of(robot)
            matched = match_recorded(np.array(stretch.times_ns, np.int64), recorded, self._replay.match_ns)
            commanded = matched >= 0
            commands = recorded.values[matched] if len(recorded.values) else commands
        first = 0
        # The last observation needs no command.
        for position in range(count):
            if position == count - 1 or not commanded[position]:
                self.without_command += position < count - 1
                self._write(robot, stretch, commands, first, position)
                first = position + 1

    def _write(self, robot: int, stretch: _Stretch, commands: np.ndarray, first: int, last: int) -> None:
        """Write the observations from `first` to `last` with the actions between them as an episode."""
        steps = last - first
        if steps < LEAST_STEPS:
            return
        observations: Any = {
            key: np.array([observation[key] for observation in stretch.observations[first : last + 1]])
            for key in stretch.observations[first]
        }
        ends = np.zeros(steps, bool)
        truncations = ends.copy()
        truncations[-1] = True
        infos = {
            "time_ns": np.array(stretch.times_ns[first : last + 1], np.int64),
            "robot": np.full(steps + 1, robot, np.int64),
        }
        buffer = EpisodeBuffer(
            id=self.episodes,
            observations=observations["observation"] if self._single else observations,
            actions=self.inverse(commands[first:last]),
            rewards=stretch.rewards[first:last],
            terminations=ends.tolist(),
            truncations=truncations.tolist(),
            infos=infos,
        )
        if self._dataset is None:
            self._dataset = self._create(buffer)
        else:
            self._dataset.update_dataset_from_buffer([buffer])
        self.episodes += 1
        self.steps += steps

    def _create(self, first: EpisodeBuffer) -> Any:
        # Minari wishes for an author and an environment; a robot's bag has neither.
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        deployment = self._replay.deployment
        source = "the policy of the replay" if self._replayed_actions else "recorded commands"
        return minari.create_dataset_from_buffers(
            dataset_id=self._dataset_id,
            buffer=[first],
            observation_space=self._observation_space,
            action_space=self._action_space,
            algorithm_name=deployment.policy.spec.algorithm if self._replayed_actions else "recorded",
            description=f"{self._replay.bag.path.name}: {len(self._stretches)} robots, actions are {source}",
            **({"jpeg_encoding": False} if keeps_images() else {}),
        )


def keeps_images() -> bool:
    """Whether images are stored as the policy saw them; Minari before 0.5.4, as on Python 3.10, makes JPEGs of them."""
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
        help="folder of datasets, as in MINARI_DATASETS_PATH, and the id of the new one, such as datasets/rover-v0; "
        "without a folder, where Minari keeps its own",
    )
    parser.add_argument(
        "--actions",
        choices=("recorded", "policy"),
        default="recorded",
        help="recorded commands, brought back to the policy's action space (default), or what the policy would do",
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
        When it is no id of Minari.
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
    with open_replay(options, console) as replay:
        replayed_actions = arguments.actions == "policy"
        silent = [name for robot, name in enumerate(replay.pipeline.robots) if robot not in replay.compared]
        if silent and not replayed_actions:
            raise BagError(
                f"--actions recorded: the bag has no commands of {', '.join(silent)}; name their topic with --compare, "
                f"or take the policy's with --actions policy\n{replay.bag.describe()}"
            )
        rewards = None
        if arguments.reward_topic:
            rewards = Rewards(replay, arguments.reward_topic, arguments.reward_field)
        writer = DatasetWriter(replay, dataset_id, replayed_actions, rewards)
        _, complete = run(replay, [writer], 0.0, console, list(rewards.topics) if rewards else ())
        writer.finish()
    if not writer.episodes:
        raise BagError(
            "no robot was READY for two ticks with a command; see why with policy_replay, without to-dataset"
        )
    print(f"{path}: {writer.episodes} episodes, {writer.steps} steps; minari.load_dataset('{dataset_id}')")
    if folder is not None:
        print(f"  with MINARI_DATASETS_PATH={folder}")
    if not keeps_images():
        print("  images are JPEGs, not exactly what the policy saw; Minari 0.5.4 (Python 3.11) keeps them as they are")
    if not complete:
        print("  ended early: what comes later in the bag is not in it", file=sys.stderr)
    if writer.without_command:
        print(f"  {writer.without_command} ticks without a recorded command end an episode", file=sys.stderr)
    if writer.inverse.moved:
        print(f"  {writer.inverse.moved} commands lie outside what the policy can command; the nearest was taken")
    return 0
