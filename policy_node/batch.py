# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""From one reading per robot to the tensors of the policy: staging rows, one upload per key, history on the device.

Stacking over time has the semantics of Stable-Baselines3's `VecFrameStack`: the steps are joined on the last axis of
the frame (for images: the channels), oldest first, and are zero after a reset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from policy_node.configuration import ConfigurationError, ObservationConfiguration
from policy_node.specs import ArraySpec


@dataclass(frozen=True)
class ObservationLayout:
    """How one sensor's frames become one observation of the policy.

    Attributes
    ----------
    key
        Key of the policy's observation space.
    frame
        One time step as the sensor gives it: images `[height, width, channels]`, vectors `[numbers]`.
    steps
        Time steps stacked on the frame's last axis.
    channels_first
        Whether the policy wants `[channels, height, width]`.
    """

    key: str
    frame: ArraySpec
    steps: int
    channels_first: bool


def observation_layout(key: str, spec: ArraySpec, observation: ObservationConfiguration) -> ObservationLayout:
    """Derive the frame that a sensor must give from what the policy wants.

    Parameters
    ----------
    key
        Key of the policy's observation space.
    spec
        What the policy wants for it, stacked.
    observation
        The configured sensor.

    Raises
    ------
    ConfigurationError
        When no frame of this sensor can give the policy's shape.
    """
    prefix = f"observations.{observation.key}"
    shape, steps = spec.shape, observation.stack
    channels_first = False
    if observation.is_image:
        if len(shape) != 3:
            raise ConfigurationError(
                [f"{prefix}.type: a {observation.type} gives [height, width, channels], but the policy wants {spec}"]
            )
        # The smallest axis is the channels, as SB3 decides it.
        channels_first = int(np.argmin(shape)) == 0
        if channels_first:
            shape = (shape[1], shape[2], shape[0])
    if not shape or shape[-1] % steps:
        raise ConfigurationError(
            [f"{prefix}.stack: found {steps}, but the policy wants {spec}, whose stacked axis is not a multiple of it"]
        )
    frame_shape = (*shape[:-1], shape[-1] // steps)
    low, high = (_frame_bound(bound, channels_first, steps) for bound in (spec.low, spec.high))
    frame = ArraySpec(name=observation.key, shape=frame_shape, dtype=spec.dtype, low=low, high=high)
    return ObservationLayout(key=key, frame=frame, steps=steps, channels_first=channels_first)


def _frame_bound(bound: np.ndarray, channels_first: bool, steps: int) -> np.ndarray:
    """Return the bound of one frame from the stacked one."""
    last = np.moveaxis(bound, 0, -1) if channels_first else bound
    # VecFrameStack repeats the bound of each component, although it stacks whole frames.
    frame = last[..., ::steps]
    return frame if np.array_equal(np.repeat(frame, steps, axis=-1), last) else last[..., -frame.shape[-1] :]


class _History:
    """The rows of one key: staged on the host, stacked over time on the device."""

    def __init__(self, layout: ObservationLayout, robots: int, device: torch.device) -> None:
        self.layout = layout
        dtype = torch.from_numpy(np.empty(0, layout.frame.dtype)).dtype
        shape = (robots, *layout.frame.shape)
        self._host = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
        self.rows: np.ndarray = self._host.numpy()
        # On the CPU the staging rows are the newest frame: nothing to upload.
        self._newest = self._host if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        # [robots, *frame[:-1], steps * frame[-1]]
        self._stacked: torch.Tensor | None = None
        if layout.steps > 1:
            self._stacked = torch.zeros((*shape[:-1], layout.steps * shape[-1]), dtype=dtype, device=device)

    def clear(self, rows: torch.Tensor) -> None:
        """Zero the history of the robots in `rows`, a bool tensor `[robots]`."""
        if self._stacked is not None:
            # As bytes: not every dtype of observations can be assigned through a mask.
            self._stacked.view(torch.uint8)[rows] = 0

    def push(self) -> torch.Tensor:
        """Upload the staged rows and return the policy's observation `[robots, *space]`."""
        if self._newest is not self._host:
            self._newest.copy_(self._host, non_blocking=True)
        stacked = self._newest
        if self._stacked is not None:
            # A new tensor each time: a ring of steps had to gather them, which took four times as long.
            later = self._stacked[..., self._newest.shape[-1] :]
            stacked = self._stacked = torch.cat([later, self._newest], dim=-1)
        return stacked.permute(0, 3, 1, 2) if self.layout.channels_first else stacked


class ObservationBatch:
    """The observations of all robots, one row each.

    Parameters
    ----------
    layouts
        One layout per key.
    robots
        Number of rows.
    device
        Where the policy runs. With CUDA the staging rows are pinned.
    """

    def __init__(self, layouts: Mapping[str, ObservationLayout], robots: int, device: torch.device) -> None:
        self._histories = {key: _History(layout, robots, device) for key, layout in layouts.items()}
        self._device = device

    def row(self, key: str, robot: int) -> np.ndarray:
        """Return the row into which the newest frame of a robot is to be written, shaped and typed as the frame."""
        # The ellipsis makes a view of a single number, too.
        return self._histories[key].rows[robot, ...]

    def push(self, reset: np.ndarray) -> dict[str, torch.Tensor]:
        """Upload the staged rows as the next time step.

        Parameters
        ----------
        reset
            `[robots]` bool: robots whose history starts anew with this step.

        Returns
        -------
        dict
            Key to tensor `[robots, *space]` on the device, valid until the next push.
        """
        if reset.any():
            rows = torch.from_numpy(reset).to(self._device)
            for history in self._histories.values():
                history.clear(rows)
        return {key: history.push() for key, history in self._histories.items()}
