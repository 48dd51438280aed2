# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Choose the engine of a policy: build the engines, compare them with the policy, measure and remember."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from policy_node.engines import cache
from policy_node.engines.backends import ENGINES, EngineError, EngineRequest, EngineSettings
from policy_node.engines.failures import is_out_of_memory
from policy_node.engines.parity import TOLERANCES, ParityTrial
from policy_node.engines.tracing import EnginePolicy
from policy_node.policies.contract import Policy, TorchPolicy

# Another engine must be faster than PyTorch by more than measurements differ.
LEAST_GAIN = 0.05
# Time to measure all engines together, and the least and most runs of each.
BUDGET_S = 0.4
LEAST_RUNS, MOST_RUNS = 3, 40
# TorchScript rewrites itself in its first runs.
WARM_UP_RUNS = 3


@dataclass(frozen=True)
class EngineChoice:
    """The engine that runs a policy, and the reasons.

    Attributes
    ----------
    name
        Name of the engine, with its precision where that is not float32.
    robots
        Robots in one inference.
    measured_ms
        Shortest time of one inference by engine; empty where there was no choice.
    excluded
        Reason by engine that cannot be used.
    remembered
        Whether the choice and its measurements come from the cache.
    too_many
        Robots in one inference with which memory ran out; 0: it never did.
    """

    name: str
    robots: int
    measured_ms: Mapping[str, float] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    remembered: bool = False
    too_many: int = 0

    @property
    def measured(self) -> str:
        """The measurements in words, the fastest first."""
        return ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(self.measured_ms.items(), key=itemgetter(1)))

    @property
    def description(self) -> dict[str, str]:
        """Values of the diagnostics."""
        values = {"engine": self.name, "engine_measured": self.measured, "robots_per_inference": str(self.robots)}
        return values | {f"engine_{name.replace(' ', '_')}_excluded": reason for name, reason in self.excluded.items()}

    def __str__(self) -> str:
        """Describe the choice in one line."""
        measured = self.measured
        parts = [
            f"engine {self.name}, {self.robots} robot{'s' if self.robots > 1 else ''} at a time",
            f"memory ran out with {self.too_many}" if self.too_many else "",
            f"measured{' before' if self.remembered else ''}: {measured}" if measured else "",
            *(f"not {name}: {reason}" for name, reason in self.excluded.items()),
        ]
        return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class Candidate:
    """An engine in one precision."""

    engine: str
    precision: str = "float32"

    @property
    def label(self) -> str:
        """Its name in reports."""
        return self.engine if self.precision == "float32" else f"{self.engine} {self.precision}"


def choose_engine(
    policy: Policy,
    robots: int,
    settings: EngineSettings,
    channels_last: Collection[str] = (),
    beside: str | None = None,
) -> tuple[Policy, EngineChoice]:
    """Return the policy, run by the engine that the settings name, or by the fastest one.

    Parameters
    ----------
    robots
        Robots in one inference.
    channels_last
        Keys of the images that lie in memory as `[robots, ..., height, width, channels]`, however they are indexed.
    beside
        Name of the engine of another policy that drives meanwhile, which measuring would disturb: a policy that was
        not measured before takes that engine. None: nothing drives.

    Raises
    ------
    EngineError
        When an engine that is named cannot be used. With ``auto`` only errors of the policy itself are raised.
    torch.OutOfMemoryError
        When there is not enough memory for so many robots.
    """
    laid_out = frozenset(channels_last)
    if settings.engine != "auto":
        return _named(policy, robots, settings, laid_out)
    candidates = {one.label: one for one in all_candidates(policy, settings)}
    own = policy.engine_name
    if len(candidates) == 1:
        return policy, EngineChoice(own, robots)
    key = cache.policy_key(policy, robots, settings, laid_out)
    known = _remembered(key, candidates)
    if known is None and beside is not None:
        is_usable = beside in candidates and _is_quick(candidates[beside])
        known = EngineChoice(beside if is_usable else own, robots)
    if known is not None and known.name == own:
        return policy, known
    trial = ParityTrial(policy, robots, laid_out)
    if known is None:
        return _fastest(trial, settings, candidates.values(), key)
    try:
        return build(candidates[known.name], trial, settings), known
    except Exception as error:  # it worked when it was measured
        if beside is None:
            return _fastest(trial, settings, candidates.values(), key)
        return policy, without_engine(known, policy, error)


def _is_quick(candidate: Candidate) -> bool:
    try:
        return ENGINES[candidate.engine].is_quick
    except (KeyError, ImportError):
        return False


def _named(
    policy: Policy, robots: int, settings: EngineSettings, channels_last: frozenset[str]
) -> tuple[Policy, EngineChoice]:
    """Return the policy, run by the engine that is named, in the faster one of the precisions that are allowed."""
    name, own = settings.engine, policy.engine_name
    candidates = [one for one in all_candidates(policy, settings) if one.engine == name]
    if not candidates:
        raise EngineError(f"'{name}' {ENGINES[name].problem(policy)}; use 'auto' or '{own}'")
    if candidates == [Candidate(own)]:
        return policy, EngineChoice(own, robots)
    return _fastest(ParityTrial(policy, robots, channels_last), settings, candidates)


