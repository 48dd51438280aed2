# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Predict with Stable-Baselines3 itself: `python zoo_judge.py JOBS.json`.

It runs in an environment that may have gym and shimmy and does not need this package. A job names an algorithm, a
model, the file of its statistics (may be empty), a file of observations (`.npz`) and the file for the actions (`.npy`).
A text file (`.txt`) with the reason replaces actions that cannot be predicted.
"""

from __future__ import annotations

import json
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def normalised(observations: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """Return observations by key as the `VecNormalize` in `file` normalises them."""
    with open(file, "rb") as stream:
        statistics = pickle.load(stream)
    if isinstance(statistics.obs_rms, dict):
        # Version 1.0 normalised all keys and did not name them.
        statistics.__dict__.setdefault("norm_obs_keys", list(statistics.obs_rms))
        return statistics.normalize_obs(observations)
    return {key: statistics.normalize_obs(array) for key, array in observations.items()}


def predict(job: dict[str, str]) -> np.ndarray:
    """Return the actions of one job."""
    import stable_baselines3

    packages = [stable_baselines3]
    if not hasattr(stable_baselines3, job["algorithm"]):
        import sb3_contrib

        packages = [sb3_contrib]
    # Replay buffers of the size of training, and environments of another version, are not needed.
    unused: dict[str, Any] = {"buffer_size": 1, "replay_buffer_class": None, "replay_buffer_kwargs": {}}
    schedules = dict.fromkeys(("lr_schedule", "clip_range", "exploration_schedule"), lambda progress: 0.0)
    model = getattr(packages[0], job["algorithm"]).load(
        job["model"], device="cpu", custom_objects={**schedules, "learning_rate": 0.0}, **unused
    )
    observations = dict(np.load(job["observations"]))
    if job["vecnormalize"]:
        observations = normalised(observations, job["vecnormalize"])
    given = observations if model.policy.observation_space.__class__.__name__ == "Dict" else observations["observation"]
    return model.predict(given, deterministic=True)[0]


def main(file: str) -> None:
    """Run all jobs of a file."""
    warnings.simplefilter("ignore")
    for job in json.loads(Path(file).read_text()):
        target = Path(job["actions"])
        try:
            np.save(target, predict(job))
        except Exception:
            target.with_suffix(".txt").write_text(traceback.format_exc(limit=1).strip().splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1])
