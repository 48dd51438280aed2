# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What one tick computes on the device: history, memory, policy, command, limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from policy_node.control.actions import CommandLimiter, CommandMapper
from policy_node.engines.captured import capture
from policy_node.policies import Policy, State
from policy_node.sensing.batch import ObservationBatch


class Controls(NamedTuple):
    """What the host says to one tick, on the device.

    Attributes
    ----------
    restart
        `[robots]` bool: robots whose histories and memories start anew; None: no robot's.
    previous, start, ramp
        See `CommandLimiter`.
    """

    restart: torch.Tensor | None
    previous: torch.Tensor
    start: torch.Tensor
    ramp: torch.Tensor


class DeviceProgram:
    """One tick after the upload and before the download; it waits for nothing on the way.

    Parameters
    ----------
    policy
        The policy.
    batch
        Its observations.
    mapper, limiter
        From actions to commands.
    robots
        Rows of everything.
    static
        Whether what is kept from tick to tick stays where it is in memory, so that a tick can be recorded and
        repeated.
    """

    def __init__(
        self,
        policy: Policy,
        batch: ObservationBatch,
        mapper: CommandMapper,
        limiter: CommandLimiter,
        robots: int,
        static: bool,
    ) -> None:
        self._policy = policy
        self._batch = batch
        self._mapper = mapper
        self._limiter = limiter
        self._robots = robots
        self._static = static
        self._memory = policy.initial_state(robots)

    def forget(self) -> None:
        """Let the memories of all robots start anew."""
        self._keep(self._policy.initial_state(self._robots))

    def __call__(self, controls: Controls) -> torch.Tensor:
        """Run the tick; to be called in inference mode.

        Returns
        -------
        torch.Tensor
            `[robots, components]`, with limits as `CommandLimiter` gives it; NaN where an action was not usable.
        """
        observations = self._batch.step(controls.restart)
        memory = self._memory
        if memory is not None and controls.restart is not None:
            memory = self._policy.reset(memory, controls.restart)
        actions, memory = self._policy(observations, memory)
        self._keep(memory)
        self._batch.remember(actions)
        commands = self._mapper(actions)
        if commands.shape != controls.previous.shape:
            # Rows of another number could not be told apart.
            raise ValueError(f"its commands are {list(commands.shape)}, not {list(controls.previous.shape)}")
        if not self._limiter.is_needed:
            return commands
        return self._limiter(commands, controls.previous, controls.start, controls.ramp)

    def _keep(self, memory: State) -> None:
        if not self._static:
            self._memory = memory
        elif self._memory is not None and memory is not None:
            for name, part in self._memory.items():
                part.copy_(memory[name])


class DeviceLink:
    """Brings controls to a device and commands back: one transfer each way, and one wait.

    Parameters
    ----------
    program
        What runs in between.
    robots, components
        Of the commands.
    device
        Where the program runs.
    recorded
        Whether the program, which is then static, is recorded as a CUDA graph at the first call and repeated.
    """

    def __init__(
        self, program: DeviceProgram, robots: int, components: int, device: torch.device, recorded: bool
    ) -> None:
        self._program = program
        self._device = device
        self._recorded = recorded
        pinned = device.type == "cuda"
        # previous, start, ramp, restart
        columns = 2 * components + 2
        self._host_controls = torch.zeros((robots, columns), dtype=torch.float64, pin_memory=pinned)
        self._controls = torch.zeros((robots, columns), dtype=torch.float64, device=device)
        self._rows = self._host_controls.numpy()
        self._columns = np.cumsum([components, components, 1])
        self._host_result: torch.Tensor | None = None
        self._repeat: Callable[[], torch.Tensor] | None = None

    def __call__(self, restart: np.ndarray, previous: np.ndarray, start: np.ndarray, ramp: np.ndarray) -> np.ndarray:
        """Run the program; the arguments are those of `Controls`, the result is float64 and valid until the next call.

        The uploads of the batch must have been started.
        """
        first, second, third = self._columns
        self._rows[:, :first] = previous
        self._rows[:, first:second] = start
        self._rows[:, second] = ramp
        self._rows[:, third] = restart
        self._controls.copy_(self._host_controls, non_blocking=True)
        if self._repeat is None:
            self._repeat = capture(self._run, self._device) if self._recorded else self._run
        result = self._repeat()
        if self._host_result is None:
            pinned = self._device.type == "cuda"
            self._host_result = torch.empty(result.shape, dtype=result.dtype, pin_memory=pinned)
        self._host_result.copy_(result, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return self._host_result.numpy()

    def _run(self) -> torch.Tensor:
        previous, start, ramp, restart = self._controls.tensor_split(self._columns.tolist(), dim=1)
        controls = Controls(restart[:, 0] != 0.0, previous, start, ramp[:, 0])
        # Only what is contiguous leaves the device without a copy that waits.
        return self._program(controls).double().contiguous()
