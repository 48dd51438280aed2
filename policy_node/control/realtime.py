# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Real-time settings of the tick thread: priority, CPUs, garbage collection, switches between threads."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import struct
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from policy_node.config.schema import ConfigurationError, RealtimeConfiguration

_switching = threading.Lock()
_switch_intervals_s: list[float] = []
_python_interval_s = sys.getswitchinterval()
# Number of the system call sched_setattr, for which the C libraries of today have no function yet.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
# size, policy, flags, niceness, priority, runtime, deadline, period.
_SCHED_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
SLICE_NS = 100_000


def check_realtime(realtime: RealtimeConfiguration) -> None:
    """Check that the system grants priority and CPUs, with a thread that ends at once.

    Raises
    ------
    ConfigurationError
        If CPUs are missing, or the priority is refused; says how to get the permission.
    """
    allowed = os.sched_getaffinity(0)
    absent = sorted(set(realtime.cpus) - allowed)
    if absent:
        raise ConfigurationError(
            f"realtime.cpus: found {list(realtime.cpus)}, but this process may run on {sorted(allowed)} only; "
            f"remove {', '.join(map(str, absent))}, or start it where it may run on more"
        )
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(apply_realtime, realtime).result()
    except OSError as error:
        priority = realtime.priority
        raise ConfigurationError(
            f"realtime.priority: found {priority}, but the system refuses it ({error.strerror}); allow it with the "
            f"line `USER - rtprio {priority}` in /etc/security/limits.d/ and a new login, with "
            f"LimitRTPRIO={priority} in a systemd unit, with --cap-add SYS_NICE in a container, or set it to 0"
        ) from error


def apply_realtime(realtime: RealtimeConfiguration) -> None:
    """Set priority and CPUs of the calling thread; threads that it starts later inherit the CPUs only.

    Raises
    ------
    OSError
        When the system refuses.
    """
    if realtime.cpus:
        os.sched_setaffinity(0, realtime.cpus)
    if realtime.priority:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(realtime.priority))


def shorten_slice() -> None:
    """Let the calling thread, and threads that it starts later, run at once when they wake, for a short time.

    Since Linux 6.12 a thread runs before threads with longer slices that compute. Its share of the CPU stays as it is,
    and no permission is needed. Does nothing where the system knows no slices.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None and os.sched_getscheduler(0) == os.SCHED_OTHER:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = _SCHED_ATTRIBUTES.pack(_SCHED_ATTRIBUTES.size, os.SCHED_OTHER, 0, niceness, 0, SLICE_NS, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def name_thread(name: str) -> None:
    """Set the name of the calling thread, at most 15 bytes, for `top -H` and `policy_bench`."""
    # A system without it shows the name of the process.
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)


@contextmanager
def switch_interval(interval_s: float) -> Iterator[None]:
    """Temporarily set the switch interval of Python; of nested intervals the shortest holds."""
    with _switching:
        _switch_intervals_s.append(interval_s)
        sys.setswitchinterval(min(_switch_intervals_s))
    try:
        yield
    finally:
        with _switching:
            _switch_intervals_s.remove(interval_s)
            sys.setswitchinterval(min(_switch_intervals_s, default=_python_interval_s))


@contextmanager
def frozen_garbage() -> Iterator[None]:
    """Temporarily exclude all existing objects from garbage collection; collect first, because garbage is kept, too."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
