# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Turn one reading per robot into the tensors of the policy: staging rows, one upload per key, history on the device.

Stacking over time has the semantics of Stable-Baselines3's `VecFrameStack`: the steps are joined on the last axis of
the frame (for images: the channels), oldest first, and are zero after a reset. Isaac Lab stacks each term separately,
and fills the steps with the first one after a reset. A history has the steps on a first axis, `[steps, ...]`, for
policies that look back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from policy_node.config.schema import ConfigurationError, ObservationConfiguration
from policy_node.config.specs import ArraySpec
from policy_node.sensing.terms import TermComposer, TermLayout, arrange_terms

# robots, height, width, channels
IMAGE_AXES = 4
MOST_CHANNELS = 4


@dataclass(frozen=True)
class ObservationLayout:
    """Describes how one sensor's frames become one observation of the policy.

    Attributes
    ----------
    frame
        One time step of the sensor or of the terms: images `[height, width, channels]`, vectors `[numbers]`.
    steps
        Time steps stacked on the frame's last axis.
    channels_first
        Whether the policy wants `[channels, height, width]`.
    history
        Time steps on a first axis; 0: no such axis.
    terms
        The parts of a frame; empty when one sensor gives it.
    stack_as
        `vecframestack` or `isaac_lab`; the module describes both.
    """

    key: str
    frame: ArraySpec
    steps: int
    channels_first: bool
    history: int = 0
    terms: tuple[TermLayout, ...] = ()
    stack_as: str = "vecframestack"

    def is_like(self, other: ObservationLayout) -> bool:
        """Return whether both layouts are identical apart from bounds, so buffers can be carried over."""
        same_frames = (self.frame.shape, self.frame.dtype) == (other.frame.shape, other.frame.dtype)
        return same_frames and self == replace(other, frame=self.frame)

    @property
    def readings(self) -> dict[str, ArraySpec]:
        """Return the specs of the readings of one frame, by the name of the source, in the order of the staged row."""
        if not self.terms:
            frame = self.frame
            # A single number, such as a category, is read as a vector of one.
            reading = frame if frame.shape else ArraySpec(frame.name, (1,), frame.dtype, frame.low, frame.high)
            return {frame.name: reading}
        named = {term.configuration.name: term.reading for term in self.terms if term.reading}
        return {name: ArraySpec(name, (size,), self.frame.dtype, -np.inf, np.inf) for name, size in named.items()}


