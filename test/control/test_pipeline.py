# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The whole tick without ROS, with policies that Stable-Baselines3 saved."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from policy_conformance import load_trusted
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration
from policy_node.control.pairing import match_observations, policy_interface, side_by_side
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetTick
from policy_node.messages.reading import UnusableReading
from policy_node.policies import PolicyError, PolicyInterface
from policy_node.sensing.synchroniser import RobotState
from policy_node_bench.harness.untrained import SpacesOnly

WAITING, READY, STALE, REJECTED, FAULT, STOPPED = RobotState

PERIOD_NS = 50_000_000
# A reading is taken this long before its tick; one tick without a new one makes it too old.
LATENCY_NS = 10_000_000
OLD_NS = 45_000_000
APART_NS = 35_000_000
FUTURE_NS = 1_000_000_000
SAFE = [0.25, -0.125]
WITHOUT_FIELDS = {"type": "std_msgs/msg/Float64MultiArray", "fields": [], "safe_command": [0.0, 0.0, 0.0]}
# Faults of a robot's readings, and the resulting state.
GAPS = {
    "": READY,
    "silent": STALE,
    "half": STALE,
    "old": STALE,
    "apart": STALE,
    "future": REJECTED,
    "damaged": REJECTED,
    "crash": REJECTED,
    "NaN": FAULT,
}

TOUCH = spaces.Box(-1.0, 1.0, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
DRIVE = spaces.Box(np.float32([-0.5, -2.0]), np.float32([0.5, 2.0]), dtype=np.float32)
FRAMES: dict[str, dict[str, spaces.Box]] = {
    "vector": {"touch": TOUCH},
    "image": {"camera": IMAGE},
    "image and vector": {"camera": IMAGE, "touch": TOUCH},
}
TYPES = {"camera": "sensor_msgs/msg/Image", "touch": "sensor_msgs/msg/JointState"}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]

Readings = dict[str, np.ndarray]


class FailingExtractor(BaseFeaturesExtractor):
    """A network that fails in the way that `failure` names."""

    failure = ""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=observation_space.shape[0])

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        if self.failure == "raise":
            raise RuntimeError("out of memory")
        if self.failure == "one row too few":
            return observations[1:]
        if self.failure == "one row":
            return observations[:1]
        if self.failure == "NaN everywhere":
            return observations * torch.nan
        return observations


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Infer with one thread, as the node does by default."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make `FailingExtractor` fail from now on, or work again with an empty text."""
    return lambda failure: monkeypatch.setattr(FailingExtractor, "failure", failure)


