# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of Stable-Baselines3's `VecNormalize`: read them without running their pickle, apply them to tensors.

The numbers are those of ``VecNormalize.normalize_obs``: computed in float64, returned as float32.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from policy_node.config.files import read_file, reason_and_remedy
from policy_node.policies.contract import PolicyError
from policy_node.policies.inert import InertUnpickler

MAX_BYTES = 2**30
# First bytes of a pickle: of protocol 2 and later, and of an object in protocols 0 and 1.
_BEGINNINGS = (b"\x80", b"c")
_PARAMETER = "policy.vecnormalize"
_REMEDY = "give the file that VecNormalize.save() wrote"
# The pickle holds objects of these packages beside the statistics; none of them is made.
_PACKAGES = ("collections", "gym", "gymnasium", "numpy", "stable_baselines3")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics that normalise one observation.

    Attributes
    ----------
    mean, deviation
        float64, of the observation's shape when it was normalised: before or after frames were stacked.
    clip
        Bound of the normalised values.
    raw_dtype
        Dtype of the last observation before it was normalised; None if there was none.
    """

    mean: np.ndarray
    deviation: np.ndarray
    clip: float
    raw_dtype: np.dtype | None


def read_vecnormalize(path: str | os.PathLike[str]) -> dict[str, Statistics]:
    """Read the statistics of a `VecNormalize` pickle without running anything that it names.

    Returns
    -------
    dict
        By key of the observation space; a plain space has the single key ``observation``. Empty if observations were
        not normalised.

    Raises
    ------
    PolicyError
        If the file cannot be read, is no such pickle or holds objects that do not belong there.
    """
    try:
        content = read_file(path, MAX_BYTES, _check_head)
    except OSError as error:
        reason = reason_and_remedy(error, _REMEDY)
        raise PolicyError(f"VecNormalize file '{path}' cannot be read: {reason}", _PARAMETER) from error
    try:
        state = InertUnpickler(content, _PACKAGES).load().state
        if not state["norm_obs"]:
            return {}
        found, last = state["obs_rms"], state.get("old_obs")
        if not isinstance(found, dict):
            found, last = {"observation": found}, {"observation": last}
        elif state.get("norm_obs_keys") is not None:
            found = {key: found[key] for key in state["norm_obs_keys"]}
        last = last if isinstance(last, dict) else {}
        return {
            key: _statistics(part.state, float(state["epsilon"]), float(state["clip_obs"]), last.get(key))
            for key, part in found.items()
        }
    except Exception as error:
        raise PolicyError(
            f"VecNormalize file '{path}' cannot be read ({type(error).__name__}: {error}); {_REMEDY}",
            _PARAMETER,
        ) from error


def _check_head(head: bytes, size: int) -> None:
    """Refuse a large file that does not begin as a pickle, before the rest is read; raises OSError."""
    if size > len(head) and head[:1] not in _BEGINNINGS:
        raise OSError(errno.EINVAL, f"it is no pickle (it starts with {head[:8]!r})")


def _statistics(moments: Mapping[str, Any], epsilon: float, clip: float, last: Any) -> Statistics:
    mean, variance = (np.asarray(moments[name], np.float64) for name in ("mean", "var"))
    if mean.shape != variance.shape or not (np.isfinite(mean).all() and (variance + epsilon > 0).all()):
        raise ValueError("mean and variance are not those of one observation")
    return Statistics(mean, np.sqrt(variance + epsilon), clip, last.dtype if isinstance(last, np.ndarray) else None)


class Normaliser(nn.Module):
    """Normalises one observation `[robots, *shape]` to float32; raises ValueError if its statistics do not fit.

    Attributes
    ----------
    steps
        1 if whole observations were normalised. Else the number of frames that `VecFrameStack` joined after each was
        normalised: the frames before an episode are then zero after, not before, the normalisation.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    ages: torch.Tensor

    def __init__(self, statistics: Statistics, shape: tuple[int, ...]) -> None:
        super().__init__()
        frame = statistics.mean.shape
        differing = [axis for axis in range(len(shape)) if len(frame) == len(shape) and frame[axis] != shape[axis]]
        self._axis, self.steps = 0, 1
        if len(differing) == 1 and frame[differing[0]] and shape[differing[0]] % frame[differing[0]] == 0:
            self._axis, self.steps = differing[0], shape[differing[0]] // frame[differing[0]]
        elif shape != frame:
            raise ValueError(f"its statistics have the shape {list(frame)}, the policy wants {list(shape)}")
        self._clip = statistics.clip
        self.register_buffer("mean", torch.from_numpy(statistics.mean.copy()))
        self.register_buffer("deviation", torch.from_numpy(statistics.deviation.copy()))
        # Age of each frame in steps.
        self.register_buffer("ages", torch.arange(self.steps - 1, -1, -1))

    def forward(self, observation: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Return the normalised observation.

        Parameters
        ----------
        observation
            `[robots, *shape]` of any dtype.
        seen
            `[robots]` number of frames since the robot's reset, including this one; needed if `steps` exceeds 1.
        """
        raw = observation.double()
        if self.steps == 1:
            return self._normalised(raw, self.mean, self.deviation).float()
        assert seen is not None
        # [robots, ..., steps * length, ...] -> [robots, ..., steps, length, ...]
        axis = self._axis + 1
        frames = raw.unflatten(axis, (self.steps, -1))
        frames = self._normalised(frames, self.mean.unsqueeze(self._axis), self.deviation.unsqueeze(self._axis))
        there = (self.ages < seen[:, None]).view(-1, *[1] * (axis - 1), self.steps, *[1] * (raw.ndim - axis))
        return torch.where(there, frames, 0.0).flatten(axis, axis + 1).float()

    def _normalised(self, raw: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        return ((raw - mean) / deviation).clamp(-self._clip, self._clip)
