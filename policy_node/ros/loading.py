# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Load another policy while one drives. Separate module: `deployment` must not import rclpy."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from functools import partial
from typing import Any

from rclpy.executors import Executor
from rclpy.task import Future

from policy_node.config.threads import start
from policy_node.control.pipeline import Pipeline
from policy_node.control.realtime import switch_interval
from policy_node.ros.deployment import Deployment, deploy
from policy_node.ros.parameters import ReadParameters

# Longest time that the loading thread may keep the interpreter from the tick thread, which asks for it many times in a
# tick: with Python's 5 ms a thread that computes without a pause makes a tick of 2 ms take 128 ms, with this 4 ms.
SWITCH_INTERVAL_S = 0.000_05


class Loading:
    """Reads parameters and deploys them in another thread, while another policy drives.

    Parameters
    ----------
    read
        Reads the parameters to deploy, in the other thread: their files may be slow.
    replaced
        The pipeline whose policy is to be replaced.
    executor
        Woken at the end, so that it resumes the coroutine that awaits `ended`.
    """

    def __init__(self, read: Callable[[], ReadParameters], replaced: Pipeline, executor: Executor) -> None:
        self.replaced = replaced
        #: Awaitable, done when the step has ended.
        self.ended: Future[None] = Future(executor=executor)
        #: Seconds that loading took.
        self.duration_s = 0.0
        beside = replaced.policy.engine_name
        self.step = start(lambda: self._load(read, beside), "policy_loading")
        # A method of this object would keep it, and with it the policy that was replaced, until garbage is collected.
        self.step.add_done_callback(partial(_end, self.ended, executor))

    def _load(self, read: Callable[[], ReadParameters], beside: str) -> tuple[ReadParameters, Deployment]:
        started = time.perf_counter()
        try:
            with switch_interval(SWITCH_INTERVAL_S):
                parameters = read()
                return parameters, deploy(parameters.parse(), beside)
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            # Such as SystemExit of a module of the policy, which must not end the executor.
            raise RuntimeError(f"loading ended with {type(error).__name__}: {error}") from error
        finally:
            self.duration_s = time.perf_counter() - started

    def result(self) -> tuple[ReadParameters, Deployment]:
        """Return the parameters and their deployment, or raise the error that prevented it; only after `ended`."""
        return self.step.result()


def _end(ended: Future[None], executor: Executor, step: futures.Future[Any]) -> None:
    ended.set_result(None)
    executor.wake()
