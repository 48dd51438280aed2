# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Simulate and render a share of the arenas, in this process or in another one."""

from __future__ import annotations

import math
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

import numpy as np

from policy_node.cli.signal_handling import temporary_handler
from policy_node_rover.arena.conditions import Conditions
from policy_node_rover.mujoco.environment import Observation, RoverTask, observation_space
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import make_renderer

_STOP_TIMEOUT_S = 10.0

# Reward, done, and info of one rover.
Step = tuple[float, bool, dict[str, Any]]


def share_observations(rovers: int) -> dict[str, Any]:
    """Allocate the observations of all rovers in memory that processes share, by key; see `as_arrays`."""
    spaces: Any = observation_space().spaces
    return {
        key: RawArray(np.ctypeslib.as_ctypes_type(space.dtype), rovers * math.prod(space.shape))
        for key, space in spaces.items()
    }


def as_arrays(shared: Mapping[str, Any]) -> Observation:
    """Return shared observations as arrays: image uint8 [rovers, height, width, 3], touch float32 [rovers, cells]."""
    spaces: Any = observation_space().spaces
    return {key: np.ctypeslib.as_array(memory).reshape(-1, *spaces[key].shape) for key, memory in shared.items()}


class WorkerConfig(NamedTuple):
    """Configuration of a worker: shared observations of all rovers, its rows of them, renderer and conditions."""

    observations: Mapping[str, Any]
    rows: slice
    renderer: str
    conditions: Conditions


class Worker:
    """Rovers, each in its own arena, with one model and one renderer; called as a `WorkerProcess` is."""

    def __init__(self, config: WorkerConfig) -> None:
        model = ArenaModel()
        self._observations = {key: values[config.rows] for key, values in as_arrays(config.observations).items()}
        self.tasks = [RoverTask(model, config.conditions) for _ in range(config.rows.stop - config.rows.start)]
        self.renderer = make_renderer(model, config.renderer)
        self._call: Callable[[], Any]

    def begin(self, method: str, *arguments: Any) -> None:
        """Prepare a call; `result` executes it."""
        self._call = partial(getattr(self, method), *arguments)

    def result(self) -> Any:
        """Execute the call and return its result."""
        return self._call()

    def step(self, actions: np.ndarray) -> list[Step]:
        """Drive all rovers for one control period, actions [rovers, 2].

        When an episode has ended, its info has the ``terminal_observation``, and the caller must call `observe` to
        start new ones; otherwise the new observations are written.
        """
        steps: list[Step] = []
        for task, action in zip(self.tasks, actions, strict=True):
            reward, terminated, truncated, info = task.step(action)
            info["TimeLimit.truncated"] = truncated
            if terminated or truncated:
                info["terminal_observation"] = task.observe(self.renderer)
            steps.append((reward, terminated or truncated, info))
        if not any(done for _, done, _ in steps):
            self.observe({})
        return steps

    def observe(self, seeds: Mapping[int, int]) -> None:
        """Start an episode in the rows that have a seed, and write the observations of all rovers."""
        for row, seed in seeds.items():
            self.tasks[row].reset(seed)
        for row, task in enumerate(self.tasks):
            for key, values in task.observe(self.renderer).items():
                self._observations[key][row] = values

    def apply(self, function: Callable[[RoverTask], Any], rows: Sequence[int]) -> list[Any]:
        """Return the results of a function for the tasks of some rows."""
        return [function(self.tasks[row]) for row in rows]

    def close(self) -> None:
        """Free the renderer."""
        self.renderer.close()


class WorkerProcess:
    """Start a worker in another process and call it there; an error of its start is raised by each call."""

    def __init__(self, config: WorkerConfig) -> None:
        context = get_context("spawn")
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_connection, config), name="rovers", daemon=True)
        # The child inherits that it ignores Ctrl-C while it imports; only the main thread can set that.
        main_thread = threading.current_thread() is threading.main_thread()
        with temporary_handler(signal.SIG_IGN, signal.SIGINT) if main_thread else nullcontext():
            self._process.start()
        child_connection.close()
        # A result stays pending when an error or interrupt elsewhere prevents its collection.
        self._is_pending = False

    def begin(self, method: str, *arguments: Any) -> None:
        """Start a call; a result that was not collected is discarded."""
        # If the process has ended, `result` reports it.
        with suppress(EOFError, OSError):
            if self._is_pending:
                self._connection.recv()
            self._connection.send((method, arguments))
        self._is_pending = True

    def result(self) -> Any:
        """Wait for the call, and return its result or raise its error."""
        try:
            value, error, trace = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_STOP_TIMEOUT_S)
            raise RuntimeError(
                f"a process that simulates rovers ended with status {self._process.exitcode}; without a message above, "
                "it was killed, perhaps for lack of memory: use fewer arenas or processes"
            ) from None
        self._is_pending = False
        if error is not None:
            raise error from RuntimeError(f"in a process that simulates rovers:\n{trace}")
        return value

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(_STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, config: WorkerConfig) -> None:
    """Execute calls until the connection is closed."""
    # Ctrl-C in a terminal is for the parent, which ends this process.
    os.setsid()
    worker, *failure = _try(Worker, config)
    try:
        while True:
            method, arguments = connection.recv()
            connection.send(_try(getattr(worker, method), *arguments) if worker else (None, *failure))
    except (EOFError, ConnectionError):
        if worker:
            worker.close()


def _try(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None, str]:
    """Return the result of a call, or its error and traceback."""
    try:
        return function(*arguments), None, ""
    except Exception as error:
        return None, error, traceback.format_exc()
