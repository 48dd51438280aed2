# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Robots behind topics as an environment: simulated rovers in a process of their own, over DDS."""

import itertools
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from geometry_msgs.msg import Twist
from gymnasium import spaces
from node_harness import PATIENCE_S, Peer, command_values
from rclpy.qos import ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from rover_simulation import SIGNALS, arena_reward, pressed, rover_env, rover_parameters, rover_sim
from sensor_msgs.msg import JointState
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from policy_node.config.schema import ConfigurationError
from policy_node.learning import ros_vec_env as environment
from policy_node.learning.ros_vec_env import RosVecEnv, Step
from policy_node_rover.mujoco.environment import action_space, observation_space
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv

ROVERS = 4
SPACES = {"observation_space": observation_space(), "action_space": action_space()}


@pytest.fixture
def lockstep() -> Iterator[None]:
    """Keep four rovers in lockstep; they end with the test, as others are about topics that nobody publishes."""
    with rover_sim("--lockstep", "--robots", str(ROVERS), "--seed", "3"):
        yield


@pytest.fixture
def make_env() -> Iterator[Callable[..., RosVecEnv]]:
    """Return `rover_env` for the rovers' own spaces; the environments are closed with the test."""
    made: list[RosVecEnv] = []

    def make(robots: int = ROVERS, parameters: dict[str, Any] | None = None, **options: Any) -> RosVecEnv:
        made.append(rover_env(rover_parameters(robots, **(parameters or {})), **{**SPACES, **options}))
        return made[-1]

    yield make
    for env in made:
        env.close()


def drive(env: Any, steps: int, seed: int = 1) -> list[tuple[Any, ...]]:
    """Drive randomly, each action held for a while, and return everything that the environment gave, as arrays."""
    rng = np.random.default_rng(seed)
    given: list[tuple[Any, ...]] = [(arrays(env.reset()), None, None, None)]
    actions = np.zeros((ROVERS, 2), np.float32)
    for step in range(steps):
        if step % 10 == 0:
            actions = rng.uniform(env.action_space.low, env.action_space.high, actions.shape).astype(np.float32)
        observations, rewards, dones, infos = env.step(actions)
        given.append((arrays(observations), rewards, dones, infos))
    return given


def arrays(observations: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.copy(torch.as_tensor(rows).numpy()) for key, rows in observations.items()}


