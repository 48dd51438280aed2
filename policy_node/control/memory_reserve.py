# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Reserve main memory for the safe commands, and detect that the system refuses more."""

from __future__ import annotations

import math
import mmap
import time

# Far more than safe commands, log lines and the end of the node take.
RESERVE_BYTES = 2**24
# Checks, 1 s apart, that fail before memory counts as exhausted: one may meet the peak of a policy that is loaded.
FAILED_CHECKS = 2


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

    A library that gets no memory may end the process at once, so the robots must be made safe before. With overcommit
    the kernel kills a process without warning.
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
        try:
            mmap.mmap(-1, RESERVE_BYTES).close()
        except OSError:
            self._failed += 1
        else:
            self._failed = 0
        return self._failed >= FAILED_CHECKS
