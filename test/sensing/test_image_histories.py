# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of images on an axis of their own or on the channels, against lists of frames; and steps at a swap."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray
from test_stacks import DEVICES, observation_of

from policy_node.config.schema import parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.ros.deployment import deploy
from policy_node.sensing.batch import ObservationBatch, ObservationLayout, observation_layout
from policy_node.sensing.terms import TermInputs

ROBOTS = 3
STEPS = 3
SIZE = (19, 17)

Frames = list[np.ndarray]


class Account:
    """The frames of each robot since its reset, and the observation that they give."""

    def __init__(
        self, channels: int, dtype: type, history: bool, channels_first: bool, newest_first: bool, start: str = "zeros"
    ) -> None:
        self.frame = (*SIZE, channels)
        self.dtype = np.dtype(dtype)
        self._history, self._channels_first, self._newest_first = history, channels_first, newest_first
        self._start = start
        self.episodes: list[Frames] = [[] for _ in range(ROBOTS)]
        self._rng = np.random.default_rng(channels)

    def layout(self) -> ObservationLayout:
        channels = self.frame[-1] * (1 if self._history else STEPS)
        image = (channels, *SIZE) if self._channels_first else (*SIZE, channels)
        shape = (STEPS, *image) if self._history else image
        steps = {"history": STEPS, "history_start": self._start} if self._history else {"stack": STEPS}
        order = {"stack_order": "newest_first"} if self._newest_first else {}
        entry = {"topic": "camera", "type": "sensor_msgs/msg/Image", **steps, **order}
        return observation_layout("policy", ArraySpec("policy", shape, self.dtype, 0, 255), observation_of(entry))

    def batch(self, device: str) -> ObservationBatch:
        return ObservationBatch({"policy": self.layout()}, ROBOTS, torch.device(device))

    def stage(self, *batches: ObservationBatch, robots: Any = range(ROBOTS)) -> dict[int, np.ndarray]:
        """Stage another frame of some robots."""
        frames = {robot: self._rng.integers(0, 256, self.frame).astype(self.dtype) for robot in robots}
        for batch in batches:
            for robot, frame in frames.items():
                batch.row("policy", robot)[...] = frame
        return frames

    def add(self, frames: dict[int, np.ndarray], reset: Any) -> None:
        for robot, frame in frames.items():
            self.episodes[robot] = [frame] if reset[robot] else [*self.episodes[robot], frame]

    def expected(self) -> np.ndarray:
        rows = []
        for episode in self.episodes:
            missing = max(0, STEPS - len(episode))
            before = np.zeros(self.frame, self.dtype) if self._start == "zeros" else episode[0]
            frames = [before] * missing + episode[-STEPS:]
            if self._newest_first:
                frames.reverse()
            if self._channels_first:
                frames = [np.moveaxis(frame, -1, 0) for frame in frames]
            rows.append(np.stack(frames) if self._history else np.concatenate(frames, 0 if self._channels_first else 2))
        return np.stack(rows)


@pytest.fixture(
    params=[
        (channels, dtype, *shape)
        # The smallest axis is that of the channels; many of them are copied in another way.
        for channels in (1, 2, 5)
        for dtype in (np.uint8, np.float32)
        for shape in (
            *((True, False, False), (True, True, False), (False, False, True), (False, True, False)),
            (True, True, False, "first"),
        )
    ],
    ids=str,
)
def account(request: pytest.FixtureRequest) -> Account:
    return Account(*request.param)


RESETS = np.array(
    [[True] * 3, [False] * 3, [False, True, False], [False] * 3, [False] * 3, [True, False, True], [False] * 3]
)


@pytest.mark.parametrize("device", DEVICES)
def test_each_robot_keeps_its_own_frames_in_their_order(account: Account, device: str) -> None:
    batch = account.batch(device)
    for reset in RESETS:
        account.add(account.stage(batch), reset)
        np.testing.assert_array_equal(batch.push(reset)["policy"].cpu().numpy(), account.expected())


