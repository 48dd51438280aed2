# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Turn one reading per robot into the tensors of the policy: staging rows, one upload per key, history on the device.

Stacking over time has the semantics of Stable-Baselines3's `VecFrameStack`: the steps are joined on the last axis of
the frame (for images: the channels), oldest first, and are zero after a reset. Isaac Lab stacks each term separately,
and fills the steps with the first one after a reset. Order and grouping can be chosen, and each term may have its own
number of steps. A history has the steps on a first axis, `[steps, ...]`, for policies that look back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from policy_node.config.schema import ConfigurationError, ObservationConfiguration
from policy_node.config.specs import ArraySpec
from policy_node.sensing.terms import Episode, TermComposer, TermInputs, TermLayout, arrange_terms

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
        Time steps stacked on the frame's last axis; the most of all terms.
    channels_first
        Whether the policy wants `[channels, height, width]`.
    history
        Time steps on a first axis; 0: no such axis.
    terms
        The parts of a frame; empty when one sensor gives it.
    newest_first, by_term
        Order and grouping of the stack.
    repeats_first
        Whether the steps before a reset are the first one after it; else zeros.
    is_scalar
        Whether the policy takes the one number of terms without an axis.
    """

    key: str
    frame: ArraySpec
    steps: int
    channels_first: bool
    history: int = 0
    terms: tuple[TermLayout, ...] = ()
    newest_first: bool = False
    by_term: bool = False
    repeats_first: bool = False
    is_scalar: bool = False

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
        return {name: _unbounded(name, (size,), self.frame.dtype) for name, size in named.items()}


def observation_layout(
    key: str, spec: ArraySpec, observation: ObservationConfiguration, inputs: TermInputs | None = None
) -> ObservationLayout:
    """Derive the frame of a sensor from the observation of the policy.

    `spec` is that observation with its stack or history; `inputs` is needed where it is made of terms.

    Raises
    ------
    ConfigurationError
        When no frame of this sensor gives the policy's shape.
    """
    shape, bounds = spec.shape, (spec.low, spec.high)
    if not (shape or observation.stack > 1 or observation.history or observation.terms or observation.is_image):
        frame = ArraySpec(observation.key, (), spec.dtype, *bounds)
        return ObservationLayout(key, frame, steps=1, channels_first=False)
    if observation.history:
        if len(shape) < 2 or shape[0] != observation.history:
            problem = f"found {observation.history}, but the policy wants {spec}; give its first axis"
            raise ConfigurationError(f"observations.{observation.key}.history: {problem}")
        shape, bounds = shape[1:], (spec.low[-1], spec.high[-1])
    is_scalar = bool(observation.terms) and not shape
    if is_scalar:
        shape, bounds = (1,), (spec.low.reshape(1), spec.high.reshape(1))
    _check_kind(observation, spec, shape)
    # The smallest axis is the channels, the same rule as in SB3.
    channels_first = observation.is_image and int(np.argmin(shape)) == 0
    if channels_first:
        shape = (shape[1], shape[2], shape[0])
    # The policy's observation with its channels last, without its history.
    whole = ArraySpec(observation.key, shape, spec.dtype, *(_channels_last(b, channels_first) for b in bounds))
    terms: tuple[TermLayout, ...] = ()
    if observation.terms:
        terms = arrange_terms(observation, whole, inputs or TermInputs())
        # The numbers of terms have no bounds.
        frame = _unbounded(observation.key, (sum(term.size for term in terms),), spec.dtype)
    else:
        frame = _frame(observation, whole, spec)
    isaac_lab = observation.stack_as == "isaac_lab"
    return ObservationLayout(
        key,
        frame,
        max((term.steps for term in terms), default=observation.stack),
        channels_first,
        observation.history,
        terms,
        newest_first=observation.stack_order == "newest_first",
        by_term=observation.stack_grouping == "by_term" or (isaac_lab and not observation.stack_grouping),
        repeats_first=observation.history_start == "first" if observation.history else isaac_lab,
        is_scalar=is_scalar,
    )


def _unbounded(name: str, shape: tuple[int, ...], dtype: np.dtype) -> ArraySpec:
    """Return the spec of any numbers of a dtype."""
    if dtype.kind == "f":
        return ArraySpec(name, shape, dtype, -np.inf, np.inf)
    limits = np.iinfo(dtype)
    return ArraySpec(name, shape, dtype, limits.min, limits.max)


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


def _frame(observation: ObservationConfiguration, whole: ArraySpec, spec: ArraySpec) -> ArraySpec:
    """Return one step of a stack `whole`, which is that of the policy's `spec`; raises ConfigurationError."""
    shape, steps = whole.shape, observation.stack
    if not shape or shape[-1] % steps:
        problem = f"found {steps}, but the policy wants {spec}, whose stacked axis is not a multiple of it"
        raise ConfigurationError(f"observations.{observation.key}.stack: {problem}")
    bounds = (_frame_bound(bound, steps) for bound in (whole.low, whole.high))
    return ArraySpec(observation.key, (*shape[:-1], shape[-1] // steps), spec.dtype, *bounds)


def _channels_last(bound: np.ndarray, channels_first: bool) -> np.ndarray:
    return np.moveaxis(bound, 0, -1) if channels_first else bound


def _frame_bound(last: np.ndarray, steps: int) -> np.ndarray:
    """Return the bound of one frame from that of the stack."""
    # SB3's VecFrameStack builds bounds with np.repeat, so bounds are interleaved while frames are concatenated.
    frame = last[..., ::steps]
    return frame if np.array_equal(np.repeat(frame, steps, axis=-1), last) else last[..., -frame.shape[-1] :]


def _arrangement(layout: ObservationLayout) -> np.ndarray | None:
    """Return by number of the stack its place in a buffer of whole steps in the same order; None: they are the same."""
    frame, steps = layout.frame.shape[-1], layout.steps
    terms = [(term.size, term.steps) for term in layout.terms] or [(frame, steps)]
    ends = np.cumsum([size for size, _ in terms])
    # From the first step in the stack to the last; the newest has the age 0.
    ages = list(range(steps) if layout.newest_first else reversed(range(steps)))
    blocks = [(place, age, index) for place, age in enumerate(ages) for index in range(len(terms))]
    if layout.by_term:
        blocks.sort(key=lambda block: block[2])
    parts = [
        place * frame + ends[index] - terms[index][0] + np.arange(terms[index][0])
        for place, age, index in blocks
        if age < terms[index][1]
    ]
    order = np.concatenate(parts)
    return None if np.array_equal(order, np.arange(steps * frame)) else order


class _History:
    """The rows of one key: staged on the host, composed of terms and stacked over time on the device."""

    def __init__(self, layout: ObservationLayout, robots: int, device: torch.device, episode: Episode) -> None:
        self.layout = layout
        dtype = torch.from_numpy(np.empty(0, layout.frame.dtype)).dtype
        frame = (robots, *layout.frame.shape)
        staged = (robots, sum(term.reading for term in layout.terms)) if layout.terms else frame
        self._host = torch.zeros(staged, dtype=dtype, pin_memory=device.type == "cuda")
        self.rows: np.ndarray = self._host.numpy()
        # On the CPU the staging rows are the newest readings: nothing to upload.
        self._newest = self._host if device.type == "cpu" else torch.zeros(staged, dtype=dtype, device=device)
        self._compose = TermComposer(layout.terms, dtype, device, episode) if layout.terms else None
        # [robots, *frame[:-1], steps * frame[-1]] of whole steps, or [robots, history, *frame]
        self._stacked: torch.Tensor | None = None
        # Permutation from that to the policy's order; None: they are the same.
        self._order: torch.Tensor | None = None
        if layout.history or layout.steps > 1:
            history = (robots, layout.history, *layout.frame.shape)
            shape = history if layout.history else (*frame[:-1], layout.steps * frame[-1])
            self._stacked = torch.zeros(shape, dtype=dtype, device=device)
            order = None if layout.history else _arrangement(layout)
            self._order = None if order is None else torch.from_numpy(order).to(device)
        self._repeats_first = layout.repeats_first and self._stacked is not None
        self._shift = self._make_shift(self._stacked) if self._stacked is not None else None
        #: The policy's observation where it is the uploaded rows themselves; None: it is made at each step.
        self.rows_arranged: torch.Tensor | None = None
        if self._compose is None and self._stacked is None:
            self.rows_arranged = self._arranged(self._newest)

    def _newest_step(self, stacked: torch.Tensor) -> torch.Tensor:
        """Return the part of a stack that is its newest step."""
        if self.layout.history:
            return stacked[:, -1]
        size = self.layout.frame.shape[-1]
        return stacked[..., :size] if self.layout.newest_first else stacked[..., -size:]

    def _make_shift(self, stacked: torch.Tensor) -> Callable[[torch.Tensor], None]:
        """Return a function that shifts all steps by one in place and writes its argument as the newest step."""
        has_axis = bool(self.layout.history)
        newest_first = self.layout.newest_first
        newest_step = self._newest_step(stacked)
        if stacked.device.type != "cpu":
            size = newest_step.shape[-1]
            kept = stacked[:, 1:] if has_axis else stacked[..., :-size] if newest_first else stacked[..., size:]

            def shift_on_device(newest: torch.Tensor) -> None:
                added = newest.unsqueeze(1) if has_axis else newest
                parts = [added, kept] if newest_first else [kept, added]
                stacked.copy_(torch.cat(parts, dim=1 if has_axis else -1))

            return shift_on_device
        numbers, target = stacked.view(-1).numpy(), newest_step.numpy()
        distance = math.prod(self.layout.frame.shape) if has_axis else target.shape[-1]
        # NumPy copies many numbers of one channel faster than a few channels of each of many pixels.
        one_by_one = not has_axis and target.ndim == IMAGE_AXES and target.shape[-1] <= MOST_CHANNELS

        def shift_on_host(newest: torch.Tensor) -> None:
            # Shift the whole buffer with one copy. Values that spill into another row are overwritten just below.
            if newest_first:
                numbers[distance:] = numbers[:-distance]
            else:
                numbers[:-distance] = numbers[distance:]
            source = newest.numpy()
            if one_by_one:
                for channel in range(target.shape[-1]):
                    target[..., channel] = source[..., channel]
            else:
                target[...] = source

        return shift_on_host

    def readings(self) -> dict[str, np.ndarray]:
        """Return the array `[robots, ...]` of each reading by the name of its source."""
        if not self.layout.terms:
            frame = self.layout.frame
            return {frame.name: self.rows.reshape(-1, *(frame.shape or (1,)))}
        ends = np.cumsum([term.reading for term in self.layout.terms])
        return {
            term.configuration.name: self.rows[:, end - term.reading : end]
            for term, end in zip(self.layout.terms, ends.tolist(), strict=True)
            if term.reading
        }

    def take_over(self, other: _History) -> None:
        """Continue with the steps of a history of the same layout."""
        if self._stacked is not None and other._stacked is not None:
            self._stacked.copy_(other._stacked)

    def upload(self) -> None:
        """Start to copy the staged rows to the device."""
        self._newest.copy_(self._host, non_blocking=True)

    def step(self, restart: torch.Tensor | None) -> torch.Tensor:
        """Return the policy's observation `[robots, *space]` with the staged rows as its newest step.

        `restart` `[robots]` bool marks the robots whose steps start with this one; None: no robot.
        """
        newest = self._newest if self._compose is None else self._compose(self._newest)
        stacked = newest if self._stacked is None else self._stacked
        if self._shift is not None:
            if restart is not None and not self._repeats_first:
                # Fill as bytes: not every dtype of observations can be assigned through a mask.
                stacked.view(torch.uint8).masked_fill_(restart.view(-1, *[1] * (stacked.ndim - 1)), 0)
            self._shift(newest)
            if restart is not None and self._repeats_first:
                rows = restart.view(-1, *[1] * (stacked.ndim - 1))
                stacked.copy_(torch.where(rows, self._repeated(newest), stacked))
        return self._arranged(stacked)

    def _repeated(self, newest: torch.Tensor) -> torch.Tensor:
        """Return a stack or history whose steps are all the newest one."""
        if self.layout.history:
            return newest.unsqueeze(1).expand_as(self._stacked)  # type: ignore[arg-type]
        return newest.repeat(1, self.layout.steps)

    def begin_again(self, restart: torch.Tensor) -> torch.Tensor:
        """Return the observation of the last step, with the staged rows as the first step of some robots.

        `restart` `[robots]` bool marks these robots; the steps of others stay unchanged.
        """
        newest = self._newest if self._compose is None else self._compose(self._newest)
        if self._stacked is None:
            return self._arranged(newest)
        if self._repeats_first:
            first = self._repeated(newest).contiguous()
        else:
            first = torch.zeros_like(self._stacked)
            self._newest_step(first).copy_(newest)
        # Copy as bytes: see `step`.
        self._stacked.view(torch.uint8)[restart] = first.view(torch.uint8)[restart]
        return self._arranged(self._stacked)

    def _arranged(self, stacked: torch.Tensor) -> torch.Tensor:
        """Return the stack in the order of the policy's axes and numbers."""
        if self._order is not None:
            return stacked[:, self._order]
        if self.layout.is_scalar:
            return stacked[:, 0]
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
        self._episode = Episode([term for layout in layouts.values() for term in layout.terms], robots, device)
        self._histories = {key: _History(layout, robots, device, self._episode) for key, layout in layouts.items()}
        self._device = device
        self._uploads = [] if device.type == "cpu" else list(self._histories.values())
        # The observations of every step where no history makes them; empty if one does.
        arranged = {key: history.rows_arranged for key, history in self._histories.items()}
        unchanged = {key: rows for key, rows in arranged.items() if rows is not None}
        self._unchanged = unchanged if len(unchanged) == len(arranged) else {}
        #: Whether a step depends on the staged rows alone, so that no robot's episode matters.
        self.is_memoryless = bool(self._unchanged) and not self._episode.is_used
        self.latest: dict[str, torch.Tensor] = {}

    def _is_like(self, other: ObservationBatch) -> bool:
        layouts, others = self.layouts, other.layouts
        same = layouts.keys() == others.keys() and self._device == other._device
        return same and all(layouts[key].is_like(others[key]) for key in layouts)

    def row(self, key: str, robot: int) -> np.ndarray:
        """Return the staging row of a robot: its newest frame, or the readings of its terms."""
        return self._histories[key].rows[robot, ...]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The array `[robots, ...]` of each reading by the name of its source."""
        return {name: rows for history in self._histories.values() for name, rows in history.readings().items()}

    def readings(self, robot: int) -> dict[str, np.ndarray]:
        """Return the array of each reading of a robot by the name of its source."""
        return {name: rows[robot] for name, rows in self.arrays.items()}

    def set_first_outputs(self, memory: Mapping[str, torch.Tensor]) -> None:
        """Take what further outputs of the policy are at the first step of an episode, from its memory then."""
        self._episode.set_first_outputs(memory)

    def remember(self, actions: torch.Tensor, memory: Mapping[str, torch.Tensor]) -> None:
        """Keep the policy's actions `[robots, *action]` of this step, and further outputs in its memory, for terms."""
        if self._episode.is_used:
            self._episode.remember(actions, memory)

    def take_over(self, other: ObservationBatch) -> bool:
        """Continue with the steps of another batch; return False if it does not hold the same observations."""
        if not self._is_like(other):
            return False
        for key, history in self._histories.items():
            history.take_over(other._histories[key])
        self._episode.take_over(other._episode)
        return True

    def upload(self) -> None:
        """Start to copy the staged rows to the device; do not change them before the end of the step."""
        for history in self._uploads:
            history.upload()

    def step(self, restart: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Append the uploaded rows as the next time step.

        Parameters
        ----------
        restart
            `[robots]` bool on the device: robots whose episode starts with this step, see `Episode`. None: no robot.

        Returns
        -------
        dict
            Key to tensor `[robots, *space]` on the device, valid until the next step.
        """
        if self._episode.is_used:
            self._episode.advance(restart)
        self.latest = self._unchanged.copy() or {key: history.step(restart) for key, history in self._histories.items()}
        return self.latest

    def begin_again(self, restart: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the observations of the last step, with the staged rows as the first step of some robots.

        `restart` `[robots]` bool marks these robots.
        """
        self.upload()
        rows = torch.from_numpy(restart).to(self._device)
        self._episode.begin(rows)
        return {key: history.begin_again(rows) for key, history in self._histories.items()}

    def push(self, reset: np.ndarray) -> dict[str, torch.Tensor]:
        """Upload the staged rows and append them as the next time step; `reset` is the `restart` of `step`."""
        self.upload()
        return self.step(torch.from_numpy(reset).to(self._device) if reset.any() else None)
