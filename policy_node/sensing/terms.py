# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Build one flat observation from several terms, as most trainers of robots do.

Each term is `clip(value - default) * scale + offset`, in this order, in the precision of the observation; the terms
follow one another as configured. Clipping before scaling is what Isaac Lab does; it has no offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from policy_node.config.schema import ConfigurationError, ObservationConfiguration, TermConfiguration
from policy_node.config.specs import OUTPUT, ArraySpec
from policy_node.messages.reading import Decode, UnusableReading, stack_hint
from policy_node.sensing.motion import read_motion

QUATERNION = 4
# A quaternion that is further from length one is no orientation; sensors round theirs much less.
QUATERNION_TOLERANCE = 0.01
# Kinds of terms that follow from the time since the robot's episode began.
OF_TIME = ("step", "phase", "motion")

# Readings of a term `[robots, readings]` -> its numbers `[robots, numbers]`, before `default`, `clip` and `scale`.
Source: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class MotionError(ConfigurationError):
    """A motion file cannot be used; the policy's observation space says nothing about it."""


@dataclass(frozen=True)
class TermLayout:
    """The size of one term.

    Attributes
    ----------
    reading
        Count of the numbers that are read from messages; 0 for a term without topic.
    size
        Count of its numbers in one step of the observation.
    steps
        Steps of it in the stack.
    period_steps
        Control periods in a period of its clock; 0 for a term that is no phase.
    rows
        `[rows, size]` float64: the motion; None for a term that is none.
    """

    configuration: TermConfiguration
    reading: int
    size: int
    steps: int = 1
    period_steps: float = 0.0
    rows: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class TermInputs:
    """What the sizes of terms follow from.

    Attributes
    ----------
    sizes
        By name of the source: count of the numbers in its messages, None if each message chooses.
    action_size
        Components of the policy's action; 0 when it is not continuous.
    outputs
        Count of the numbers in each further output of the policy that it gives, by its name.
    rate_hz
        Control rate.
    """

    sizes: Mapping[str, int | None] = field(default_factory=dict)
    action_size: int = 0
    outputs: Mapping[str, int] = field(default_factory=dict)
    rate_hz: float = 1.0


def arrange_terms(
    observation: ObservationConfiguration, wanted: ArraySpec, inputs: TermInputs
) -> tuple[TermLayout, ...]:
    """Find the size of each term of an observation.

    Parameters
    ----------
    wanted
        What the terms give together, with their stacks, `[numbers]`.

    Raises
    ------
    ConfigurationError
        When the terms do not give the observation of the policy.
    """
    prefix = f"observations.{observation.key}"
    _check_dtype(observation, wanted)
    motions = {term.name: _motion(term, inputs.rate_hz) for term in observation.terms if term.kind == "motion"}
    found = {term: _size(term, inputs, motions) for term in observation.terms}
    steps = {term: term.stack or observation.stack for term in observation.terms}
    unknown = [term for term, size in found.items() if size is None]
    rest = wanted.shape[0] - sum((size or 0) * steps[term] for term, size in found.items())
    if len(unknown) == 1 and rest > 0 and rest % steps[unknown[0]] == 0:
        found[unknown[0]] = rest // steps[unknown[0]]
        unknown = []
    listed = ", ".join(
        f"{term.term} {'?' if size is None else size}{f' × {steps[term]}' if steps[term] > 1 else ''}"
        for term, size in found.items()
    )
    if unknown:
        names = ", ".join(f"observations.{term.name}" for term in unknown)
        problem = f"{prefix}.terms: the policy wants {wanted}, found are {listed}; say how many numbers {names} have: "
        problem += "name their joints, or give their default or scale a number for each"
        if len(unknown) == 1 and observation.stack > 1:
            problem += f"; or correct `stack`, found {observation.stack}"
        raise ConfigurationError(problem)
    sizes_found = [size for size in found.values() if size is not None]
    total = sum(size * count for size, count in zip(sizes_found, steps.values(), strict=True))
    if total != wanted.shape[0]:
        raise ConfigurationError(
            f"{prefix}.terms: the policy wants {wanted}, but the terms give {total} numbers: {listed}"
            f"{_stack_remedy(observation, wanted.shape[0], sum(sizes_found))}"
        )
    _check_components(dict(zip(found, sizes_found, strict=True)))
    return tuple(
        TermLayout(
            term,
            _reading(term, size, inputs),
            size,
            steps[term],
            inputs.rate_hz * term.period_s,
            motions.get(term.name),
        )
        for term, size in zip(found, sizes_found, strict=True)
    )


