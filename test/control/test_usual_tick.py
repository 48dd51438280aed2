# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Ticks in which nothing is unusual skip work; they give what they would give without that."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import JointState

from policy_node.config.schema import parse_configuration, with_limits
from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetCommands, FleetTick, Sent
from policy_node.messages.cdr import deserialise, serialise
from policy_node.messages.reading import UnusableReading
from policy_node.policies import Policy
from policy_node.policies.contract import Tensors
from policy_node.recording.recorder import Recording
from policy_node.ros.deployment import pair
from policy_node.sensing import fleet_samples, staging, synchroniser
from policy_node.sensing.synchroniser import RobotState

READY, STALE, FAULT = RobotState.READY, RobotState.STALE, RobotState.FAULT
ROBOTS = 3
JOINTS = ["shoulder", "elbow"]
PERIOD_NS = 50_000_000
LATENCY_NS = 10_000_000
LATE = (STALE, "its readings became too old while commands were sent")
# Readings that make the action of a robot NaN, and the whole policy raise an exception.
POISON, FAILURE = 77.0, 99.0


class Watcher(Policy):
    """Its actions depend on each reading, on the history and on the steps of the episode."""

    #: Called with the observations during each inference; returns those to act on.
    during: Callable[[Tensors], Tensors] = staticmethod(lambda observations: observations)

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        observations = self.during(observations)
        seen = torch.cat([part.reshape(len(part), -1) for part in observations.values()], dim=1)
        if (observations["state"][:, -2] == FAILURE).any():
            raise RuntimeError("the network failed")
        count = memory["count"] + 1.0
        weights = torch.arange(1.0, 2.0 * seen.shape[1] + 1.0).reshape(-1, 2)
        actions = torch.sin(seen @ weights) + 0.01 * count
        actions[observations["state"][:, -2] == POISON] = torch.nan
        if self.spec.horizon:
            actions = actions[:, None] + 0.001 * torch.arange(self.spec.horizon)[:, None]
        return actions, {"count": count}


STATE = {"topic": "joint_states", "type": "sensor_msgs/msg/JointState", "joints": JOINTS, "stack": 2}
TOUCH = {"topic": "touch", "type": "sensor_msgs/msg/JointState", "joints": JOINTS}
GOAL = {"topic": "goal", "type": "sensor_msgs/msg/JointState", "joints": JOINTS, "max_age_s": 0.4}
CONTACT = {"topic": "contact", "type": "sensor_msgs/msg/JointState", "joints": JOINTS, "when_silent": "zeros"}
LIMITS = {"low": [-0.9], "high": [0.8], "max_rate": [4.0], "ramp_s": 0.2, "when_stale": "hold", "hold_s": 0.1}
ARRAY = {"type": "std_msgs/msg/Float64MultiArray", "safe_command": [0.25, -0.125]}
POSITION = {
    "type": "sensor_msgs/msg/JointState",
    "joints": JOINTS,
    "safe_position_topic": "joint_states",
    "when_stale": "hold",
    "hold_s": 0.1,
}
ARM = {"topic": "arm", "components": [1], **{**POSITION, "joints": JOINTS[1:]}}
GRIPPER = {"topic": "grip", "type": ARRAY["type"], "components": [0], "safe_command": [0.5], "when_stale": "silent"}


@cache
def message_of(stamp_ns: int, joints: tuple[str, ...], position: tuple[float, ...]) -> bytes:
    """Return a message, the same bytes for the same numbers: what fills its gaps is left to chance."""
    message = JointState(name=joints, position=position)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return serialise(message)


@dataclass(frozen=True)
class Kind:
    """A deployment, and what of it the histories can touch."""

    action: dict[str, Any] = field(default_factory=lambda: ARRAY)
    actions: dict[str, Any] | None = None
    observations: dict[str, Any] = field(default_factory=dict)
    horizon: int = 0

    def configuration(self, stack: int) -> Any:
        observations = {"state": {**STATE, "stack": stack}, **self.observations}
        return parse_configuration(
            {
                "control_rate_hz": 20.0,
                "robots": [f"robot_{robot}" for robot in range(ROBOTS)],
                "policy": {"path": "unused"},
                "observations": {"keys": list(observations), **observations},
                "synchronisation": {"slop_s": 0.01, "max_age_s": 0.12},
                **({"actions": self.actions} if self.actions else {"action": {"topic": "command", **self.action}}),
            }
        )

    def new_pipeline(self, stack: int = 2, sha256: str = "0" * 64) -> Pipeline:
        sizes = {"state": 2 * stack, **dict.fromkeys(self.observations, 2)}
        spec = PolicySpec(
            {name: ArraySpec(name, (size,), np.dtype(np.float32), -np.inf, np.inf) for name, size in sizes.items()},
            ArraySpec("action", (2,), np.dtype(np.float32), -np.inf, np.inf),
            "Watcher",
            sha256,
            {"count": ArraySpec("count", (1,), np.dtype(np.float32), -np.inf, np.inf)},
            horizon=self.horizon,
        )
        policy, configuration = Watcher(spec, torch.device("cpu")), self.configuration(stack)
        layouts, decoders = pair(configuration, policy)
        return Pipeline(configuration, policy, layouts, {name: each.decode for name, each in decoders.items()})


