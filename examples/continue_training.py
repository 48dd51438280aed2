# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Continue the training of a policy over ROS topics: the shipped policy, on simulated rovers in lockstep.

Run ``rover_sim --lockstep --robots 4`` in one terminal and ``python examples/continue_training.py`` in another.
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
        # Reliable: in lockstep the messages of a tick must arrive before its time on /clock.
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
# Inputs of the reward that are no observations.
SIGNALS = {
    "presses": {"topic": "presses", "type": "std_msgs/msg/Int32", "reliability": "reliable", "latched": True},
    # Distance [m] and bearing [rad], known in simulation only.
    "beacon": {"topic": "beacon", "type": "std_msgs/msg/Float64MultiArray", "size": 2, "reliability": "reliable"},
}
EPISODE_STEPS = 400


def potential(signals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the potential `[robots]`, which grows when a rover approaches and faces its beacon."""
    distance_m, bearing_rad = signals["beacon"].T
    return 0.3 * np.cos(bearing_rad) - distance_m


def done(step: Step) -> np.ndarray:
    """Return whether each rover has pressed its beacon, `[robots]`."""
    return step.signals["presses"][:, 0] > 0


def reward(step: Step) -> np.ndarray:
    """Return the gain in potential, minus 0.01 for each step, plus 5 for a press, `[robots]`."""
    pressed = done(step)
    # A pressed beacon has moved already: use the potential at the press.
    after = np.where(pressed, 0.3, potential(step.signals))
    return after - potential(step.previous_signals) - 0.01 + 5.0 * pressed


def evaluate(model: PPO, env: RosVecEnv, episodes: int, seed: int) -> str:
    """Drive with deterministic actions and return the share of episodes with a press and the mean reward as text."""
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
    """Drive with random actions and return the throughput as text."""
    rng = np.random.default_rng(0)
    env.reset()
    started_s = time.monotonic()
    for _ in range(steps):
        low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
        env.step(rng.uniform(low, high, (env.num_envs, 2)).astype(np.float32))
    per_s = steps / (time.monotonic() - started_s)
    return f"{per_s:.0f} steps/s of the fleet, {per_s * env.num_envs:.0f} steps/s of single rovers, with random actions"


def main() -> None:
    """Evaluate, train, evaluate and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=share_path("models", "rover.zip"), help="policy to train")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of all rovers together (default 20000)")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of each evaluation (default 20)")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the evaluations (default 1000)")
    parser.add_argument("--output", type=Path, default=Path("continued.zip"), help="default continued.zip")
    parser.add_argument(
        "--measure", type=int, default=0, metavar="STEPS", help="measure the throughput of STEPS steps instead"
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
        # PPO stores observations as NumPy arrays.
        tensors=False,
    )
    try:
        if options.measure:
            print(measure(env, options.measure))
            return
        # Small steps, so that the policy keeps its skills until its new critic has learnt.
        changes = {"n_steps": 256, "batch_size": 256, "n_epochs": 4, "learning_rate": 5e-5, "clip_range": 0.1}
        model = PPO.load(options.model, env=env, device="cpu", custom_objects=changes)
        print("before:", evaluate(model, env, options.episodes, options.seed), flush=True)
        started_s = time.monotonic()
        model.learn(options.steps, progress_bar=True)
        print(f"trained at {model.num_timesteps / (time.monotonic() - started_s):.0f} steps/s of single rovers")
        print("after: ", evaluate(model, env, options.episodes, options.seed), flush=True)
        model.save(options.output)
    finally:
        env.close()


if __name__ == "__main__":
    main()