def _fastest(
    trial: ParityTrial, settings: EngineSettings, candidates: Iterable[Candidate], key: Mapping[str, Any] | None = None
) -> tuple[Policy, EngineChoice]:
    """Build and measure the candidates, and remember the choice under a key.

    The first one that can be used stays unless another is clearly faster.
    """
    usable: dict[str, Policy] = {}
    excluded: dict[str, str] = {}
    for candidate in candidates:
        try:
            usable[candidate.label] = build(candidate, trial, settings)
        except Exception as error:  # another engine drives then
            if settings.engine != "auto" and is_out_of_memory(error):
                raise
            excluded[candidate.label] = reason_of(error)
    if not usable:
        raise EngineError(f"{'; '.join(excluded.values())}; use 'auto' or '{trial.policy.engine_name}'")
    first = best = next(iter(usable))
    measured_ms: dict[str, float] = {}
    if len(usable) > 1:
        measured_ms = measure(usable, trial)
        fastest = min(usable, key=measured_ms.__getitem__)
        if measured_ms[fastest] <= (1.0 - LEAST_GAIN) * measured_ms[first]:
            best = fastest
    if key is not None:
        cache.write_entry(key, {"name": best, "measured_ms": measured_ms, "excluded": excluded})
    return usable[best], EngineChoice(best, trial.robots, measured_ms, excluded)


def without_engine(choice: EngineChoice, policy: Policy, error: Exception) -> EngineChoice:
    """Return the choice of the policy's own engine, because the chosen one failed."""
    excluded = {**choice.excluded, choice.name: reason_of(error)}
    return replace(choice, name=policy.engine_name, excluded=excluded)


def all_candidates(policy: Policy, settings: EngineSettings) -> Iterator[Candidate]:
    """Yield the engines that may run a policy, its own first."""
    own = Candidate(policy.engine_name)
    yield own
    lower = [settings.precision] if settings.precision != "float32" and isinstance(policy, TorchPolicy) else []
    for name in ENGINES.names:
        try:
            engine = ENGINES[name]
        except ImportError:
            # Building it will give the reason.
            yield Candidate(name)
            continue
        if engine.problem(policy):
            continue
        for precision in ["float32", *(lower if engine.lowers_precision else [])]:
            if (candidate := Candidate(name, precision)) != own:
                yield candidate


def build(candidate: Candidate, trial: ParityTrial, settings: EngineSettings) -> Policy:
    """Build one engine; raises EngineError if its actions differ from the policy's, or any error if it cannot run."""
    if candidate == Candidate(trial.policy.engine_name):
        return trial.policy
    built = make(candidate, trial, settings)
    error = trial.error(built)
    tolerance = TOLERANCES[candidate.precision]
    if error == np.inf:
        raise EngineError("it takes other choices than the policy")
    if not error <= tolerance:
        raise EngineError(f"it differs by {error:.1e} of the action range from the policy, allowed is {tolerance:g}")
    return built


def make(candidate: Candidate, trial: ParityTrial, settings: EngineSettings) -> Policy:
    """Build one engine, without a comparison; raises any exception if it cannot be built."""
    images, precision = trial.channels_last, candidate.precision
    request = EngineRequest(trial.policy, trial.robots, trial.observations, images, settings, precision)
    return ENGINES[candidate.engine].build(request)


def measure(usable: Mapping[str, Policy], trial: ParityTrial) -> dict[str, float]:
    """Return the shortest time in milliseconds of one inference by label; the engines take turns."""
    calls = {label: one_call(policy, trial) for label, policy in usable.items()}
    once_s = sum(timeit.repeat(call, repeat=WARM_UP_RUNS, number=1)[-1] for call in calls.values())
    runs = int(np.clip(BUDGET_S / max(once_s, 1e-6), LEAST_RUNS, MOST_RUNS))
    # Other load of the machine only makes an inference longer.
    shortest_s = dict.fromkeys(calls, np.inf)
    for _ in range(runs):
        for label, call in calls.items():
            shortest_s[label] = min(shortest_s[label], timeit.timeit(call, number=1))
    return {label: shortest * 1e3 for label, shortest in shortest_s.items()}


def one_call(policy: Policy, trial: ParityTrial) -> Callable[[], Any]:
    """Return a function that runs one inference as a tick does, and waits for it."""
    state = policy.initial_state(trial.robots)
    bound = policy.bound(trial.observations, state) if isinstance(policy, EnginePolicy) else None
    if bound is not None:
        return bound

    def call() -> None:
        policy(trial.observations, state)
        if policy.device.type == "cuda":
            torch.cuda.synchronize(policy.device)

    return call


def reason_of(error: Exception) -> str:
    """Return why an engine cannot be used, in one line."""
    if isinstance(error, EngineError):
        return str(error)
    # TorchScript begins with the place in the code and ends with the reason.
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, torch.jit.Error) else 0][:400]}"


def _remembered(key: Mapping[str, Any], candidates: Collection[str]) -> EngineChoice | None:
    """Return the choice in the cache, None without one that can be used."""
    entry = cache.read_entry(key)
    try:
        if entry is None or entry["name"] not in candidates:
            return None
        measured_ms = {str(name): float(ms) for name, ms in entry["measured_ms"].items()}
        excluded = {str(name): str(reason) for name, reason in entry["excluded"].items()}
        return EngineChoice(entry["name"], int(key["robots"]), measured_ms, excluded, remembered=True)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
