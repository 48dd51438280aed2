# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The contract of every policy, with the checks of its arguments: keys, shapes, dtypes and devices, never values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import PolicySpec
from policy_node.policies.precision import full_precision

if TYPE_CHECKING:
    from policy_node.policies.golden import GoldenVectors

# Tensors by name, `[robots, *shape]`.
Tensors: TypeAlias = Mapping[str, torch.Tensor]
Observations: TypeAlias = Tensors | torch.Tensor
# A tensor for each entry of `PolicySpec.memory`; None for a policy without memory.
State: TypeAlias = Tensors | None


class PolicyError(ValueError):
    """A policy cannot be loaded or called; the text says what was found, what is allowed and what to do.

    Attributes
    ----------
    parameter
        The parameter of the node to correct.
    is_missing
        Whether this parameter is missing and nothing else is known to be wrong.
    """

    def __init__(self, text: str, parameter: str = "policy.path", is_missing: bool = False) -> None:
        super().__init__(text)
        self.parameter = parameter
        self.is_missing = is_missing


class BoundNetwork(NamedTuple):
    """The network of a policy on a CPU, so that a tick runs it on arrays that stay where they are.

    Attributes
    ----------
    bind
        Returns a function that runs the network on tensors that stay at their places: the observations and the memory,
        contiguous and in the order of the spec. It returns what the network writes, always in the same tensors.
    finish
        Returns actions and next memory from the memory before and what the network wrote, as `act` does, but without
        marks for NaN in the observations or the memory.
    """

    bind: Callable[[list[torch.Tensor]], Callable[[], Sequence[torch.Tensor]]]
    finish: Callable[[Tensors, Sequence[torch.Tensor]], tuple[torch.Tensor, Tensors]]


class Policy(ABC):
    """A trained policy that acts for many robots at once, row by row.

    Rows never influence each other: a row of NaN gives an unusable action in that row only.

    Attributes
    ----------
    spec
        Inputs, memory and outputs.
    engine_name
        Name of the engine that runs the policy, as in `policy.engine`.
    golden
        The golden vectors of the file; None for a file without.
    normalisation
        How observations are normalised, for people: ``none``, ``inside`` (the file does it), ``from FILE``, or that the
        file does not say it.
    interface_fields
        Fields of `PolicyInterface` that the policy was made with; None: not known. `load_policy` refuses others.
    unused_outputs
        Names of the outputs of a network that are neither action nor memory, as far as they are known.
    """

    engine_name = "direct"
    interface_fields: Collection[str] | None = None
    golden: GoldenVectors | None = None
    unused_outputs: Sequence[str] = ()
    normalisation = "inside or none, the file does not say"

    def __init__(self, spec: PolicySpec, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self._expected = {key: (torch_dtype(array.dtype), array.shape) for key, array in spec.observations.items()}

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet, by default zeros; None for a policy without one."""
        return {
            name: torch.zeros((robots, *array.shape), dtype=torch_dtype(array.dtype), device=self.device)
            for name, array in self.spec.memory.items()
        } or None

    def reset(self, state: State, rows: torch.Tensor) -> State:
        """Return the state with the memory of some robots as at the start.

        Parameters
        ----------
        state
            What `initial_state`, the last call or `reset` returned.
        rows
            `[robots]` bool, true for the robots to reset.
        """
        fresh = self.initial_state(len(rows))
        if state is None or fresh is None:
            return None
        # Chosen, not multiplied by zero: NaN must not survive.
        return {name: where_rows(rows, fresh[name], part) for name, part in state.items()}

    def bound_network(self, robots: int) -> BoundNetwork | None:
        """Return the network for a number of robots; None if `act` does more than to run one and to finish its results.

        Without masks.
        """
        return None

    def __call__(
        self, observations: Observations, state: State = None, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Compute the final action of every robot.

        Runs under `torch.inference_mode`, so the result cannot be changed in place outside of it.

        Parameters
        ----------
        observations
            For each key of `spec.observations` a tensor `[robots, *shape]` on `device`, with the dtype of its
            spec and any strides. A policy with one key also takes that tensor by itself.
        state
            What `initial_state`, the last call or `reset` returned.
        masks
            `[robots, spec.mask]` bool on `device`, true for the choices that are allowed, those of several choices
            one after the other; None allows all.

        Returns
        -------
        actions : torch.Tensor
            On `device`. An `ArraySpec`: `[robots, *shape]` of its dtype, clipped or unscaled to the bounds, NaN
            where the network gave NaN. A `DiscreteSpec`: `[robots]` int64, a `MultiDiscreteSpec`:
            `[robots, choices]` int64; -1 where the network gave NaN and where the mask allows no choice. With
            `spec.horizon` the axis of future actions follows the robots: `[robots, horizon, *shape]`.
        state : State
            For the next call.

        Raises
        ------
        PolicyError
            If keys, shapes, dtypes or devices are not those of the spec, or masks are given to a policy that takes
            none. Values are not looked at.
        """
        observations, robots = self._checked(observations)
        self._check_masks(masks, robots)
        self._check_state(state, robots)
        with torch.inference_mode(), full_precision(self.device):
            actions, memory = self.act(observations, state or {}, masks)
        return actions, memory or None

    @abstractmethod
    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments; see `__call__`."""

    def _checked(self, observations: Observations) -> tuple[Tensors, int]:
        """Return the observations by key and the number of robots."""
        if isinstance(observations, torch.Tensor):
            observations = {next(iter(self._expected)): observations}
        if observations.keys() != self._expected.keys():
            raise PolicyError(f"observations have the keys {sorted(observations)}; give {sorted(self._expected)}")
        robots: torch.Size | None = None
        for key, (dtype, shape) in self._expected.items():
            tensor = observations[key]
            found = tensor.shape
            if robots is None:
                robots = found[:1]
            if tensor.dtype != dtype or found[1:] != shape or found[:1] != robots or tensor.device != self.device:
                rows = str(robots[0]) if robots else "robots"
                raise PolicyError(
                    f"observation '{key}' is {_describe(tensor)}; "
                    f"give {_name(dtype)} [{', '.join([rows, *map(str, shape)])}] on {self.device}"
                )
        assert robots
        return observations, robots[0]

    def _check_masks(self, masks: torch.Tensor | None, robots: int) -> None:
        if masks is None:
            return
        length = self.spec.mask
        if not length:
            raise PolicyError(f"masks were given, but a policy of {self.spec.algorithm} takes none; leave them out")
        if masks.shape != (robots, length) or masks.dtype != torch.bool or masks.device != self.device:
            raise PolicyError(f"masks are {_describe(masks)}; give bool [{robots}, {length}] on {self.device}")

    def _check_state(self, state: State, robots: int) -> None:
        found = {} if state is None else {name: tuple(part.shape) for name, part in state.items()}
        expected = {name: (robots, *array.shape) for name, array in self.spec.memory.items()}
        if found != expected:
            raise PolicyError(
                f"the state is {found or None}; give that of initial_state({robots}), of the last call or of reset, "
                f"which is {expected or None}"
            )


class TorchPolicy(Policy):
    """A policy whose `act` is traceable: it consists of operations of PyTorch on parameters in `modules`."""

    modules: Sequence[nn.Module]


class WrappedPolicy(Policy):
    """A policy that acts through another policy, `source`, and shares its spec, device and memory."""

    def __init__(self, source: Policy) -> None:
        super().__init__(source.spec, source.device)
        self.source = source
        self.engine_name = source.engine_name
        self.normalisation = source.normalisation

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet."""
        return self.source.initial_state(robots)

    def reset(self, state: State, rows: torch.Tensor) -> State:
        """Return the state with the memory of some robots as at the start."""
        return self.source.reset(state, rows)


def where_rows(rows: torch.Tensor, tensor: torch.Tensor, other: torch.Tensor | float) -> torch.Tensor:
    """Take the chosen rows of `tensor` and the others of `other`; `rows` is `[robots]` bool."""
    return torch.where(rows.view(-1, *[1] * (tensor.ndim - 1)), tensor, other)


def rows_without_nan(tensors: Iterable[torch.Tensor]) -> torch.Tensor | None:
    """Return `[robots]` bool, true for robots without NaN; None where no tensor can hold NaN."""
    # A tensor with one number for each robot has no further axis.
    spoiled = [tensor[:, None].flatten(1).isnan().any(dim=1) for tensor in tensors if tensor.is_floating_point()]
    return ~torch.stack(spoiled).any(dim=0) if spoiled else None


def mark_rows(
    usable: torch.Tensor, actions: torch.Tensor, memory: Tensors
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Set the actions of unusable rows to NaN, or to -1 for choices, and mark their memory, see `mark_memory`."""
    return where_rows(usable, actions, torch.nan if actions.is_floating_point() else -1), mark_memory(usable, memory)


def mark_memory(usable: torch.Tensor, memory: Tensors) -> dict[str, torch.Tensor]:
    """Set the floating-point part of the memory of unusable rows to NaN.

    Some engines do not pass NaN on: they take the larger of NaN and 0 to be 0.
    """
    return {
        name: where_rows(usable, part, torch.nan) if part.is_floating_point() else part for name, part in memory.items()
    }


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """Return the dtype of tensors for a dtype of NumPy."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _describe(tensor: torch.Tensor) -> str:
    return f"{_name(tensor.dtype)} {list(tensor.shape)} on {tensor.device}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
