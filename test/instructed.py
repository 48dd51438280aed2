# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy that takes a text, in a file of its own: what a robot is told decides what it does."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.config.tasks import task_spec
from policy_node.policies.contract import Tensors, TorchPolicy
from policy_node.policies.formats import FORMATS, ExportSource
from policy_node.policies.golden import record_golden

HORIZON = 40
STEP = 0.001


class Instructed(TorchPolicy):
    """Commands the sum of the digits in its text, `STEP` more in each step of a plan, and the last number of a reading.

    Its observations are ``touch`` `[robots, numbers]` and the text ``task``; `horizon` 0 gives one action, no plan.
    Without `takes_task` it takes no text, and commands 0.5 in place of the sum.
    """

    normalisation = "none"

    def __init__(self, numbers: int, horizon: int = HORIZON, takes_task: bool = True) -> None:
        observations = {"touch": ArraySpec("touch", (numbers,), np.float32, -np.inf, np.inf)}
        observations |= {"task": task_spec("task")} if takes_task else {}
        action = ArraySpec("action", (2,), np.float32, -np.inf, np.inf)
        task = "task" if takes_task else ""
        spec = PolicySpec(observations, action, "INSTRUCTED", "0" * 64, horizon=horizon, task=task)
        super().__init__(spec, torch.device("cpu"))
        self.modules: list[nn.Module] = []

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute the actions from checked arguments."""
        told = torch.full_like(observations["touch"][:, -1], 0.5)
        if self.spec.task:
            characters = observations["task"].to(torch.float32) - ord("0")
            told = torch.where((characters >= 0) & (characters <= 9), characters, 0.0).sum(dim=1)
        action = torch.stack([told, observations["touch"][:, -1]], dim=1)
        if not self.spec.horizon:
            return action, memory
        steps = torch.arange(self.spec.horizon, dtype=torch.float32)[None, :, None]
        return action[:, None] + STEP * steps, memory


def save_instructed(file: Path, numbers: int, horizon: int = HORIZON, takes_task: bool = True) -> Path:
    """Write the policy as TorchScript that describes itself."""
    policy = Instructed(numbers, horizon, takes_task)
    write = FORMATS["torchscript"].write
    assert write is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(ExportSource(None, {}, policy, record_golden(policy), str(file)), file)  # type: ignore[arg-type]
    return file
