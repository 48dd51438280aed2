# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Let a learner in another thread choose the actions of each tick, in place of the policy.

The pipeline runs as with any policy; where the policy would infer, the tick waits for the learner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import Observed
from policy_node.policies import Observations, Policy, State
from policy_node.policies.contract import Tensors

# Period at which a wait checks whether the learner was closed.
POLL_S = 0.25


class LearnerPauses(Exception):  # noqa: N818  not an error: it skips a tick
    """The learner skips a tick; the text is the reason that the operator sees."""


class Turn(NamedTuple):
    """Observations of one tick for the learner."""

    observations: dict[str, torch.Tensor]  #: Key to tensor `[robots, *space]` on the learner's device; never changed.
    observed: Observed  #: States and ages of the tick.
    unusable: dict[int, str]  #: By index of a reset robot, why its readings cannot be used yet.


# Answer to the tick thread: act, skip the tick, or call a function and observe the robots again.
_Answer: TypeAlias = "torch.Tensor | LearnerPauses | tuple[Callable[[], None], Sequence[int]]"


class Learner(Policy):
    """A policy whose actions come from another thread.

    The tick thread calls it through the pipeline. The learner's thread calls `next_turn`, may call `observe_again`, and
    answers each turn with `answer` or `let_pass`.
    """

    def __init__(self, spec: PolicySpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self._pipeline: Pipeline | None = None
        self._turns: SimpleQueue[Turn | Exception] = SimpleQueue()
        self._answers: SimpleQueue[_Answer] = SimpleQueue()
        self._reason = "the learner has not started"
        self.awaited = False  #: Whether a tick waits for the learner.

    def attach(self, pipeline: Pipeline) -> None:
        """Set the pipeline that runs this policy, before its first step."""
        self._pipeline = pipeline

    def begin(self) -> None:
        """Start to take turns; earlier ticks are skipped."""
        self._reason = ""

    def next_turn(self, timeout_s: float) -> Turn | None:
        """Wait for the next tick with a READY robot; None after the timeout."""
        try:
            return _turn_of(self._turns.get(timeout=timeout_s))
        except Empty:
            return None

    def answer(self, actions: np.ndarray) -> None:
        """Answer the current turn with actions `[robots, *action]`."""
        action = self.spec.action
        dtype = action.dtype if isinstance(action, ArraySpec) else np.dtype(np.int64)
        self._answers.put(torch.from_numpy(np.array(actions, dtype)).to(self.device))

    def let_pass(self, reason: str) -> None:
        """Skip the current tick: all robots get their safe commands, and their histories start again."""
        self._answers.put(LearnerPauses(reason))

    def observe_again(self, take: Callable[[], None], robots: Sequence[int]) -> Turn:
        """Observe again within the current turn, after `robots`, by index, were reset.

        The tick thread calls `take` first, to pass new messages to the pipeline.

        Raises
        ------
        RuntimeError
            When `take` or the observation fails, which also ends the tick, and after `end`.
        """
        self._answers.put((take, robots))
        while not self._reason:
            try:
                return _turn_of(self._turns.get(timeout=POLL_S))
            except Empty:
                continue
        raise RuntimeError(self._reason)

    def end(self) -> None:
        """Skip this and all later ticks."""
        self._reason = "the learner was closed"
        self.let_pass(self._reason)

    def __call__(
        self, observations: Observations, state: State = None, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Wait for the actions of the learner, without the checks and settings of `Policy`.

        Raises
        ------
        LearnerPauses
            When the learner skips the tick.
        """
        assert isinstance(observations, Mapping), "the pipeline passes a mapping"
        # The settings of `Policy` would change those of the learner's thread, which computes meanwhile.
        return self.act(observations, {}, masks)[0], state

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Wait for the actions of the learner."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.observed is None:
            # During the warm-up of the pipeline.
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
                # Without it the learner would wait forever.
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
    """Return copies that later ticks do not change and that autograd accepts."""
    with torch.inference_mode(False):
        copies = {
            key: torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) for key, rows in observations.items()
        }
    for key, rows in observations.items():
        copies[key].copy_(rows)
    if any(rows.device.type == "cuda" for rows in copies.values()):
        # The source may be written again after the return.
        torch.cuda.synchronize()
    return copies