class Rig:
    """A pipeline, the model behind it and SB3's own frame stack of every robot."""

    def __init__(
        self,
        folder: Path,
        frames: dict[str, spaces.Box],
        robots: int = 3,
        stack: int = 1,
        device: str = "cpu",
        action_space: spaces.Space = DRIVE,
        action: dict[str, Any] | None = None,
        observation: dict[str, Any] | None = None,
        synchronisation: dict[str, float] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        is_dict: bool | None = None,
    ) -> None:
        self.frames = frames
        self.is_dict = len(frames) > 1 if is_dict is None else is_dict
        self.stacks = [
            {key: StackedObservations(1, stack, frame) for key, frame in frames.items()} for _ in range(robots)
        ]
        self.model = small_model(
            {key: self.stacks[0][key].stacked_observation_space for key in frames},
            action_space,
            self.is_dict,
            policy_kwargs or {},
        )
        self.model.save(folder / "policy.zip")
        self.configuration = parse_configuration(
            {
                "control_rate_hz": 20.0,
                "robots": [f"robot_{index}" for index in range(robots)],
                "policy": {"path": "unused"},
                "observations": {
                    "keys": list(frames),
                    **{
                        key: {"topic": key, "type": TYPES[key], "stack": stack, **(observation or {}).get(key, {})}
                        for key in frames
                    },
                },
                "synchronisation": {"slop_s": 0.02, "max_age_s": 0.04, **(synchronisation or {})},
                "action": {
                    "topic": "cmd_vel",
                    "type": "geometry_msgs/msg/Twist",
                    "fields": ["linear.x", "angular.z"],
                    "safe_command": SAFE,
                    **(action or {}),
                },
            }
        )
        self.policy = load_trusted(folder / "policy.zip", device)
        self.pipeline = self.new_pipeline()
        self.now_ns = 10**18
        # Whether the robot's last tick was good; otherwise its next good one starts an episode.
        self.running = [False] * robots

    def new_pipeline(self) -> Pipeline:
        layouts = match_observations(self.configuration, self.policy)
        return Pipeline(self.configuration, self.policy, layouts, {key: decode for key in self.frames})

    def draw(self, rng: np.random.Generator) -> Readings:
        return {
            key: rng.integers(0, 256, frame.shape, np.uint8)
            if frame.dtype == np.uint8
            else rng.uniform(-1, 1, frame.shape).astype(frame.dtype)
            for key, frame in self.frames.items()
        }

    def add(self, robot: int, key: str, message: object, age_ns: int = LATENCY_NS) -> None:
        """Send a reading that the next tick will find `age_ns` old."""
        self.pipeline.add(robot, self.pipeline.keys.index(key), self.now_ns + PERIOD_NS - age_ns, message)

    def send(self, robot: int, readings: Readings, gap: str = "") -> RobotState:
        """Send a robot's readings with the fault `gap`, and return the expected result of the tick."""
        first, last = next(iter(readings)), list(readings)[-1]
        ages_ns = {key: OLD_NS if gap == "old" else -FUTURE_NS if gap == "future" else LATENCY_NS for key in readings}
        messages: dict[str, object] = dict(readings)
        if gap == "silent":
            messages.clear()
        elif gap == "half":
            del messages[last]
        elif gap == "apart":
            ages_ns[first] = APART_NS
        elif gap == "damaged":
            messages[last] = readings[last][1:]
        elif gap == "crash":
            messages[last] = ZeroDivisionError("in the decoder")
        elif gap == "NaN":
            messages["touch"] = np.where(np.arange(5) == 2, np.float32(np.nan), readings["touch"])
        for key, message in messages.items():
            self.add(robot, key, message, ages_ns[key])
        return GAPS[gap]

    def step(self) -> FleetTick:
        self.now_ns += PERIOD_NS
        return self.pipeline.step(self.now_ns)

    def expected(self, robot: int, readings: Readings) -> np.ndarray:
        """Return the action of SB3 alone for this robot's next readings."""
        stacked = {}
        for key, reading in readings.items():
            if self.running[robot]:
                stacked[key], _ = self.stacks[robot][key].update(reading[None], np.array([False]), [{}])
            else:
                stacked[key] = self.stacks[robot][key].reset(reading[None])
        self.running[robot] = True
        action, _ = self.model.predict(stacked if self.is_dict else next(iter(stacked.values())), deterministic=True)
        return action[0]

    def assert_expected(self, result: FleetTick, fleet: list[Readings]) -> None:
        """Compare every robot's command: SB3's where the robot is ready, otherwise the safe one."""
        for robot, readings in enumerate(fleet):
            if result.states[robot] is READY:
                expected = self.expected(robot, readings)
                tolerance = 1e-5 * (DRIVE.high - DRIVE.low)
                assert (np.abs(result.commands[robot] - expected) <= tolerance).all()
                assert result.reasons[robot] == ""
            else:
                self.running[robot] = False
                assert result.commands[robot].tolist() == SAFE
                assert result.reasons[robot]


def failing_rig(folder: Path, action: dict[str, Any] | None = None) -> Rig:
    """Return a rig whose network fails on demand."""
    extractor = {"features_extractor_class": FailingExtractor}
    return Rig(folder, FRAMES["vector"], stack=2, action=action, policy_kwargs=extractor)


def small_model(
    observation: dict[str, spaces.Box], action_space: spaces.Space, is_dict: bool, policy_kwargs: dict[str, Any]
) -> PPO:
    """Make a model whose actions depend visibly on everything that it sees."""
    space = spaces.Dict(observation) if is_dict else next(iter(observation.values()))
    image = any(len(box.shape) == 3 for box in observation.values())
    name = "MultiInputPolicy" if is_dict else "CnnPolicy" if image else "MlpPolicy"
    kwargs: dict[str, Any] = {"net_arch": [16]}
    if image:
        kwargs["features_extractor_kwargs"] = {"cnn_output_dim" if is_dict else "features_dim": 16}
    env = SpacesOnly(space, action_space)
    model = PPO(name, env, n_steps=2, batch_size=2, policy_kwargs={**kwargs, **policy_kwargs}, device="cpu", seed=1)
    with torch.no_grad():
        model.policy.action_net.weight.normal_(std=2.0)
    return model


def decode(message: object, out: np.ndarray) -> None:
    """Read the messages of these tests: arrays as the sensor gives them."""
    if isinstance(message, Exception):
        raise message
    assert isinstance(message, np.ndarray)
    if message.shape != out.shape or message.dtype != out.dtype:
        raise UnusableReading(f"found {message.dtype} {list(message.shape)}")
    out[...] = message


