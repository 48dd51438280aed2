# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Demonstrations recorded over DDS, as a dataset, against the scripted driver in process."""

import itertools
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from node_harness import PATIENCE_S

from policy_node.cli.replay import main as replay
from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node_rover.mujoco.environment import CONTROL_PERIOD_S
from policy_node_rover.mujoco.simulated_rover import DISTURBANCE_S, Disturbance
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv

SEEDS = (1_000_001, 1_000_004)


def test_a_disturbance_takes_its_share_of_the_time_in_bursts_of_half_a_second() -> None:
    disturbance = Disturbance(0.25, 3)
    steps = [disturbance.after(CONTROL_PERIOD_S) for _ in range(8000)]
    assert 0.2 < sum(step is not None for step in steps) / len(steps) < 0.3
    bursts = [list(burst) for _, burst in itertools.groupby(steps)]
    # One longer by a step, as times are sums of rounded numbers.
    shortest = round(DISTURBANCE_S / CONTROL_PERIOD_S)
    assert min(len(burst) for burst in bursts[1:-1]) >= shortest - 1
    assert Disturbance(0.25, 3).after(0.6) == Disturbance(0.25, 3).after(0.6)


def test_without_a_share_nothing_is_disturbed() -> None:
    disturbance = Disturbance(0.0, 3)
    assert {disturbance.after(CONTROL_PERIOD_S) for _ in range(100)} == {None}


def demonstrated(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and commands of the scripted driver in an episode in process."""
    images, commands = [], []
    with closing(RoverArenaVecEnv(1, itertools.count(seed))) as arenas:
        observations, ended = arenas.reset(), False
        while not ended:
            command = np.array(arenas.env_method("scripted_command"), np.float32)
            images.append(observations["image"][0])
            commands.append(command[0])
            observations, _, (ended,), _ = arenas.step(command)
    return np.array(images), np.array(commands)


@pytest.mark.slow
@pytest.mark.over_dds
def test_a_recording_as_a_dataset_has_what_the_driver_saw_and_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    bag, output = tmp_path / "bag", tmp_path / "datasets" / "rover-v0"
    count = SEEDS[-1] - SEEDS[0] + 1
    words = [str(bag), "--episodes", str(count), "--seed", str(SEEDS[0]), "--robots", "2", "--disturb", "0"]
    subprocess.run(
        [sys.executable, "-m", "policy_node_rover.demo.cli", "record", *words], check=True, timeout=4 * PATIENCE_S
    )
    parameters = read_parameter_file(share_path("config", "rover.yaml")) | {"robots": ["rover_0", "rover_1"]}
    params = tmp_path / "parameters.yaml"
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    words = ["to-dataset", str(bag), "--params", str(params), "--time", "clock", "--output", str(output)]
    assert replay(words) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(output.parent))
    episodes = list(minari.load_dataset("rover-v0"))
    for seed in SEEDS:
        images, commands = demonstrated(seed)
        # After the press that ends an episode, a rover drives on until it is reset.
        steps = len(commands) - 1
        found = [
            episode
            for episode in episodes
            if len(episode.actions) >= steps and np.allclose(episode.actions[:steps], commands[:steps], atol=1e-5)
        ]
        assert len(found) == 1, (seed, [len(episode.actions) for episode in episodes])
        seen = np.moveaxis(found[0].observations["image"][:steps], 1, -1)
        assert np.mean(np.abs(seen.astype(int) - images[:steps]) > 2) < 0.01
