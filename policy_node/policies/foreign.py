# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of other trainers: inputs by their roles, memory fed back, histories, final actions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from policy_node.config.specs import OUTPUT, ActionSpec, ArraySpec, DiscreteSpec, PolicySpec
from policy_node.config.warning import warn
from policy_node.policies.contract import (
    BoundNetwork,
    Policy,
    PolicyError,
    State,
    Tensors,
    mark_memory,
    rows_without_nan,
    where_rows,
)
from policy_node.policies.formats import PolicyFile
from policy_node.policies.pairing import Network, array_spec, misfit, pair_network, reason_of
from policy_node.policies.precision import full_precision

STEPS = "steps_since_reset"
# A network with an opened robots axis is compared with the file on observations of these scales, in turn.
_COMPARED_SCALES = (1.0, 0.1, 5.0, 1.0, -1.0, 20.0)
# So many steps, as memory may act rarely. A second number of robots, as the first may equal a length by chance.
_COMPARED_STEPS = {3: 60, 7: 6}


class ForeignPolicy(Policy):
    """A policy of any trainer, whose interface the configuration describes.

    Attributes
    ----------
    batch
        Robots in one run of the network; None: all.
    how_it_runs
        How many robots are run at once, and why not all, such as "one batch" or "robot after robot: ...".

    Raises PolicyError if the network and the interface of the file do not fit each other, or it cannot be run.
    """

    interface_fields = ("action", "horizon", "discrete", "low", "high", "memory", "lengths", "mask", "shapes")

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
        used = [pairing.action, *(part.output for part in pairing.memories), *interface.outputs]
        self.unused_outputs = [name for name in network.outputs if name not in used]
        self._dtypes = {port.name: port.dtype for port in network.inputs}
        self._axes = {part.input: part.axis for part in pairing.memories}
        self._least = 1
        self.batch, output, reason = self._probe(file)
        self.how_it_runs = self._open_batch(file, reason)
        horizon = _horizon(output, pairing.action, file)
        action = _action_spec(output[:, 0] if horizon else output, pairing.action, file)
        self._finish = _make_finish(action, horizon, file.device)
        memory = {
            part.input: array_spec(part.input, tuple(part.fresh.shape), part.fresh.cpu().numpy().dtype)
            for part in pairing.memories
        }
        if self._steps:
            memory[STEPS] = ArraySpec(STEPS, (), np.int64, 0, self._steps)
        self._first_outputs = self._outputs_for_zeros()
        for name, part in self._first_outputs.items():
            memory[name] = array_spec(name, tuple(part.shape), part.cpu().numpy().dtype)
        spec = PolicySpec(pairing.observations, action, algorithm, file.sha256, memory, horizon=horizon)
        super().__init__(spec, file.device)

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
        outputs = self._run_in_parts(inputs, len(next(iter(inputs.values()))))
        kept = self._kept(outputs)
        following |= kept if usable is None else mark_memory(usable, kept)
        return self._finish(outputs[self._pairing.action], usable), following

    def _kept(self, outputs: Tensors) -> dict[str, torch.Tensor]:
        """Return what the network wrote for the next call, and its further outputs, by their names in the memory."""
        kept = {part.input: outputs[part.output] for part in self._pairing.memories}
        return kept | {OUTPUT + name: outputs[name] for name in self._interface.outputs}

    def bound_network(self, robots: int) -> BoundNetwork | None:
        """See `Policy`; None also where the network takes fewer robots at once, or another order of axes."""
        pairing, bind = self._pairing, getattr(self._network, "bound", None)
        takes_all = self.batch in (None, robots) and robots >= self._least
        if bind is None or not takes_all or self._steps or any(self._axes.values()):
            return None
        places = {name: list(self.spec.observations).index(key) for name, key in pairing.keys.items()}
        first = len(self.spec.observations)
        places |= {part.input: first + list(self.spec.memory).index(part.input) for part in pairing.memories}
        order = [places[port.name] for port in self._network.inputs]

        def finish(memory: Tensors, outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Tensors]:
            named = dict(zip(self._network.outputs, outputs, strict=True))
            return self._finish(named[pairing.action], None), {**memory, **self._kept(named)}

        return BoundNetwork(lambda tensors: bind([tensors[place] for place in order]), finish)

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
        batch = self.batch or max(robots, self._least)
        if batch == robots:
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

    def _probe(self, file: PolicyFile) -> tuple[int | None, torch.Tensor, str]:
        """Return how many robots the network takes at once, None for any number, an action that it gave, and why."""
        fixed, reason = next(iter(self._pairing.fixed.values()), None), self._network.alone
        sizes = [fixed] if fixed is not None else [1] if reason else [2, 1]
        for batch in sizes:
            try:
                with torch.inference_mode(), full_precision(self.device):
                    inputs = self._probe_inputs(batch)
                    outputs = self._run(inputs)
                    others = self._run(_among_others(inputs, self._probe_inputs(batch, seed=1)))
            except Exception as error:
                reason = reason or f"it cannot be run on {batch} robots ({reason_of(error)})"
                continue
            problem = self._problem_of(batch, outputs, others)
            if problem:
                reason = reason or problem
                continue
            if fixed is not None or batch == 1:
                return batch, outputs[self._pairing.action], reason
            # Some drop the robots axis of one robot, or were exported for at least two.
            self._least = 1 if self._takes_one(inputs, outputs) else 2
            return None, outputs[self._pairing.action], reason
        raise misfit(
            file, reason, "check memory and shapes, and export it in evaluation mode with robots as the first axis"
        )

    def _takes_one(self, inputs: Tensors, outputs: Tensors) -> bool:
        """Return whether one robot gives what it gives as the first of several."""
        names = [*(part.output for part in self._pairing.memories), *self._interface.outputs, self._pairing.action]
        try:
            with torch.inference_mode(), full_precision(self.device):
                alone = self._run({name: tensor[:1] for name, tensor in inputs.items()})
        except Exception:
            return False
        return _are_close([alone[name] for name in names], [outputs[name][:1] for name in names])

    def _open_batch(self, file: PolicyFile, reason: str) -> str:
        """Run all robots at once where the network allows it, and return how they are run; warn where they are not."""
        batch = self.batch
        if batch is None:
            return "one batch"
        narrow, tried = self._network, ""
        if batch == 1 and not narrow.alone:
            try:
                if self._opens():
                    return "one batch, opened"
                tried = ", and opened for several robots it acts differently" if self._network is not narrow else ""
            except Exception as error:
                tried = f", and example observations cannot be compared ({reason_of(error)})"
            self._network, self.batch = narrow, batch
        rows = "robot after robot" if batch == 1 else f"{batch} robots at a time"
        kept = ", ".join(f"'{name}'" for name in narrow.carried)
        made = f"it keeps {kept} for one robot" if kept else f"it was exported for a batch of {batch}"
        reason = reason or made + tried
        warn(
            f"policy file '{file.path}' is run {rows}: {reason}; "
            "export it with a robots axis of any length to run all at once"
        )
        return f"{rows}: {reason}"

    def _opens(self) -> bool:
        """Run all robots with an opened network that acts as the network does robot by robot; return whether it can."""
        narrow, expected = self._network, self._rollouts()
        for opened in narrow.opened({port.name: self._axes.get(port.name, 0) for port in narrow.inputs}):
            self._network, self.batch = opened, None
            # It may fail in any way: it is only tried.
            with contextlib.suppress(Exception):
                if _are_close(self._rollouts(), expected):
                    return True
        return False

    def _rollouts(self) -> list[torch.Tensor]:
        """Return the outputs for some robots over some steps, with resets in between, to compare networks."""
        steps = _COMPARED_STEPS if self._pairing.memories else dict.fromkeys(_COMPARED_STEPS, len(_COMPARED_SCALES))
        return [output for robots, count in steps.items() for output in self._rollout(robots, count)]

    def _rollout(self, robots: int, steps: int) -> list[torch.Tensor]:
        pairing, found = self._pairing, []
        fresh = {part.input: part.fresh.expand(robots, *part.fresh.shape) for part in pairing.memories}
        kept = fresh
        with torch.inference_mode(), full_precision(self.device):
            for step in range(steps):
                scale = _COMPARED_SCALES[step % len(_COMPARED_SCALES)]
                inputs = {**self._probe_inputs(robots, seed=step, scale=scale), **kept}
                outputs = self._run_in_parts(inputs, robots)
                found += [outputs[name] for name in (pairing.action, *self._interface.outputs)]
                # One robot after the other begins again, so that they are not all at the same step.
                restarted = torch.arange(robots, device=self.device) == (step if step < robots else -1)
                kept = {
                    part.input: where_rows(restarted, fresh[part.input], outputs[part.output])
                    for part in pairing.memories
                }
                found += kept.values()
        return found

    def _problem_of(self, batch: int, outputs: Tensors, others: Tensors) -> str:
        """Say what is wrong with the outputs for some robots, and of the first of them as the last among others."""
        kept = {part.output: [batch, *part.fresh.shape] for part in self._pairing.memories}
        for name, expected in kept.items():
            if list(outputs[name].shape) != expected:
                return f"its output '{name}' is {list(outputs[name].shape)} for {expected} in"
        for name in (self._pairing.action, *self._interface.outputs):
            if outputs[name].shape[:1] != (batch,):
                kind = "action" if name == self._pairing.action else f"output '{name}'"
                return f"its {kind} is {list(outputs[name].shape)} for {batch} robots"
        for name in (self._pairing.action, *kept, *self._interface.outputs):
            if not torch.allclose(
                outputs[name][0].double(), others[name][-1].double(), rtol=1e-3, atol=1e-4, equal_nan=True
            ):
                return "robots influence each other, or the same observations give different actions"
        return ""

    def _outputs_for_zeros(self) -> dict[str, torch.Tensor]:
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
        return {OUTPUT + name: outputs[name][0] for name in self._interface.outputs}

    def _probe_inputs(self, batch: int, seed: int = 0, scale: float = 1.0) -> dict[str, torch.Tensor]:
        """Return random inputs with fresh memory; `scale` multiplies the observations without bounds."""
        rng = np.random.default_rng(seed)
        inputs: dict[str, torch.Tensor] = {}
        for name, key in self._pairing.keys.items():
            spec = self._pairing.observations[key]
            array = spec.example(batch, rng)
            if spec.dtype.kind == "f":
                array = np.where(np.isinf(spec.high), array * spec.dtype.type(scale), array)
            inputs[name] = torch.from_numpy(array).to(self.device)
        inputs |= {part.input: part.fresh.expand(batch, *part.fresh.shape) for part in self._pairing.memories}
        if self._steps:
            lengths = torch.from_numpy(rng.integers(1, self._steps, batch, endpoint=True)).to(self.device)
            inputs |= self._history_inputs(inputs, lengths)
        return inputs


