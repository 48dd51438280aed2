# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Real-time settings: granted to the tick thread alone, or refused with a remedy."""

import ctypes
import gc
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from moody import MoodyFleet, moody_parameters, save_moody
from node_harness import LifecycleClient, NodeProcess, Peer

from policy_node.config.schema import ConfigurationError, RealtimeConfiguration
from policy_node.control import realtime as module
from policy_node.control.realtime import (
    _SCHED_ATTRIBUTES,
    SLICE_NS,
    apply_realtime,
    check_realtime,
    frozen_garbage,
    name_thread,
    shorten_slice,
    switch_interval,
)

PRIORITY = 1
ABSENT_CPU = 100_000
# From linux/prctl.h and linux/capability.h.
PR_CAPBSET_DROP, CAP_SYS_NICE = 24, 23

StartNode = Callable[..., NodeProcess]


def realtime(priority: int = 0, cpus: tuple[int, ...] = ()) -> RealtimeConfiguration:
    return RealtimeConfiguration(priority, cpus, freeze_gc=True, switch_interval_s=0.0005)


def is_granted() -> bool:
    """Whether this machine lets this process have a real-time priority."""
    try:
        check_realtime(realtime(PRIORITY))
    except ConfigurationError:
        return False
    return True


@pytest.mark.both_distributions
def test_only_the_tick_thread_and_its_watchdog_get_priority_and_only_the_former_cpus(
    peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    if not is_granted():
        pytest.skip("real-time priority is not permitted here")
    cpu = max(os.sched_getaffinity(0))
    changes = {"realtime__priority": PRIORITY, "realtime__cpus": [cpu]}
    process = start_node(moody_parameters(save_moody(tmp_path / "moody.pt"), ["robot"], **changes))
    fleet = MoodyFleet(peer, ["robot"])
    fleet.live(fleet.is_driven, "commands of the policy")

    def scheduled() -> list[int]:
        tasks = [int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()]
        return [task for task in tasks if os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO]

    names = {Path(f"/proc/{process.pid}/task/{task}/comm").read_text().strip(): task for task in scheduled()}
    tick_thread = names.pop("control_loop")
    # A tick that computes without end must not block the watchdog.
    (watchdog,) = names.values()
    assert process.pid != watchdog
    assert {os.sched_getparam(thread).sched_priority for thread in (tick_thread, watchdog)} == {PRIORITY}
    assert os.sched_getaffinity(tick_thread) == {cpu}
    assert os.sched_getaffinity(watchdog) == os.sched_getaffinity(0)
    if len(os.sched_getaffinity(0)) > 1:
        assert os.sched_getaffinity(process.pid) == os.sched_getaffinity(0)
    operator = LifecycleClient(peer, process.full_name)
    assert operator.change("deactivate")
    assert not scheduled()


def test_settings_that_the_system_refuses_fail_at_configure(peer: Peer, start_node: StartNode, tmp_path: Path) -> None:
    parameters = moody_parameters(save_moody(tmp_path / "moody.pt"), ["robot"], realtime__cpus=[0, ABSENT_CPU])
    process = start_node(parameters)
    process.wait_for(
        rf"realtime\.cpus: found \[0, {ABSENT_CPU}\], but this process may run on .* only; remove {ABSENT_CPU}, or"
    )
    operator = LifecycleClient(peer, process.full_name)
    assert operator.set(realtime__cpus=[0]) == ""
    assert operator.change("configure") and operator.change("activate")
    assert process.send(signal.SIGINT) == 0


def drop_priority() -> None:
    """Drop the permission to raise the priority in a process before it is executed."""
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0)


def test_threads_that_start_later_wake_with_short_slices() -> None:
    # sched_getattr(2).
    number = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
    found = bytearray(_SCHED_ATTRIBUTES.size)

    def ask() -> None:
        buffer = (ctypes.c_char * len(found)).from_buffer(found)
        ctypes.CDLL(None).syscall(number, 0, buffer, len(found), 0)

    def slice_ns() -> int:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(ask).result()
        return int(_SCHED_ATTRIBUTES.unpack(found)[5])

    def shortened_ns() -> int:
        shorten_slice()
        return slice_ns()

    usual_ns = slice_ns()
    if not usual_ns:
        pytest.skip("this kernel knows no slices of threads: Linux 6.12 or later does")
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(shortened_ns).result() == SLICE_NS < usual_ns
    assert slice_ns() == usual_ns


def test_a_refused_priority_names_the_remedy() -> None:
    code = (
        "from policy_node.config.schema import RealtimeConfiguration\n"
        "from policy_node.control.realtime import check_realtime\n"
        f"check_realtime(RealtimeConfiguration({PRIORITY}, (), True, 0.0005))"
    )
    refused = subprocess.run([sys.executable, "-c", code], preexec_fn=drop_priority, capture_output=True, text=True)
    for part in ("realtime.priority: found 1", "Operation not permitted", "- rtprio 1", "SYS_NICE", "set it to 0"):
        assert part in refused.stderr


def test_checking_does_not_change_the_calling_thread() -> None:
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    if is_granted():
        check_realtime(realtime(PRIORITY, (min(before[1]),)))
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before


def test_the_cpus_of_this_process_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", {0: {1, 3}}.__getitem__)
    applied: list[RealtimeConfiguration] = []
    monkeypatch.setattr(module, "apply_realtime", applied.append)
    check_realtime(realtime(cpus=(3,)))
    with pytest.raises(ConfigurationError, match=r"may run on \[1, 3\] only; remove 0, 4, or"):
        check_realtime(realtime(cpus=(4, 3, 0)))
    assert applied == [realtime(cpus=(3,))]


def test_a_thread_is_named_where_the_system_knows_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def named() -> str:
        name_thread("decoding")
        return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text()

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(named).result() == "decoding\n"
    monkeypatch.setattr(module, "Path", lambda path: Path("/nowhere"))
    name_thread("decoding")


def test_no_setting_changes_unless_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_setscheduler", "sched_setaffinity"):
        monkeypatch.setattr(os, name, pytest.fail)
    apply_realtime(realtime())


def test_the_settings_are_those_of_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for name in ("sched_setscheduler", "sched_setaffinity"):
        monkeypatch.setattr(os, name, lambda *given, name=name: calls.append((name, *given)))
    apply_realtime(realtime(cpus=(0, 2)))
    apply_realtime(realtime(PRIORITY))
    (affinity, (name, thread, policy, parameters)) = calls
    # 0 is the calling thread.
    assert affinity == ("sched_setaffinity", 0, (0, 2))
    assert (name, thread, policy) == ("sched_setscheduler", 0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK)
    assert parameters.sched_priority == PRIORITY


def test_the_shortest_switch_interval_holds_in_any_order_of_exits() -> None:
    before_s = sys.getswitchinterval()
    active, loading = switch_interval(0.0005), switch_interval(0.000_05)
    active.__enter__()
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    loading.__enter__()
    assert sys.getswitchinterval() == pytest.approx(0.000_05)
    # The node is deactivated while a policy is loading.
    active.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(0.000_05)
    loading.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(before_s)


def test_garbage_is_frozen_within_the_context() -> None:
    # Python 3.12 itself starts with some frozen objects.
    gc.unfreeze()
    assert not gc.get_freeze_count()
    with frozen_garbage():
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()
