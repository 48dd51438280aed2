# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of one robot, and what every kind of dataset is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from policy_node.config.specs import PolicySpec


class Episode(NamedTuple):
    """The steps of one robot.

    Attributes
    ----------
    observations
        By key, `[steps + 1, *space]`, as the policy takes them.
    actions, rewards
        `[steps, *action]` and `[steps]`.
    times_ns
        `[steps + 1]`.
    robot
        Index of the robot.
    task
        Text that said what it was to do; empty for a policy that takes none.
    """

    observations: Mapping[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    times_ns: np.ndarray
    robot: int
    task: str = ""


class DatasetDescription(NamedTuple):
    """What is known before the first episode.

    Attributes
    ----------
    spec
        Of the policy, whose observations and actions the dataset has.
    histories
        Keys of the observations whose first axis has the steps of a history.
    rate_hz
        Steps per second.
    algorithm, text
        What chose the actions, and where they come from.
    task
        What the robots do, in words, where an episode does not say it.
    """

    spec: PolicySpec
    histories: frozenset[str]
    rate_hz: float
    algorithm: str
    text: str
    task: str


class Dataset(Protocol):
    """A dataset that is written episode by episode."""

    path: Path

    def write(self, episode: Episode) -> None:
        """Add an episode."""

    def close(self) -> None:
        """Write what is left."""

    def how_to_load(self) -> list[str]:
        """Return lines that tell how to load the dataset."""