class OnDevice(torch.Tensor):
    """A tensor in main memory that is taken for one of a GPU, where steps are shifted in another way."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


def test_steps_are_shifted_on_a_gpu_as_in_main_memory(account: Account) -> None:
    batch = account.batch("cpu")
    history = batch._histories["policy"]
    assert history._stacked is not None
    history._shift = history._make_shift(history._stacked.as_subclass(OnDevice))  # type: ignore[arg-type]
    for reset in RESETS:
        account.add(account.stage(batch), reset)
        np.testing.assert_array_equal(batch.push(reset)["policy"].numpy(), account.expected())


@pytest.mark.parametrize("device", DEVICES)
def test_an_episode_that_begins_again_leaves_the_frames_of_others(account: Account, device: str) -> None:
    batch = account.batch(device)
    for reset in RESETS[[0, 1, 1]]:
        account.add(account.stage(batch), reset)
        batch.push(reset)
    again = np.array([False, True, False])
    account.add(account.stage(batch, robots=[1]), again)
    np.testing.assert_array_equal(batch.begin_again(again)["policy"].cpu().numpy(), account.expected())
    account.add(account.stage(batch), [False] * 3)
    np.testing.assert_array_equal(batch.push(RESETS[1])["policy"].cpu().numpy(), account.expected())


@pytest.mark.parametrize("device", DEVICES)
def test_another_policy_continues_the_frames(account: Account, device: str) -> None:
    old, new = account.batch(device), account.batch(device)
    for reset in RESETS[:3]:
        account.add(account.stage(old), reset)
        account.stage(new)
        old.push(reset)
        new.push(reset)
    assert new.take_over(old)
    account.add(account.stage(new), [False] * 3)
    np.testing.assert_array_equal(new.push(RESETS[1])["policy"].cpu().numpy(), account.expected())


TERMS: dict[str, dict[str, Any]] = {
    "action": {"kind": "previous_action"},
    "step": {"kind": "step"},
    "reading": {"topic": "a", "type": "std_msgs/msg/Float64MultiArray", "scale": [1.0]},
}


def test_previous_action_and_step_of_each_robot_continue_with_another_policy() -> None:
    layout = observation_layout(
        "policy",
        ArraySpec("policy", (4,), np.float32, -np.inf, np.inf),
        observation_of({"terms": list(TERMS), **TERMS}),
        TermInputs({}, 2),
    )
    old, new = (ObservationBatch({"policy": layout}, ROBOTS, torch.device("cpu")) for _ in range(2))
    for tick in range(3):
        old.push(np.array([tick == 0, tick == 0, tick == 2]))
        old.remember(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]) + tick, {})
    # As warming up does.
    new.push(np.ones(ROBOTS, bool))
    new.remember(torch.full((ROBOTS, 2), 9.0), {})
    new.take_over(old)
    found = new.push(np.array([False, True, False]))["policy"].numpy()
    np.testing.assert_array_equal(found[:, :3], [[3.0, 4.0, 3.0], [0.0, 0.0, 0.0], [7.0, 8.0, 1.0]])


class Counting(torch.nn.Module):
    """Commands one more than at the step before."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations[:, :1] + 1.0


def test_a_swap_keeps_the_previous_action_of_driven_robots(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Counting()).save(str(tmp_path / "counting.pt"))
    topic = {"topic": "joints", "type": "std_msgs/msg/Float64MultiArray"}
    terms = {"action": {"kind": "previous_action"}, "reading": {**topic, "scale": [1.0]}}
    parameters = {
        "control_rate_hz": 50.0,
        "robots": ["a", "b"],
        "policy": {"path": str(tmp_path / "counting.pt"), "trusted": True, "device": "cpu", "engine": "torchscript"},
        "observations": {"keys": ["policy"], "policy": {"terms": list(terms), **terms, "shape": [2]}},
        "action": {**topic, "topic": "command", "safe_command": [-9.0]},
        "synchronisation": {"max_age_s": 0.015},
    }
    pipeline, other, third = (deploy(parse_configuration(parameters)).pipeline for _ in range(3))
    now_ns = 10**18

    def tick(robots: int = 2) -> list[float]:
        nonlocal now_ns
        now_ns += 20_000_000
        for robot in range(robots):
            pipeline.add(robot, 0, now_ns, serialize_message(Float64MultiArray(data=[0.5])))
        return pipeline.step(now_ns).commands[:, 0].tolist()

    assert [tick(), tick(), tick(1)] == [[1.0, 1.0], [2.0, 2.0], [3.0, -9.0]]
    pipeline.adopt(other)
    assert [tick(), tick()] == [[4.0, 1.0], [5.0, 2.0]]
    pipeline.reset([0])
    pipeline.adopt(third)
    assert [tick(), tick()] == [[1.0, 3.0], [2.0, 4.0]]