def gaps_of(frames: dict[str, spaces.Box]) -> list[str]:
    """Return the gaps that are possible with these observations."""
    impossible = {"NaN"} if "touch" not in frames else set()
    if len(frames) == 1:
        impossible.add("apart")
    return [gap for gap in GAPS if gap and gap not in impossible]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("robots", [1, 3, 16])
@pytest.mark.parametrize("frames", FRAMES)
def test_commands_equal_predict_through_gaps(tmp_path, frames, robots, stack, device):
    """Each robot gets the action of SB3 alone; a gap of any kind restarts its frame stack."""
    rig = Rig(tmp_path, FRAMES[frames], robots, stack, device)
    rig.pipeline.warm_up()
    rng = np.random.default_rng(robots)
    gaps = gaps_of(rig.frames)
    for tick in range(16):
        fleet = [rig.draw(rng) for _ in range(robots)]
        # Each robot has its gaps at its own ticks, from the third one on; all kinds take their turn.
        has_gap = rng.random(robots) < (0.3 if tick > 1 else 0.0)
        states = [
            rig.send(robot, fleet[robot], gaps[(tick + robot) % len(gaps)] if has_gap[robot] else "")
            for robot in range(robots)
        ]
        result = rig.step()
        assert result.states == tuple(states), result.reasons
        assert result.commands.dtype == np.float64
        assert result.publish.all()
        rig.assert_expected(result, fleet)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gap", gaps_of(FRAMES["image and vector"]))
def test_a_gap_of_one_robot_does_not_change_the_commands_of_others(tmp_path, gap, device):
    """The others get bitwise the commands that they get without the gap."""
    commands = []
    for gap_here in ("", gap):
        rig = Rig(tmp_path, FRAMES["image and vector"], robots=3, stack=2, device=device)
        rng = np.random.default_rng(0)
        for tick in range(6):
            for robot in range(3):
                rig.send(robot, rig.draw(rng), gap_here if robot == 1 and tick in (2, 4) else "")
            result = rig.step()
            assert result.states[1] is (GAPS[gap_here] if tick in (2, 4) else READY)
            commands.append(result.commands)
    well, spoilt = np.array(commands).reshape(2, 6, 3, 2)
    np.testing.assert_array_equal(spoilt[:, [0, 2]], well[:, [0, 2]])
    assert spoilt[2, 1].tolist() == spoilt[4, 1].tolist() == SAFE
    np.testing.assert_array_equal(spoilt[:2, 1], well[:2, 1])


@pytest.mark.parametrize("device", DEVICES)
def test_a_discrete_action_selects_its_row_of_the_table(tmp_path, device):
    table = np.round(np.random.default_rng(5).uniform(-1, 1, (4, 2)), 3)
    rig = Rig(
        tmp_path,
        FRAMES["vector"],
        stack=2,
        device=device,
        action_space=spaces.Discrete(4),
        action={"table": table.ravel().tolist()},
    )
    rng = np.random.default_rng(1)
    chosen = set()
    for tick in range(20):
        fleet = [rig.draw(rng) for _ in range(3)]
        states = [rig.send(robot, fleet[robot], "NaN" if tick % 4 == robot + 1 else "") for robot in range(3)]
        result = rig.step()
        assert result.states == tuple(states)
        for robot, readings in enumerate(fleet):
            if states[robot] is READY:
                action = int(rig.expected(robot, readings))
                chosen.add(action)
                assert result.commands[robot].tolist() == table[action].tolist()
            else:
                rig.running[robot] = False
                assert result.commands[robot].tolist() == SAFE
    assert len(chosen) > 2


@pytest.mark.parametrize("failure", ["raise", "one row too few", "one row", "NaN everywhere"])
@pytest.mark.parametrize("when_stale", ["stop", "hold"])
def test_a_policy_that_fails_makes_every_robot_safe(tmp_path, failing, failure, when_stale):
    """Also under `hold`, which bridges gaps in the data only; afterwards every episode restarts."""
    rig = failing_rig(tmp_path, action={"when_stale": when_stale, "hold_s": 10.0})
    rng = np.random.default_rng(2)
    for wrong in ("", "", failure, "", ""):
        failing(wrong)
        fleet = [rig.draw(rng) for _ in range(3)]
        for robot in range(3):
            rig.send(robot, fleet[robot])
        result = rig.step()
        assert result.states == ((FAULT if wrong else READY),) * 3, result.reasons
        assert result.publish.all()
        rig.assert_expected(result, fleet)
    failing(failure)
    for robot in range(3):
        rig.send(robot, rig.draw(rng))
    assert all(reason for reason in rig.step().reasons)
    # No command from before the fault returns when the data end as well.
    result = rig.step()
    assert result.states == (STALE,) * 3
    assert result.commands.tolist() == [SAFE] * 3