KINDS = {
    "plain": Kind(),
    "limited": Kind({**ARRAY, **LIMITS}),
    "silent": Kind({**ARRAY, "safe_command": [], "when_stale": "silent"}),
    "position": Kind(POSITION),
    "topics": Kind(actions={"keys": ["arm", "gripper"], "arm": ARM, "gripper": GRIPPER}),
    "sensors": Kind({**ARRAY, **LIMITS}, observations={"goal": GOAL, "contact": CONTACT}),
    "synchronised": Kind(observations={"touch": TOUCH}),
    "plans": Kind({**ARRAY, **LIMITS}, horizon=4),
}
# What happens to the readings of one robot, to all robots before a tick, while it runs, and to its commands.
GAPS = ["late", "apart", "missing", "ahead", "far ahead", "damaged", "NaN", "lone joints", "poison", "failure"]
BEFORE = ["reset", "reset one", "forget samples", "stop", "stop one", "resume", "yield", "limits", "overrule"]
BETWEEN = ["adopt", "adopt another", "back", "pause", "slip"]
DURING = ["learner resets", "slow", "clock back"]
SENDING = ["not sent", "made safe", "overruled"]
# Most ticks are usual, and most others have a single event.
USUAL: list[str] = [""] * 12
USUAL_TICK = ("", 0, "")
EVENTS = [*GAPS, *BEFORE, *BETWEEN, *DURING, *SENDING]
things = st.sampled_from([*USUAL, *EVENTS])
ticks = st.lists(st.tuples(things, st.integers(0, ROBOTS - 1), things), min_size=4, max_size=12)


