# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of other trainers: inputs by their roles, memory fed back, histories, final actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, PolicySpec
from policy_node.policies.contract import (
    Policy,
    PolicyError,
    State,
    Tensors,
    mark_memory,
    rows_without_nan,
    warn,
    where_rows,
)
from policy_node.policies.formats import PolicyFile
from policy_node.policies.pairing import Network, array_spec, misfit, pair_network
from policy_node.policies.precision import full_precision

STEPS = "steps_since_reset"
# Before the name of a further output, `PolicyInterface.outputs`, among the memory.
OUTPUT = "output."


class ForeignPolicy(Policy):
    """A policy of any trainer, whose interface the configuration describes.

    Raises PolicyError if the network and the interface of the file do not fit each other, or it cannot be run.
    """

    def __init__(self, network: Network, algorithm: str, file: PolicyFile) -> None:
        self.device = file.device
        self.engine_name = network.engine_name
        self._network = network
        self._interface = interface = file.interface
        self._pairing = pairing = pair_network(network, file)
        tracked = interface.history if interface.lengths or interface.mask else {}
        # Inputs that are histories whose length since the reset the network is told.
        self._tracked = [name for name, key in pairing.keys.items() if key in tracked]
        self._steps = next(iter(tracked.values()), 0)
        self._dtypes = {port.name: port.dtype for port in network.inputs}
        self._axes = {part.input: part.axis for part in pairing.memories}
        self._batch, output = self._probe(file)
        action = _action_spec(output, pairing.action, file)
        self._finish = _make_finish(action, file.device)
        memory = {
            part.input: array_spec(part.input, tuple(part.fresh.shape), part.fresh.cpu().numpy().dtype)
            for part in pairing.memories
        }
        if self._steps:
            memory[STEPS] = ArraySpec(STEPS, (), np.int64, 0, self._steps)
        self._first_outputs = self._outputs_for_zeros(file)
        for name, part in self._first_outputs.items():
            memory[name] = array_spec(name, tuple(part.shape), part.cpu().numpy().dtype)
        super().__init__(PolicySpec(pairing.observations, action, algorithm, file.sha256, memory), file.device)

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet."""
        memories = self._pairing.memories
        state = {part.input: part.fresh.expand(robots, *part.fresh.shape).clone() for part in memories}
        state |= {name: part.expand(robots, *part.shape).clone() for name, part in self._first_outputs.items()}
        if self._steps:
            state[STEPS] = torch.zeros(robots, dtype=torch.int64, device=self.device)
        return state or None

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        following = dict(memory)
        inputs = {name: observations[key] for name, key in self._pairing.keys.items()}
        inputs |= {part.input: memory[part.input] for part in self._pairing.memories}
        if self._steps:
            following[STEPS] = (memory[STEPS] + 1).clamp_max(self._steps)
            inputs |= self._history_inputs(inputs, following[STEPS])
        usable = rows_without_nan(inputs.values())
        robots = len(next(iter(inputs.values())))
        if usable is None:
            usable = torch.ones(robots, dtype=torch.bool, device=self.device)
        outputs = self._run_in_parts(inputs, robots)
        kept = {part.input: outputs[part.output] for part in self._pairing.memories}
        kept |= {OUTPUT + name: outputs[name] for name in self._interface.outputs}
        following |= mark_memory(usable, kept)
        return self._finish(outputs[self._pairing.action], usable), following

    def _history_inputs(self, inputs: Tensors, steps: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the histories among the inputs, padded as the network wants them, with their lengths and mask."""
        slots = torch.arange(self._steps, device=self.device)
        at_end = self._interface.padding == "end"
        valid = slots < steps[:, None] if at_end else slots >= self._steps - steps[:, None]
        ready = {}
        for name in self._tracked:
            tensor = inputs[name]
            if at_end:
                # The newest step comes last: the oldest valid one moves to the front.
                source = (slots + self._steps - steps[:, None]).clamp_max(self._steps - 1)
                tensor = tensor[torch.arange(len(tensor), device=self.device)[:, None], source]
            # The steps before the reset may hold anything: attention multiplies them by zero, which NaN survives.
            ready[name] = torch.where(valid.view(*valid.shape, *[1] * (tensor.ndim - 2)), tensor, 0)
        for name, value in ((self._interface.lengths, steps), (self._interface.mask, valid)):
            if name:
                ready[name] = value.to(self._dtypes[name] or value.dtype)
        return ready

    def _run_in_parts(self, inputs: Tensors, robots: int) -> dict[str, torch.Tensor]:
        """Run the network on as many robots at once as it takes."""
        batch = self._batch
        if batch is None or batch == robots:
            return self._run(inputs)
        parts = []
        for first in range(0, robots, batch):
            # The last part is filled up with its last robot.
            rows = torch.arange(first, first + batch, device=self.device).clamp_max(robots - 1)
            parts.append(self._run({name: tensor[rows] for name, tensor in inputs.items()}))
        return {name: torch.cat([part[name] for part in parts])[:robots] for name in parts[0]}

    def _run(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Run the network once; all tensors here have the robots axis first."""
        arguments = [
            inputs[port.name].movedim(0, self._axes.get(port.name, 0)).contiguous() for port in self._network.inputs
        ]
        outputs = dict(zip(self._network.outputs, self._network(arguments), strict=True))
        for part in self._pairing.memories:
            outputs[part.output] = outputs[part.output].movedim(part.axis, 0)
        return outputs

    def _probe(self, file: PolicyFile) -> tuple[int | None, torch.Tensor]:
        """Return how many robots the network takes at once, None for any number, and an action that it gave."""
        fixed, reason = next(iter(self._pairing.fixed.values()), None), ""
        for batch in [2, 1] if fixed is None else [fixed]:
            try:
                with torch.inference_mode(), full_precision(self.device):
                    inputs = self._probe_inputs(batch)
                    outputs = self._run(inputs)
                    mirrored = self._run({name: tensor.flip(0) for name, tensor in inputs.items()})
            except Exception as error:
                reason = reason or f"it cannot be run on {batch} robots ({type(error).__name__}: {error})"
                continue
            problem = self._problem_of(batch, outputs, mirrored)
            if problem:
                reason = reason or problem
                continue
            if fixed is None and batch > 1:
                return None, outputs[self._pairing.action]
            rows = "robot after robot" if batch == 1 else f"{batch} robots at a time"
            warn(
                f"policy file '{file.path}' is run {rows}: {reason or f'it was exported for a batch of {batch}'}; "
                "export it with a robots axis of any length to run all at once"
            )
            return batch, outputs[self._pairing.action]
        raise misfit(
            file, reason, "check memory and shapes, and export it in evaluation mode with robots as the first axis"
        )

    def _problem_of(self, batch: int, outputs: Tensors, mirrored: Tensors) -> str:
        """Say what is wrong with the outputs for some robots and for the same robots in reverse; empty if nothing."""
        kept = {part.output: [batch, *part.fresh.shape] for part in self._pairing.memories}
        for name, expected in kept.items():
            if list(outputs[name].shape) != expected:
                return f"its output '{name}' is {list(outputs[name].shape)} for {expected} in"
        action = self._pairing.action
        if outputs[action].shape[:1] != (batch,):
            return f"its action is {list(outputs[action].shape)} for {batch} robots"
        pairs = [(outputs[name].double(), mirrored[name].flip(0).double()) for name in (action, *kept)]
        if not all(torch.allclose(*pair, rtol=1e-3, atol=1e-4, equal_nan=True) for pair in pairs):
            return "robots influence each other, or the same observations give different actions"
        return ""

    def _outputs_for_zeros(self, file: PolicyFile) -> dict[str, torch.Tensor]:
        """Return the further outputs of one robot whose observations are zeros, under their names in the memory."""
        if not self._interface.outputs:
            return {}
        observations = self._pairing.observations
        with torch.inference_mode(), full_precision(self.device):
            inputs = {
                name: torch.from_numpy(np.zeros((1, *observations[key].shape), observations[key].dtype)).to(self.device)
                for name, key in self._pairing.keys.items()
            }
            inputs |= {part.input: part.fresh[None] for part in self._pairing.memories}
            if self._steps:
                inputs |= self._history_inputs(inputs, torch.ones(1, dtype=torch.int64, device=self.device))
            outputs = self._run_in_parts(inputs, 1)
        for name in self._interface.outputs:
            if outputs[name].shape[:1] != (1,):
                reason = f"its further output '{name}' is {list(outputs[name].shape)} for 1 robot"
                raise misfit(file, reason, "name outputs whose first axis is the robots")
        return {OUTPUT + name: outputs[name][0] for name in self._interface.outputs}

    def _probe_inputs(self, batch: int) -> Mapping[str, torch.Tensor]:
        rng = np.random.default_rng(0)
        observations = self._pairing.observations
        arrays = {key: torch.from_numpy(spec.example(batch, rng)).to(self.device) for key, spec in observations.items()}
        inputs = {name: arrays[key] for name, key in self._pairing.keys.items()}
        inputs |= {part.input: part.fresh.expand(batch, *part.fresh.shape) for part in self._pairing.memories}
        if self._steps:
            inputs |= self._history_inputs(inputs, torch.full((batch,), self._steps, device=self.device))
        return inputs


def _action_spec(output: torch.Tensor, name: str, file: PolicyFile) -> ActionSpec:
    interface, shape = file.interface, tuple(output.shape[1:])
    if choices := interface.discrete:
        is_index = not output.is_floating_point() and shape in ((), (1,))
        if not is_index and shape != (choices,):
            raise misfit(file, f"its output '{name}' is {list(shape)} for {choices} choices", "correct discrete")
        return DiscreteSpec("action", choices)
    if not output.is_floating_point():
        reason = f"its output '{name}' is {output.dtype}, no continuous action"
        raise misfit(file, reason, "give discrete, or another one")
    dtype = np.float64 if output.dtype == torch.float64 else np.float32
    try:
        return ArraySpec("action", shape, dtype, interface.low, interface.high)
    except ValueError as error:
        raise PolicyError(f"the bounds do not fit policy file '{file.path}': {error}") from error


def _make_finish(action: ActionSpec, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the function from the network's output and the usable rows to final actions."""
    if isinstance(action, ArraySpec):
        low, high = (torch.tensor(bound, device=device) for bound in (action.low, action.high))
        return lambda output, usable: where_rows(usable, torch.clamp(output.to(low.dtype), low, high), torch.nan)
    assert isinstance(action, DiscreteSpec)
    choices = action.n

    def choose(output: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
        if output.is_floating_point():
            return torch.where(usable & ~output.isnan().any(dim=1), output.argmax(dim=1), -1)
        chosen = output.reshape(-1).long()
        return torch.where(usable & (chosen >= 0) & (chosen < choices), chosen, -1)

    return choose