def test_a_failure_of_the_policy_is_reported_with_its_exception(tmp_path, failing):
    rig = failing_rig(tmp_path)
    failing("raise")
    for robot in range(2):
        rig.send(robot, rig.draw(np.random.default_rng(0)))
    result = rig.step()
    assert result.states == (FAULT, FAULT, WAITING)
    assert result.reasons[0] == result.reasons[1] == "the policy failed: RuntimeError: out of memory"


def test_warm_up_raises_the_exception_of_the_policy(tmp_path, failing):
    rig = failing_rig(tmp_path)
    failing("raise")
    with pytest.raises(RuntimeError, match="out of memory"):
        rig.pipeline.warm_up()


def test_hold_repeats_the_last_command_for_its_time_and_then_stops(tmp_path):
    rig = Rig(tmp_path, FRAMES["image and vector"], robots=2, action={"when_stale": "hold", "hold_s": 0.1})
    rng = np.random.default_rng(3)
    assert rig.step().commands.tolist() == [SAFE] * 2  # nothing to hold yet
    rig.send(0, rig.draw(rng))
    driven = rig.step().commands
    assert driven[1].tolist() == SAFE
    held = []
    for gap in ("damaged", "silent", "silent"):
        rig.send(0, rig.draw(rng), gap)
        result = rig.step()
        assert result.states[0] is GAPS[gap]
        assert result.publish.all()
        assert result.commands[1].tolist() == SAFE
        held.append(result.commands[0].tolist())
    assert held == [driven[0].tolist(), driven[0].tolist(), SAFE]


@pytest.mark.parametrize("set_back_ns", [FUTURE_NS, 10**17])
def test_a_clock_that_is_set_back_holds_no_command(tmp_path, set_back_ns):
    rig = Rig(tmp_path, FRAMES["vector"], robots=1, action={"when_stale": "hold", "hold_s": 0.5})
    readings = rig.draw(np.random.default_rng(0))
    rig.send(0, readings)
    assert rig.step().states == (READY,)
    rig.send(0, readings, "damaged")
    result = rig.pipeline.step(rig.now_ns - set_back_ns)
    assert result.states == (STALE,)
    assert result.reasons == (f"the clock was set back by {set_back_ns / 1e9:.3f} s",)
    assert result.commands.tolist() == [SAFE]


@pytest.mark.parametrize("elapsed_ns", [0, 30_000_000, OLD_NS])
def test_a_command_whose_readings_became_too_old_during_the_tick_is_replaced(tmp_path, elapsed_ns):
    rig = Rig(tmp_path, FRAMES["vector"])
    rng = np.random.default_rng(11)
    fleet = [rig.draw(rng) for _ in range(3)]
    for robot in range(3):
        rig.send(robot, fleet[robot])
    tick_ns = rig.now_ns + PERIOD_NS
    result = rig.pipeline.step(tick_ns, lambda: tick_ns + elapsed_ns)
    in_time = LATENCY_NS + elapsed_ns <= rig.configuration.synchronisation.max_age_s * 1e9
    assert in_time == (elapsed_ns < OLD_NS)
    assert result.states == ((READY if in_time else STALE),) * 3
    took = f"too old while the tick took {elapsed_ns / 1e9:.3f} s: they are {(LATENCY_NS + elapsed_ns) / 1e9:.3f} s old"
    limit = f"synchronisation.max_age_s allows {rig.configuration.synchronisation.max_age_s:.3f} s"
    assert all(took in reason and limit in reason for reason in result.reasons) is not in_time
    assert in_time or result.commands.tolist() == [SAFE] * 3


def test_silent_still_stops_a_robot_whose_policy_fails(tmp_path, failing):
    rig = failing_rig(tmp_path, action={"when_stale": "silent"})
    failing("raise")
    rig.send(0, rig.draw(np.random.default_rng(12)))
    result = rig.step()
    assert result.states == (FAULT, WAITING, WAITING)
    assert result.publish.tolist() == [True, False, False]
    assert result.commands[0].tolist() == SAFE


@pytest.mark.parametrize("safe", [[], SAFE])
def test_silent_publishes_for_ready_robots_only(tmp_path, safe):
    rig = Rig(tmp_path, FRAMES["vector"], action={"when_stale": "silent", "safe_command": safe})
    rng = np.random.default_rng(4)
    fleet = [rig.draw(rng) for _ in range(3)]
    for robot in (0, 2):
        rig.send(robot, fleet[robot])
    result = rig.step()
    assert result.publish.tolist() == [True, False, True]
    assert result.commands[1].tolist() == (safe or [0.0, 0.0])
    assert rig.pipeline.safe_commands.tolist() == [safe or [0.0, 0.0]] * 3


