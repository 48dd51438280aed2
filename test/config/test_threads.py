# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Threads that may never end: their result or exception is in a future, and the process does not wait for them."""

import sys
import threading

import pytest

from policy_node.config.threads import start

PATIENCE_S = 60.0


def test_the_future_has_the_result_of_a_daemon_thread() -> None:
    thread = start(threading.current_thread, "reader").result(PATIENCE_S)
    assert thread.daemon and thread.name == "reader"


def test_the_future_raises_what_the_function_raises_also_when_it_wants_to_exit() -> None:
    with pytest.raises(ZeroDivisionError):
        start(lambda: 1 // 0, "reader").result(PATIENCE_S)
    with pytest.raises(SystemExit):
        start(lambda: sys.exit(3), "reader").result(PATIENCE_S)
