# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Runs PyTorch modules, TorchScript or exported, for policies of other trainers.

A recurrent policy may keep its memory in buffers of its own, for one robot, as Isaac Lab exports it. What a run
changes there becomes memory of each robot like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from policy_node.policies.foreign import Port, flat_outputs


class ModuleEngine:
    """Runs a module; see `policy_node.policies.foreign.Engine`.

    Parameters
    ----------
    module
        On its device.
    call
        Calls it with the inputs.
    inputs, outputs
        In their order; outputs beyond them are left out.
    example
        Inputs for one robot, to find what the module remembers; None if it is known to remember nothing.
    """

    def __init__(
        self,
        module: Any,
        call: Callable[[list[torch.Tensor]], Any],
        inputs: Sequence[Port],
        outputs: Sequence[str],
        example: list[torch.Tensor] | None,
    ) -> None:
        self.name = "torchscript" if isinstance(module, torch.jit.ScriptModule) else "direct"
        self._module = module
        self._call = call
        self._given = len(inputs)
        self._returned = list(outputs)
        self.inputs: Sequence[Port] = inputs
        self.outputs: Sequence[str] = outputs
        self.carried: Mapping[str, torch.Tensor] = {}
        if example is None:
            return
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with torch.inference_mode():
            call(example)
        changed = [name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])]
        self.carried = {name: before[name] for name in changed}
        self.inputs = [*inputs, *(Port(name, (1, *before[name].shape), before[name].dtype) for name in changed)]
        self.outputs = [*outputs, *changed]

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the module; see `policy_node.policies.foreign.Engine`."""
        if not self.carried:
            return flat_outputs(self._call(inputs), self._returned)
        # Asked for anew each time: the module may replace its buffers instead of writing into them.
        for name, value in zip(self.carried, inputs[self._given :], strict=True):
            dict(self._module.named_buffers())[name].copy_(value[0])
        result = flat_outputs(self._call(inputs[: self._given]), self._returned)
        buffers = dict(self._module.named_buffers())
        return [*result, *(buffers[name].clone()[None] for name in self.carried)]
