# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Measure several functions in turn, so that changes of the machine's speed affect all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """A function to measure, and unmeasured functions that are called before each run and after each turn."""

    run: Callable[[], None]
    before_run: Callable[[], None] = lambda: None
    after_turn: Callable[[], None] = lambda: None


def in_turn(
    parts: Mapping[str, Part], seconds: float, turn_s: float, turns: int, runs: int, period_s: float = 0.0
) -> dict[str, list[np.ndarray]]:
    """Run the parts in turn until `seconds` have passed; return by name and turn the milliseconds of each run.

    A turn of a part takes `turn_s`. There are at least as many `turns`, and `runs` in each. With a `period_s`, runs
    start at its multiples only, as the ticks of the node do: caches forget during the pause.
    """
    times_ms: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    first_s = time.monotonic()
    end_s = first_s + seconds
    while parts and (time.monotonic() < end_s or min(map(len, times_ms.values())) < turns):
        for name, part in parts.items():
            turn_end_s = time.monotonic() + turn_s
            turn_ms: list[float] = []
            while len(turn_ms) < runs or time.monotonic() < turn_end_s:
                part.before_run()
                if period_s:
                    time.sleep(period_s - (time.monotonic() - first_s) % period_s)
                started = time.perf_counter()
                part.run()
                turn_ms.append((time.perf_counter() - started) * 1e3)
            times_ms[name].append(np.array(turn_ms))
            part.after_turn()
    return times_ms


def ratio_of_turns(turns: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Return the ratio of the run times of two parts, as the median over pairs of adjacent turns.

    Pairs are compared because the machine's speed changes from second to second.
    """
    return float(np.median([np.median(one) / np.median(other) for one, other in zip(turns, others, strict=True)]))
