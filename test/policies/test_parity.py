# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Every combination against the whole stack of Stable-Baselines3: wrappers, `model.predict`, ends of episodes."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity_cases as cases
import pytest
import torch
from gymnasium import spaces
from parity_report import write_report
from policy_conformance import load_trusted
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, unwrap_vec_wrapper
from test_batch import as_sensor_frame, observation_configuration

from policy_node.config.specs import ArraySpec
from policy_node.policies import Policy
from policy_node.sensing.batch import ObservationBatch, ObservationLayout, observation_layout

STEPS = 10
TOLERANCE = 1e-5
CASES = cases.all_cases()


def is_slow(case: cases.Case) -> bool:
    """Say whether other cases show nearly the same: policies are of the same class, or wrappers of any policy."""
    is_wrapped = case.wrappers != "none" and case.algorithm not in ("PPO", "RecurrentPPO", "SAC")
    return case.algorithm in ("A2C", "TRPO", "DDPG") or is_wrapped


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep networks this small from waiting for threads of a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Iterator[dict[str, dict[str, float]]]:
    """Collect the largest error of every case, for the page that `make pages` writes."""
    errors: dict[str, dict[str, float]] = {}
    yield errors
    if pytestconfig.getoption("--write-pages") and errors.keys() == {str(case) for case in CASES}:
        write_report(CASES, errors, Path(__file__).parents[2] / "doc" / "parity.md")


def frame_layout(key: str, spec: ArraySpec, steps: int) -> ObservationLayout:
    """Return the layout that the node derives from its configuration for this observation."""
    if not spec.shape:
        return ObservationLayout(key=key, frame=spec, steps=1, channels_first=False)
    message_type = "sensor_msgs/msg/Image" if len(spec.shape) == 3 else "sensor_msgs/msg/JointState"
    return observation_layout(key, spec, observation_configuration(key, message_type, steps))


class Fleet:
    """Frames of all robots in, actions out, with the parts of this project."""

    def __init__(self, policy: Policy, case: cases.Case) -> None:
        space = cases.OBSERVATIONS[case.observation]
        self._spaces = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
        self._plain = not isinstance(space, spaces.Dict)
        steps = cases.STACK if "stack" in case.wrappers else 1
        layouts = {key: frame_layout(key, spec, steps) for key, spec in policy.spec.observations.items()}
        self._batch = ObservationBatch(layouts, cases.ROBOTS, policy.device)
        self._policy = policy
        self._state = policy.initial_state(cases.ROBOTS)

    def act(self, frames: list[Any], reset: np.ndarray, masks: np.ndarray | None) -> torch.Tensor:
        for robot, frame in enumerate(frames):
            for key, space in self._spaces.items():
                value = np.asarray(frame if self._plain else frame[key])
                is_box = isinstance(space, spaces.Box)
                self._batch.row(key, robot)[...] = as_sensor_frame(value, space) if is_box else value
        observations = self._batch.push(reset)
        self._state = self._policy.reset(self._state, torch.from_numpy(reset))
        allowed = None if masks is None else torch.from_numpy(masks)
        actions, self._state = self._policy(observations, self._state, masks=allowed)
        return actions


def largest_error(case: cases.Case, action: str, folder: Path) -> float:
    """Drive all robots with both stacks and return the largest error in shares of the action range."""
    inner, venv = cases.make_environments(case, action)
    model = cases.make_model(case, venv)
    model.save(folder / "model.zip")
    observations = venv.reset()
    normaliser = unwrap_vec_wrapper(venv, VecNormalize)
    if normaliser is not None:
        normaliser.save(folder / "vecnormalize.pkl")
    policy = load_trusted(folder / "model.zip", vecnormalize=folder / "vecnormalize.pkl" if normaliser else None)
    assert policy.spec.algorithm == case.algorithm
    fleet = Fleet(policy, case)

    space = cases.ACTIONS[action]
    span = space.high - space.low if isinstance(space, spaces.Box) else 1.0
    rng = np.random.default_rng(9)
    starts, state, worst, seen = np.ones(cases.ROBOTS, bool), None, 0.0, set()
    for _ in range(STEPS):
        masks = None
        if policy.spec.mask and case.option != "no masks":
            masks = rng.random((cases.ROBOTS, policy.spec.mask)) < 0.6
            masks[:, [0, *np.cumsum(getattr(space, "nvec", [2] * (policy.spec.mask // 2)))[:-1]]] = True
        arguments = {} if masks is None else {"action_masks": masks}
        expected, state = model.predict(
            observations, state=state, episode_start=starts, deterministic=True, **arguments
        )
        found = fleet.act([env.last for env in inner], starts, masks).numpy()
        assert found.shape == expected.shape
        worst = max(worst, float(np.abs((found - expected) / span).max()))
        seen.add(expected.tobytes())
        observations, _, starts, _ = venv.step(expected)
    # Guards the comparison itself: actions that never change would agree with much.
    assert len(seen) > STEPS // 3
    return worst


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if is_slow(case) else (), id=str(case)) for case in CASES],
)
def test_actions_are_those_of_stable_baselines3(
    case: cases.Case, report: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*acts by its own rules")
        errors = {action: largest_error(case, action, tmp_path) for action in case.actions}
    for action, error in errors.items():
        assert error <= (TOLERANCE if action.startswith("Box") else 0.0), action
    report[str(case)] = errors


@pytest.mark.parametrize(("algorithm", "observation"), cases.IMPOSSIBLE)
def test_what_stable_baselines3_cannot_do_is_still_so(algorithm: str, observation: str) -> None:
    case = cases.Case(algorithm, observation)
    if observation == "image CHW, not scaled":
        case = cases.Case(algorithm, observation, arguments={"policy_kwargs": {"normalize_images": False}})
    _, venv = cases.make_environments(case, "Box")
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)):
        cases.make_model(case, venv)


@pytest.mark.parametrize("wrapper", [VecFrameStack, VecNormalize])
@pytest.mark.parametrize("observation", ["Discrete", "MultiDiscrete", "MultiBinary"])
def test_wrappers_still_take_boxes_only(wrapper: type, observation: str) -> None:
    _, venv = cases.make_environments(cases.Case("PPO", observation), "Box")
    arguments = {"n_stack": 2} if wrapper is VecFrameStack else {}
    with pytest.raises((AssertionError, ValueError)):
        wrapper(venv, **arguments)