def _stack_remedy(observation: ObservationConfiguration, wanted: int, found: int) -> str:
    """Return the end of an error where another stack of `found` numbers gives those wanted; empty elsewhere."""
    if not found or observation.history or any(term.stack for term in observation.terms):
        return ""
    if observation.stack == 1:
        return stack_hint(wanted, found)
    steps, rest = divmod(wanted, found)
    if rest or not steps:
        return ""
    remedy = f"set `stack: {steps}`" if steps > 1 else "remove `stack`"
    return f"; {wanted} = {steps} × {found}: {remedy}; found {observation.stack}"


def _check_components(sizes: Mapping[TermConfiguration, int]) -> None:
    """Raise ConfigurationError where a parameter has neither one number nor one for each component of its term."""
    problems = [
        f"observations.{term.name}.{name}: found {len(numbers)} numbers, but the term has {size}; give 1 or {size}"
        for term, size in sizes.items()
        for name, numbers in (("default", term.default), ("scale", term.scale), ("offset", term.offset))
        # The offset of a phase has one per phase.
        if len(numbers) not in (0, 1, size) and (term.kind, name) != ("phase", "offset")
    ]
    if problems:
        raise ConfigurationError(problems)


def _check_dtype(observation: ObservationConfiguration, wanted: ArraySpec) -> None:
    """Raise ConfigurationError where terms do not give numbers of this dtype: whole ones are those of `step`."""
    if wanted.dtype.kind == "f":
        return
    whole = wanted.dtype.kind in "iu" and all(term.kind == "step" for term in observation.terms)
    if not whole:
        problem = f"terms are real numbers, but the policy wants {wanted}; give the observation a topic"
        raise ConfigurationError([f"observations.{observation.key}.terms: {problem}"])
    problems = [
        f"observations.{term.name}.{name}: found {list(numbers)}, but the policy takes whole numbers: {wanted}"
        for term in observation.terms
        for name, numbers in (("clip", term.clip), ("scale", term.scale), ("offset", term.offset))
        if any(number != int(number) for number in numbers)
    ]
    if problems:
        raise ConfigurationError(problems)


def _motion(term: TermConfiguration, rate_hz: float) -> np.ndarray:
    try:
        return read_motion(term.path, term.arrays, rate_hz)
    except ValueError as error:
        raise MotionError(f"observations.{term.name}.path: {error}") from error


def _size(term: TermConfiguration, inputs: TermInputs, motions: Mapping[str, np.ndarray]) -> int | None:
    """Return the count of a term's numbers in one step, None if it is not known yet."""
    if term.kind == "previous_action" and not inputs.action_size:
        problem = "found previous_action, but the policy's action is no vector of numbers; remove the term"
        raise ConfigurationError(f"observations.{term.name}.kind: {problem}")
    if term.kind == "policy_output":
        if term.output not in inputs.outputs:
            given = f"has {sorted(inputs.outputs)}" if inputs.outputs else "gives its action only"
            raise ConfigurationError(f"observations.{term.name}.output: found {term.output!r}, but the policy {given}")
        return inputs.outputs[term.output]
    if term.kind == "phase":
        return len(term.offset or (0.0,)) * (2 if term.phase_as == "sin_cos" else 1)
    known = {
        "previous_action": inputs.action_size,
        "projected_gravity": 3,
        "one_hot": term.categories,
        "step": 1,
        "motion": motions[term.name].shape[1] if term.name in motions else 0,
    }
    if term.kind in known:
        return known[term.kind]
    # Several numbers of one parameter give the count; a single one may stand for all.
    return (inputs.sizes.get(term.name) or len(term.joints)) or next(
        (len(numbers) for numbers in (term.default, term.scale, term.offset) if len(numbers) > 1), None
    )


def _reading(term: TermConfiguration, size: int, inputs: TermInputs) -> int:
    """Return the count of the numbers that a term of `size` numbers reads from its messages."""
    if not term.topic:
        return 0
    if term.kind == "phase":
        known = inputs.sizes.get(term.name) or len(term.joints)
        if not known:
            problem = (
                f"each {term.type} chooses how many numbers it has; take a type with a fixed velocity, or `fields`"
            )
            raise ConfigurationError(f"observations.{term.name}.stop_below: {problem}")
        return known
    return {"projected_gravity": QUATERNION, "one_hot": 1}.get(term.kind, size)


def checked_decode(layout: TermLayout, decode: Decode) -> Decode:
    """Return a decoder that also refuses numbers without a meaning for the kind of term."""
    kind = layout.configuration.kind
    if kind == "projected_gravity":
        return QuaternionDecode(decode)
    return CategoryDecode(decode, layout.size) if kind == "one_hot" else decode


