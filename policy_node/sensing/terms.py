# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Build one flat observation from several terms, as most trainers of robots do.

Each term is `clip(value - default) * scale + offset`, in this order, in the precision of the observation; the terms
follow one another as configured. Clipping before scaling is what Isaac Lab does; it has no offset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policy_node.config.schema import ConfigurationError, ObservationConfiguration, TermConfiguration
from policy_node.config.specs import ArraySpec
from policy_node.messages.reading import Decode, UnusableReading, stack_hint

QUATERNION = 4
# A quaternion that is further from length one is no orientation; sensors round theirs much less.
QUATERNION_TOLERANCE = 0.01


@dataclass(frozen=True)
class TermLayout:
    """The size of one term.

    Attributes
    ----------
    reading
        Count of the numbers that are read from messages; 0 for the previous action.
    size
        Count of its numbers in the observation.
    """

    configuration: TermConfiguration
    reading: int
    size: int


def arrange_terms(
    observation: ObservationConfiguration, wanted: ArraySpec, sizes: Mapping[str, int | None], action_size: int
) -> tuple[TermLayout, ...]:
    """Find the size of each term of an observation.

    Parameters
    ----------
    wanted
        One time step of it, `[numbers]`.
    sizes
        By name of the source: count of the numbers in its messages, None if each message chooses.
    action_size
        Components of the policy's action; 0 when it is not continuous.

    Raises
    ------
    ConfigurationError
        When the terms do not give the observation of the policy.
    """
    prefix = f"observations.{observation.key}"
    if wanted.dtype.kind != "f":
        raise ConfigurationError(
            [f"{prefix}.terms: terms are real numbers, but the policy wants {wanted}; give the observation a topic"]
        )
    found = {term: _size(term, sizes, action_size) for term in observation.terms}
    unknown = [term for term, size in found.items() if size is None]
    total = sum(size or 0 for size in found.values())
    if len(unknown) == 1 and total < wanted.shape[0]:
        found[unknown.pop()] = wanted.shape[0] - total
    listed = ", ".join(f"{term.term} {'?' if size is None else size}" for term, size in found.items())
    if unknown:
        names = ", ".join(f"observations.{term.name}" for term in unknown)
        problem = f"{prefix}.terms: the policy wants {wanted}, found are {listed}; say how many numbers {names} have: "
        raise ConfigurationError(problem + "name their joints, or give their default or scale a number for each")
    sizes_found = [size for size in found.values() if size is not None]
    if sum(sizes_found) != wanted.shape[0]:
        raise ConfigurationError(
            f"{prefix}.terms: the policy wants {wanted}, but the terms give {sum(sizes_found)} numbers: {listed}"
            f"{stack_hint(wanted.shape[0], sum(sizes_found))}"
        )
    problems = [
        f"observations.{term.name}.{name}: found {len(numbers)} numbers, but the term has {size}; give 1 or {size}"
        for term, size in zip(found, sizes_found, strict=True)
        for name, numbers in (("default", term.default), ("scale", term.scale), ("offset", term.offset))
        if len(numbers) not in (0, 1, size)
    ]
    if problems:
        raise ConfigurationError(problems)
    readings = {"previous_action": 0, "projected_gravity": QUATERNION, "one_hot": 1}
    return tuple(
        TermLayout(term, readings.get(term.kind, size), size) for term, size in zip(found, sizes_found, strict=True)
    )


def _size(term: TermConfiguration, sizes: Mapping[str, int | None], action_size: int) -> int | None:
    """Return the count of a term's numbers in the observation, None if it is not known yet."""
    if term.kind == "previous_action":
        if not action_size:
            problem = "found previous_action, but the policy's action is no vector of numbers; remove the term"
            raise ConfigurationError(f"observations.{term.name}.kind: {problem}")
        return action_size
    if term.kind == "projected_gravity":
        return 3
    if term.kind == "one_hot":
        return term.categories
    known = sizes.get(term.name) or len(term.joints)
    # Several numbers of one parameter give the count; a single one may stand for all.
    return known or next(
        (len(numbers) for numbers in (term.default, term.scale, term.offset) if len(numbers) > 1), None
    )


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


class TermComposer:
    """Composes the observation of all robots from the readings of its terms, all of one dtype, on the device."""

    def __init__(self, layouts: Sequence[TermLayout], dtype: torch.dtype, device: torch.device) -> None:
        self._layouts = tuple(layouts)
        self._readings = [layout.reading for layout in layouts]
        self._dtype = dtype

        def numbers(neutral: float, of: Callable[[TermConfiguration], Sequence[float]]) -> torch.Tensor | None:
            """Return one number per component, None if no term needs them."""
            rows = [np.broadcast_to(of(layout.configuration) or (neutral,), layout.size) for layout in layouts]
            joined = torch.from_numpy(np.concatenate(rows)).to(device, dtype)
            return None if bool((joined == neutral).all()) else joined

        self._default = numbers(0.0, lambda term: term.default)
        self._low = numbers(-np.inf, lambda term: term.clip[:1])
        self._high = numbers(np.inf, lambda term: term.clip[1:])
        self._scale = numbers(1.0, lambda term: term.scale)
        self._offset = numbers(0.0, lambda term: term.offset)

    def __call__(self, readings: torch.Tensor, previous_action: torch.Tensor | None) -> torch.Tensor:
        """Return the observation `[robots, numbers]`, a new tensor.

        Parameters
        ----------
        readings
            `[robots, readings]`, in the order of the terms.
        previous_action
            `[robots, components]`; None if no term wants it.
        """
        parts = []
        for layout, values in zip(self._layouts, readings.split(self._readings, dim=1), strict=True):
            kind = layout.configuration.kind
            if kind == "projected_gravity":
                values = projected_gravity(values)
            elif kind == "one_hot":
                values = values == torch.arange(layout.size, device=values.device)
            elif kind == "previous_action":
                assert previous_action is not None
                values = previous_action
            parts.append(values.to(self._dtype))
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


def projected_gravity(orientation: torch.Tensor) -> torch.Tensor:
    """Return the direction of gravity `[robots, 3]` in the body frame: (0, 0, -1) of the world.

    `orientation` is `[robots, 4]`: x, y, z, w of the rotation from the body frame to the world frame, with z up.
    """
    x, y, z, w = (orientation / orientation.norm(dim=1, keepdim=True)).unbind(dim=1)
    return torch.stack([2.0 * (w * y - x * z), -2.0 * (w * x + y * z), 2.0 * (x * x + y * y) - 1.0], dim=1)
