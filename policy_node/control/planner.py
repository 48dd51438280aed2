# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run a policy for some robots at a time on a snapshot of their observations, in the tick or beside it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from policy_node.config.specs import ArraySpec, MultiDiscreteSpec
from policy_node.control.realtime import name_thread
from policy_node.policies.contract import Policy, State


class PlanRequest(NamedTuple):
    """A snapshot of the observations of some robots.

    Attributes
    ----------
    robots
        `[planned]`: their indices.
    start_ns
        Time of the observations, on the clock of the stamps.
    episodes
        `[planned]`: numbers of their episodes.
    observations
        Inputs of the policy by key, `[rows, *shape]`; rows after those of the robots repeat the first.
    restart
        `[rows]` bool on the device: robots whose memory restarts.
    ready
        Event of CUDA after which the snapshot is complete; None on the CPU.
    """

    robots: np.ndarray
    start_ns: int
    episodes: np.ndarray
    observations: Mapping[str, torch.Tensor]
    restart: torch.Tensor
    ready: torch.cuda.Event | None


class Planned(NamedTuple):
    """The result of a request: actions `[planned, horizon, components]` float64, or an error."""

    request: PlanRequest
    actions: np.ndarray | None
    error: BaseException | None
    #: Duration of the inference.
    inference_s: float


@dataclass
class _Thread:
    """The thread of a planner, and its requests; None ends it."""

    requests: queue.SimpleQueue[PlanRequest | None] = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None


class Planner:
    """Runs a policy for a fixed number of robots at a time, and keeps the memory of all.

    Requests run in the calling thread, or after `start` in a thread of its own, with a CUDA stream of its own. One
    request runs at a time; one thread requests and collects.

    Parameters
    ----------
    policy
        The policy.
    robots, rows
        Numbers of all robots and of those in one inference.
    channels_last
        Keys of the images that lie in memory as `[robots, ..., height, width, channels]`.
    threads
        CPU threads of one inference.

    Attributes
    ----------
    busy_since_s
        When the current request began, on the monotonic clock; None without one.
    """

    def __init__(self, policy: Policy, robots: int, rows: int, channels_last: Collection[str], threads: int) -> None:
        self.policy = policy
        self.rows = rows
        self.busy_since_s: float | None = None
        action, horizon = policy.spec.action, policy.spec.horizon
        shape = action.shape if isinstance(action, ArraySpec) else ()
        if isinstance(action, MultiDiscreteSpec):
            shape = (len(action.choices),)
        self._shape = (rows, *([horizon] if horizon else []), *shape)
        self._channels_last = channels_last
        self._threads = threads
        self._robots = robots
        self._memory: State = policy.initial_state(robots)
        self._result: Planned | None = None
        self._background: _Thread | None = None
        self._stream = torch.cuda.Stream(policy.device) if policy.device.type == "cuda" else None

    @property
    def is_in_background(self) -> bool:
        """Whether requests run beside the calling thread."""
        return self._background is not None

    def forget(self) -> None:
        """Restart the memory of all robots; not while a request runs."""
        self._memory = self.policy.initial_state(self._robots)

    def start(self, first: PlanRequest) -> None:
        """Start the thread, which first runs `first` and drops its result, because first runs take longer."""
        if self._background is not None:
            return
        self._background = background = _Thread()
        background.thread = threading.Thread(target=self._run, args=(background, first), name="planner", daemon=True)
        background.thread.start()

    def end(self, timeout_s: float) -> bool:
        """End the thread after its current inference; return False if that takes longer than a time."""
        background, self._background = self._background, None
        if background is None or background.thread is None:
            return True
        background.requests.put(None)
        background.thread.join(timeout_s)
        self._result, self.busy_since_s = None, None
        return not background.thread.is_alive()

    def snapshot(
        self,
        robots: np.ndarray,
        start_ns: int,
        episodes: np.ndarray,
        observations: Mapping[str, torch.Tensor],
        restart: np.ndarray,
    ) -> PlanRequest:
        """Copy the observations of some robots, at most `rows`.

        `observations` are those of all robots by key; `episodes` and `restart` `[robots]` belong to all robots, too.
        """
        padded = np.concatenate([robots, np.full(self.rows - len(robots), robots[0])])
        index = torch.from_numpy(padded).to(self.policy.device)
        copies = {key: self._copied(key, tensor, index) for key, tensor in observations.items()}
        restarted = torch.from_numpy(restart[padded]).to(self.policy.device)
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self.policy.device))
        return PlanRequest(robots, start_ns, episodes[robots], copies, restarted, ready)

    def _copied(self, key: str, tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        if key in self._channels_last:
            return tensor.movedim(-3, -1).index_select(0, index).movedim(-1, -3)
        return tensor.index_select(0, index)

    def request(self, request: PlanRequest) -> None:
        """Run the policy; the thread, if there is one, else this call."""
        self.busy_since_s = time.monotonic()
        if self._background is None:
            self._finish(request)
        else:
            self._background.requests.put(request)

    def collect(self) -> Planned | None:
        """Return a result that was not returned yet; None without one."""
        result, self._result = self._result, None
        return result

    def run(self, request: PlanRequest) -> Planned:
        """Run the policy on a snapshot, keep the memory of its robots, and wait for the actions."""
        began_s = time.perf_counter()
        try:
            with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
                actions = self._act(request)
        except BaseException as error:  # the thread that collects decides
            return Planned(request, None, error, time.perf_counter() - began_s)
        return Planned(request, actions, None, time.perf_counter() - began_s)

    def _act(self, request: PlanRequest) -> np.ndarray:
        with torch.inference_mode():
            if self._stream is not None and request.ready is not None:
                self._stream.wait_event(request.ready)
            count = len(request.robots)
            index = torch.from_numpy(request.robots).to(self.policy.device)
            memory: State = None
            if self._memory is not None:
                padded = torch.cat([index, index[:1].expand(self.rows - count)])
                kept = {name: part.index_select(0, padded) for name, part in self._memory.items()}
                memory = self.policy.reset(kept, request.restart)
            actions, after = self.policy(request.observations, memory)
            if actions.shape != self._shape:
                # With another number of rows it is unknown which robot each belongs to.
                raise ValueError(f"its actions are {list(actions.shape)}, not {list(self._shape)}")
            for name, part in (self._memory or {}).items():
                part.index_copy_(0, index, (after or {})[name][:count])
            planned: np.ndarray = actions[:count].to("cpu", torch.float64).numpy()
        spec = self.policy.spec
        # A choice that must not be used is -1.
        planned = planned if actions.is_floating_point() else np.where(planned < 0, np.nan, planned)
        return planned.reshape(count, max(1, spec.horizon), -1)

    def _finish(self, request: PlanRequest) -> None:
        self._result = self.run(request)
        self.busy_since_s = None

    def _run(self, background: _Thread, first: PlanRequest) -> None:
        name_thread("planner")
        # OpenMP counts threads per calling thread.
        torch.set_num_threads(self._threads)
        self.run(first)
        self.forget()
        while (request := background.requests.get()) is not None:
            result = self.run(request)
            if self._background is not background:
                return
            self._result = result
            self.busy_since_s = None