def test_without_a_safe_command_nothing_can_be_published_for_a_robot_that_is_not_ready(tmp_path):
    action = {"type": "std_msgs/msg/Float64MultiArray", "fields": [], "safe_command": [], "when_stale": "silent"}
    rig = Rig(tmp_path, FRAMES["vector"], robots=2, action=action)
    rig.send(0, rig.draw(np.random.default_rng(0)))
    result = rig.step()
    assert np.isnan(rig.pipeline.safe_commands).all()
    assert result.publish.tolist() == [True, False]
    assert np.isfinite(result.commands[0]).all()
    assert np.isnan(result.commands[1]).all()


@pytest.mark.parametrize("pause", [True, False])
def test_reset_forgets_samples_stacks_and_held_commands(tmp_path, pause):
    rig = Rig(tmp_path, FRAMES["vector"], stack=3, action={"when_stale": "hold", "hold_s": 60.0})
    rng = np.random.default_rng(6)
    for _ in range(4):
        for robot in range(3):
            rig.send(robot, rig.draw(rng))
        rig.step()
    rig.pipeline.reset()
    if pause:
        result = rig.step()
        assert result.states == (WAITING,) * 3
        assert result.commands.tolist() == [SAFE] * 3
        rig.pipeline.reset()
    rig.running = [False] * 3
    # The clock may jump.
    rig.now_ns = 5 * PERIOD_NS
    fleet = [rig.draw(rng) for _ in range(3)]
    for robot in range(3):
        rig.send(robot, fleet[robot])
    result = rig.step()
    assert result.states == (READY,) * 3
    rig.assert_expected(result, fleet)


@pytest.mark.parametrize(
    ("pause_ns", "is_gap"), [(0, False), (200_000_000, False), (201_000_000, True), (10**12, True)]
)
def test_a_pause_of_the_process_is_a_gap(tmp_path, pause_ns, is_gap):
    """Steps from before and after it must not be stacked; a few missed ticks are no gap yet."""
    rig = Rig(tmp_path, FRAMES["vector"], stack=3, synchronisation={"max_age_s": 0.2})
    rng = np.random.default_rng(8)
    for tick in range(6):
        if tick == 3:
            rig.now_ns += pause_ns
            rig.running = [not is_gap] * 3
        fleet = [rig.draw(rng) for _ in range(3)]
        for robot in range(3):
            rig.send(robot, fleet[robot])
        result = rig.step()
        assert result.states == (READY,) * 3
        rig.assert_expected(result, fleet)


def test_warm_up_does_not_change_later_commands(tmp_path):
    commands = []
    for warm_ups in (0, 2):
        rig = Rig(tmp_path, FRAMES["image and vector"], stack=3)
        for _ in range(warm_ups):
            rig.pipeline.warm_up()
        result = rig.step()
        assert result.states == (WAITING,) * 3
        assert len(result.unheard) == 3
        rng = np.random.default_rng(7)
        for _ in range(4):
            for robot in (0, 2):
                rig.send(robot, rig.draw(rng))
            commands.append(rig.step().commands)
    cold, warm = np.array(commands).reshape(2, -1)
    np.testing.assert_array_equal(warm, cold)


def drive(rig: Rig, rng: np.random.Generator) -> None:
    """Run three ticks with readings of every robot and compare the commands."""
    for _ in range(3):
        fleet = [rig.draw(rng) for _ in range(len(rig.stacks))]
        for robot, readings in enumerate(fleet):
            rig.send(robot, readings)
        rig.assert_expected(rig.step(), fleet)


def two_rigs(folder: Path, **differences: Any) -> tuple[Rig, Rig]:
    """Return a rig, and another one with another policy, and optionally another kind of space."""
    folders = [folder / name for name in ("old", "new")]
    for each in folders:
        each.mkdir()
    return Rig(folders[0], FRAMES["vector"], stack=4), Rig(folders[1], FRAMES["vector"], stack=4, **differences)


@pytest.mark.parametrize("is_dict", [False, True])
def test_a_new_policy_keeps_stacks_of_the_same_layout(tmp_path, is_dict):
    old, new = two_rigs(tmp_path, is_dict=is_dict)
    rng = np.random.default_rng(5)
    drive(old, rng)
    new.pipeline.warm_up()
    old.pipeline.adopt(new.pipeline)
    old.model, old.is_dict = new.model, is_dict
    if is_dict:
        # Its observation has a name, the old one's had none: another layout, so that the episode begins.
        old.running = [False] * len(old.stacks)
    drive(old, rng)