class Fleet:
    """A pipeline that a history happens to."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.pipeline = kind.new_pipeline()
        self.pipeline.warm_up()
        self.rng = np.random.default_rng(0)
        self.now_ns = 10**18
        self.usual = 0
        #: The ticks themselves, and what they said when they were made.
        self.ticks: list[FleetTick] = []
        self.found: list[Any] = []
        #: All that is compared.
        self.accounts: list[Any] = []
        self._splits: set[int] = set()
        self._recording = Recording(SimpleNamespace(), "", SimpleNamespace())  # type: ignore[arg-type]

    def run(self, history: Sequence[tuple[str, int, str]]) -> None:
        for first, robot, second in history:
            self.tick({first, second if first else ""}, robot)

    def tick(self, things: set[str], robot: int) -> None:
        for thing in sorted(things):
            self._before(thing, robot)
        self.now_ns += PERIOD_NS
        for each in range(ROBOTS):
            self._send(each, things if each == robot else things & {"lone joints"})
        observed = self.pipeline.observe(self.now_ns)
        self.usual += observed.all_ready
        if "learner resets" in things and not self.kind.horizon:
            self._policy.during = lambda observations: self._observe_again(robot)  # type: ignore[method-assign]
        actions = self.pipeline.act(observed)
        self._policy.during = lambda observations: observations  # type: ignore[method-assign]
        durations_ns = {"slow": 115_000_000, "clock back": -PERIOD_NS}
        elapsed_ns = sum(ns for thing, ns in durations_ns.items() if thing in things)
        decided = self.pipeline.guard(actions, observed, lambda: self.now_ns + elapsed_ns)
        decided_as = _plain([getattr(decided, name) for name in ("publish", "ready", "held", "faulty", "pending")])
        expires_s = _plain(np.round(decided.expires_s - observed.started_s, 6))
        tick = self.pipeline.commit(decided, self._sent(decided, things, robot))
        self._recording.note_tick(tick, 0)
        queued = self._recording._ticks.get()
        assert queued is not None
        self.ticks.append(tick)
        self.found.append(account_of(tick))
        self.accounts.append(
            [
                *(self.found[-1], decided_as, expires_s, queued.before, queued.size),
                *(_plain(observed[:2]), _plain(observed[3:13])),
                *self._state(),
            ]
        )

    @property
    def _policy(self) -> Watcher:
        policy = self.pipeline.policy
        assert isinstance(policy, Watcher)
        return policy

    def _before(self, thing: str, robot: int) -> None:
        pipeline = self.pipeline
        requests: dict[str, Callable[[], None]] = {
            "reset": pipeline.reset,
            "reset one": lambda: pipeline.reset([robot]),
            "forget samples": pipeline.forget_samples,
            "stop": pipeline.stop,
            "stop one": lambda: pipeline.stop([robot]),
            "resume": self._resume,
            "yield": lambda: pipeline.yield_robots({robot: "/other"}),
            "limits": self._change_limits,
            "overrule": lambda: pipeline.note_overruled([robot]),
            "adopt": lambda: pipeline.adopt(self.kind.new_pipeline(sha256="1" * 64)),
            "adopt another": lambda: pipeline.adopt(self.kind.new_pipeline(3, "2" * 64)),
            "back": lambda: self._move(-3 * PERIOD_NS),
            "pause": lambda: self._move(20 * PERIOD_NS),
            "slip": lambda: self._move(PERIOD_NS // 2),
        }
        if thing in requests:
            requests[thing]()

    def _resume(self) -> None:
        self.pipeline.stop(())
        self.pipeline.yield_robots({})

    def _move(self, duration_ns: int) -> None:
        self.now_ns += duration_ns

    def _change_limits(self) -> None:
        high = float(self.rng.uniform(0.1, 1.0))
        # No age of a reading comes near, as the duration of a tick may count.
        limits = {"synchronisation.max_age_s": float(self.rng.choice([0.047, 0.097, 0.122, 0.197]))}
        if not self.kind.actions:
            limits |= {"action.low": [-high], "action.high": [high]}  # type: ignore[dict-item]
        self.pipeline.change_limits(with_limits(self.kind.configuration(2), limits))

    def _send(self, robot: int, things: set[str]) -> None:
        for sensor, name in enumerate(self.pipeline.keys):
            values = self.rng.normal(size=2)
            if name == "contact":
                self.pipeline.set_present(robot, sensor, values[0] > -1.5)
            if (name == "contact" and values[1] > 0.0) or (name == "goal" and values[1] > 1.0):
                continue
            self._add(robot, sensor, values, things if name == "touch" else things - {"apart"})

    def _add(self, robot: int, sensor: int, values: np.ndarray, things: set[str]) -> None:
        """Add a message of a sensor, if things do not keep it away."""
        if "missing" in things:
            return
        ages_ns = {"late": 100_000_000, "apart": 30_000_000, "ahead": -20_000_000, "far ahead": -(10**9)}
        stamp_ns = self.now_ns - sum([ns for thing, ns in ages_ns.items() if thing in things] or [LATENCY_NS])
        for thing, value in (("NaN", np.nan), ("poison", POISON), ("failure", FAILURE)):
            if thing in things:
                values = np.array([value, 0.0])
        if "lone joints" in things:
            self._splits.add(robot)
        parts = [slice(0, 1), slice(1, 2)] if robot in self._splits else [slice(0, 2)]
        for part in parts:
            message = message_of(stamp_ns, tuple(JOINTS[part]), tuple(values[part].tolist()))
            self.pipeline.add(robot, sensor, stamp_ns, message[: 17 if "damaged" in things else None])

    def _observe_again(self, robot: int) -> Tensors:
        """Reset a robot while the policy acts, as a learner does."""
        self.pipeline.reset([robot])
        self._send(robot, set())
        observations, unusable = self.pipeline.observe_again([robot])
        self.accounts.append([unusable, _plain(observations)])
        return observations

    def _sent(self, decided: FleetCommands, things: set[str], robot: int) -> Sent:
        safe_commands = self.pipeline.safe_commands
        if "overruled" in things:
            nothing = Sent.without(decided, dict.fromkeys(range(ROBOTS), (FAULT, "the tick took too long")))
            return nothing._replace(commands=safe_commands.copy(), overruled=True)
        lost = [robot] if {"not sent", "made safe"} & things and decided.publish[robot] else []
        sent = Sent.without(decided, dict.fromkeys(lost, LATE))
        if lost and "made safe" in things:
            commands = sent.commands.copy()
            commands[robot] = safe_commands[robot]
            sent = sent._replace(commands=commands)
        return sent

    def _state(self) -> list[Any]:
        """Return what the next ticks follow from."""
        pipeline = self.pipeline
        memory, samples, inference = pipeline._memory, pipeline._samples, pipeline._inference
        rings = [ring for kinds in samples._rings for of in kinds for ring in of]
        rings += [ring for of in samples._silent_rings for ring in of]
        remembered = {name: value for name, value in vars(memory).items() if name not in ("all_driven", "_before")}
        kept = inference.planner._memory if self.kind.horizon else inference._program._memory  # type: ignore[union-attr]
        return [
            _plain({**remembered, "before": {robot: why for robot, why in memory._before.items() if why}}),
            _plain([pipeline._safe.frozen, pipeline.safe_commands, pipeline.observations, kept, pipeline.joined]),
            [(list(ring.stamps), dict(ring.first_seen), ring.is_ahead) for ring in rings],
        ]


@cache
def _content(raw: bytes) -> str:
    """Return what a message says; what fills its gaps is left to chance."""
    try:
        return repr(deserialise(raw, JointState))
    except UnusableReading:
        return repr(raw)


def _plain(value: Any) -> Any:
    """Return copies that can be compared, with NaN equal to NaN."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, repr(value.tolist())
    if isinstance(value, bytes):
        return _content(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return copy.copy(value)


def account_of(tick: FleetTick) -> Any:
    """Return everything that a tick says but for its durations."""
    return _plain({name: each for name, each in tick._asdict().items() if name not in ("stages_s", "planned")})


@contextmanager
def nothing_skipped() -> Iterator[None]:
    """Let no tick be usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "_is_usual", lambda *given: False)
        for module in (fleet_samples, synchroniser):
            patch.setattr(module, "select_usual", lambda *given: None)
        patch.setattr(staging, "copies_of", lambda decode: None)
        yield


def run_both(kind: Kind, history: Sequence[tuple[str, int, str]]) -> tuple[Fleet, Fleet]:
    """Let a history happen to two fleets; nothing is skipped in the second one."""
    fleet = Fleet(kind)
    fleet.run(history)
    with nothing_skipped():
        other = Fleet(kind)
        other.run(history)
    return fleet, other


def compare(fleet: Fleet, other: Fleet) -> None:
    """Check that all that was noted is equal, and that no snapshot of a tick has changed since it was made."""
    assert other.usual == 0
    for found, expected in zip(fleet.accounts, other.accounts, strict=True):
        assert found == expected
    for tick, found in zip(fleet.ticks, fleet.found, strict=True):
        assert account_of(tick) == found


@given(st.sampled_from(sorted(KINDS)), ticks)
def test_a_usual_tick_gives_what_it_gives_if_nothing_is_skipped(name: str, history: list[tuple[str, int, str]]) -> None:
    """In any history, with commands, states, counts and all that later ticks follow from."""
    compare(*run_both(KINDS[name], history))


@pytest.mark.parametrize("name", KINDS)
def test_ticks_without_an_event_are_usual(name: str) -> None:
    """Else these tests would compare nothing."""
    fleet, other = run_both(KINDS[name], [USUAL_TICK] * 6)
    assert other.usual == 0 and fleet.usual >= (4 if name == "sensors" else 6)
    assert all(tick.states == (READY,) * ROBOTS for tick in fleet.ticks[-2:])


@pytest.mark.parametrize("name", ["plain", "plans"])
def test_a_tick_says_how_long_each_stage_took(name: str) -> None:
    fleet = Fleet(KINDS[name])
    fleet.run([USUAL_TICK] * 2)
    stages_s = fleet.ticks[-1].stages_s
    assert list(stages_s) == ["select", "stage", "infer", "guard"]
    assert all(0.0 <= duration_s < 60.0 for duration_s in stages_s.values())


def test_robots_go_on_after_the_longest_time_that_is_no_pause() -> None:
    # The period and the largest age of a reading.
    longest_ns = PERIOD_NS + 120_000_000
    for pause_ns, restarts in ((longest_ns, False), (longest_ns + 1, True)):
        fleet = Fleet(KINDS["plain"])
        fleet.run([USUAL_TICK] * 2)
        fleet.now_ns += pause_ns - PERIOD_NS
        fleet.run([USUAL_TICK])
        assert fleet.ticks[-1].fresh_start.tolist() == [restarts] * ROBOTS


@pytest.mark.parametrize("name", KINDS)
def test_each_event_among_usual_ticks(name: str) -> None:
    """Each is seen by the robots that it happens to, and once."""
    history = [each for thing in EVENTS for each in (USUAL_TICK, USUAL_TICK, (thing, 1, ""), ("resume", 0, ""))]
    compare(*run_both(KINDS[name], history))
