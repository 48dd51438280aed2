# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Threads that may never end: their result or exception is in a future, and the process does not wait for them."""

import sys
import threading
import weakref
from multiprocessing import get_context

import pytest

from policy_node.config.threads import start

PATIENCE_S = 60.0


class Kept:
    """What a function returns."""


def test_the_future_has_the_result_of_a_daemon_thread() -> None:
    thread = start(threading.current_thread, "reader").result(PATIENCE_S)
    assert thread.daemon and thread.name == "reader"


def test_the_future_raises_what_the_function_raises_also_when_it_wants_to_exit() -> None:
    with pytest.raises(ZeroDivisionError):
        start(lambda: 1 // 0, "reader").result(PATIENCE_S)
    with pytest.raises(SystemExit):
        start(lambda: sys.exit(3), "reader").result(PATIENCE_S)


def test_a_thread_that_has_ended_its_function_runs_the_next_one_and_keeps_nothing_of_it() -> None:
    first = start(threading.current_thread, "first").result(PATIENCE_S)
    box = start(lambda: [Kept()], "box").result(PATIENCE_S)
    kept = weakref.ref(box[0])
    del box
    second = start(threading.current_thread, "second").result(PATIENCE_S)
    assert second is first and second.name == "second"
    assert kept() is None


def test_a_function_that_does_not_return_delays_no_other() -> None:
    released = threading.Event()
    stuck = start(lambda: released.wait(PATIENCE_S), "stuck")
    assert start(lambda: 7, "reader").result(PATIENCE_S) == 7 and not stuck.done()
    released.set()
    assert stuck.result(PATIENCE_S)


def _run_in_a_thread() -> None:
    assert start(lambda: 8, "reader").result(PATIENCE_S) == 8


def test_a_forked_process_starts_threads_of_its_own() -> None:
    start(lambda: 7, "reader").result(PATIENCE_S)
    process = get_context("fork").Process(target=_run_in_a_thread)
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