def test_the_memory_of_a_new_policy_restarts(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], robots=2)
    env = SpacesOnly(TOUCH, DRIVE)
    kwargs = {"lstm_hidden_size": 8, "net_arch": [8]}
    model = RecurrentPPO("MlpLstmPolicy", env, n_steps=2, batch_size=2, policy_kwargs=kwargs, device="cpu")
    model.save(tmp_path / "recurrent.zip")
    rng = np.random.default_rng(6)
    drive(rig, rng)
    rig.policy = load_trusted(tmp_path / "recurrent.zip")
    recurrent = rig.new_pipeline()
    recurrent.warm_up()
    rig.pipeline.adopt(recurrent)
    state = None
    for tick in range(4):
        fleet = [rig.draw(rng) for _ in range(2)]
        for robot, readings in enumerate(fleet):
            rig.send(robot, readings)
        rows = np.stack([readings["touch"] for readings in fleet])
        expected, state = model.predict(rows, state, np.full(2, tick == 0), deterministic=True)
        np.testing.assert_allclose(rig.step().commands, expected, rtol=0.0, atol=1e-5)


def test_readings_are_decoded_for_the_new_policy(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], stack=4)
    rng = np.random.default_rng(7)
    drive(rig, rng)

    def refuse(message, row):
        raise UnusableReading("out of its bounds")

    layouts = match_observations(rig.configuration, rig.policy)
    rig.pipeline.adopt(Pipeline(rig.configuration, rig.policy, layouts, dict.fromkeys(rig.frames, refuse)))
    for robot in range(3):
        rig.send(robot, rig.draw(rng))
    result = rig.step()
    assert result.reasons == ("touch: out of its bounds",) * 3
    assert result.rejected.tolist() == [1] * 3


def test_a_new_policy_with_other_commands_is_refused_and_changes_nothing(tmp_path):
    old, new = two_rigs(tmp_path, action_space=spaces.Box(-1.0, 1.0, (3,), np.float32), action=WITHOUT_FIELDS)
    rng = np.random.default_rng(5)
    drive(old, rng)
    with pytest.raises(
        ConfigurationError, match=r"new policy's commands have 3 components, those of the current one 2"
    ):
        old.pipeline.adopt(new.pipeline)
    drive(old, rng)


def test_unheard_names_the_sensors_that_were_never_heard(tmp_path):
    rig = Rig(tmp_path, FRAMES["image and vector"])
    assert rig.step().unheard == {f"robot_{index}": ["camera", "touch"] for index in range(3)}
    readings = rig.draw(np.random.default_rng(0))
    rig.send(0, readings)
    rig.send(2, readings, "half")
    result = rig.step()
    assert result.unheard == {"robot_1": ["camera", "touch"], "robot_2": ["touch"]}
    assert result.states == (READY, WAITING, WAITING)
    assert result.reasons == ("", "no message on camera, touch", "no message on touch")
    # A sensor counts as heard after any message, even an unusable one.
    rig.send(1, readings, "damaged")
    rig.send(2, readings)
    assert rig.step().unheard == {}


def test_the_silence_of_a_sensor_is_a_reading_of_zeros_while_its_publisher_is_there(tmp_path):
    rig = Rig(tmp_path, FRAMES["image and vector"], stack=2, observation={"touch": {"when_silent": "zeros"}})
    rng = np.random.default_rng(1)
    assert rig.pipeline.keys == ("camera", "touch")
    for robot in (0, 1):
        rig.pipeline.set_present(robot, 1, True)
    assert rig.step().unheard["robot_0"] == ["camera"]
    zeros = np.zeros(TOUCH.shape, TOUCH.dtype)
    for tick in range(6):
        fleet = [rig.draw(rng) for _ in range(3)]
        silent = [(robot + tick) % 2 == 0 for robot in range(3)]
        for robot, readings in enumerate(fleet):
            rig.add(robot, "camera", readings["camera"])
            if silent[robot]:
                readings["touch"] = zeros
            else:
                rig.add(robot, "touch", readings["touch"])
        result = rig.step()
        # The third robot's sensor has no publisher.
        assert result.states == (READY, READY, WAITING if silent[2] else READY)
        rig.assert_expected(result, fleet)
        for robot in range(2):
            camera, touch = result.samples[robot]
            assert camera.message is fleet[robot]["camera"]
            assert touch.message is (None if silent[robot] else fleet[robot]["touch"])
        assert (result.samples[2] == ()) == silent[2]
    rig.pipeline.set_present(0, 1, False)
    rig.add(0, "camera", rig.draw(rng)["camera"])
    assert rig.step().states[0] is WAITING


