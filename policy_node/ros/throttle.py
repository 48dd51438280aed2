# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Log lines about what others send: many messages must not flood the log."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable

# Least period of the log lines about one key.
LOG_PERIOD_S = 5.0


class Throttle:
    """Allows one log line per key and `LOG_PERIOD_S`, for at most `most` keys at a time; None: for any number."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        # Oldest first, because a key enters again only after its time has passed.
        self._logged_s: OrderedDict[Hashable, float] = OrderedDict()

    def allows(self, key: Hashable) -> bool:
        """Return whether a line may be logged now, and count it."""
        now_s = time.monotonic()
        while self._logged_s and now_s - next(iter(self._logged_s.values())) >= LOG_PERIOD_S:
            self._logged_s.popitem(last=False)
        if key in self._logged_s or self.is_full:
            return False
        self._logged_s[key] = now_s
        return True

    @property
    def is_full(self) -> bool:
        """Whether no other key is allowed now."""
        return len(self._logged_s) == self._most

    def forget(self, key: Hashable) -> None:
        """Allow a line about a key again."""
        self._logged_s.pop(key, None)
