# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a pipeline while it is recorded, the replay of the recording gives the same commands."""

from __future__ import annotations

import array
import itertools
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy.logging
import torch
import yaml
from gymnasium import spaces
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from stable_baselines3 import PPO

from policy_node.cli.replay import main
from policy_node.config.schema import parse_configuration, with_limits
from policy_node.control.planner import Planned, Planner, PlanRequest
from policy_node.control.tick import FleetCommands, Sent, SentCommands
from policy_node.messages.codecs import command_encoder
from policy_node.messages.patched import fleet_encoder
from policy_node.recording.bag import typestore_of
from policy_node.recording.format import TICK_TYPE, ticks_topic
from policy_node.recording.recorder import Recording, RecordingPlan
from policy_node.ros.deployment import Deployment, deploy
from policy_node.sensing.synchroniser import RobotState
from policy_node_bench.harness.untrained import SpacesOnly

ROBOTS = ("arm_0", "arm_1", "arm_2")
JOINTS = ["shoulder", "elbow"]
PERIOD_NS = 50_000_000
# Relative topics are those of its namespace.
NAMESPACE = "/fleet"
NODE = f"{NAMESPACE}/policy_node"
TICKS = 120
TYPE = "sensor_msgs/msg/JointState"


def parameters_of(policy: Path) -> dict[str, Any]:
    joints = {"type": TYPE, "joints": JOINTS}
    return {
        "control_rate_hz": 20.0,
        "robots": list(ROBOTS),
        "policy": {"path": str(policy), "trusted": True, "device": "cpu", "engine": "direct"},
        "observations": {
            "keys": ["state"],
            "state": {
                "stack": 2,
                "stack_order": "newest_first",
                "terms": ["position", "speed", "contact", "goal", "before", "gait", "step", "reference"],
                "position": {"topic": "joint_states", **joints},
                "speed": {"topic": "joint_states", "field": "velocity", **joints},
                "contact": {"topic": "contact", "when_silent": "zeros", **joints},
                "goal": {"topic": "goal", "max_age_s": 1.0, **joints},
                "before": {"kind": "previous_action", "stack": 3},
                "gait": {
                    "kind": "phase",
                    "period_s": 0.35,
                    "stop_below": 1.0,
                    "stack": 1,
                    "topic": "goal",
                    "max_age_s": 1.0,
                    **joints,
                },
                "step": {"kind": "step", "stack": 1, "scale": [0.1]},
                "reference": {"kind": "motion", "path": str(write_motion(policy.with_suffix(".csv")))},
            },
        },
        "synchronisation": {"slop_s": 0.03, "max_age_s": 0.12},
        "action": {
            "topic": "command",
            "type": TYPE,
            "joints": JOINTS,
            "safe_position_topic": "joint_states",
            "max_rate": [3.0],
            "ramp_s": 0.3,
            "when_stale": "hold",
            "hold_s": 0.1,
        },
    }


def write_motion(file: Path) -> Path:
    """Write a motion of two joints, shorter than an episode may be."""
    np.savetxt(file, np.random.default_rng(0).normal(size=(10, 2)), delimiter=",")
    return file


def reading(
    rng: np.random.Generator, stamp_ns: int, damaged: bool = False, joints: Sequence[str] = tuple(JOINTS)
) -> bytes:
    message = JointState(name=joints)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    for name in ("position", "velocity"):
        setattr(message, name, array.array("d", [np.nan] * 2 if damaged else rng.normal(size=len(joints)).tolist()))
    return bytes(serialize_message(message))


def plan_of(folder: Path, parameters: dict[str, Any]) -> RecordingPlan:
    configuration = parse_configuration(parameters)
    sensors = [sources[0] for sources in configuration.sensors]
    topics = tuple(tuple(f"{NAMESPACE}/{robot}/{source.topic}" for source in sensors) for robot in ROBOTS)
    commands = tuple(f"{NAMESPACE}/{robot}/command" for robot in ROBOTS)
    types = {topic: TYPE for of in (*topics, commands) for topic in of}
    return RecordingPlan(
        folder=folder,
        name=NODE,
        robots=ROBOTS,
        sensors=tuple(source.name for source in sensors),
        sensor_topics=topics,
        command_topics=commands,
        types={**types, ticks_topic(NODE): TICK_TYPE},
        typestore=typestore_of([TICK_TYPE, TYPE]),
        # Copied, because repeated objects would become aliases, which ROS does not support.
        parameters=yaml.safe_dump(json.loads(json.dumps({"/**": {"ros__parameters": parameters}}))),
    )