@pytest.mark.both_distributions
def test_steps_over_dds_equal_those_in_process(
    lockstep: None, make_env: Callable[..., RosVecEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image, touch, reward, end and next beginning are those of the arena in the process itself."""
    # Episodes end often enough for several resets of single rovers: by time, and one step apart.
    monkeypatch.setattr("policy_node_rover.mujoco.environment.EPISODE_STEPS", 25)
    arenas = RoverArenaVecEnv(ROVERS, itertools.count(7))
    in_process = drive(arenas, 60)
    over_dds = drive(make_env(max_steps=25), 60)
    moved = False
    for step, (found, wanted) in enumerate(zip(over_dds, in_process, strict=True)):
        for key in ("image", "touch"):
            assert np.array_equal(found[0][key], wanted[0][key]), f"{key} at step {step}"
        moved |= not np.array_equal(found[0]["image"], over_dds[0][0]["image"])
        if step:
            assert np.array_equal(found[1], wanted[1]), f"rewards at step {step}"
            assert np.array_equal(found[2], wanted[2]), f"ends at step {step}"
            for row in np.flatnonzero(found[2]):
                last, wanted_last = (infos[row]["terminal_observation"] for infos in (found[3], wanted[3]))
                assert np.array_equal(last["image"].numpy(), wanted_last["image"])
    assert moved
    assert sum(int(given[2].sum()) for given in over_dds[1:]) >= 2 * ROVERS
    arenas.close()


@pytest.mark.slow
def test_two_drives_with_one_seed_are_equal(lockstep: None, make_env: Callable[..., RosVecEnv]) -> None:
    def drives() -> list[tuple[Any, ...]]:
        env = make_env(episode_seeds=None)
        env.seed(11)
        given = drive(env, 30)
        env.close()
        return given

    for first, second in zip(drives(), drives(), strict=True):
        assert all(np.array_equal(first[0][key], second[0][key]) for key in first[0])
        assert np.array_equal(first[1], second[1])


def test_the_vec_env_contract_is_kept(lockstep: None, make_env: Callable[..., RosVecEnv]) -> None:
    env = make_env(max_steps=4)
    assert env.num_envs == ROVERS
    assert env.get_attr("render_mode") == [None] * ROVERS
    assert env.env_is_wrapped(PPO) == [False] * ROVERS  # type: ignore[arg-type]
    assert env.seed(5) == [5, 6, 7, 8]
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(np.zeros((ROVERS, 2), np.float32))
    observations = env.reset()

    def check(shown: Any, rows: int | None) -> None:
        assert list(shown) == list(env.observation_space.spaces)  # type: ignore[attr-defined]
        for key, space in env.observation_space.spaces.items():  # type: ignore[attr-defined]
            assert isinstance(shown[key], torch.Tensor)
            for row in shown[key].numpy() if rows else [shown[key].numpy()]:
                assert space.contains(row)
            assert rows is None or len(shown[key]) == rows

    check(observations, ROVERS)
    with pytest.raises(ValueError, match=r"found \[4\], but Box"):
        env.step(np.zeros(ROVERS, np.float32))
    kept, before = observations, arrays(observations)
    for step in range(1, 9):
        actions = np.stack([env.action_space.sample() for _ in range(ROVERS)])
        observations, rewards, dones, infos = env.step(actions)
        check(observations, ROVERS)
        assert rewards.shape == dones.shape == (ROVERS,)
        assert rewards.dtype == np.float32
        assert dones.dtype == bool
        assert len(infos) == ROVERS
        assert dones.all() == (step % 4 == 0)
        for info, done in zip(infos, dones, strict=True):
            assert ("terminal_observation" in info) is bool(done)
            assert info["TimeLimit.truncated"] is bool(done)
            assert info["state"] == "READY"
            if done:
                check(info["terminal_observation"], None)
                assert info["episode"]["l"] == 4
        if dones.all():
            assert not any(
                torch.equal(info["terminal_observation"]["image"], image)
                for info, image in zip(infos, observations["image"], strict=True)
            ), "the next episode has begun"
    # What was shown stays as it was, whatever comes later.
    assert np.array_equal(kept["image"].numpy(), before["image"])
    env.close()
    env.close()


# Its buffers make arrays of tensors, of which NumPy 2 says that PyTorch will have to learn more.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_ppo_learns_unmodified(lockstep: None, make_env: Callable[..., RosVecEnv]) -> None:
    env = make_env(max_steps=10)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=1, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(2 * 16 * ROVERS)
    assert model.num_timesteps == 2 * 16 * ROVERS
    assert any(not torch.equal(*pair) for pair in zip(before, model.policy.parameters(), strict=True))
    assert model.ep_info_buffer, "episodes that ended are known to the learner"
    mean, _ = evaluate_policy(model, env, n_eval_episodes=ROVERS, warn=False)
    assert np.isfinite(mean)


def test_a_plain_space_and_a_service_that_resets(lockstep: None, make_env: Callable[..., RosVecEnv]) -> None:
    """A plain Box gives arrays, as Stable-Baselines3 takes no other, stacked here as the configuration says."""
    touch = observation_space()["touch"]
    stacked = type(touch)(0.0, float(touch.high.max()), (24,), np.float32)  # type: ignore[attr-defined]
    parameters = rover_parameters(ROVERS, observations__touch__stack=3)
    parameters = {name: value for name, value in parameters.items() if not name.startswith("observations.image")}
    env = RosVecEnv(
        {**parameters, "observations.keys": ["touch"]},
        arena_reward,
        pressed,
        observation_space=stacked,
        action_space=action_space(),
        signals=SIGNALS,
        reset={"service": "reset", "type": "std_srvs/srv/Trigger"},
        max_steps=5,
        lockstep=True,
    )
    try:
        # The simulation waits until everything is observed, also what this policy leaves out.
        images = [
            env.node.create_subscription(_image(), f"rover_{robot}/camera/image_raw", lambda _: None, 1)
            for robot in range(ROVERS)
        ]
        assert images
        env.seed(5)
        assert isinstance(env.reset(), np.ndarray)
        assert env.running_seeds == [-1] * ROVERS, "an empty request carries no seed"
        rng = np.random.default_rng(2)
        ends = 0
        for _ in range(12):
            observations, _, dones, infos = env.step(rng.uniform(-0.3, 0.6, (ROVERS, 2)).astype(np.float32))
            assert isinstance(observations, np.ndarray)
            assert observations.shape == (ROVERS, 24)
            ends += int(dones.sum())
            for row in np.flatnonzero(dones):
                assert infos[row]["terminal_observation"].shape == (24,)
                assert not observations[row, :16].any(), "a stack begins anew with its episode"
        assert ends >= 2 * ROVERS
    finally:
        env.close()


def _image() -> type:
    from sensor_msgs.msg import Image

    return Image


def test_in_lockstep_everything_is_subscribed_reliably(make_env: Callable[..., RosVecEnv]) -> None:
    """Also what says otherwise, and terms: readings that are lost or come after the clock would go unnoticed."""
    terms = {"topic": "touch", "type": "sensor_msgs/msg/JointState", "field": "effort"}
    parameters = rover_parameters(1, observations__image__reliability="best_effort")
    parameters = {name: value for name, value in parameters.items() if not name.startswith("observations.touch")}
    parameters |= {"observations.touch.terms": ["cells"]}
    parameters |= {f"observations.touch.cells.{name}": value for name, value in terms.items()}
    env = RosVecEnv(
        parameters,
        arena_reward,
        **SPACES,
        signals={"presses": {"topic": "presses", "type": "std_msgs/msg/Int32"}},
        lockstep=True,
    )
    try:
        for topic in ("camera/image_raw", "touch", "presses"):
            (subscription,) = env.node.get_subscriptions_info_by_topic(f"/rover_0/{topic}")
            assert subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
    finally:
        env.close()


@pytest.mark.slow
def test_the_program_of_the_documentation_runs(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "doc" / "ros_environment.md").read_text()
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "lockstep=True" in block)
    with rover_sim("--lockstep", "--robots", "1"):
        exec(program, {})
    assert "'state': 'READY'" in capsys.readouterr().out


def test_missing_data_and_a_missing_step_truncate_episodes_safely(
    peer: Peer, capfd: pytest.CaptureFixture[str]
) -> None:
    """In real time: a silent robot is waited for, and one whose learner computes gets its safe command."""
    commands: list[Twist] = []
    peer.node.create_subscription(Twist, "rover_0/cmd_vel", commands.append, 100)
    with rover_sim("--robots", "1", "--seed", "3") as simulation:
        steps: list[Step] = []

        def reward(step: Step) -> np.ndarray:
            steps.append(step)
            return np.ones(1)

        env = RosVecEnv(
            {**rover_parameters(1), **{f"observations.{key}.reliability": "best_effort" for key in ("image", "touch")}},
            reward,
            **SPACES,
            reset={"service": "reset", "type": "std_srvs/srv/Trigger"},
        )
        try:
            env.reset()
            action = np.array([[0.1, 0.5]], np.float32)
            while env.step(action)[2].any():
                pass
            # The simulation is silent for a second, which is longer than readings may be old.
            simulation.send_signal(signal.SIGSTOP)
            threading.Timer(1.0, simulation.send_signal, [signal.SIGCONT]).start()
            infos: list[dict[str, Any]] = [{"state": "READY"}]
            while infos[0]["state"] == "READY":
                _, rewards, dones, infos = env.step(action)
            assert infos[0]["state"] == "STALE"
            assert "old" in infos[0]["reason"]
            assert dones[0]
            assert infos[0]["TimeLimit.truncated"]
            assert rewards[0] == 0.0
            last = infos[0]["terminal_observation"]
            assert torch.equal(last["image"], steps[-1].previous_observations["image"][0])

            # Nobody steps: the watchdog makes the robot safe.
            env.step(2.0 * action)

            def made_safe() -> bool:
                sent = [tuple(command_values(command)) for command in commands]
                driven = tuple(2.0 * action[0].astype(np.float64))
                return driven in sent and sent[-1] == (0.0, 0.0)

            peer.spin_until(made_safe, "safe commands by the watchdog")
            _, _, dones, infos = env.step(action)
            assert dones[0], "the action was not what the robot did"
            assert infos[0]["state"] != "READY"
            env.step(action)
            env.close()
            peer.spin_until(lambda: not command_values(commands[-1]).any(), "the safe command at the end")
            assert capfd.readouterr().err.count("step was not called for") == 1
        finally:
            env.close()


def test_actions_beyond_the_space_are_clipped_and_those_that_are_not_finite_stop_their_robot(
    peer: Peer, make_env: Callable[..., RosVecEnv]
) -> None:
    commands: list[list[np.ndarray]] = [[], []]
    for robot in range(2):
        topic = f"rover_{robot}/cmd_vel"
        peer.node.create_subscription(
            Twist, topic, lambda command, robot=robot: commands[robot].append(command_values(command)), 100
        )
    steps: list[Step] = []

    def reward(step: Step) -> np.ndarray:
        steps.append(step)
        return np.zeros(2)

    with rover_sim("--lockstep", "--robots", "2"):
        env = make_env(2)
        env._reward = reward
        env.reset()
        env.step(np.full((2, 2), 5.0))
        bounds = env.action_space.high  # type: ignore[attr-defined]
        assert np.array_equal(steps[-1].actions, [bounds, bounds]), "rewards see what was commanded"
        peer.spin_until(lambda: all(sent and sent[-1].any() for sent in commands), "commands of both rovers")
        assert all(np.array_equal(sent[-1], bounds.astype(np.float64)) for sent in commands)
        _, _, dones, infos = env.step(np.array([[np.inf, 0.0], [0.1, 0.2]]))
        assert dones.tolist() == [True, False]
        assert infos[0]["state"] == "FAULT", infos[0]
        peer.spin_until(lambda: not commands[0][-1].any(), "the safe command")


def test_choices_must_be_whole_numbers() -> None:
    env = RosVecEnv(
        rover_parameters(1, action__table=[0.0, 0.0, 0.5, 0.0]),
        arena_reward,
        observation_space=observation_space(),
        action_space=spaces.Discrete(2),
    )
    try:
        assert env._commandable(np.array([1.0])).tolist() == [1]
        for wrong in (0.5, np.nan):
            with pytest.raises(ValueError, match=r"actions: found .*, but Discrete\(2\) takes whole numbers"):
                env._commandable(np.array([wrong]))
    finally:
        env.close()


def test_lockstep_goes_on_without_a_reset_of_the_robots_until_it_is_closed(make_env: Callable[..., RosVecEnv]) -> None:
    with rover_sim("--lockstep", "--robots", "1"):
        env = make_env(1, reset={}, max_steps=3)
        before = arrays(env.reset())
        ends = []
        for _ in range(6):
            observations, _, dones, infos = env.step(np.array([[0.3, 0.5]], np.float32))
            assert infos[0]["state"] == "READY"
            ends.append(bool(dones[0]))
        assert ends == [False, False, True] * 2
        assert not np.array_equal(before["image"], arrays(observations)["image"]), "it drives"
        env.reset()
        env.close()
        for use in (env.reset, lambda: env.step(np.zeros((1, 2), np.float32))):
            with pytest.raises(RuntimeError, match="the environment is closed"):
                use()


def test_a_wait_ends_when_another_thread_closes_the_environment(make_env: Callable[..., RosVecEnv]) -> None:
    env = make_env(1, lockstep=False)
    threading.Timer(0.3, env.close).start()
    with pytest.raises(RuntimeError, match="the environment is closed"):
        env.reset()


def test_a_simulation_that_ends_in_lockstep_is_named(
    make_env: Callable[..., RosVecEnv], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While it is gone in the log, and in the info of the step that it interrupted."""
    monkeypatch.setattr(environment, "LOG_PERIOD_S", 0.2)
    action = np.array([[0.1, 0.5]], np.float32)
    with rover_sim("--lockstep", "--robots", "1"):
        env = make_env(1)
        env.reset()
        env.step(action)
    text = capfd.readouterr().err
    env.step_async(action)
    steps: list[Any] = []
    stepping = threading.Thread(target=lambda: steps.append(env.step_wait()), daemon=True)
    stepping.start()
    found = ("/clock stands still at", "/clock has no publisher any more", "no publisher on /rover_0/camera/image_raw")
    until_s = time.monotonic() + PATIENCE_S
    while not all(part in text for part in found):
        assert time.monotonic() < until_s, text
        time.sleep(0.1)
        text += capfd.readouterr().err
    with rover_sim("--lockstep", "--robots", "1"):
        stepping.join(PATIENCE_S)
        _, _, dones, infos = steps[0]
    assert dones[0] and infos[0]["TimeLimit.truncated"]
    assert infos[0]["state"] == "STALE"
    assert infos[0]["reason"].startswith("interrupted: /clock stands still at 0.")


def test_a_parameter_file_is_read_as_the_node_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "rovers.yaml"
    section = {**rover_parameters(1), "synchronisation.slop_s": 0.03}
    text = yaml.safe_dump({"/other_node": {"ros__parameters": {"speed": 1}}, "/**": {"ros__parameters": section}})
    file.write_text(text.replace("slop_s: 0.03", "slop_s: 3e-2"))
    env = RosVecEnv(file, arena_reward, **SPACES)
    env.close()
    assert env.configuration.robots == ("rover_0",) and env.configuration.synchronisation.slop_s == 0.03
    with pytest.raises(ConfigurationError, match=r"use_sim_time: found 'yes'"):
        RosVecEnv({**section, "use_sim_time": "yes"}, arena_reward, **SPACES)


class Said(Exception):  # noqa: N818  what ends the wait of the environment
    pass


class Listener:
    """Takes the place of the environment's logger and ends its wait when it warns of what is looked for."""

    def __init__(self, *wanted: str) -> None:
        self._wanted = wanted
        self._until_s = time.monotonic() + PATIENCE_S
        self._heard: list[str] = []

    def info(self, text: str) -> None:
        self._heard.append(text)
        assert time.monotonic() < self._until_s, self._heard

    def warning(self, text: str) -> None:
        if all(wanted in text for wanted in self._wanted):
            raise Said
        self.info(text)


@pytest.fixture
def waits_saying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what resets an environment that waits, until it warns of all texts given."""
    monkeypatch.setattr(environment, "LOG_PERIOD_S", 0.2)

    def wait(env: RosVecEnv, *wanted: str) -> None:
        monkeypatch.setattr(env, "_logger", Listener(*wanted))
        with pytest.raises(Said):
            env.reset()

    return wait


def test_missing_publishers_and_an_unused_clock_are_named(
    peer: Peer, make_env: Callable[..., RosVecEnv], waits_saying: Callable[..., None]
) -> None:
    env = make_env(1, lockstep=False)
    waits_saying(env, "no publisher on /rover_0/camera/image_raw", "no publisher on /rover_0/presses")
    peer.node.create_publisher(Clock, "/clock", 1)
    waits_saying(env, "/clock has a publisher, but", "lockstep=True", "use_sim_time=True")


@pytest.mark.parametrize(
    ("reset", "missing"),
    [
        ({"service": "restart", "type": "std_srvs/srv/Trigger"}, "no server of rover_0/restart"),
        pytest.param(
            {"topic": "restart", "type": "std_msgs/msg/Empty"},
            "no subscriber of /rover_0/restart",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_a_reset_waits_for_is_named(
    reset: dict[str, Any],
    missing: str,
    make_env: Callable[..., RosVecEnv],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(environment, "LOG_PERIOD_S", 0.2)

    def wait() -> None:
        with pytest.raises(RuntimeError, match="closed"):
            env.reset()
        ended.append(True)

    ended: list[bool] = []
    with rover_sim("--lockstep", "--robots", "1"):
        env = make_env(1, reset=reset)
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        text, until_s = "", time.monotonic() + PATIENCE_S
        while f"waiting: rover_0 was not reset yet: {missing}" not in text:
            assert time.monotonic() < until_s, text
            time.sleep(0.1)
            text += capfd.readouterr().err
        env.close()
        waiting.join(PATIENCE_S)
    assert ended


def test_unusable_readings_are_a_warning(
    peer: Peer, make_env: Callable[..., RosVecEnv], waits_saying: Callable[..., None]
) -> None:
    images = peer.node.create_publisher(_image(), "/rover_0/camera/image_raw", 1)
    touches = peer.node.create_publisher(JointState, "/rover_0/touch", 1)
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.02):
            stamp = peer.node.get_clock().now().to_msg()
            image = _image()(height=64, width=64, encoding="rgb8", step=192, data=bytes(192 * 64))
            for publisher, message in ((images, image), (touches, JointState(effort=[0.0] * 3))):
                message.header.stamp = stamp
                publisher.publish(message)

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        env = make_env(1, {"synchronisation.max_age_s": 5.0}, lockstep=False)
        waits_saying(env, "rover_0 is REJECTED: touch")
    finally:
        ended.set()
        publishing.join()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_space": None}, "one is given without the other"),
        ({"observation_space": None, "action_space": None}, "policy.path: missing"),
        ({"signals": {"presses": {"topic": "presses"}}}, "signals.presses.type: missing"),
        (
            {"signals": {"beacon": {"topic": "b", "type": "std_msgs/msg/Float64MultiArray"}}},
            "give their number as `size`",
        ),
        ({"reset": {"service": "reset"}}, "reset: found"),
        ({"reset": {"topic": "reset", "type": "std_msgs/msg/Empty", "seeded": True}}, "no field `data`"),
        ({"reset": {"service": "reset", "type": "std_msgs/msg/Empty"}}, "not the name of a service type"),
    ],
)
def test_invalid_arguments_are_named(make_env: Callable[..., RosVecEnv], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_env(**changes)
