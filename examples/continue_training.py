# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Continue the training of a policy on robots behind ROS topics: the shipped policy, on simulated rovers in lockstep.

Run ``rover_sim --lockstep --robots 4`` in one terminal and ``python examples/continue_training.py`` in another one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from policy_node.config.package_files import share_path
from policy_node.learning.ros_vec_env import RosVecEnv, Step

ROVERS = [f"rover_{robot}" for robot in range(4)]
PARAMETERS = {
    "control_rate_hz": 20.0,
    "robots": ROVERS,
    "policy": {"path": str(share_path("models", "rover.bundle")), "device": "cpu"},
    "observations": {
        "keys": ["image", "touch"],
        # Reliable: in lockstep the samples of a tick arrive before its time on /clock.
        "image": {"topic": "camera/image_raw", "type": "sensor_msgs/msg/Image", "reliability": "reliable"},
        "touch": {
            "topic": "touch",
            "type": "sensor_msgs/msg/JointState",
            "field": "effort",
            "reliability": "reliable",
        },
    },
    "synchronisation": {"slop_s": 0.03, "max_age_s": 0.2},
    "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x", "angular.z"]},
}
# Inputs of the reward, which the policy does not read.
SIGNALS = {
    "presses": {"topic": "presses", "type": "std_msgs/msg/Int32", "reliability": "reliable", "latched": True},
    # Ground truth of the simulation: distance in metres and bearing in radians.
    "beacon": {"topic": "beacon", "type": "std_msgs/msg/Float64MultiArray", "size": 2, "reliability": "reliable"},
}
EPISODE_STEPS = 400


def potential(signals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the potential of the reward, float64 [robots]: near the beacon and facing it is best."""
    distance_m, bearing_rad = signals["beacon"].T
    return 0.3 * np.cos(bearing_rad) - distance_m


def done(step: Step) -> np.ndarray:
    """Return which rovers have pressed their beacon, bool [robots]."""
    return step.signals["presses"][:, 0] > 0


def reward(step: Step) -> np.ndarray:
    """Return the progress, plus 5 for the press, minus 0.01 per step, float64 [robots]."""
    pressed = done(step)
    # A pressed beacon has moved already.
    after = np.where(pressed, 0.3, potential(step.signals))
    return after - potential(step.previous_signals) - 0.01 + 5.0 * pressed


def evaluate(model: PPO, env: RosVecEnv, episodes: int, seed: int) -> str:
    """Drive with deterministic actions; describe the number of presses and the mean reward."""
    env.seed(seed)
    observations: Any = env.reset()
    presses: list[bool] = []
    returns: list[float] = []
    while len(returns) < episodes:
        observations, _, dones, infos = env.step(model.predict(observations, deterministic=True)[0])
        for robot in np.flatnonzero(dones):
            presses.append(not infos[robot]["TimeLimit.truncated"])
            returns.append(infos[robot]["episode"]["r"])
    return f"{sum(presses)} of {len(presses)} episodes with a press, mean reward {np.mean(returns):.2f}"


def measure(env: RosVecEnv, steps: int) -> str:
    """Drive with random actions; describe the rate."""
    rng = np.random.default_rng(0)
    env.reset()
    started_s = time.monotonic()
    for _ in range(steps):
        low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
        env.step(rng.uniform(low, high, (env.num_envs, 2)).astype(np.float32))
    per_s = steps / (time.monotonic() - started_s)
    return f"{per_s:.0f} steps per second, {per_s * env.num_envs:.0f} of single rovers, with random actions"


def main() -> None:
    """Evaluate, train, evaluate and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=share_path("models", "rover.zip"))
    parser.add_argument("--steps", type=int, default=20_000, help="steps of all rovers together (default 20000)")
    parser.add_argument("--episodes", type=int, default=20, help="of each evaluation (default 20)")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("continued.zip"))
    parser.add_argument(
        "--measure", type=int, default=0, metavar="STEPS", help="only measure the rate of random actions"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    env = RosVecEnv(
        PARAMETERS,
        reward,
        done,
        signals=SIGNALS,
        reset={"topic": "reset", "type": "std_msgs/msg/Int64", "seeded": True},
        max_steps=EPISODE_STEPS,
        lockstep=True,
        # PPO stores observations in NumPy arrays.
        tensors=False,
    )
    try:
        if options.measure:
            print(measure(env, options.measure))
            return
        # Small steps, so that the untrained critic does not spoil the policy.
        changes = {"n_steps": 256, "batch_size": 256, "n_epochs": 4, "learning_rate": 5e-5, "clip_range": 0.1}
        model = PPO.load(options.model, env=env, device="cpu", custom_objects=changes)
        print("before:", evaluate(model, env, options.episodes, options.seed), flush=True)
        started_s = time.monotonic()
        model.learn(options.steps, progress_bar=True)
        print(
            f"trained with {model.num_timesteps / (time.monotonic() - started_s):.0f} steps of single rovers per second"
        )
        print("after: ", evaluate(model, env, options.episodes, options.seed), flush=True)
        model.save(options.output)
    finally:
        env.close()


if __name__ == "__main__":
    main()