def make_policy(file: Path, seed: int) -> Path:
    """Save a policy whose commands depend strongly on its observations."""
    model = PPO(
        "MlpPolicy",
        SpacesOnly(spaces.Box(-np.inf, np.inf, (29,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)),
        n_steps=2,
        batch_size=2,
        seed=seed,
        device="cpu",
    )
    with torch.no_grad():
        model.policy.action_net.weight.mul_(100.0)
    model.save(file)
    return file


def sent_by_chance(rng: np.random.Generator, decided: FleetCommands, safe_commands: np.ndarray) -> Sent:
    """Return the sent commands, rarely with safe commands for all, a safe command for one robot, or none for one."""
    publish, count = decided.publish, len(ROBOTS)
    late = (RobotState.STALE, "its readings became too old while commands were sent")
    if rng.random() < 0.04:
        return Sent(safe_commands.copy(), np.zeros(count, bool), dict.fromkeys(range(count), late), overruled=True)
    lost = publish & (rng.random(count) < 0.05)
    safe = lost & decided.ready & (rng.random(count) < 0.5)
    commands = np.where((publish & ~lost)[:, None], decided.commands, np.nan)
    commands[safe] = safe_commands[safe]
    return Sent(commands, publish & ~lost, dict.fromkeys(np.flatnonzero(lost).tolist(), late))


def apply_random_event(deployment: Deployment, rng: np.random.Generator) -> None:
    """Rarely reset, stop or resume robots, leave one to another node, or change limits."""
    pipeline = deployment.pipeline
    events = ["", "reset", "reset one", "stop", "stop one", "resume", "yield", "have", "limits"]
    event = rng.choice(events, p=[0.68] + [0.04] * 8)
    if event == "limits":
        low, high = np.sort(rng.uniform(-1.0, 1.0, 2)).tolist()
        limits = [
            {"action.low": [low], "action.high": [high, 1.0], "action.max_rate": []},
            {"action.max_rate": [rng.uniform(0.5, 20.0)], "synchronisation.max_age_s": rng.uniform(0.1, 0.3)},
        ]
        pipeline.change_limits(with_limits(deployment.configuration, limits[int(rng.integers(2))]))
    elif event == "reset":
        pipeline.reset()
    elif event == "reset one":
        pipeline.reset([int(rng.integers(len(ROBOTS)))])
    elif event == "stop":
        pipeline.stop()
    elif event == "stop one":
        pipeline.stop([int(rng.integers(len(ROBOTS)))])
    elif event == "resume":
        pipeline.stop(())
    elif event in ("yield", "have"):
        pipeline.yield_robots({1: "/other"} if event == "yield" else {})


def add_random_samples(deployment: Deployment, rng: np.random.Generator, now_ns: int, split: bool) -> None:
    """Add a sample of most sensors, rarely late or damaged; contacts come less often.

    If `split`, each joint of the last robot has a publisher.
    """
    sensors = deployment.configuration.sensors
    for robot, sensor in itertools.product(range(len(ROBOTS)), range(len(sensors))):
        if rng.random() < (0.3 if sensors[sensor][0].may_be_silent else 0.85):
            stamp_ns = now_ns - int(rng.integers(0, 20_000_000)) - int(rng.random() < 0.05) * 200_000_000
            is_split = split and robot == len(ROBOTS) - 1 and sensors[sensor][0].topic == "joint_states"
            for joints in [JOINTS[:1], JOINTS[1:]] if is_split else [JOINTS]:
                message = reading(rng, stamp_ns, rng.random() < 0.02 and not is_split, joints)
                deployment.pipeline.add(robot, sensor, stamp_ns, message)


class Plans(torch.nn.Module):
    """Plans six steps, which depend on the observation and on the number of the plan in its episode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(29, 12)

    def forward(self, state: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return plans `[robots, 6, 2]` and the next count `[robots, 1]`."""
        return torch.tanh(3.0 * self.layer(state) + torch.sin(count)).reshape(-1, 6, 2), count + 1.0


class ToldPlans(Plans):
    """Takes the rest of the previous plan and the delay, too."""

    def forward(
        self, state: torch.Tensor, rest: torch.Tensor, delay: torch.Tensor, count: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return plans `[robots, 6, 2]` and the next count `[robots, 1]`."""
        plans = torch.tanh(3.0 * self.layer(state) + torch.sin(count)).reshape(-1, 6, 2)
        return plans + 0.3 * rest + 0.01 * delay[:, None, None], count + 1.0


def make_plans(file: Path, is_told: bool) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(ToldPlans() if is_told else Plans()).save(str(file))
    return file


def slow_down(planner: Planner, seed: int) -> None:
    """Let each inference take longer than some ticks."""
    run, rng = planner.run, np.random.default_rng(seed)

    def slow(request: PlanRequest) -> Planned:
        planned = run(request)
        time.sleep(float(rng.choice([0.0, 0.005, 0.02])))
        return planned

    planner.run = slow  # type: ignore[method-assign]


@pytest.mark.parametrize(("seed", "split"), [(0, False), (1, False), (2, False), (3, True)])
def test_a_recording_with_random_events_replays_to_the_same_commands(seed: int, split: bool, tmp_path: Path) -> None:
    check_replay(seed, parameters_of(make_policy(tmp_path / "policy.zip", seed)), tmp_path, split)


@pytest.mark.parametrize(
    ("inference", "chunk"),
    [
        ("tick", {"aggregate": "blend", "replan_every": 4}),
        ("background", {"aggregate": "ensemble", "stagger": 2}),
        ("background", {"aggregate": "prefix", "prefix_input": "rest", "delay_input": "delay"}),
    ],
)
def test_a_recording_of_plans_replays_to_the_same_commands(
    inference: str, chunk: dict[str, Any], tmp_path: Path
) -> None:
    """Although they arrive after as many ticks as their inference happened to take."""
    is_told = chunk["aggregate"] == "prefix"
    parameters = parameters_of(make_plans(tmp_path / "policy.pt", is_told))
    parameters["policy"] |= {"inference": inference, "engine": "torchscript", "horizon": 6}
    parameters["policy"]["memory"] = ["count=next_count:-1,1"]
    parameters["observations"]["state"]["shape"] = [29]
    parameters["chunk"] = {"step_s": 0.06, **chunk}
    check_replay(1, parameters, tmp_path)


def check_replay(seed: int, parameters: dict[str, Any], tmp_path: Path, split: bool = False) -> None:
    rng = np.random.default_rng(seed)
    deployment = deploy(parse_configuration(parameters))
    pipeline, sha256 = deployment.pipeline, deployment.policy.spec.sha256
    if pipeline.plan_lasts_s < np.inf:
        slow_down(pipeline._inference.planner, seed)  # type: ignore[union-attr]
    pipeline.start()
    encode = fleet_encoder(command_encoder(TYPE, 2, joints=JOINTS, time_from_start_s=0.05), len(ROBOTS))
    recording = Recording(plan_of(tmp_path, parameters), sha256, rclpy.logging.get_logger("test"))
    recording.start()
    for robot, sensor in itertools.product(range(len(ROBOTS)), range(len(deployment.configuration.sensors))):
        pipeline.set_present(robot, sensor, True)
    now_ns = 1_700_000_000_000_000_000
    losses, replaced = np.random.default_rng([seed, 1]), 0
    for _ in range(TICKS):
        if pipeline.planning_since_s is not None:
            time.sleep(0.005)
        now_ns += PERIOD_NS * (1 if rng.random() < 0.95 else int(rng.integers(2, 8)))
        apply_random_event(deployment, rng)
        add_random_samples(deployment, rng, now_ns, split)
        observed = pipeline.observe(now_ns)
        decided = pipeline.guard(pipeline.act(observed), observed)
        sent = sent_by_chance(losses, decided, pipeline.safe_commands)
        replaced += len(sent.not_sent)
        robots = np.flatnonzero(sent.as_decided).tolist()
        messages = encode(decided.commands, robots, now_ns)
        recording.note_commands(SentCommands(now_ns, dict(zip(robots, messages, strict=True)), of_tick=True))
        recording.note_tick(pipeline.commit(decided, sent), 0)
    recording.end()
    assert pipeline.end(20.0)
    assert not recording.error and not recording.dropped
    assert replaced > 10 and bool(pipeline.joined) is split
    assert recording.folder is not None

    report_file = tmp_path / "report.json"
    assert main([str(recording.folder), "--json", str(report_file)]) == 0
    report = json.loads(report_file.read_text())
    assert report["time"] == "ticks" and not report["notes"] and report["ticks"] == TICKS
    states = {state for robot in report["robots"].values() for state in robot["states"]}
    assert states >= {"READY", "STALE", "STOPPED", "REJECTED"}
    for robot in report["robots"].values():
        assert robot["compare"]["ticks"] > TICKS / 4
        assert robot["compare"]["largest"] == 0.0


def test_a_replay_with_another_policy_says_so(tmp_path: Path) -> None:
    parameters = parameters_of(make_policy(tmp_path / "policy.zip", seed=0))
    pipeline = deploy(parse_configuration(parameters)).pipeline
    recording = Recording(plan_of(tmp_path, parameters), "0" * 64, rclpy.logging.get_logger("test"))
    recording.start()
    recording.note_tick(pipeline.step(PERIOD_NS)._replace(policy_sha256="0" * 64), 0)
    recording.end()
    report_file = tmp_path / "report.json"
    assert main([str(recording.folder), "--json", str(report_file)]) == 0
    assert json.loads(report_file.read_text())["notes"] == [
        "the policy is another one than drove when this was recorded"
    ]
