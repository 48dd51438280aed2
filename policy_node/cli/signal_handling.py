# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Temporarily replace signal handlers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def temporary_handler(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, *signals: signal.Signals
) -> Iterator[None]:
    """Use a signal handler in a `with` block and restore the earlier ones after it; in the main thread only."""
    earlier = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier_handler in earlier.items():
            signal.signal(number, earlier_handler)
