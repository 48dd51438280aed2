# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Reserve main memory for the safe commands, and detect that the system refuses more."""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Far more than safe commands, log lines and the end of the node take.
RESERVE_BYTES = 2**24
# Checks, 1 s apart, that fail before memory counts as exhausted: one may meet the peak of a policy that is loaded.
FAILED_CHECKS = 2
# The control groups of the system (cgroup v2), and the one of this process.
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
# A line for each swap device, below a header.
_SWAPS = Path("/proc/swaps")
# Memory that the kernel takes back before it kills a process, by its name in `memory.stat`.
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


class MemoryReserve:
    """Main memory that is released before robots are made safe, because there may be no other left.

    It returns to the system, so that every allocator can take it.
    """

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, RESERVE_BYTES)
        # Pages that were never written count for limits of the address space only.
        for offset in range(0, RESERVE_BYTES, mmap.PAGESIZE):
            self._pages[offset] = 1

    def release(self) -> None:
        """Give the memory back; later calls do nothing."""
        self._pages.close()


class MemoryMonitor:
    """Detects that the system refuses more memory, beyond a limit of the address space or without overcommit.

    A library that gets no memory may end the process at once, so the robots must be made safe before. In a container
    without swap the kernel kills a process that exceeds the limit, which is near when less than the reserve is left.
    """

    def __init__(self) -> None:
        self._last_check_s = -math.inf
        self._failed = 0

    def is_exhausted(self) -> bool:
        """Return whether `FAILED_CHECKS` checks failed one after another, one per second at most."""
        now_s = time.monotonic()
        if now_s - self._last_check_s < 1.0:
            return False
        self._last_check_s = now_s
        self._failed = 0 if _has_room() else self._failed + 1
        return self._failed >= FAILED_CHECKS


def _has_room() -> bool:
    """Return whether as much memory as the reserve can be had."""
    try:
        mmap.mmap(-1, RESERVE_BYTES).close()
    except OSError:
        return False
    # Files that are missing, as with cgroup v1, name no limit.
    with suppress(OSError, ValueError, LookupError):
        return all(room >= RESERVE_BYTES for room in _rooms_in_groups())
    return True


def _rooms_in_groups() -> Iterator[int]:
    """Yield the bytes that each control group of this process has left, if it is limited and cannot swap."""
    own = [line.partition("::/")[2] for line in _OWN_GROUP.read_text().splitlines() if line.startswith("0::/")]
    group = _GROUPS / own[0]
    has_swap = len(_SWAPS.read_text().splitlines()) > 1
    # The group at the root has no limit, unless it is that of a container.
    for folder in (group, *group.parents[: len(group.parents) - len(_GROUPS.parents)]):
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max" or (has_swap and (folder / "memory.swap.max").read_text().strip() != "0"):
            continue
        rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        reclaimable = sum(int(rows[name]) for name in _RECLAIMABLE)
        yield int(limit) - int((folder / "memory.current").read_text()) + reclaimable
