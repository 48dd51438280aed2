# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write episodes as a dataset of LeRobot (v3), with LeRobot's own library in another process.

That process may use another environment: LeRobot needs Python 3.12 and its own versions of PyTorch and NumPy.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from policy_node.config.specs import ArraySpec
from policy_node.recording.dataset import lerobot_process
from policy_node.recording.dataset.episodes import DatasetDescription, Episode
from policy_node.recording.replay.bag import BagError

_STATE = "state"


class LeRobotDataset:
    """A dataset in a folder.

    Parameters
    ----------
    output
        The folder, which must not exist.
    python
        Interpreter that has LeRobot with its extra ``dataset``; empty: this one.
    state
        Key of the observation that becomes ``observation.state``; empty: the one of that name.

    Raises
    ------
    BagError
        When the folder exists, the rate is no whole number, actions are choices, the state is no observation, or
        LeRobot is missing there.
    """

    def __init__(self, output: str, description: DatasetDescription, python: str = "", state: str = "") -> None:
        self.path = self.place(output)
        rate, spec = description.rate_hz, description.spec
        if rate != round(rate):
            raise BagError(
                f"control_rate_hz is {rate:g}, but datasets of LeRobot have a whole number of steps per second"
            )
        if not isinstance(spec.action, ArraySpec):
            raise BagError(
                f"the policy's action is {spec.action}, but LeRobot's are continuous; write a Minari dataset"
            )
        if state and state not in spec.observations:
            raise BagError(f"--lerobot-state: found '{state}', but the observations are {', '.join(spec.observations)}")
        self._histories, self._task = description.histories, description.task
        # LeRobot has the text of each step beside its observations.
        frames = {key: _frame(spec, key, self._histories) for key in spec.observations if key != spec.task}
        self._names = {
            key: lerobot_process.feature_name(_STATE if key == state else key, frame) for key, frame in frames.items()
        }
        features = {self._names[key]: lerobot_process.feature_of(frame) for key, frame in frames.items()}
        features["action"] = lerobot_process.feature_of((spec.action.dtype.name, spec.action.shape))
        head = {
            "repo_id": f"local/{self.path.name}",
            "root": str(self.path),
            "fps": round(rate),
            "features": features,
        }
        self._python = python or sys.executable
        self._process = self._start()
        self._send(json.dumps(head).encode())

    @staticmethod
    def place(output: str) -> Path:
        """Return the path of a new dataset; raises BagError if it exists."""
        path = Path(output).resolve()
        if path.exists():
            raise BagError(f"--output: {path} exists already; give another folder")
        return path

    def write(self, episode: Episode) -> None:
        """Add an episode; its last observation, which no action follows, is left out."""
        steps = len(episode.actions)
        arrays = {"action": episode.actions, lerobot_process.TASK: np.array(episode.task or self._task)}
        for key, name in self._names.items():
            rows = episode.observations[key]
            frames = rows[:steps, -1] if key in self._histories else rows[:steps]
            arrays[name] = lerobot_process.channels_last(frames)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        self._send(content.getvalue())

    def close(self) -> None:
        """Wait until LeRobot has written all."""
        assert self._process.stdin is not None
        # A process that has ended takes nothing; its status tells why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait():
            raise self._failed()

    def how_to_load(self) -> list[str]:
        """Return lines that tell how to load the dataset."""
        return [f"LeRobotDataset('local/{self.path.name}', root='{self.path}')"]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [self._python, str(Path(lerobot_process.__file__).resolve())]
        try:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        except OSError as error:
            raise BagError(
                f"--lerobot-python: {self._python} cannot be run: {error.strerror}; give another one"
            ) from error

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(content).to_bytes(8, "little") + content)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise self._failed() from None

    def _failed(self) -> BagError:
        return BagError(
            f"LeRobot in {self._python} ended with status {self._process.returncode}, for the reason above; name an "
            "interpreter that has lerobot[dataset] with --lerobot-python"
        )


def _frame(spec: Any, key: str, histories: frozenset[str]) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape of one step of an observation."""
    array = spec.observations[key]
    return array.dtype.name, array.shape[1:] if key in histories else array.shape
