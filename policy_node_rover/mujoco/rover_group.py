# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Rovers that are simulated and drawn together: in this process, or in one of their own beside others."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any, Protocol

import numpy as np

from policy_node.cli.signal_handling import temporary_handler
from policy_node_rover.arena.conditions import Conditions
from policy_node_rover.arena.description import ROVER
from policy_node_rover.mujoco.environment import RoverTask, observe
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import make_renderer

# How long a process has to free what it holds.
_PATIENCE_S = 10.0

# Of a rover: its reward, whether its episode has ended, and the info.
Moved = tuple[float, bool, dict[str, Any]]


class ObservationArrays:
    """Where the observations of rovers are written, also from other processes.

    Parameters
    ----------
    rovers
        How many.
    """

    def __init__(self, rovers: int) -> None:
        self._images = RawArray(ctypes.c_uint8, rovers * ROVER.camera_size_px**2 * 3)
        self._touches = RawArray(ctypes.c_float, rovers * ROVER.touch_cells)

    @property
    def image(self) -> np.ndarray:
        """uint8 [rovers, height, width, 3]."""
        size_px = ROVER.camera_size_px
        return np.ctypeslib.as_array(self._images).reshape(-1, size_px, size_px, 3)

    @property
    def touch(self) -> np.ndarray:
        """float32 [rovers, cells]."""
        return np.ctypeslib.as_array(self._touches).reshape(-1, ROVER.touch_cells)


@dataclass(frozen=True)
class Share:
    """What one group simulates of all rovers.

    Attributes
    ----------
    observations
        Of all rovers.
    rows
        Which of them are the group's.
    renderer
        Kind of the renderer: ``"auto"``, ``"egl"`` or ``"raycast"``.
    conditions
        From what those of an episode are drawn.
    """

    observations: ObservationArrays
    rows: slice
    renderer: str
    conditions: Conditions


class RoverGroup:
    """Rovers, each in its own arena, with one model and one renderer.

    Parameters
    ----------
    share
        What is to be simulated.

    Attributes
    ----------
    tasks
        The task of each rover.
    renderer
        Draws all of them.
    """

    def __init__(self, share: Share) -> None:
        model = ArenaModel()
        self._image = share.observations.image[share.rows]
        self._touch = share.observations.touch[share.rows]
        self.tasks = [RoverTask(model, share.conditions) for _ in self._touch]
        self.renderer = make_renderer(model, share.renderer)

    def move(self, actions: np.ndarray) -> list[Moved]:
        """Drive all rovers for one control period, actions [rovers, 2], and observe unless episodes are to begin first.

        In the info, ``TimeLimit.truncated`` says whether only the time ran out, and ``terminal_observation`` is the
        last one of an episode that has ended.
        """
        moved: list[Moved] = []
        for task, action in zip(self.tasks, actions, strict=True):
            reward, terminated, truncated, info = task.step(action)
            info["TimeLimit.truncated"] = truncated
            if terminated or truncated:
                info["terminal_observation"] = observe(task, self.renderer)
            moved.append((reward, terminated or truncated, info))
        if not any(ended for _, ended, _ in moved):
            self.observe({})
        return moved

    def observe(self, seeds: Mapping[int, int]) -> None:
        """Begin an episode in the arenas that have a seed here, and write what all rovers observe."""
        for row, seed in seeds.items():
            self.tasks[row].reset(seed)
        for row, task in enumerate(self.tasks):
            observation = observe(task, self.renderer)
            self._image[row], self._touch[row] = observation["image"], observation["touch"]

    def each(self, call: Callable[[RoverTask], Any], rows: Sequence[int]) -> list[Any]:
        """Return what a function makes of the tasks of some rovers."""
        return [call(self.tasks[row]) for row in rows]

    def close(self) -> None:
        """Free the renderer."""
        self.renderer.close()


class Calls(Protocol):
    """Calls the methods of a group, which may be in another process."""

    def begin(self, method: str, *arguments: Any) -> None:
        """Begin a call; a result of the one before that was not asked for is lost."""

    def result(self) -> Any:
        """Wait for the call that was begun, and return or raise what it did."""

    def close(self) -> None:
        """End the group."""


class DirectCalls:
    """Calls a group in this process, while its result is waited for."""

    def __init__(self, group: RoverGroup) -> None:
        self._group = group
        self._call: Callable[[], Any]

    def begin(self, method: str, *arguments: Any) -> None:
        """See `Calls`."""
        self._call = partial(getattr(self._group, method), *arguments)

    def result(self) -> Any:
        """See `Calls`."""
        return self._call()

    def close(self) -> None:
        """See `Calls`."""
        self._group.close()


class ProcessCalls:
    """Makes a group in a process of its own and calls it there; what making it raises, each call raises."""

    def __init__(self, share: Share) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        # A daemon: it ends with this process.
        self._process = context.Process(target=_serve, args=(theirs, share), name="rovers", daemon=True)
        # It inherits that it ignores Ctrl-C while it loads; only the main thread can tell it so.
        main_thread = threading.current_thread() is threading.main_thread()
        with temporary_handler(signal.SIG_IGN, signal.SIGINT) if main_thread else nullcontext():
            self._process.start()
        theirs.close()
        # It stays due when an error elsewhere, or an interruption, comes before anybody asks for it.
        self._answer_due = False

    def begin(self, method: str, *arguments: Any) -> None:
        """See `Calls`."""
        # If the process has ended, `result` says so.
        with suppress(EOFError, OSError):
            if self._answer_due:
                self._connection.recv()
            self._connection.send((method, arguments))
        self._answer_due = True

    def result(self) -> Any:
        """See `Calls`."""
        try:
            value, error, trace = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE_S)
            raise RuntimeError(
                f"a process that simulates rovers ended with status {self._process.exitcode}; if it has said nothing, "
                "it was killed, as happens when memory runs out"
            ) from None
        self._answer_due = False
        if error is not None:
            raise error from RuntimeError(f"in a process that simulates rovers:\n{trace}")
        return value

    def close(self) -> None:
        """See `Calls`."""
        self._connection.close()
        self._process.join(_PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, share: Share) -> None:
    """Do what is asked for, until nobody can ask any more."""
    # Signals to all processes of a terminal are for the one that began this one, which ends it when it is time.
    os.setsid()
    group, *failure = _try(RoverGroup, share)
    try:
        while True:
            method, arguments = connection.recv()
            connection.send(_try(getattr(group, method), *arguments) if group else (None, *failure))
    except (EOFError, ConnectionError):
        if group:
            group.close()


def _try(call: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None, str]:
    """Return what a call returns, or what it raises and where."""
    try:
        return call(*arguments), None, ""
    except Exception as error:
        return None, error, traceback.format_exc()
