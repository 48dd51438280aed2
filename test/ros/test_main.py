# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The end of the process of the node, run in this process."""

import threading

import pytest
import rclpy
from node_harness import Peer
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from policy_node.control.memory_reserve import MemoryMonitor
from policy_node.ros import main
from policy_node.ros.node import PolicyNode
from policy_node.ros.process import StopEvent, destroy_last_node


def test_exhausted_memory_is_explained_also_where_stopping_fails(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(self: PolicyNode) -> None:
        raise RuntimeError("the current tick hangs")

    def exit_at_once(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(MemoryMonitor, "is_exhausted", lambda self: True)
    monkeypatch.setattr(PolicyNode, "make_safe", fail)
    monkeypatch.setattr(main, "exit_at_once", exit_at_once)
    monkeypatch.setattr(main, "SPIN_TIMEOUT_S", 0.0)
    node = PolicyNode(parameter_overrides=[Parameter("autostart", value=False)])
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        with pytest.raises(SystemExit, match=r"^1$"):
            main._drive(executor, node, threading.Event())
    finally:
        executor.shutdown()
        destroy_last_node(node)
    log = capfd.readouterr().err
    assert "stopping failed: RuntimeError: the current tick hangs; make sure that every robot is safe" in log
    assert "[FATAL]" in log and "free memory or raise its limit" in log


def test_a_request_to_end_wakes_an_executor_that_nothing_else_wakes(peer: Peer) -> None:
    node = rclpy.create_node("waits")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopping = StopEvent()
    stopping.on_set = node.create_guard_condition(lambda: None).trigger
    timer = threading.Timer(0.1, stopping.set)
    timer.start()
    try:
        # Without a timeout: this would wait forever.
        executor.spin_once()
        assert stopping.is_set()
    finally:
        timer.join()
        executor.shutdown()
        node.destroy_node()
