# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What every policy checks of a call: keys, shapes, dtypes and devices, never values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from policy_node.config.specs import PolicySpec
from policy_node.policies.contract import Observations, PolicyError, State


class CallChecks:
    """Checks the arguments of a policy's calls.

    Parameters
    ----------
    spec
        Of the policy.
    device
        Of the policy.
    """

    def __init__(self, spec: PolicySpec, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        self._expected = {key: (torch_dtype(array.dtype), array.shape) for key, array in spec.observations.items()}

    def observations(self, observations: Observations) -> tuple[Mapping[str, torch.Tensor], int]:
        """Return the observations by key and the number of robots.

        Raises
        ------
        PolicyError
            If they do not fit the spec.
        """
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
            if tensor.dtype != dtype or found[1:] != shape or found[:1] != robots or tensor.device != self._device:
                rows = str(robots[0]) if robots else "robots"
                raise PolicyError(
                    f"observation '{key}' is {_describe(tensor)}; "
                    f"give {_name(dtype)} [{', '.join([rows, *map(str, shape)])}] on {self._device}"
                )
        assert robots
        return observations, robots[0]

    def masks(self, masks: torch.Tensor | None, robots: int) -> None:
        """Refuse masks that do not fit.

        Raises
        ------
        PolicyError
            If they do not.
        """
        if masks is None:
            return
        length = self._spec.mask
        if not length:
            raise PolicyError(f"masks were given, but a policy of {self._spec.algorithm} takes none; leave them out")
        if masks.shape != (robots, length) or masks.dtype != torch.bool or masks.device != self._device:
            raise PolicyError(f"masks are {_describe(masks)}; give bool [{robots}, {length}] on {self._device}")

    def state(self, state: State, robots: int) -> None:
        """Refuse a state of another policy or another number of robots.

        Raises
        ------
        PolicyError
            If it is one.
        """
        found = {} if state is None else {name: tuple(part.shape) for name, part in state.items()}
        expected = {name: (robots, *array.shape) for name, array in self._spec.memory.items()}
        if found != expected:
            raise PolicyError(
                f"the state is {found or None}; give that of initial_state({robots}), of the last call or of reset, "
                f"which is {expected or None}"
            )


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """Return the dtype of tensors that hold arrays of `dtype`."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _describe(tensor: torch.Tensor) -> str:
    return f"{_name(tensor.dtype)} {list(tensor.shape)} on {tensor.device}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