@dataclass(frozen=True)
class QuaternionDecode:
    """A decoder that refuses quaternions of another length than 1."""

    decode: Decode

    def __call__(self, message: Any, out: np.ndarray) -> None:
        """Decode a message into `[4]`; raises UnusableReading."""
        self.decode(message, out)
        length = float(np.linalg.norm(out))
        if abs(length - 1.0) > QUATERNION_TOLERANCE:
            raise UnusableReading(f"the quaternion {out.tolist()} has length {length:.3g}, an orientation has length 1")


@dataclass(frozen=True)
class CategoryDecode:
    """A decoder that refuses numbers other than those of the categories."""

    decode: Decode
    categories: int

    def __call__(self, message: Any, out: np.ndarray) -> None:
        """Decode a message into `[1]`; raises UnusableReading."""
        self.decode(message, out)
        if out[0] not in range(self.categories):
            allowed = f"whole numbers from 0 to {self.categories - 1}"
            raise UnusableReading(f"category {out[0]:g} found, allowed are {allowed}")


class Episode:
    """What terms take from the robots' episodes, on the device; every buffer keeps its place.

    Attributes
    ----------
    previous_action
        `[robots, components]` float64: the policy's last action, zeros before the first; None if no term wants it.
    step
        `[robots, 1]` int64: ticks since the episode began, 0 at its first; None if no term wants it.
    outputs
        `[robots, numbers]` float64 by name in the policy's memory: further outputs of its last step.
    clocks
        `[robots, 1]` int64 by name of a term: step at which its clock began again after a stop.
    is_used
        Whether a term wants any of them.
    """

    def __init__(self, terms: Iterable[TermLayout], robots: int, device: torch.device) -> None:
        sizes = [(term.configuration, term.size) for term in terms]
        kinds = {term.kind for term, _ in sizes}

        def buffer(size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
            return torch.zeros((robots, size), dtype=dtype, device=device)

        action_size = next((size for term, size in sizes if term.kind == "previous_action"), 0)
        self.previous_action = buffer(action_size) if action_size else None
        self.step = buffer(1, torch.int64) if kinds.intersection(OF_TIME) else None
        self.outputs = {OUTPUT + term.output: buffer(size) for term, size in sizes if term.kind == "policy_output"}
        self.clocks = {term.name: buffer(1, torch.int64) for term, _ in sizes if term.stop_restarts}
        self.is_used = self.previous_action is not None or self.step is not None or bool(self.outputs)
        # What they are at the first step of an episode.
        self._first = {name: torch.zeros_like(values) for name, values in self.outputs.items()}

    def set_first_outputs(self, memory: Mapping[str, torch.Tensor]) -> None:
        """Take what further outputs of the policy are at the first step of an episode, from its memory then."""
        for name, first in self._first.items():
            first.copy_(memory[name].reshape(first.shape))

    def advance(self, restart: torch.Tensor | None) -> None:
        """Begin the next step; `restart` `[robots]` bool marks the robots whose episodes begin with it."""
        if self.step is not None:
            self.step += 1
        if restart is not None:
            self.begin(restart)

    def begin(self, restart: torch.Tensor) -> None:
        """Begin the episodes of the robots that `restart` `[robots]` bool marks."""
        rows = restart[:, None]
        if self.previous_action is not None:
            self.previous_action.masked_fill_(rows, 0.0)
        if self.step is not None:
            self.step.masked_fill_(rows, 0)
        for name, values in self.outputs.items():
            values.copy_(torch.where(rows, self._first[name], values))

    def remember(self, actions: torch.Tensor, memory: Mapping[str, torch.Tensor]) -> None:
        """Keep the policy's actions `[robots, *action]` of this step, and further outputs in its memory."""
        if self.previous_action is not None:
            self.previous_action.copy_(actions.reshape(self.previous_action.shape))
        for name, values in self.outputs.items():
            values.copy_(memory[name].reshape(values.shape))

    def take_over(self, other: Episode) -> None:
        """Continue the episodes of another policy with the same terms; the outputs begin as at a first step."""
        for mine, theirs in ((self.previous_action, other.previous_action), (self.step, other.step)):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        for name, values in self.clocks.items():
            values.copy_(other.clocks[name])
        for name, values in self.outputs.items():
            values.copy_(self._first[name])


class TermComposer:
    """Composes the observation of all robots from its terms, all of one dtype, on the device."""

    def __init__(
        self, layouts: Sequence[TermLayout], dtype: torch.dtype, device: torch.device, episode: Episode
    ) -> None:
        self._readings = [layout.reading for layout in layouts]
        self._sources = [_source(layout, episode, device) for layout in layouts]
        self._dtype = dtype

        def numbers(neutral: float, of: Callable[[TermConfiguration], Sequence[float]]) -> torch.Tensor | None:
            """Return one number per component, None if no term needs them."""
            rows = [np.broadcast_to(of(layout.configuration) or (neutral,), layout.size) for layout in layouts]
            joined = np.concatenate(rows)
            if (joined == neutral).all():
                return None
            if not dtype.is_floating_point:
                limits = torch.iinfo(dtype)
                whole = [
                    limits.min if number == -np.inf else limits.max if number == np.inf else int(number)
                    for number in joined
                ]
                return torch.tensor(whole, dtype=dtype, device=device)
            return torch.from_numpy(joined).to(device, dtype)

        self._default = numbers(0.0, lambda term: term.default)
        self._low = numbers(-np.inf, lambda term: term.clip[:1])
        self._high = numbers(np.inf, lambda term: term.clip[1:])
        self._scale = numbers(1.0, lambda term: term.scale)
        # That of a phase is in its source.
        self._offset = numbers(0.0, lambda term: () if term.kind == "phase" else term.offset)

    def __call__(self, readings: torch.Tensor) -> torch.Tensor:
        """Return the observation `[robots, numbers]`, a new tensor; `readings` has those of all terms in a row."""
        parts = [
            source(values).to(self._dtype)
            for source, values in zip(self._sources, readings.split(self._readings, dim=1), strict=True)
        ]
        observation = torch.cat(parts, dim=1)
        if self._default is not None:
            observation -= self._default
        if self._low is not None or self._high is not None:
            observation.clamp_(self._low, self._high)
        if self._scale is not None:
            observation *= self._scale
        if self._offset is not None:
            observation += self._offset
        return observation


def _source(layout: TermLayout, episode: Episode, device: torch.device) -> Source:
    """Return what gives the numbers of a term."""
    term = layout.configuration
    if term.kind == "projected_gravity":
        return projected_gravity
    if term.kind == "one_hot":
        categories = torch.arange(layout.size, device=device)
        return lambda values: values == categories
    if term.kind == "phase":
        return _Phase(layout, episode, device)
    if term.kind == "motion":
        rows = torch.tensor(layout.rows, device=device)
        step, last = episode.step, len(rows) - 1
        assert step is not None
        return lambda _: rows[step[:, 0].clamp_max(last)]
    if term.kind == "sensor":
        return lambda values: values
    of_episode = {"previous_action": episode.previous_action, "step": episode.step}
    buffer = episode.outputs[OUTPUT + term.output] if term.kind == "policy_output" else of_episode[term.kind]
    assert buffer is not None
    return lambda _: buffer


class _Phase:
    """Gives the phases of a gait clock by the robots' steps, computed in float64."""

    def __init__(self, layout: TermLayout, episode: Episode, device: torch.device) -> None:
        assert episode.step is not None
        term = layout.configuration
        self._step = episode.step
        self._period_steps = layout.period_steps
        self._gives = term.phase_as
        self._stop_below = term.stop_below
        self._began = episode.clocks.get(term.name)

        def numbers(values: Sequence[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        self._ahead = numbers(term.offset or (0.0,))
        self._stop_at = numbers(term.stop_at) if term.stop_at else None

    def __call__(self, velocity: torch.Tensor) -> torch.Tensor:
        """Return `[robots, numbers]`; `velocity` `[robots, components]` is empty without `stop_below`."""
        if not self._stop_below:
            return self._numbers(self._share(self._step))
        stands = velocity.norm(dim=1, keepdim=True) < self._stop_below
        clock = self._step
        if self._began is not None:
            # An episode begins with a new clock.
            self._began.masked_fill_(clock == 0, 0)
            self._began.copy_(torch.where(stands, clock + 1, self._began))
            clock = clock - self._began
        share = self._share(clock)
        if self._stop_at is not None:
            return self._numbers(torch.where(stands, self._stop_at, share))
        return torch.where(stands, 0.0, self._numbers(share))

    def _share(self, clock: torch.Tensor) -> torch.Tensor:
        """Return the share of the period that has passed, `[robots, phases]`."""
        return (clock.double() / self._period_steps + self._ahead) % 1.0

    def _numbers(self, share: torch.Tensor) -> torch.Tensor:
        """Return what the term gives of its phases."""
        if self._gives == "number":
            return share
        angle = 2.0 * math.pi * share
        parts = {"sin": torch.sin, "cos": torch.cos}
        return torch.cat([parts[name](angle) for name in self._gives.split("_")], dim=1)


def projected_gravity(orientation: torch.Tensor) -> torch.Tensor:
    """Return the direction of gravity `[robots, 3]` in the body frame: (0, 0, -1) of the world.

    `orientation` is `[robots, 4]`: x, y, z, w of the rotation from the body frame to the world frame, with z up.
    """
    x, y, z, w = (orientation / orientation.norm(dim=1, keepdim=True)).unbind(dim=1)
    return torch.stack([2.0 * (w * y - x * z), -2.0 * (w * x + y * z), 2.0 * (x * x + y * y) - 1.0], dim=1)
