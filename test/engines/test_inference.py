# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The tick on the device: a program that keeps everything in its place, recorded or not, does what the plain one does.

Without a GPU nothing is recorded; the same program then runs on the same buffers.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from policy_conformance import load_trusted
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from policy_node.cli.export import export_policy
from policy_node.config.schema import Configuration, parse_configuration
from policy_node.config.specs import PolicySpec
from policy_node.control.pairing import match_observations
from policy_node.control.pipeline import make_inference
from policy_node.engines import EngineError, EngineSettings, choose_engine, in_chunks
from policy_node.engines.bound_tick import BoundTick
from policy_node.engines.inference import Inference
from policy_node.engines.wrapped import CapturedPolicy
from policy_node.policies import Policy, PolicyInterface, load_policy
from policy_node.sensing.batch import ObservationLayout
from policy_node_bench.harness.untrained import SpacesOnly

# More threads would only wait for each other on a busy machine.
torch.set_num_threads(1)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
ROBOTS = 5
STACK = 3
LIMITS = {"low": [-0.4], "high": [0.3], "max_rate": [8.0], "ramp_s": 0.2}
TICKS = 12

SPACES = {
    "images and touch": spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (36, 40, 3 * STACK), np.uint8),
            "touch": spaces.Box(-1.0, 1.0, (4 * STACK,), np.float32),
        }
    ),
    "vector": spaces.Dict({"touch": spaces.Box(-1.0, 1.0, (4 * STACK,), np.float32)}),
    "terms": spaces.Dict({"touch": spaces.Box(-np.inf, np.inf, (6 * STACK,), np.float32)}),
    "clocks": spaces.Dict({"touch": spaces.Box(-np.inf, np.inf, (4 * STACK + 2 * 2 + 4 + 1,), np.float32)}),
}
IMAGE = {"topic": "camera", "type": "sensor_msgs/msg/Image", "stack": STACK}
TOUCH = {"topic": "touch", "type": "sensor_msgs/msg/JointState", "stack": STACK}
# A vector of four numbers and the previous action, stacked term by term.
TERMS = {
    "stack": STACK,
    "stack_as": "isaac_lab",
    "terms": ["pressure", "before"],
    "pressure": {"topic": "touch", "type": "sensor_msgs/msg/JointState", "kind": "sensor", "scale": [2.0]},
    "before": {"kind": "previous_action"},
}
# The newest step first, two previous actions, two gaits that stand still while little is pressed, and the step.
CLOCKS = {
    **TERMS,
    "stack_as": "vecframestack",
    "stack_order": "newest_first",
    "terms": ["pressure", "before", "gait", "step"],
    "before": {"kind": "previous_action", "stack": 2},
    "gait": {
        "kind": "phase",
        "topic": "touch",
        "type": "sensor_msgs/msg/JointState",
        "period_s": 0.35,
        "offset": [0.0, 0.5],
        "stop_below": 0.8,
        "stop_at": [0.5],
        "stop_restarts": True,
        "stack": 1,
    },
    "step": {"kind": "step", "stack": 1, "scale": [0.1]},
}
OBSERVATIONS = {
    "images and touch": {"camera": IMAGE, "touch": TOUCH},
    "vector": {"touch": TOUCH},
    "terms": {"touch": TERMS},
    "clocks": {"touch": CLOCKS},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the models of these tests are kept."""
    return tmp_path_factory.mktemp("models")


def configuration_of(kind: str, action: dict[str, Any]) -> Configuration:
    return parse_configuration(
        {
            "control_rate_hz": 20.0,
            "robots": [f"robot_{index}" for index in range(ROBOTS)],
            "policy": {"path": "unused"},
            "observations": {"keys": list(OBSERVATIONS[kind]), **OBSERVATIONS[kind]},
            "action": {
                "topic": "cmd_vel",
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "angular.z"],
                **action,
            },
        }
    )


def policy_of(folder: Path, kind: str, recurrent: bool, device: str = "cpu", seed: int = 1) -> Policy:
    file = folder / f"{kind}_{recurrent}_{seed}.zip"
    if not file.exists():
        env = SpacesOnly(SPACES[kind], spaces.Box(-1.0, 1.0, (2,), np.float32))
        algorithm, name = (RecurrentPPO, "MultiInputLstmPolicy") if recurrent else (PPO, "MultiInputPolicy")
        kwargs = {"lstm_hidden_size": 8} if recurrent else {}
        model = algorithm(name, env, n_steps=2, batch_size=2, policy_kwargs=kwargs, device="cpu", seed=seed)
        with torch.no_grad():
            model.policy.action_net.weight.normal_(std=2.0)
        model.save(file)
    return load_trusted(file, device)


def layouts_of(configuration: Configuration, policy: Policy) -> dict[str, ObservationLayout]:
    return match_observations(configuration, policy, {"touch.pressure": 4, "touch.gait": 2})


def inference_of(configuration: Configuration, policy: Policy, source: Policy | None = None) -> Inference:
    inference = make_inference(configuration, policy, layouts_of(configuration, source or policy))
    inference.warm_up()
    return inference


def tick(inference: Inference, rng: np.random.Generator, state: dict[str, np.ndarray]) -> np.ndarray:
    """Stage drawn readings, run a tick and keep its commands as those sent; returns all that was inferred."""
    for key in inference.batch.layouts:
        for robot in range(ROBOTS):
            row = inference.batch.row(key, robot)
            row[...] = rng.integers(0, 256, row.shape) if row.dtype == np.uint8 else rng.uniform(-1, 1, row.shape)
    fresh = rng.random(ROBOTS) < 0.3
    ramp = np.minimum(1.0, rng.random(ROBOTS) * 2.0)
    inferred = inference(fresh, state["previous"], state["start"], ramp)
    state["previous"] = np.where(fresh[:, None], np.nan, inferred.commands)
    return np.column_stack([inferred.commands, inferred.bounded, inferred.slowed])


def new_state() -> dict[str, np.ndarray]:
    return {"previous": np.full((ROBOTS, 2), np.nan), "start": np.zeros((ROBOTS, 2))}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("limited", [True, False], ids=["limits", "no limits"])
@pytest.mark.parametrize("recurrent", [True, False], ids=["LSTM", "feed-forward"])
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("rows", [ROBOTS, 2])
def test_a_program_that_keeps_its_buffers_gives_the_commands_of_the_plain_one(
    folder: Path, device: str, limited: bool, recurrent: bool, kind: str, rows: int
) -> None:
    configuration = configuration_of(kind, LIMITS if limited else {})
    plain = inference_of(configuration, policy_of(folder, kind, recurrent))
    source = policy_of(folder, kind, recurrent, device)
    recorded = inference_of(configuration, in_chunks(CapturedPolicy(source, ROBOTS), ROBOTS, rows), source)
    draws, states = [np.random.default_rng(4) for _ in range(2)], [new_state() for _ in range(2)]
    for _ in range(TICKS):
        expected, found = (
            tick(one, draw, state) for one, draw, state in zip((plain, recorded), draws, states, strict=True)
        )
        np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=0.0, atol=1e-5)
        assert np.array_equal(found[:, 2:], expected[:, 2:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", SPACES)
def test_histories_go_on_when_a_recorded_policy_takes_over(folder: Path, device: str, kind: str) -> None:
    """Both ways between a plain and a recorded policy, and from one recorded policy to another."""
    configuration = configuration_of(kind, LIMITS)
    policies = [policy_of(folder, kind, False, device, seed) for seed in (1, 2, 1)]
    expecting, found = (
        [
            inference_of(configuration, CapturedPolicy(policy, ROBOTS) if index in recorded else policy, policy)
            for index, policy in enumerate(policies)
        ]
        for recorded in ((), (1, 2))
    )
    draws, states = [np.random.default_rng(5) for _ in range(2)], [new_state() for _ in range(2)]
    for index in range(len(policies)):
        if index:
            for one in (expecting, found):
                assert one[index].batch.take_over(one[0].batch)
                one[0] = one[index]
        for _ in range(4):
            expected, inferred = (
                tick(one[0], draw, state) for one, draw, state in zip((expecting, found), draws, states, strict=True)
            )
            np.testing.assert_allclose(inferred, expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("kind", "count"), [("images and touch", 4), ("clocks", 5)])
def test_a_program_that_keeps_its_buffers_moves_none_of_them(folder: Path, kind: str, count: int) -> None:
    policy = CapturedPolicy(policy_of(folder, kind, True), ROBOTS)
    inference = inference_of(configuration_of(kind, LIMITS), policy)

    def places() -> list[int]:
        program, histories = inference._program, inference.batch._histories.values()
        stacks = [history._stacked for history in histories if history._stacked is not None]
        episode = inference.batch._episode
        kept = [each for each in (episode.previous_action, episode.step) if each is not None]
        return [part.data_ptr() for part in [*(program._memory or {}).values(), *stacks, *kept]]

    before, state, rng = places(), new_state(), np.random.default_rng(6)
    for _ in range(3):
        tick(inference, rng, state)
    assert places() == before and len(before) == count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recurrent", [True, False], ids=["LSTM", "feed-forward"])
@pytest.mark.parametrize("kind", SPACES)
def test_a_steady_tick_allocates_nothing_and_waits_once(
    folder: Path, kind: str, recurrent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = policy_of(folder, kind, recurrent, "cuda")
    inference = inference_of(configuration_of(kind, LIMITS), CapturedPolicy(source, ROBOTS), source)
    state, rng = new_state(), np.random.default_rng(7)
    for _ in range(3):
        tick(inference, rng, state)
    waits = []
    synchronize = torch.cuda.Stream.synchronize

    def wait(stream: torch.cuda.Stream) -> None:
        waits.append(stream)
        # This one is meant.
        torch.cuda.set_sync_debug_mode("default")
        synchronize(stream)
        torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(torch.cuda.Stream, "synchronize", wait)
    before = torch.cuda.memory_stats()
    # What waits without being asked to is a warning now, and with it an error.
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(10):
                tick(inference, rng, state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    after = torch.cuda.memory_stats()
    counts = ("allocation.all.allocated", "segment.all.allocated", "num_alloc_retries", "num_ooms")
    assert {name: after[name] - before[name] for name in counts} == dict.fromkeys(counts, 0)
    assert len(waits) == 10


@pytest.mark.parametrize("limited", [True, False], ids=["limits", "no limits"])
@pytest.mark.parametrize("recurrent", [True, False], ids=["LSTM", "feed-forward"])
@pytest.mark.parametrize("kind", SPACES)
def test_one_session_gives_the_commands_of_the_plain_program(
    folder: Path, kind: str, recurrent: bool, limited: bool
) -> None:
    action = {"scale": [0.5], "offset": [0.1, -0.2], **(LIMITS if limited else {})}
    configuration, policy = configuration_of(kind, action), policy_of(folder, kind, recurrent)
    moved = [layout.key for layout in layouts_of(configuration, policy).values() if layout.channels_first]
    run, _ = choose_engine(policy, ROBOTS, EngineSettings("onnxruntime"), moved)
    plain, bound = inference_of(configuration, policy), inference_of(configuration, run, policy)
    assert (plain.session, bound.session) == ("", "tick")
    draws, states = [np.random.default_rng(4) for _ in range(2)], [new_state() for _ in range(2)]

    def ticks_agree() -> None:
        expected, found = (
            tick(one, draw, state) for one, draw, state in zip((plain, bound), draws, states, strict=True)
        )
        np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=0.0, atol=1e-5)
        assert np.array_equal(found[:, 2:], expected[:, 2:])

    for _ in range(TICKS):
        ticks_agree()
    # The session takes other numbers; another kind of limit runs as operations of PyTorch.
    for changes in ({**LIMITS, "low": [-0.1], "max_rate": [1.0]}, {"low": [-0.2]}, {}):
        for inference in (plain, bound):
            inference.limits.change(configuration_of(kind, {**action, **changes}).action)
        for _ in range(3):
            ticks_agree()


def test_a_reading_of_nan_spoils_one_command_of_a_session(folder: Path) -> None:
    configuration, policy = configuration_of("vector", LIMITS), policy_of(folder, "vector", False)
    inference = inference_of(configuration, choose_engine(policy, ROBOTS, EngineSettings("onnxruntime"))[0], policy)
    nothing, everyone = np.full((ROBOTS, 2), np.nan), np.ones(ROBOTS, bool)
    for robot in range(ROBOTS):
        inference.batch.row("touch", robot)[...] = np.nan if robot == 3 else 0.5
    inferred = inference(everyone, nothing, nothing, np.ones(ROBOTS))
    assert np.array_equal(np.isnan(inferred.commands).any(axis=1), np.arange(ROBOTS) == 3)
    # Commands are the caller's: the next tick leaves them as they are.
    kept = inferred.commands.copy()
    for robot in range(ROBOTS):
        inference.batch.row("touch", robot)[...] = -0.5
    inference(everyone, nothing, nothing, np.ones(ROBOTS))
    assert np.array_equal(inferred.commands, kept, equal_nan=True)


def test_what_one_session_cannot_hold_runs_as_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(self: BoundTick, rng: np.random.Generator, spec: PolicySpec) -> None:
        raise EngineError("its commands differ from those of PyTorch")

    monkeypatch.setattr(BoundTick, "_compare", differ)
    configuration, policy = configuration_of("vector", LIMITS), policy_of(folder, "vector", False)
    run = choose_engine(policy, ROBOTS, EngineSettings("onnxruntime"))[0]
    inference = inference_of(configuration, run, policy)
    assert inference.session == "network; its commands differ from those of PyTorch"
    assert np.isfinite(tick(inference, np.random.default_rng(0), new_state())).all()


def exported(folder: Path, kind: str, recurrent: bool) -> Policy:
    """Return a policy from the ONNX file that it was exported to."""
    file = folder / f"{kind}_{recurrent}.onnx"
    if not file.exists():
        policy_of(folder, kind, recurrent)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            export_policy(folder / f"{kind}_{recurrent}_1.zip", "onnx", file)
    return load_policy(file)


def legged(folder: Path, choices: int = 0) -> Policy:
    """Return a policy from the ONNX file of another trainer; with `choices` it gives logits."""
    file = folder / f"legged_{choices}.onnx"
    torch.manual_seed(2)
    network = torch.nn.Sequential(
        torch.nn.Linear(4 * STACK, 8), torch.nn.ELU(), torch.nn.Linear(8, choices or 2)
    ).eval()
    names: dict[str, Any] = {"input_names": ["obs"], "output_names": ["action"], "dynamic_axes": {"obs": {0: "robots"}}}
    export: Any = torch.onnx.export  # its stubs know no path as text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(network, (torch.zeros(1, 4 * STACK),), str(file), dynamo=False, **names)
    return load_policy(file, interface=PolicyInterface(inputs={"touch": "obs"}, discrete=choices))


def of_file(folder: Path, kind: str) -> Policy:
    if kind == "legged":
        return legged(folder)
    if kind == "choices":
        return legged(folder, 3)
    name, _, memory = kind.partition(", ")
    return exported(folder, name, bool(memory))


FILES = ["vector", "vector, LSTM", "images and touch", "terms", "clocks, LSTM", "legged", "choices"]


@pytest.mark.parametrize("limited", [True, False], ids=["limits", "no limits"])
@pytest.mark.parametrize("kind", FILES)
def test_the_session_of_a_file_is_bound_and_gives_the_commands_of_the_plain_program(
    folder: Path, kind: str, limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kind.partition(", ")[0]
    name = name if name in SPACES else "vector"
    action: dict[str, Any] = {"scale": [0.5], "offset": [0.1, -0.2]}
    if kind == "choices":
        action = {"table": [0.1, 0.2, -0.3, 0.4, 0.5, -0.6]}
    configuration = configuration_of(name, {**action, **(LIMITS if limited and kind != "choices" else {})})
    policy = of_file(folder, kind)
    bound = inference_of(configuration, policy)
    with monkeypatch.context() as patch:
        patch.setattr(Policy, "bound_network", lambda self, robots: None)
        patch.setattr(type(policy), "bound_network", lambda self, robots: None)
        plain = inference_of(configuration, policy)
    assert (plain.session, bound.session) == ("", "tick")
    draws, states = [np.random.default_rng(4) for _ in range(2)], [new_state() for _ in range(2)]
    for _ in range(TICKS):
        expected, found = (
            tick(one, draw, state) for one, draw, state in zip((plain, bound), draws, states, strict=True)
        )
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["vector", "legged", "choices"])
def test_a_reading_of_nan_spoils_one_command_of_a_file(folder: Path, kind: str) -> None:
    table = {"table": [0.1, 0.2, -0.3, 0.4, 0.5, -0.6]} if kind == "choices" else LIMITS
    inference = inference_of(configuration_of("vector", table), of_file(folder, kind))
    nothing, everyone = np.full((ROBOTS, 2), np.nan), np.ones(ROBOTS, bool)
    for robot in range(ROBOTS):
        inference.batch.row("touch", robot)[...] = np.nan if robot == 3 else 0.5
    inferred = inference(everyone, nothing, nothing, np.ones(ROBOTS))
    assert inference.session == "tick"
    assert np.array_equal(np.isnan(inferred.commands).any(axis=1), np.arange(ROBOTS) == 3)


@pytest.mark.parametrize("kind", ["vector", "terms"])
def test_the_network_of_a_file_runs_once_in_a_tick(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the observation is at another place in each."""
    runs = []
    run = onnxruntime.InferenceSession.run_with_iobinding

    def counted(self: Any, *arguments: Any) -> None:
        runs.append(self)
        run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", counted)
    inference = inference_of(configuration_of(kind, LIMITS), of_file(folder, kind))
    assert inference.session == "tick"
    draw, state = np.random.default_rng(4), new_state()
    for number in range(4):
        runs.clear()
        tick(inference, draw, state)
        # The network, then mapping and limits.
        assert number < 2 or len(runs) == len({*runs}) == 2


def test_a_file_whose_memory_begins_with_infinity_runs_as_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = exported(folder, "vector", True)
    first = policy.initial_state

    def infinite(robots: int) -> Any:
        return {name: torch.full_like(tensor, -torch.inf) for name, tensor in (first(robots) or {}).items()}

    monkeypatch.setattr(policy, "initial_state", infinite)
    assert inference_of(configuration_of("vector", LIMITS), policy).session.startswith(
        "network; its memory begins with"
    )