def test_the_samples_of_a_tick_are_the_inputs_of_the_policy(tmp_path, failing):
    rig = failing_rig(tmp_path)
    rng = np.random.default_rng(1)
    fleet = [rig.draw(rng)["touch"] for _ in range(3)]
    for robot in (0, 2):
        rig.add(robot, "touch", fleet[robot])
    result = rig.step()
    assert [tuple(sample.message is fleet[robot] for sample in result.samples[robot]) for robot in range(3)] == [
        (True,),
        (),
        (True,),
    ]
    assert result.positions == (None, None, None)
    for robot in (0, 2):
        rig.add(robot, "touch", fleet[robot])
    failing("raise")
    result = rig.step()
    assert result.states[0] is FAULT and result.samples[0][0].message is fleet[0]


def test_ages_are_those_of_the_oldest_reading(tmp_path):
    rig = Rig(tmp_path, FRAMES["image and vector"])
    readings = rig.draw(np.random.default_rng(0))
    rig.add(0, "camera", readings["camera"], age_ns=25_000_000)
    rig.add(0, "touch", readings["touch"], age_ns=LATENCY_NS)
    rig.send(1, readings, "old")
    result = rig.step()
    assert result.states == (READY, STALE, WAITING)
    np.testing.assert_array_equal(result.ages_s, [0.025, 0.045, np.nan])
    assert list(result.stages_s) == ["select", "stage", "infer", "guard"]


def test_an_unusable_message_is_counted_once(tmp_path):
    rig = Rig(tmp_path, FRAMES["image and vector"], robots=2)
    readings = rig.draw(np.random.default_rng(0))
    rig.send(0, readings, "damaged")
    rig.send(1, readings)
    for _ in range(3):
        result = rig.pipeline.step(rig.now_ns + PERIOD_NS)
        assert result.states == (REJECTED, READY)
        assert result.reasons[0] == "touch: found float32 [4]"
        assert result.rejected.tolist() == [1, 0]
    rig.step()
    rig.send(0, readings, "crash")
    result = rig.step()
    assert result.reasons[0] == "touch: ZeroDivisionError: in the decoder"
    assert result.rejected.tolist() == [2, 0]


def test_a_deep_queue_of_a_fast_sensor_reaches_back_to_a_slow_image(tmp_path):
    """A 1 kHz sensor with an image that takes 30 ms: the queue must still hold readings of the image's time."""
    rig = Rig(tmp_path, FRAMES["image and vector"], robots=1, observation={"touch": {"depth": 50}})
    readings = rig.draw(np.random.default_rng(0))
    rig.add(0, "camera", readings["camera"], age_ns=30_000_000)
    for age_ms in range(50, 0, -1):
        touch = readings["touch"] if age_ms == 30 else np.zeros(5, np.float32)
        rig.add(0, "touch", touch, age_ns=age_ms * 1_000_000)
    result = rig.step()
    assert result.states == (READY,), result.reasons
    rig.assert_expected(result, [readings])


@pytest.mark.parametrize("name", ["observation", "touch"])
def test_a_plain_space_takes_one_sensor_of_any_name(tmp_path, name):
    rig = Rig(tmp_path, FRAMES["vector"])
    layouts = match_observations(renamed(rig, {"touch": (name,)}), rig.policy)
    assert list(layouts) == [name]
    assert layouts[name].key == "observation"


def test_a_plain_space_is_shown_beside_its_sensor(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], stack=2)
    heading, row = side_by_side(renamed(rig, {"touch": ("bump",)}, stack=2), rig.policy).splitlines()
    assert heading.split() == ["key", "policy", "wants", "configured", "sensor"]
    assert row.split() == [
        "bump",
        *str(rig.policy.spec.observations["observation"]).split(),
        *f"{TYPES['touch']} on touch, stack 2".split(),
    ]


def test_a_dict_space_of_one_key_works(tmp_path):
    rig = Rig(tmp_path, FRAMES["image"], is_dict=True)
    fleet = [rig.draw(np.random.default_rng(robot)) for robot in range(3)]
    for robot in range(3):
        rig.send(robot, fleet[robot])
    rig.assert_expected(rig.step(), fleet)


