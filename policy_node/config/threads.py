# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run a function that may never return in a thread that does not keep the process alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start(act: Callable[[], T], name: str) -> Future[T]:
    """Run a function in a daemon thread of this name; return its future, which has any exception that it raises."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            result = act()
        except BaseException as error:  # the future raises it
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome
