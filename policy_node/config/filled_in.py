# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Which parameters come from the description of a trainer, for errors about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policy_node.config.schema import ConfigurationError


@dataclass(frozen=True)
class FilledIn:
    """What a description filled in: nothing without a description.

    Attributes
    ----------
    path
        File of the description; None without one.
    names
        Names of the parameters.
    report
        What was filled in, for the log.
    """

    path: Path | None = None
    names: tuple[str, ...] = ()
    report: str = ""

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Add the file of the description to problems of values that the configuration does not give."""
        try:
            yield
        except ConfigurationError as error:
            raise ConfigurationError([self._with_source(problem) for problem in error.problems]) from error

    def _with_source(self, problem: str) -> str:
        found = problem.partition(":")[0]
        if not any(name == found or name.startswith(f"{found}.") for name in self.names):
            return problem
        return f"{problem} (filled in from the description '{self.path}'; check that it belongs to this policy)"
