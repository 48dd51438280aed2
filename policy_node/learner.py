# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A learner in the place of the policy: it gets the observations of every tick and gives the actions, from its thread.

The pipeline runs as it does with any policy; where the policy would infer, the tick waits for the learner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import numpy as np
import torch

from policy_node.pipeline import Observed, Pipeline
from policy_node.policies import Observations, Policy, State
from policy_node.policies.contract import Tensors
from policy_node.specs import ArraySpec, PolicySpec


class LearnerPauses(Exception):  # noqa: N818  not an error: it lets a tick pass
    """A tick without actions of the learner: its text is the reason that the operator sees."""


@dataclass(frozen=True, eq=False)
class Turn:
    """What one tick shows the learner.

    Attributes
    ----------
    observations
        Key to tensor `[robots, *space]` on the learner's device; nothing changes it later.
    observed
        What else the tick has found.
    unusable
        By robot why what it read when its episode began anew cannot be used yet.
    """

    observations: dict[str, torch.Tensor]
    observed: Observed
    unusable: dict[int, str]


# What the tick thread is to do: act, let the tick pass, or call and show the robots again.
_Answer: TypeAlias = "torch.Tensor | LearnerPauses | tuple[Callable[[], None], Sequence[int]]"


class Learner(Policy):
    """A policy whose actions come from another thread.

    The tick thread calls it as the pipeline calls any policy. The learner's thread takes `next_turn`, and answers each
    turn with `answer` or `let_pass`; before that it may look again with `observe_again`.

    Parameters
    ----------
    spec
        What is observed and how robots act.
    device
        Where the observations are.

    Attributes
    ----------
    awaited
        Whether a tick waits for the learner.
    """

    def __init__(self, spec: PolicySpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self._pipeline: Pipeline | None = None
        self._turns: SimpleQueue[Turn | Exception] = SimpleQueue()
        self._answers: SimpleQueue[_Answer] = SimpleQueue()
        self._reason = "the learner has not begun"
        self.awaited = False

    def attach(self, pipeline: Pipeline) -> None:
        """Name the pipeline that this is the policy of, before its first step."""
        self._pipeline = pipeline

    def begin(self) -> None:
        """Take the turns from now on; before, all ticks pass."""
        self._reason = ""

    def next_turn(self, timeout_s: float) -> Turn | None:
        """Wait for the next tick at which some robot is ready; None when there was none in time."""
        try:
            return _turn_of(self._turns.get(timeout=timeout_s))
        except Empty:
            return None

    def answer(self, actions: np.ndarray) -> None:
        """Answer the present turn with the actions of all robots `[robots, *action]`."""
        action = self.spec.action
        dtype = action.dtype if isinstance(action, ArraySpec) else np.dtype(np.int64)
        self._answers.put(torch.from_numpy(np.array(actions, dtype)).to(self.device))

    def let_pass(self, reason: str) -> None:
        """Let the present tick pass: all robots get their safe commands, and their histories begin anew."""
        self._answers.put(LearnerPauses(reason))

    def observe_again(self, take: Callable[[], None], robots: Sequence[int]) -> Turn:
        """Look once more within the present turn, as the episodes of some robots began anew.

        Parameters
        ----------
        take
            Called by the tick thread first, to hand what has arrived to the pipeline.
        robots
            Indices of those robots, see `Pipeline.observe_again`.

        Raises
        ------
        RuntimeError
            When that fails, which also ends the tick.
        """
        self._answers.put((take, robots))
        return _turn_of(self._turns.get())

    def end(self) -> None:
        """Let this and all later ticks pass."""
        self._reason = "the learner has ended"
        self.let_pass(self._reason)

    def __call__(
        self, observations: Observations, state: State = None, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Show the learner the turn and return its actions, without the checks and settings of `Policy`.

        Raises
        ------
        LearnerPauses
            Where the learner lets the tick pass.
        """
        assert isinstance(observations, Mapping), "the pipeline gives them by key"
        # The learner's thread computes meanwhile, with the settings of its program.
        return self.act(observations, {}, masks)[0], state

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Show the learner the turn and return its actions."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.observed is None:
            # While the pipeline warms up, nobody acts.
            return self._example(len(next(iter(observations.values())))), {}
        if self._reason:
            raise LearnerPauses(self._reason)
        unusable: dict[int, str] = {}
        while True:
            self._turns.put(Turn(_copied(observations), pipeline.observed, unusable))
            self.awaited = True
            answer: Any = self._answers.get()
            self.awaited = False
            if isinstance(answer, LearnerPauses):
                raise answer
            if isinstance(answer, torch.Tensor):
                return answer, {}
            take, robots = answer
            try:
                take()
                observations, unusable = pipeline.observe_again(robots)
            except Exception as error:
                # The learner would wait for ever.
                self._turns.put(error)
                raise

    def _example(self, robots: int) -> torch.Tensor:
        action = self.spec.action
        if isinstance(action, ArraySpec):
            drawn = action.example(robots, np.random.default_rng(0))
        else:
            drawn = np.zeros((robots, len(action.choices)) if hasattr(action, "choices") else robots, np.int64)
        return torch.from_numpy(drawn).to(self.device)


def _turn_of(shown: Turn | Exception) -> Turn:
    if isinstance(shown, Exception):
        raise RuntimeError(f"the robots cannot be observed: {type(shown).__name__}: {shown}") from shown
    return shown


def _copied(observations: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors that later ticks leave alone and that gradients may be taken of."""
    with torch.inference_mode(False):
        copies = {
            key: torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) for key, rows in observations.items()
        }
    for key, rows in observations.items():
        copies[key].copy_(rows)
    if any(rows.device.type == "cuda" for rows in copies.values()):
        # The rows that they were uploaded from may be written again.
        torch.cuda.synchronize()
    return copies
