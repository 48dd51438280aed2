# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One tick on the device: upload, history, policy, command, limits, one download."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch

from policy_node.config.schema import ActionConfiguration
from policy_node.engines.backends import EngineRequest, EngineSettings
from policy_node.engines.bound_tick import BoundTick
from policy_node.engines.choice import reason_of
from policy_node.engines.tracing import EnginePolicy
from policy_node.engines.wrapped import CapturedPolicy, capture
from policy_node.policies.contract import Policy, State
from policy_node.sensing.batch import ObservationBatch

WARM_UP_RUNS = 3


class CommandMap(Protocol):
    """Maps final actions `[robots, *action]` to commands `[robots, components]`.

    An invalid choice (a negative index) becomes NaN, and numbers that are not finite stay so; the guard rejects both.

    Attributes
    ----------
    components
        Numbers of one command.
    safe_command
        `[components]` float64, None when the configuration names none.
    """

    components: int
    safe_command: np.ndarray | None

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the commands."""


class CommandLimits(Protocol):
    """Limits commands, if `is_needed`, and adds two columns: whether a bound, or a limit of the change, acted."""

    @property
    def is_needed(self) -> bool:
        """Whether anything is limited; may change between two ticks."""

    @property
    def kinds(self) -> tuple[bool, ...]:
        """The kinds of limits that are computed; may change between two ticks."""

    def check(self, configuration: ActionConfiguration) -> None:
        """Check that `change` can set the limits of a configuration; raises ConfigurationError."""

    def change(self, configuration: ActionConfiguration) -> None:
        """Set the limits of a configuration; called between two ticks."""

    def __call__(
        self, commands: torch.Tensor, previous: torch.Tensor, start: torch.Tensor, ramp: torch.Tensor
    ) -> torch.Tensor:
        """Return the limited commands `[robots, components + 2]` float64.

        Parameters
        ----------
        commands
            `[robots, components]`; numbers that are not finite become NaN, because a bound must not make them usable.
        previous
            `[robots, components]` float64: the command from which the change is limited: the last one sent, or the safe
            command if none was sent. NaN disables the limit.
        start
            `[robots, components]` float64: where the ramp begins; NaN where there is no such command.
        ramp
            `[robots]` float64: share of the ramp that has passed, 0 to 1.
        """


class Inferred(NamedTuple):
    """Result of one inference, on the host.

    Attributes
    ----------
    commands
        `[robots, components]`; not finite where an action was not usable.
    bounded, slowed
        `[robots]` bool: whether a bound, or a limit of the change, acted on the command.
    """

    commands: np.ndarray
    bounded: np.ndarray
    slowed: np.ndarray


class Inference:
    """Runs a policy between its observations and its commands, for all robots at once.

    Attributes
    ----------
    batch
        Batch in which the newest readings are staged.
    components
        Numbers of one command.
    safe_command
        `[components]` float64, None when the configuration names none.
    limits
        Limits of the commands.
    duration_s
        Shortest time of a run at the warm-up; 0 before it.
    """

    def __init__(
        self, policy: Policy, batch: ObservationBatch, command_map: CommandMap, limits: CommandLimits, robots: int
    ) -> None:
        self._robots = robots
        self._nobody = np.zeros(robots, bool)
        self._nobody.flags.writeable = False
        self.duration_s = 0.0
        self.policy = policy
        self.batch = batch
        self.components = command_map.components
        self.safe_command = command_map.safe_command
        self.limits = limits
        captured = isinstance(policy, CapturedPolicy)
        source = policy.source if isinstance(policy, CapturedPolicy) else policy
        self._program = DeviceProgram(source, batch, command_map, limits, robots, captured)
        #: What one session computes, for diagnostics, see `DeviceProgram.bind`.
        self.session = self._program.bind()

    def warm_up(self) -> None:
        """Run the whole batch on example observations, so that the first tick takes as long as later ones.

        Raises any exception of the policy on its own example observations.
        """
        rng = np.random.default_rng(0)
        everything = np.ones(self._robots, bool)
        start = np.full((self._robots, self.components), np.nan)
        durations_s = []
        for _ in range(WARM_UP_RUNS):
            for key, spec in self.policy.spec.observations.items():
                frame = self.batch.row(key, 0)
                frame[...] = np.resize(spec.example(1, rng), frame.shape)
            began_s = time.perf_counter()
            self(everything, start, start, np.ones(self._robots))
            durations_s.append(time.perf_counter() - began_s)
        self.duration_s = min(durations_s)
        with torch.inference_mode():
            self._program.forget()

    def __call__(self, fresh_start: np.ndarray, previous: np.ndarray, start: np.ndarray, ramp: np.ndarray) -> Inferred:
        """Run the policy on the staged rows.

        `fresh_start` `[robots]` bool marks the robots whose histories and memories start again; the other arguments are
        those of `CommandLimits`.
        """
        if self._program.has_transfers:
            with torch.inference_mode():
                self.batch.upload()
                numbers = self._program.transfer(fresh_start, previous, start, ramp)
        else:
            # On a CPU the staged rows are where the policy takes them.
            numbers = self._program.run(fresh_start, previous, start, ramp)
        if not self.limits.is_needed:
            return Inferred(numbers, self._nobody, self._nobody)
        return Inferred(numbers[:, :-2], numbers[:, -2] != 0.0, numbers[:, -1] != 0.0)


class DeviceProgram:
    """The part of a tick between the staged rows and the commands.

    On a GPU, or if it is captured, controls go to the device and commands back with one transfer each way and one wait.
    If it is captured, buffers that are kept from tick to tick stay at their place in memory, and the first tick becomes
    a CUDA graph that later ticks repeat.
    """

    def __init__(
        self,
        policy: Policy,
        batch: ObservationBatch,
        command_map: CommandMap,
        limits: CommandLimits,
        robots: int,
        captured: bool,
    ) -> None:
        self._policy = policy
        self._batch = batch
        self._command_map = command_map
        self._limits = limits
        self._robots = robots
        self._captured = captured
        self._memory = policy.initial_state(robots)
        batch.set_first_outputs(self._memory or {})
        self._device = policy.device
        self._pinned = self._device.type == "cuda"
        self.has_transfers = captured or self._pinned
        if self.has_transfers:
            components = command_map.components
            # previous, start, ramp, restart
            self._columns = np.cumsum([components, components, 1])
            columns = 2 * components + 2
            self._host_controls = torch.zeros((robots, columns), dtype=torch.float64, pin_memory=self._pinned)
            self._controls = torch.zeros((robots, columns), dtype=torch.float64, device=self._device)
            self._rows = self._host_controls.numpy()
        self._tick: BoundTick | None = None
        self._host_result: torch.Tensor | None = None
        self._repeat: Callable[[], torch.Tensor] | None = None

    def forget(self) -> None:
        """Start the memories of all robots again."""
        self._keep(self._policy.initial_state(self._robots))

    def __call__(
        self, restart: torch.Tensor | None, previous: torch.Tensor, start: torch.Tensor, ramp: torch.Tensor
    ) -> torch.Tensor:
        """Run the tick in inference mode, with arguments on the device; this waits for nothing.

        `restart` `[robots]` bool marks the robots whose histories and memories start again; None: none. The result is
        `[robots, components]`, with limits that of `CommandLimits`; not finite where an action was not usable.
        """
        observations, memory = self._step(restart)
        actions, memory = self._policy(observations, memory)
        self._keep(memory)
        self._batch.remember(actions, memory or {})
        commands = self._command_map(actions)
        if commands.shape != previous.shape:
            # With another number of rows it is unknown which robot each belongs to.
            raise ValueError(f"its commands are {list(commands.shape)}, not {list(previous.shape)}")
        return self._limits(commands, previous, start, ramp) if self._limits.is_needed else commands

    def bind(self) -> str:
        """Make one session of network, mapping and limits where the engine can; return what it computes.

        That is ``tick``, or ``network`` and the reason; empty if the engine has no session.
        """
        policy, robots = self._policy, self._robots
        make: Callable[[CommandMap, CommandLimits], BoundTick] | None = None
        if isinstance(policy, EnginePolicy):
            make = policy.bind_tick if policy.robots == robots else None
        elif not self.has_transfers and (network := policy.bound_network(robots)) is not None:
            request = EngineRequest(policy, robots, {}, frozenset(), EngineSettings())
            make = partial(BoundTick, request, network=network)
        if make is None:
            return ""
        try:
            self._tick = make(self._command_map, self._limits)
        except Exception as error:  # the parts run one after the other then
            return f"network; {reason_of(error)}"
        return "tick"

    def run(self, fresh_start: np.ndarray, previous: np.ndarray, start: np.ndarray, ramp: np.ndarray) -> np.ndarray:
        """Run the tick on a CPU, as one session if there is one for the present kinds of limits; see `__call__`.

        `fresh_start` `[robots]` bool marks the robots whose histories and memories start again.
        """
        tick, batch = self._tick, self._batch
        if tick is not None and tick.kinds != self._limits.kinds:
            tick = None
        if tick is not None and self._memory is None and batch.is_memoryless:
            # Nothing starts again, and PyTorch computes nothing.
            return tick(batch.step(None), None, previous, start, ramp)[0]
        with torch.inference_mode():
            restart = torch.from_numpy(fresh_start) if fresh_start.any() else None
            if tick is None:
                return self(restart, *map(torch.from_numpy, (previous, start, ramp))).numpy()
            observations, memory = self._step(restart)
            commands, actions, self._memory = tick(observations, memory, previous, start, ramp)
            batch.remember(actions, self._memory or {})
        return commands

    def _step(self, restart: torch.Tensor | None) -> tuple[Mapping[str, torch.Tensor], State]:
        """Return the observations of this step, and the memory of the robots."""
        observations, memory = self._batch.step(restart), self._memory
        if memory is not None and restart is not None:
            memory = self._policy.reset(memory, restart)
        return observations, memory

    def transfer(self, restart: np.ndarray, previous: np.ndarray, start: np.ndarray, ramp: np.ndarray) -> np.ndarray:
        """Run the tick with arguments on the host, after the uploads of the batch were started.

        The result is float64 and valid until the next call.
        """
        first, second, third = self._columns
        self._rows[:, :first] = previous
        self._rows[:, first:second] = start
        self._rows[:, second] = ramp
        self._rows[:, third] = restart
        self._controls.copy_(self._host_controls, non_blocking=True)
        if self._repeat is None:
            self._repeat = capture(self._on_controls, self._device) if self._captured else self._on_controls
        result = self._repeat()
        if self._host_result is None or self._host_result.shape != result.shape:
            self._host_result = torch.empty(result.shape, dtype=result.dtype, pin_memory=self._pinned)
        self._host_result.copy_(result, non_blocking=True)
        if self._pinned:
            torch.cuda.current_stream(self._device).synchronize()
        return self._host_result.numpy()

    def _on_controls(self) -> torch.Tensor:
        previous, start, ramp, restart = self._controls.tensor_split(self._columns.tolist(), dim=1)
        # Only a contiguous tensor is downloaded without a copy that waits.
        return self(restart[:, 0] != 0.0, previous, start, ramp[:, 0]).double().contiguous()

    def _keep(self, memory: State) -> None:
        if not self._captured:
            self._memory = memory
        elif self._memory is not None and memory is not None:
            for name, part in self._memory.items():
                part.copy_(memory[name])
