# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Issue warnings, and take those of the process to a log."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Takes the warnings of the process, see `warnings_to`.
_report: Callable[[str], object] | None = None


def warn(text: str) -> None:
    """Issue a warning that points to the caller outside of this package, or pass it on as `warnings_to` demands."""
    if _report is not None:
        _report(text)
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("policy_node."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


@contextmanager
def warnings_to(report: Callable[[str], object]) -> Iterator[None]:
    """Pass the texts of all warnings of this process to a function within the context.

    Those of `warn` come each time, those of other packages as often as Python's filters let them through. Python itself
    would print each with a line of source.
    """
    global _report

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        report(str(message))

    before, _report = _report, report
    shown, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        _report, warnings.showwarning = before, shown