@pytest.mark.parametrize(
    ("frames", "names", "stack", "problems"),
    [
        ("vector", {"touch": ("a", "b")}, 1, ["found ['a', 'b'], but the policy has one observation; keep one of"]),
        ("image and vector", {"touch": ("bump",)}, 1, ["'bump' is not in the policy's", "'touch' is missing"]),
        ("image and vector", {"touch": ()}, 1, ["'touch' is missing, the policy needs it"]),
        ("image and vector", {}, 7, ["camera.stack: found 7", "touch.stack: found 7"]),
    ],
)
def test_spaces_that_do_not_match_are_shown_side_by_side(tmp_path, frames, names, stack, problems):
    rig = Rig(tmp_path, FRAMES[frames], robots=1)
    configuration = renamed(rig, names, stack)
    with pytest.raises(ConfigurationError) as error:
        match_observations(configuration, rig.policy)
    text = str(error.value)
    assert all(problem in text for problem in problems)
    for spec in rig.policy.spec.observations.values():
        assert str(spec) in text
    for observation in configuration.observations:
        assert f"{observation.type} on {observation.topic}" in text


VECTOR_TOPIC = {"topic": "touch", "type": "sensor_msgs/msg/JointState"}
IMAGE_TOPIC = {"topic": "camera", "type": "sensor_msgs/msg/Image"}


def interface_of(policy: dict[str, Any], **observations: dict[str, Any]) -> PolicyInterface | None:
    """Return the interface of a policy whose configuration has these entries beside the required ones."""
    return policy_interface(
        parse_configuration(
            {
                "control_rate_hz": 20.0,
                "robots": ["robot"],
                "policy": policy,
                "observations": {"keys": list(observations), **observations},
                "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x"]},
            }
        )
    )


def test_a_configuration_without_policy_inputs_has_no_interface():
    assert interface_of({"path": "policy.pt"}, touch=VECTOR_TOPIC, camera=IMAGE_TOPIC) is None


@pytest.mark.parametrize(
    ("encoding", "dtype"), [("", "uint8"), ("bgr8", "uint8"), ("16UC1", "uint16"), ("32FC1", "float32")]
)
def test_an_interface_has_images_of_the_configured_encoding(encoding: str, dtype: str) -> None:
    interface = interface_of({"path": "policy.pt"}, camera={**IMAGE_TOPIC, "encoding": encoding, "shape": [8, 8, 1]})
    assert interface is not None and dict(interface.dtypes) == {"observation": dtype}


def test_an_interface_holds_the_configured_inputs_and_outputs():
    policy = {
        "path": "policy.onnx",
        "memory": ["h_in=h_out", "c_in=c_out:1,-1,64"],
        "mask": "valid",
        "padding": "end",
        "action": "mean",
        "low": [-1.0],
        "high": [1.0, 2.0],
        "activation": "elu",
        "output_activation": "tanh",
    }
    found = interface_of(policy, touch={**VECTOR_TOPIC, "input": "obs", "history": 8}, camera=IMAGE_TOPIC)
    assert found == PolicyInterface(
        inputs={"touch": "obs"},
        memory=(("h_in", "h_out"), ("c_in", "c_out")),
        mask="valid",
        padding="end",
        action="mean",
        low=-1.0,
        high=(1.0, 2.0),
        activation="elu",
        output_activation="tanh",
        history={"touch": 8},
        shapes={"c_in": (1, -1, 64)},
        dtypes={"camera": "uint8"},
    )


@pytest.mark.parametrize(("path", "file_format"), [("a.pt", "auto"), ("a.pt2", "auto"), ("a.bin", "torchscript")])
def test_inputs_known_by_their_order_are_all_named(path, file_format):
    policy = {"path": path, "format": file_format, "discrete": 3}
    found = interface_of(policy, touch={**VECTOR_TOPIC, "shape": [5]}, camera={**IMAGE_TOPIC, "input": "pixels"})
    assert found is not None
    assert list(found.inputs.items()) == [("touch", "touch"), ("camera", "pixels")]
    assert (found.discrete, found.shapes) == (3, {"touch": (5,)})


@pytest.mark.parametrize("path", ["a.onnx", "a.pt"])
def test_the_only_observation_has_any_name(path):
    found = interface_of({"path": path}, touch={**VECTOR_TOPIC, "history": 3})
    assert found is not None
    assert found.history == {"observation": 3}
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_an_invalid_memory_is_reported():
    with pytest.raises(PolicyError, match=r"policy.memory: the memory 'h' is not written as input=output"):
        interface_of({"path": "a.onnx", "memory": ["h"]}, touch=VECTOR_TOPIC)


def renamed(rig: Rig, names: dict[str, tuple[str, ...]], stack: int = 1) -> Configuration:
    """Return the rig's configuration with sensors renamed, doubled or removed."""
    observations = [
        replace(observation, key=name, stack=stack)
        for observation in rig.configuration.observations
        for name in names.get(observation.key, (observation.key,))
    ]
    return replace(rig.configuration, observations=tuple(observations))
