# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies in the forms of trainers of legged robots drive four robots over DDS as accounts in NumPy say."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from legged_robots import (
    ROBOTS,
    GaitAccount,
    HimAccount,
    MotionAccount,
    Weights,
    drive,
    elu_network,
    gait_parameters,
    him_parameters,
    layers_of,
    motion_parameters,
)
from node_harness import Peer
from torch import nn

from policy_node.cli.replay import main

JOINTS = 4
DEFAULT = np.array([0.1, -0.8, 0.5, -1.5])
ACTION_SCALE = np.array([0.125, 0.25, 0.25, 0.5])


def weights_of(module: nn.Module) -> Weights:
    return {name: tensor.detach().double().numpy().copy() for name, tensor in module.state_dict().items()}


class Him(nn.Module):
    """A policy as HIMLoco exports it: it estimates the velocity and a latent from six observations."""

    def __init__(self) -> None:
        super().__init__()
        size = 9 + 3 * JOINTS
        self.estimator = nn.Sequential(nn.Linear(6 * size, 16), nn.ELU(), nn.Linear(16, 3 + 5))
        self.actor = nn.Sequential(nn.Linear(size + 3 + 5, 16), nn.ELU(), nn.Linear(16, JOINTS))

    def forward(self, obs_history: torch.Tensor) -> torch.Tensor:
        """Return the action `[robots, joints]`."""
        parts = self.estimator(obs_history)
        latent = nn.functional.normalize(parts[:, 3:], dim=-1)
        return self.actor(torch.cat([obs_history[:, : 9 + 3 * 4], parts[:, :3], latent], dim=1))


class Gait(nn.Module):
    """An LSTM as unitree_rl_gym exports it, with the memory of one robot in its buffers."""

    hidden_state: torch.Tensor
    cell_state: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(11 + 3 * JOINTS, 8)
        self.actor = nn.Sequential(nn.Linear(8, 8), nn.ELU(), nn.Linear(8, JOINTS))
        self.register_buffer("hidden_state", torch.zeros(1, 1, 8))
        self.register_buffer("cell_state", torch.zeros(1, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the action `[1, joints]`."""
        out, (h, c) = self.memory(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(out.squeeze(0))

    @torch.jit.export
    def reset_memory(self) -> None:
        """Forget everything."""
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


class Motion(nn.Module):
    """A tracker as exported for one robot: the motion is in the network, which takes the step as a float."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.joint_pos, self.joint_vel = (torch.randn(10, JOINTS, generator=generator) for _ in range(2))
        self.actor = nn.Sequential(nn.Linear(6 + 3 + 5 * JOINTS, 16), nn.ELU(), nn.Linear(16, JOINTS))

    def forward(self, x: torch.Tensor, time_step: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the action, and the joints of the motion at the step."""
        step = torch.clamp(time_step.long().squeeze(-1), max=9)
        return self.actor(x), self.joint_pos[step], self.joint_vel[step]


def exported_motion(file: Path, integer: bool) -> Motion:
    """Write a tracker as ONNX and return it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module = Motion()
    example = (torch.zeros(1, 6 + 3 + 5 * JOINTS), torch.zeros(1, 1, dtype=torch.int64 if integer else torch.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own age
        names = {"input_names": ["obs", "time_step"], "output_names": ["actions", "joint_pos", "joint_vel"]}
        torch.onnx.export(module, example, str(file), dynamo=False, dynamic_axes={}, **names)
    return module


def test_a_history_with_the_newest_step_first_drives_robots(
    peer: Peer, start_node: Callable[..., Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Him()
    torch.jit.script(module).save(str(tmp_path / "him.pt"))
    accounts = [HimAccount(weights_of(module), DEFAULT, ACTION_SCALE) for _ in ROBOTS]
    parameters = him_parameters(str(tmp_path / "him.pt"), DEFAULT, ACTION_SCALE)
    largest, _, _ = drive(peer, start_node, parameters, accounts, ("imu", "joint_states", "cmd_vel"))
    assert largest < 1e-5


def test_an_lstm_with_a_gait_clock_drives_robots(peer: Peer, start_node: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Gait()
    torch.jit.script(module).save(str(tmp_path / "gait.pt"))
    accounts = [GaitAccount(weights_of(module), DEFAULT) for _ in ROBOTS]
    parameters = gait_parameters(str(tmp_path / "gait.pt"), DEFAULT)
    largest, _, _ = drive(peer, start_node, parameters, accounts, ("imu", "joint_states", "cmd_vel"))
    assert largest < 1e-5


@pytest.mark.parametrize(
    "integer",
    [pytest.param(False, id="time_step float32"), pytest.param(True, id="time_step int64", marks=pytest.mark.slow)],
)
def test_a_tracker_of_a_motion_drives_robots(
    integer: bool, peer: Peer, start_node: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drive is recorded, too: its replay gives the same commands, and its dataset the same observations."""
    module = exported_motion(tmp_path / "motion.onnx", integer)
    layers = layers_of(weights_of(module), "actor.")
    motion = [part.double().numpy() for part in (module.joint_pos, module.joint_vel)]
    accounts = [
        MotionAccount(lambda values: elu_network(layers, values), *motion, DEFAULT, ACTION_SCALE) for _ in ROBOTS
    ]
    parameters = motion_parameters(str(tmp_path / "motion.onnx"), DEFAULT, ACTION_SCALE)
    parameters["record"] = {"path": str(tmp_path / "bags")}
    largest, _, process = drive(peer, start_node, parameters, accounts, ("imu", "joint_states", "anchor"))
    assert largest < 1e-5
    process.end()
    (bag,) = (tmp_path / "bags").iterdir()
    assert main([str(bag), "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {robot["compare"]["largest"] for robot in report["robots"].values()} == {0.0}
    # `to-dataset` sets it for its own process.
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")
    output = tmp_path / "datasets" / "tracker-v0"
    assert main(["to-dataset", str(bag), "--output", str(output)]) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(output.parent))
    import minari

    episodes = list(minari.load_dataset("tracker-v0"))
    # That of the silent robot was interrupted.
    assert len(episodes) == len(ROBOTS) + 1
    for episode in episodes:
        steps = episode.observations["time_step"]
        assert steps.dtype == (np.int64 if integer else np.float32)
        assert steps[:, 0].tolist() == list(range(len(steps)))
        reference = episode.observations["obs"][:, : 2 * JOINTS]
        rows = np.hstack(motion)[np.minimum(np.maximum(np.arange(len(steps)) - 1, 0), len(motion[0]) - 1)]
        np.testing.assert_array_equal(reference, rows.astype(np.float32))
