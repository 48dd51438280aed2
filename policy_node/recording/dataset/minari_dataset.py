# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write episodes as a dataset of Minari."""

from __future__ import annotations

import inspect
import os
import warnings
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from policy_node.policies.spaces import action_space, observation_space
from policy_node.recording.dataset.episodes import DatasetDescription, Episode
from policy_node.recording.replay.bag import BagError


class MinariDataset:
    """A dataset in the folder of Minari or in a given one.

    Raises
    ------
    BagError
        When the id is invalid, or the dataset exists.
    """

    def __init__(self, output: str, description: DatasetDescription) -> None:
        self.path = self.place(output)
        self._folder, self._id = _place_of(output)
        self._description = description
        self._single = list(description.spec.observations) == ["observation"]
        self._dataset: Any = None
        self._episodes = 0

    @staticmethod
    def place(output: str) -> Path:
        """Return the path of a new dataset, and let Minari use its folder; raises BagError, see `MinariDataset`."""
        folder, dataset_id = _place_of(output)
        if folder is not None:
            os.environ["MINARI_DATASETS_PATH"] = str(folder)
        path = minari.storage.get_dataset_path(dataset_id)
        if path.exists():
            raise BagError(f"--output: {path} exists already; give another name or version")
        return path

    def write(self, episode: Episode) -> None:
        """Add an episode."""
        steps = len(episode.actions)
        observations: Any = dict(episode.observations)
        buffer = EpisodeBuffer(
            id=self._episodes,
            observations=observations["observation"] if self._single else observations,
            actions=episode.actions,
            rewards=list(episode.rewards),
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
            infos={"time_ns": episode.times_ns, "robot": np.full(steps + 1, episode.robot, np.int64)},
        )
        if self._dataset is None:
            self._dataset = self._create(buffer)
        else:
            self._dataset.update_dataset_from_buffer([buffer])
        self._episodes += 1

    def close(self) -> None:
        """Do nothing: each episode is on the disk."""

    def how_to_load(self) -> list[str]:
        """Return lines that tell how to load the dataset."""
        lines = [f"minari.load_dataset('{self._id}')"]
        if self._folder is not None:
            lines.append(f"with MINARI_DATASETS_PATH={self._folder}")
        if not keeps_images():
            lines.append("images are stored as JPEG; Minari 0.5.4 (Python 3.11) stores them without loss")
        return lines

    def _create(self, first: EpisodeBuffer) -> Any:
        # Minari warns of a missing author and environment.
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        return minari.create_dataset_from_buffers(
            dataset_id=self._id,
            buffer=[first],
            observation_space=observation_space(self._description.spec),
            action_space=action_space(self._description.spec.action),
            algorithm_name=self._description.algorithm,
            description=self._description.text,
            **({"jpeg_encoding": False} if keeps_images() else {}),
        )


def keeps_images() -> bool:
    """Return whether images are stored without loss; Minari before 0.5.4, as on Python 3.10, stores JPEG."""
    return "jpeg_encoding" in inspect.signature(minari.create_dataset_from_buffers).parameters


def _place_of(output: str) -> tuple[Path | None, str]:
    """Split FOLDER/ID and check the id."""
    folder, _, dataset_id = output.rpartition("/")
    try:
        minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: it has no version
        raise BagError(f"--output: found '{output}', but an id is a name with a version, such as rover-v0") from error
    return (Path(folder).resolve() if folder else None), dataset_id
