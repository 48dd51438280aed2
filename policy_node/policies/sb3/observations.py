# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Prepare the observations of the environment for the networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from policy_node.config.specs import ArraySpec
from policy_node.policies.contract import PolicyError
from policy_node.policies.vecnormalize import Normaliser, Statistics


def observation_spec(key: str, space: spaces.Space, statistics: Statistics | None, path: str) -> ArraySpec:
    """Return the spec of the environment's observation of one key, as it is before `statistics` normalise it.

    Raises PolicyError if Stable-Baselines3 itself cannot use the space.
    """
    if isinstance(space, spaces.Box) and space.dtype is not None:
        if statistics is not None and _became_float(space, statistics):
            raw = np.dtype(statistics.raw_dtype or np.float32)
            low, high = (0, 255) if raw == np.uint8 else (-np.inf, np.inf)
            return ArraySpec(key, space.shape, raw, low, high)
        return ArraySpec(key, space.shape, space.dtype, space.low, space.high)
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return ArraySpec(key, (), np.int64, 0, int(space.n) - 1)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
        return ArraySpec(key, space.shape, np.int64, 0, space.nvec - 1)
    if isinstance(space, spaces.MultiBinary):
        return ArraySpec(key, space.shape, np.int8, 0, 1)
    raise PolicyError(
        f"observation '{key}' of policy file '{path}' is {space}; supported are Box, Discrete and MultiDiscrete from 0 "
        "(Stable-Baselines3 cannot use others), MultiBinary, and a Dict of these"
    )


def _became_float(space: spaces.Box, statistics: Statistics) -> bool:
    """Return whether `VecNormalize` replaced the space, as it does with images only."""
    clip = np.float32(statistics.clip)
    return (
        len(space.shape) == 3
        and space.dtype == np.float32
        and bool(np.all(space.low == -clip) and np.all(space.high == clip))
    )


class Preparation(nn.Module):
    """Converts one observation to float32 as ``preprocess_obs`` does: scaled, one-hot or unchanged.

    A category that does not exist becomes NaN, where Stable-Baselines3 raises an exception for all rows.
    """

    def __init__(self, space: spaces.Space, normalize_images: bool) -> None:
        super().__init__()
        self._divisor = 255.0 if normalize_images and is_image_space(space) else None
        counts = None
        if isinstance(space, spaces.Discrete):
            counts = torch.tensor([int(space.n)])
        elif isinstance(space, spaces.MultiDiscrete):
            counts = torch.tensor(space.nvec.tolist())
        # Observation and category of each column of the one-hot code.
        owner = choice = None
        if counts is not None:
            owner = torch.arange(len(counts)).repeat_interleave(counts)
            choice = torch.cat([torch.arange(int(count)) for count in counts])
        self.register_buffer("_owner", owner)
        self.register_buffer("_choice", choice)
        self.register_buffer("_counts", counts)

    _owner: torch.Tensor | None
    _choice: torch.Tensor | None
    _counts: torch.Tensor | None

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return `[robots, ...]` float32."""
        if self._owner is not None and self._choice is not None and self._counts is not None:
            chosen = observation.unflatten(0, (-1, 1)).flatten(1)
            known = ((chosen >= 0) & (chosen < self._counts))[:, self._owner]
            return torch.where(known, (chosen[:, self._owner] == self._choice).float(), torch.nan)
        # Always a new tensor: a features extractor may work in place, and the observations belong to the caller.
        if self._divisor is None:
            return observation.to(torch.float32, copy=True)
        return observation.float() / self._divisor


def make_normalisers(
    statistics: Mapping[str, Statistics], keyed: Mapping[str, spaces.Space], path: str
) -> dict[str, Normaliser]:
    """Pair the statistics with the observation space; raises PolicyError if they do not fit it."""
    normalisers = {}
    for key, part in statistics.items():
        space = keyed.get(key)
        if not isinstance(space, spaces.Box):
            found = f"keys are {sorted(keyed)}" if space is None else f"'{key}' is {space}"
            raise PolicyError(
                f"the VecNormalize file normalises '{key}', but of policy file '{path}' the {found}; "
                "give the VecNormalize file that was saved with this policy"
            )
        try:
            normalisers[key] = Normaliser(part, space.shape)
        except ValueError as error:
            raise PolicyError(
                f"the VecNormalize file does not fit observation '{key}' of policy file '{path}': {error}; "
                "give the VecNormalize file that was saved with this policy"
            ) from error
        if normalisers[key].steps > 1 and not np.issubdtype(space.dtype, np.floating):
            raise PolicyError(
                f"observation '{key}' of policy file '{path}' was normalised and then stacked as {space.dtype}, which "
                "cut off the normalised values in training; train with VecNormalize around VecFrameStack instead"
            )
    return normalisers


def keyed_spaces(space: Any) -> dict[str, spaces.Space]:
    """Return the observation space by key; a space that is not a Dict has the single key ``observation``."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
