# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Datasets of bags: what the policy was given, what was commanded, and actions that commands come from."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bag_harness import (
    DELAY_NS,
    PERIOD_NS,
    START_NS,
    Readings,
    stand_in_for_lerobot,
    twist,
    write_bag,
    write_parameters,
)
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from node_harness import ACTION_SPACE, DISCRETE_ACTIONS, OBSERVATION_SPACE, parameters_of
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations
from std_msgs.msg import Float32

from policy_node.cli.replay import main
from policy_node.config.schema import ActionConfiguration, ConfigurationError, parse_configuration
from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, MultiDiscreteSpec
from policy_node.control.command_mapping import CommandMapper
from policy_node.recording.dataset.actions import ActionInverse

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("minari") is None, reason="minari is an extra: pip install 'minari[hdf5]'"
)

ROBOTS = ["robot_0", "robot_1"]
STACK = 3
STEPS = 20
SILENT = range(9, 12)

Model = Callable[..., tuple[Path, Any]]


def stacked(values: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the observations `[steps, *space]` of one episode, as training stacks them."""
    stacks = StackedObservations(1, STACK, OBSERVATION_SPACE)
    rows = []
    for index, (image, touch) in enumerate(values):
        reading = {"image": image[np.newaxis], "touch": touch[np.newaxis]}
        rows.append(stacks.reset(reading) if index == 0 else stacks.update(reading, np.array([False]), [{}])[0])
        rows[-1] = {key: array.copy() for key, array in rows[-1].items()}
    return {key: np.concatenate([row[key] for row in rows]) for key in ("image", "touch")}


def make_bag(folder: Path, commands: dict[str, list[np.ndarray]], rewards: bool = False) -> Path:
    """Write readings, the command of each tick a little after it, and rewards between two ticks."""
    messages: list[Any] = list(READINGS.messages())
    for robot, rows in commands.items():
        for tick, command in enumerate(rows, start=1):
            at_ns = START_NS + DELAY_NS + tick * PERIOD_NS
            messages.append((at_ns + 1_000_000, f"/{robot}/cmd_vel", twist(command)))
            if rewards:
                messages += [
                    (at_ns + after_ns, f"/{robot}/reward", Float32(data=float(tick)))
                    for after_ns in (10_000_000, 20_000_000)
                ]
    return write_bag(folder, sorted(messages, key=lambda entry: entry[0]))


READINGS = Readings(ROBOTS, STEPS, {"robot_1": SILENT})


def test_long_episodes_are_split(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_file, _ = model()
    commands = {"robot_0": list(np.random.default_rng(5).uniform(-0.2, 0.5, (STEPS - 1, 2)))}
    bag = make_bag(tmp_path / "bag", commands, rewards=True)
    params = write_parameters(tmp_path / "parameters.yaml", parameters_of(model_file, ["robot_0"], {}))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")
    monkeypatch.setattr("policy_node.recording.dataset.export.MOST_STEPS", 7)
    output = tmp_path / "datasets" / "drive-v0"
    arguments = ["to-dataset", str(bag), "--params", str(params), "--output", str(output), "--reward-topic", "reward"]
    assert main(arguments) == 0

    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(output.parent))
    episodes = list(minari.load_dataset("drive-v0"))
    assert [len(episode.rewards) for episode in episodes] == [7, 7, 5]
    for before, after in pairwise(episodes):
        np.testing.assert_array_equal(before.observations["touch"][-1], after.observations["touch"][0])
        assert before.infos["time_ns"][-1] == after.infos["time_ns"][0]
    # No step is lost, and none is there twice.
    actions = np.concatenate([episode.actions for episode in episodes])
    np.testing.assert_allclose(actions, commands["robot_0"], atol=1e-6)
    np.testing.assert_array_equal(
        np.concatenate([episode.rewards for episode in episodes]), 2.0 * np.arange(1, len(actions) + 1)
    )


@pytest.mark.parametrize("actions", ["recorded", "policy"])
def test_a_dataset_has_observations_actions_and_rewards(
    actions: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_file, built = model(STACK)
    stacks = {f"observations.{key}.stack": STACK for key in ("image", "touch")}
    parameters = parameters_of(model_file, ROBOTS, {"synchronisation.max_age_s": 0.049, **stacks})
    rng = np.random.default_rng(5)
    commands = {robot: list(rng.uniform(ACTION_SPACE.low, ACTION_SPACE.high, (STEPS - 1, 2))) for robot in ROBOTS}
    bag = make_bag(tmp_path / "bag", commands, rewards=True)
    params = write_parameters(tmp_path / "parameters.yaml", parameters)
    # `to-dataset` sets it for its own process.
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")
    output = tmp_path / "datasets" / "drive-v0"
    arguments = ["to-dataset", str(bag), "--params", str(params), "--output", str(output), "--actions", actions]
    assert main([*arguments, "--reward-topic", "reward"]) == 0

    import minari

    from policy_node.recording.dataset.minari_dataset import keeps_images

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(output.parent))
    dataset = minari.load_dataset("drive-v0")
    # Ticks see the readings from the second on; a silence ends an episode.
    stretches = [("robot_0", 1, STEPS), ("robot_1", 1, SILENT.start), ("robot_1", SILENT.stop, STEPS)]
    assert dataset.total_episodes == len(stretches)
    assert isinstance(dataset.observation_space, spaces.Dict)
    assert dataset.action_space == ACTION_SPACE
    found = {(int(episode.infos["robot"][0]), int(episode.infos["time_ns"][0])): episode for episode in dataset}
    for robot, first, last in stretches:
        episode = found[ROBOTS.index(robot), START_NS + DELAY_NS + first * PERIOD_NS]
        expected = stacked(READINGS.values[robot][first:last])
        # The policy takes images with their channels first.
        image = expected["image"]
        if episode.observations["image"].shape != image.shape:
            image = np.moveaxis(image, -1, 1)
        if keeps_images():
            np.testing.assert_array_equal(episode.observations["image"], image)
        np.testing.assert_array_equal(episode.observations["touch"], expected["touch"])
        steps = last - first - 1
        if actions == "recorded":
            wanted = np.array(commands[robot][first - 1 : last - 2], np.float32)
        else:
            wanted, _ = built.predict({key: rows[:steps] for key, rows in expected.items()}, deterministic=True)
        np.testing.assert_allclose(episode.actions, wanted, atol=1e-5)
        assert all(dataset.action_space.contains(action) for action in episode.actions)
        # Two rewards come between a tick and the next.
        np.testing.assert_array_equal(episode.rewards, 2.0 * np.arange(first, last - 1))
        assert not episode.terminations.any()
        assert episode.truncations.tolist() == [False] * (steps - 1) + [True]


def test_a_dataset_of_lerobot_has_frames_actions_and_the_task(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(stand_in_for_lerobot(tmp_path / "site")))
    model_file, _ = model()
    rng = np.random.default_rng(5)
    commands = {robot: list(rng.uniform(ACTION_SPACE.low, ACTION_SPACE.high, (STEPS - 1, 2))) for robot in ROBOTS}
    bag = make_bag(tmp_path / "bag", commands)
    parameters = parameters_of(model_file, ROBOTS, {"synchronisation.max_age_s": 0.049})
    params = write_parameters(tmp_path / "parameters.yaml", parameters)
    output = tmp_path / "datasets" / "drive"
    arguments = ["to-dataset", str(bag), "--params", str(params), "--output", str(output), "--task", "go there"]
    assert main([*arguments, "--format", "lerobot", "--lerobot-state", "touch"]) == 0
    name, fps, features, episodes = json.loads((output / "all.json").read_text())
    assert (name, fps) == ("local/drive", round(1e9 / PERIOD_NS))
    assert features["observation.images.image"] == {
        "dtype": "image",
        "shape": [*READINGS.values["robot_0"][0][0].shape],
        "names": ["height", "width", "channels"],
    }
    assert features["action"]["shape"] == [2] and features["observation.state"]["dtype"] == "float32"
    assert {frame["task"] for episode in episodes for frame in episode} == {"go there"}
    stretches = [("robot_0", 1, STEPS), ("robot_1", 1, SILENT.start), ("robot_1", SILENT.stop, STEPS)]
    assert sorted(map(len, episodes)) == sorted(last - first - 1 for _, first, last in stretches)
    (longest,) = (episode for episode in episodes if len(episode) == STEPS - 2)
    for step, frame in enumerate(longest):
        image, touch = READINGS.values["robot_0"][step + 1]
        np.testing.assert_array_equal(frame["observation.images.image"], image)
        np.testing.assert_array_equal(frame["observation.state"], touch)
        np.testing.assert_allclose(frame["action"], commands["robot_0"][step], atol=1e-6)


def test_a_lerobot_that_cannot_be_run_is_named(model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model_file, _ = model()
    bag = make_bag(tmp_path / "bag", {"robot_0": [np.zeros(2)] * (STEPS - 1)})
    params = write_parameters(tmp_path / "parameters.yaml", parameters_of(model_file, ["robot_0"], {}))
    words = ["to-dataset", str(bag), "--params", str(params), "--format", "lerobot", "--output", str(tmp_path / "out")]
    assert main([*words, "--lerobot-python", str(tmp_path / "python")]) == 1
    assert "--lerobot-python:" in capfd.readouterr().err
    assert main([*words, "--lerobot-state", "arm"]) == 1
    assert "--lerobot-state: found 'arm'" in capfd.readouterr().err
    assert main([*words, "--lerobot-python", "/bin/false"]) == 1
    assert "LeRobot in /bin/false ended with status 1" in capfd.readouterr().err
    assert main([*words[:-1], str(tmp_path)]) == 1
    assert "exists already" in capfd.readouterr().err


def test_errors_of_to_dataset_name_the_option(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_file, _ = model(STACK)
    stacks = {f"observations.{key}.stack": STACK for key in ("image", "touch")}
    params = write_parameters(tmp_path / "parameters.yaml", parameters_of(model_file, ROBOTS, stacks))
    bag = write_bag(tmp_path / "bag", READINGS.messages())
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")

    def refused(*arguments: str, output: str = "drive-v0") -> str:
        words = ["to-dataset", str(bag), "--params", str(params), "--output", str(tmp_path / output), *arguments]
        assert main(words) == 1
        return capsys.readouterr().err

    assert "the bag has no commands of robot_0, robot_1" in refused()
    rewarded = refused("--actions", "policy", "--reward-topic", "reward")
    assert "--reward-topic: /robot_0/reward is not in the bag" in rewarded
    assert "such as rover-v0" in refused(output="drive")
    (tmp_path / "drive-v1").mkdir()
    assert "exists already" in refused(output="drive-v1")


def action_of(**changes: Any) -> ActionConfiguration:
    parameters = parameters_of(Path("policy.zip"), ROBOTS, {f"action.{name}": value for name, value in changes.items()})
    return parse_configuration(parameters).action


def there_and_back(action: ActionSpec, configuration: ActionConfiguration, actions: np.ndarray) -> tuple[Any, int]:
    commands = CommandMapper(action, configuration, torch.device("cpu"))(torch.from_numpy(actions)).numpy()
    inverse = ActionInverse(action, configuration)
    return inverse(commands.astype(np.float64)), inverse.moved


NUMBERS = st.floats(-100.0, 100.0).filter(lambda value: abs(value) > 0.01)


@given(st.lists(st.tuples(st.floats(-0.2, 0.5), st.floats(-1.0, 1.5)), min_size=1, max_size=5), NUMBERS, NUMBERS)
def test_continuous_actions_are_recovered(rows: list[tuple[float, float]], scale: float, offset: float) -> None:
    spec = ArraySpec("action", (2,), np.float32, ACTION_SPACE.low, ACTION_SPACE.high)
    actions = np.clip(np.array(rows, np.float32), ACTION_SPACE.low, ACTION_SPACE.high)
    found, moved = there_and_back(spec, action_of(scale=[scale, -scale], offset=[offset]), actions)
    np.testing.assert_allclose(found, actions, atol=1e-5)
    assert moved == 0 and found.dtype == np.float32


@given(st.lists(st.integers(0, DISCRETE_ACTIONS - 1), min_size=1, max_size=8))
def test_discrete_actions_are_recovered_from_commands(chosen: list[int]) -> None:
    table = np.random.default_rng(1).uniform(-1.0, 1.0, (DISCRETE_ACTIONS, 2))
    configuration = action_of(table=table.ravel().tolist())
    found, moved = there_and_back(DiscreteSpec("action", DISCRETE_ACTIONS), configuration, np.array(chosen))
    assert found.tolist() == chosen and moved == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=8))
def test_multi_discrete_actions_are_recovered_from_commands(rows: list[tuple[int, int]]) -> None:
    configuration = action_of(scale=[0.5, 2.0], offset=[-1.0, 0.25])
    found, moved = there_and_back(MultiDiscreteSpec("action", (3, 5)), configuration, np.array(rows))
    assert found.tolist() == [list(row) for row in rows] and moved == 0


def test_other_commands_become_the_nearest_action_and_are_counted() -> None:
    spec = ArraySpec("action", (2,), np.float32, ACTION_SPACE.low, ACTION_SPACE.high)
    inverse = ActionInverse(spec, action_of())
    assert inverse(np.array([[9.0, 0.0], [0.1, 0.1]])).tolist() == [[0.5, 0.0], pytest.approx([0.1, 0.1])]
    assert inverse.moved == 1


@pytest.mark.parametrize(
    "spec, changes, reason",
    [
        (ArraySpec("action", (2,), np.float32, -1.0, 1.0), {"scale": [0.0, 1.0]}, r"action\.scale"),
        (DiscreteSpec("action", 2), {"table": [1.0, 2.0, 1.0, 2.0]}, r"action\.table"),
    ],
)
def test_mappings_without_an_inverse_are_refused(spec: ActionSpec, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ActionInverse(spec, action_of(**changes))