def _among_others(inputs: Tensors, others: Tensors) -> dict[str, torch.Tensor]:
    """Return inputs of other robots, with the first robot of `inputs` as the last one."""
    return {name: torch.cat([others[name][:-1], tensor[:1]]) for name, tensor in inputs.items()}


def _are_close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Return whether outputs are equal but for the rounding of sums in another order."""
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-5, equal_nan=True):
            return False
    return True


def _horizon(output: torch.Tensor, name: str, file: PolicyFile) -> int:
    """Return the number of future actions in the output `[robots, horizon, ...]`; 0 for one action without the axis.

    Where it is not given, an output with a further axis has it: `[robots, horizon, components]`, for a choice
    `[robots, horizon, logits]` or `[robots, horizon]` indices.
    """
    given, lengths = file.interface.horizon, tuple(output.shape[1:])
    if file.interface.discrete:
        is_plan = len(lengths) == (2 if output.is_floating_point() else 1)
    else:
        is_plan = len(lengths) == 2
    if given and not (is_plan and lengths[0] == given):
        reason = f"its output '{name}' is {list(lengths)} for one robot, no {given} future actions"
        raise misfit(file, reason, "correct horizon, or leave it out", "policy.horizon")
    return lengths[0] if is_plan and (given or lengths[0] > 1) else 0


def _action_spec(output: torch.Tensor, name: str, file: PolicyFile) -> ActionSpec:
    interface, shape = file.interface, tuple(output.shape[1:])
    if choices := interface.discrete:
        is_index = not output.is_floating_point() and shape in ((), (1,))
        if not is_index and shape != (choices,):
            reason = f"its output '{name}' is {list(shape)} for {choices} choices"
            raise misfit(file, reason, "correct discrete", "policy.discrete")
        return DiscreteSpec("action", choices)
    if not output.is_floating_point():
        reason = f"its output '{name}' is {output.dtype}, no continuous action"
        raise misfit(file, reason, "give discrete, or another one")
    dtype = np.float64 if output.dtype == torch.float64 else np.float32
    try:
        return ArraySpec("action", shape, dtype, interface.low, interface.high)
    except ValueError as error:
        # The error names the bound.
        bound = "high" if np.ndim(interface.high) and np.shape(interface.high) != shape else "low"
        raise PolicyError(f"the bounds do not fit policy file '{file.path}': {error}", f"policy.{bound}") from error


def _make_finish(
    action: ActionSpec, horizon: int, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """Return the function from the network's output and the usable rows (None: all) to final actions."""
    if isinstance(action, ArraySpec):
        low, high = (torch.tensor(bound, device=device) for bound in (action.low, action.high))

        def clip(output: torch.Tensor, usable: torch.Tensor | None) -> torch.Tensor:
            clipped = torch.clamp(output.to(low.dtype), low, high)
            return clipped if usable is None else where_rows(usable, clipped, torch.nan)

        return clip
    assert isinstance(action, DiscreteSpec)
    choices = action.n

    def choose(output: torch.Tensor, usable: torch.Tensor | None) -> torch.Tensor:
        if output.is_floating_point():
            chosen = torch.where(output.isnan().any(dim=-1), -1, output.argmax(dim=-1))
        else:
            # One index may have an axis.
            chosen = (output if horizon else output.reshape(-1)).long()
            chosen = torch.where((chosen >= 0) & (chosen < choices), chosen, -1)
        return chosen if usable is None else where_rows(usable, chosen, -1)

    return choose