def observation_layout(
    key: str,
    spec: ArraySpec,
    observation: ObservationConfiguration,
    sizes: Mapping[str, int | None] | None = None,
    action_size: int = 0,
) -> ObservationLayout:
    """Derive the frame of a sensor from the observation of the policy.

    `spec` is that observation with its stack or history; `arrange_terms` describes `sizes` and `action_size`.

    Raises
    ------
    ConfigurationError
        When no frame of this sensor gives the policy's shape.
    """
    prefix = f"observations.{observation.key}"
    shape, steps = spec.shape, observation.stack
    if not shape and steps == 1 and not (observation.history or observation.terms or observation.is_image):
        frame = ArraySpec(observation.key, (), spec.dtype, spec.low, spec.high)
        return ObservationLayout(key, frame, steps=1, channels_first=False)
    spec_low, spec_high = spec.low, spec.high
    if observation.history:
        if len(shape) < 2 or shape[0] != observation.history:
            raise ConfigurationError(
                [f"{prefix}.history: found {observation.history}, but the policy wants {spec}; give its first axis"]
            )
        shape, spec_low, spec_high = shape[1:], spec.low[-1], spec.high[-1]
    _check_kind(observation, spec, shape)
    # The smallest axis is the channels, the same rule as in SB3.
    channels_first = observation.is_image and int(np.argmin(shape)) == 0
    if channels_first:
        shape = (shape[1], shape[2], shape[0])
    if not shape or shape[-1] % steps:
        raise ConfigurationError(
            [f"{prefix}.stack: found {steps}, but the policy wants {spec}, whose stacked axis is not a multiple of it"]
        )
    frame_shape = (*shape[:-1], shape[-1] // steps)
    low, high = (_frame_bound(bound, channels_first, steps) for bound in (spec_low, spec_high))
    frame = ArraySpec(observation.key, frame_shape, spec.dtype, low, high)
    terms = arrange_terms(observation, frame, sizes or {}, action_size) if observation.terms else ()
    return ObservationLayout(key, frame, steps, channels_first, observation.history, terms, observation.stack_as)


def _check_kind(observation: ObservationConfiguration, spec: ArraySpec, shape: tuple[int, ...]) -> None:
    """Raise ConfigurationError if an observation of this kind cannot have `shape`, that of one step of `spec`."""
    but = f"but the policy wants {spec}"
    if observation.is_image and len(shape) != 3:
        problem = f"type: a {observation.type} gives [height, width, channels], {but}"
    elif observation.stack_as == "isaac_lab" and len(shape) != 1:
        problem = f"stack_as: found isaac_lab, which stacks vectors, {but}; remove it"
    elif observation.terms and len(shape) != 1:
        problem = f"terms: terms give one vector, {but}; give the observation a topic"
    else:
        return
    raise ConfigurationError(f"observations.{observation.key}.{problem}")


def _frame_bound(bound: np.ndarray, channels_first: bool, steps: int) -> np.ndarray:
    """Return the bound of one frame from that of the stack."""
    last = np.moveaxis(bound, 0, -1) if channels_first else bound
    # SB3's VecFrameStack builds bounds with np.repeat, so bounds are interleaved while frames are concatenated.
    frame = last[..., ::steps]
    return frame if np.array_equal(np.repeat(frame, steps, axis=-1), last) else last[..., -frame.shape[-1] :]


class _History:
    """The rows of one key: staged on the host, composed of terms and stacked over time on the device."""

    def __init__(self, layout: ObservationLayout, robots: int, device: torch.device) -> None:
        self.layout = layout
        dtype = torch.from_numpy(np.empty(0, layout.frame.dtype)).dtype
        frame = (robots, *layout.frame.shape)
        staged = (robots, sum(term.reading for term in layout.terms)) if layout.terms else frame
        self._host = torch.zeros(staged, dtype=dtype, pin_memory=device.type == "cuda")
        self.rows: np.ndarray = self._host.numpy()
        # On the CPU the staging rows are the newest readings: nothing to upload.
        self._newest = self._host if device.type == "cpu" else torch.zeros(staged, dtype=dtype, device=device)
        self._compose = TermComposer(layout.terms, dtype, device) if layout.terms else None
        # Permutation from our layout (step by step) to Isaac Lab's (term by term).
        self._order: torch.Tensor | None = None
        if layout.stack_as == "isaac_lab" and layout.steps > 1:
            of_step = np.arange(layout.steps * frame[-1]).reshape(layout.steps, frame[-1])
            ends = np.cumsum([term.size for term in layout.terms])[:-1]
            order = np.concatenate([part.ravel() for part in np.split(of_step, ends, axis=1)])
            self._order = torch.from_numpy(order).to(device)
        # [robots, *frame[:-1], steps * frame[-1]], or [robots, history, *frame]
        self._stacked: torch.Tensor | None = None
        if layout.history or layout.steps > 1:
            history = (robots, layout.history, *layout.frame.shape)
            shape = history if layout.history else (*frame[:-1], layout.steps * frame[-1])
            self._stacked = torch.zeros(shape, dtype=dtype, device=device)
        self._shift = self._make_shift(self._stacked) if self._stacked is not None else None

    def _make_shift(self, stacked: torch.Tensor) -> Callable[[torch.Tensor], None]:
        """Return a function that shifts all steps by one in place and writes its argument as the newest step."""
        has_axis = bool(self.layout.history)
        newest_step = stacked[:, -1] if has_axis else stacked[..., -self.layout.frame.shape[-1] :]
        if stacked.device.type != "cpu":
            kept = stacked[:, 1:] if has_axis else stacked[..., newest_step.shape[-1] :]

            def shift_on_device(newest: torch.Tensor) -> None:
                last = newest.unsqueeze(1) if has_axis else newest
                stacked.copy_(torch.cat([kept, last], dim=1 if has_axis else -1))

            return shift_on_device
        numbers, target = stacked.view(-1).numpy(), newest_step.numpy()
        distance = math.prod(self.layout.frame.shape) if has_axis else target.shape[-1]
        # NumPy copies many numbers of one channel faster than a few channels of each of many pixels.
        one_by_one = not has_axis and target.ndim == IMAGE_AXES and target.shape[-1] <= MOST_CHANNELS

        def shift_on_host(newest: torch.Tensor) -> None:
            # Shift the whole buffer with one copy. Values that spill into the next row are overwritten just below.
            numbers[:-distance] = numbers[distance:]
            source = newest.numpy()
            if one_by_one:
                for channel in range(target.shape[-1]):
                    target[..., channel] = source[..., channel]
            else:
                target[...] = source

        return shift_on_host

    def readings(self, robot: int) -> dict[str, np.ndarray]:
        """Return the array of each reading of a robot by the name of its source."""
        if not self.layout.terms:
            frame = self.layout.frame
            return {frame.name: self.rows.reshape(-1, *(frame.shape or (1,)))[robot]}
        ends = np.cumsum([term.reading for term in self.layout.terms])
        return {
            term.configuration.name: self.rows[robot, end - term.reading : end]
            for term, end in zip(self.layout.terms, ends.tolist(), strict=True)
            if term.reading
        }

    def take_over(self, other: _History) -> None:
        """Continue with the steps of a history of the same layout."""
        if self._stacked is not None and other._stacked is not None:
            self._stacked.copy_(other._stacked)

    def upload(self) -> None:
        """Start to copy the staged rows to the device."""
        if self._newest is not self._host:
            self._newest.copy_(self._host, non_blocking=True)

    def step(self, restart: torch.Tensor | None, previous_action: torch.Tensor | None) -> torch.Tensor:
        """Return the policy's observation `[robots, *space]` with the staged rows as its newest step.

        `restart` `[robots]` bool marks the robots whose steps start with this one; None: no robot.
        """
        newest = self._newest if self._compose is None else self._compose(self._newest, previous_action)
        stacked = newest if self._stacked is None else self._stacked
        if self._shift is not None:
            if restart is not None and self._order is None:
                # Fill as bytes: not every dtype of observations can be assigned through a mask.
                stacked.view(torch.uint8).masked_fill_(restart.view(-1, *[1] * (stacked.ndim - 1)), 0)
            self._shift(newest)
            if restart is not None and self._order is not None:
                stacked.copy_(torch.where(restart[:, None], newest.repeat(1, self.layout.steps), stacked))
        return self._arranged(stacked)

    def begin_again(self, restart: torch.Tensor, previous_action: torch.Tensor | None) -> torch.Tensor:
        """Return the observation of the last step, with the staged rows as the first step of some robots.

        `restart` `[robots]` bool marks these robots; the steps of others stay unchanged.
        """
        newest = self._newest if self._compose is None else self._compose(self._newest, previous_action)
        if self._stacked is None:
            return self._arranged(newest)
        if self._order is not None:
            first = newest.repeat(1, self.layout.steps)
        else:
            first = torch.zeros_like(self._stacked)
            size = self.layout.frame.shape[-1]
            (first[:, -1] if self.layout.history else first[..., -size:]).copy_(newest)
        # Copy as bytes: see `step`.
        self._stacked.view(torch.uint8)[restart] = first.view(torch.uint8)[restart]
        return self._arranged(self._stacked)

    def _arranged(self, stacked: torch.Tensor) -> torch.Tensor:
        """Return the stack in the order of the policy's axes and numbers."""
        if self._order is not None:
            return stacked[:, self._order]
        return stacked.movedim(-1, -3) if self.layout.channels_first else stacked


class ObservationBatch:
    """The observations of all robots, one row each.

    All buffers keep their place in memory, so that a CUDA graph can record the steps; with CUDA the staging rows are
    pinned.

    Attributes
    ----------
    latest
        The observations of the last step, valid until the next one; empty before the first.
    """

    def __init__(self, layouts: Mapping[str, ObservationLayout], robots: int, device: torch.device) -> None:
        self.layouts = layouts
        self._histories = {key: _History(layout, robots, device) for key, layout in layouts.items()}
        self._device = device
        terms = [term for layout in layouts.values() for term in layout.terms]
        sizes = [term.size for term in terms if term.configuration.kind == "previous_action"]
        self.latest: dict[str, torch.Tensor] = {}
        # [robots, components]
        self._previous_action: torch.Tensor | None = None
        if sizes:
            self._previous_action = torch.zeros((robots, sizes[0]), dtype=torch.float64, device=device)

    def is_like(self, other: ObservationBatch) -> bool:
        """Return whether both hold the same observations, so that a policy of the other can continue with this one."""
        layouts, others = self.layouts, other.layouts
        same = layouts.keys() == others.keys() and self._device == other._device
        return same and all(layouts[key].is_like(others[key]) for key in layouts)

    def row(self, key: str, robot: int) -> np.ndarray:
        """Return the staging row of a robot: its newest frame, or the readings of its terms."""
        return self._histories[key].rows[robot, ...]

    def readings(self, robot: int) -> dict[str, np.ndarray]:
        """Return the array of each reading of a robot by the name of its source."""
        return {name: row for history in self._histories.values() for name, row in history.readings(robot).items()}

    def remember(self, actions: torch.Tensor) -> None:
        """Keep the policy's actions `[robots, *action]` of this step for the terms of the previous action."""
        if self._previous_action is not None:
            self._previous_action.copy_(actions.reshape(self._previous_action.shape))

    def take_over(self, other: ObservationBatch) -> None:
        """Continue with the steps of another batch of the same layouts."""
        for key, history in self._histories.items():
            history.take_over(other._histories[key])
        if self._previous_action is not None and other._previous_action is not None:
            self._previous_action.copy_(other._previous_action)

    def upload(self) -> None:
        """Start to copy the staged rows to the device; do not change them before the end of the step."""
        for history in self._histories.values():
            history.upload()

    def step(self, restart: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Append the uploaded rows as the next time step.

        Parameters
        ----------
        restart
            `[robots]` bool on the device: robots whose history starts with this step, after a previous action of zeros.
            None: no robot.

        Returns
        -------
        dict
            Key to tensor `[robots, *space]` on the device, valid until the next step.
        """
        if restart is not None and self._previous_action is not None:
            self._previous_action.masked_fill_(restart[:, None], 0.0)
        self.latest = {key: history.step(restart, self._previous_action) for key, history in self._histories.items()}
        return self.latest

    def begin_again(self, restart: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the observations of the last step, with the staged rows as the first step of some robots.

        `restart` `[robots]` bool marks these robots; their previous action is zeros.
        """
        self.upload()
        rows = torch.from_numpy(restart).to(self._device)
        if self._previous_action is not None:
            self._previous_action.masked_fill_(rows[:, None], 0.0)
        return {key: history.begin_again(rows, self._previous_action) for key, history in self._histories.items()}

    def push(self, reset: np.ndarray) -> dict[str, torch.Tensor]:
        """Upload the staged rows and append them as the next time step; `reset` is the `restart` of `step`."""
        self.upload()
        return self.step(torch.from_numpy(reset).to(self._device) if reset.any() else None)
