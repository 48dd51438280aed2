# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Which engine runs a policy: built, compared with the policy, measured on the real number of robots, remembered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policy_node.engines import cache
from policy_node.engines.builders import EngineError, build_network_engine
from policy_node.engines.captured import CapturedPolicy
from policy_node.engines.failures import is_out_of_memory
from policy_node.engines.network import EnginePolicy
from policy_node.engines.parity import TOLERANCES, ParityTrial
from policy_node.policies.contract import Policy, TorchPolicy

# Another engine must be faster than PyTorch by more than measurements differ.
LEAST_GAIN = 0.05
# Time to measure all engines together, and how often each is run at least and at most.
BUDGET_S = 0.4
LEAST_RUNS, MOST_RUNS = 3, 40
# TorchScript rewrites itself in its first runs.
WARM_UP_RUNS = 3
_NETWORK_ENGINES = ("torchscript", "onnxruntime", "aotinductor")
# Those that a loading thread builds in a few tenths of a second, beside a policy that drives.
_QUICK = ("torchscript", "onnxruntime", "cuda_graph")


@dataclass(frozen=True)
class EngineSettings:
    """What the configuration says about engines, see its parameters `policy.*` of the same names."""

    engine: str = "auto"
    precision: str = "float32"
    compile: bool = False
    threads: int = 1


@dataclass(frozen=True)
class EngineChoice:
    """What runs a policy, and why.

    Attributes
    ----------
    name
        Name of the engine, with its precision where that is not float32.
    robots
        Robots in one inference.
    measured_ms
        Shortest time of one inference by engine; empty where nothing was to be chosen.
    excluded
        Why the other engines cannot be used, by engine.
    remembered
        Whether the choice, with its measurements, is that of an earlier time.
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
        """What was measured in words, the fastest first."""
        return ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(self.measured_ms.items(), key=itemgetter(1)))

    @property
    def description(self) -> dict[str, str]:
        """What diagnostics tell about the engine."""
        said = {"engine": self.name, "engine_measured": self.measured, "robots_per_inference": str(self.robots)}
        return said | {f"engine_{name.replace(' ', '_')}_excluded": reason for name, reason in self.excluded.items()}

    def __str__(self) -> str:
        """Say in one line what was chosen from what."""
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
        """How it is called in reports."""
        return self.engine if self.precision == "float32" else f"{self.engine} {self.precision}"


@dataclass(frozen=True, eq=False)
class Measurement:
    """One engine that acts as the policy does.

    Attributes
    ----------
    candidate
        Which one.
    policy
        The policy, run by it.
    error
        Its largest error, in shares of the action range.
    """

    candidate: Candidate
    policy: Policy
    error: float


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
    policy
        The policy.
    robots
        Robots in one inference.
    settings
        What may be used.
    channels_last
        Keys of the images that lie in memory as `[robots, ..., height, width, channels]`, however they are indexed.
    beside
        Name of the engine of another policy that drives meanwhile, which measuring would disturb: what was not
        measured before takes that engine. None: nothing drives.

    Raises
    ------
    EngineError
        When an engine that is named cannot be used. With ``auto`` only what keeps the policy itself from being run
        is raised.
    torch.OutOfMemoryError
        When there is not enough memory for so many robots.
    """
    laid_out = frozenset(channels_last)
    if settings.engine != "auto":
        return _named(policy, robots, settings, laid_out)
    if beside is not None:
        settings = replace(settings, compile=False)
    candidates = list(all_candidates(policy, settings))
    own = candidates[0]
    if len(candidates) == 1:
        return policy, EngineChoice(own.label, robots)
    key = _key(policy, robots, settings, laid_out)
    known = _remembered(key, candidates)
    if known is None and beside is not None:
        quick = [one.label for one in candidates if one.engine in _QUICK]
        known = EngineChoice(beside if beside in quick else own.label, robots)
    if known is None:
        return _fastest(policy, robots, settings, laid_out, candidates, key)
    chosen = next(one for one in candidates if one.label == known.name)
    if chosen == own:
        return policy, known
    trial = ParityTrial(policy, robots, laid_out)
    try:
        return build(policy, chosen, trial, laid_out, settings).policy, known
    except Exception as error:  # what could be used before cannot any more
        if beside is None:
            return _fastest(policy, robots, settings, laid_out, candidates, key)
        return policy, without_engine(known, policy, error)


def _named(
    policy: Policy, robots: int, settings: EngineSettings, channels_last: frozenset[str]
) -> tuple[Policy, EngineChoice]:
    """Return the policy, run by the engine that is named, in the faster one of the precisions that are allowed."""
    own = own_engine(policy)
    candidates = [one for one in all_candidates(policy, settings) if one.engine == settings.engine]
    if not candidates:
        raise EngineError(f"{why_not(policy, settings.engine)}; use 'auto' or '{own}'")
    if candidates == [Candidate(own)]:
        return policy, EngineChoice(own, robots)
    trial = ParityTrial(policy, robots, channels_last)
    usable, excluded = build_all(policy, candidates, trial, channels_last, settings)
    if not usable:
        raise EngineError(f"{'; '.join(excluded.values())}; use 'auto' or '{own}'")
    measured_ms = measure(usable, trial) if len(usable) > 1 else {}
    best = min(usable, key=lambda one: measured_ms.get(one.candidate.label, 0.0))
    return best.policy, EngineChoice(best.candidate.label, robots, measured_ms, excluded)


def _fastest(
    policy: Policy,
    robots: int,
    settings: EngineSettings,
    channels_last: frozenset[str],
    candidates: Sequence[Candidate],
    key: Mapping[str, Any],
) -> tuple[Policy, EngineChoice]:
    trial = ParityTrial(policy, robots, channels_last)
    usable, excluded = build_all(policy, candidates, trial, channels_last, settings)
    measured_ms = measure(usable, trial)
    own = usable[0]
    best = min(usable, key=lambda one: measured_ms[one.candidate.label])
    if measured_ms[best.candidate.label] > (1.0 - LEAST_GAIN) * measured_ms[own.candidate.label]:
        best = own
    choice = EngineChoice(best.candidate.label, robots, measured_ms, excluded)
    cache.write_entry(key, {"name": choice.name, "measured_ms": measured_ms, "excluded": excluded})
    return best.policy, choice


def without_engine(choice: EngineChoice, policy: Policy, error: Exception) -> EngineChoice:
    """Return the choice of the policy's own engine, as the chosen one cannot be used after all."""
    excluded = {**choice.excluded, choice.name: reason_of(error)}
    return replace(choice, name=own_engine(policy), excluded=excluded)


def own_engine(policy: Policy) -> str:
    """Return what runs a policy as it was loaded."""
    return policy.engine_name


def all_candidates(policy: Policy, settings: EngineSettings) -> Iterator[Candidate]:
    """Yield the engines that may run a policy, its own first."""
    own = own_engine(policy)
    yield Candidate(own)
    lower = [settings.precision] if settings.precision != "float32" else []
    if isinstance(policy, TorchPolicy):
        yield from (Candidate(engine) for engine in _NETWORK_ENGINES)
        for precision in lower:
            yield Candidate("direct", precision)
            yield Candidate("torchscript", precision)
    if policy.device.type == "cuda" and own != "onnxruntime":
        yield Candidate("cuda_graph")
        if isinstance(policy, TorchPolicy):
            yield from (Candidate("cuda_graph", precision) for precision in lower)


def why_not(policy: Policy, engine: str) -> str:
    """Say why an engine is none of the candidates."""
    if engine == "cuda_graph" and policy.device.type != "cuda":
        return f"'cuda_graph' needs a GPU, but the policy runs on {policy.device}"
    return f"'{engine}' cannot run this file, which '{own_engine(policy)}' runs"


def build_all(
    policy: Policy,
    candidates: Sequence[Candidate],
    trial: ParityTrial,
    channels_last: frozenset[str],
    settings: EngineSettings,
) -> tuple[list[Measurement], dict[str, str]]:
    """Build the candidates and compare them with the policy.

    Returns
    -------
    tuple
        Those that act as the policy does, and the reason for each other one by its label.
    """
    usable: list[Measurement] = []
    excluded: dict[str, str] = {}
    for candidate in candidates:
        try:
            usable.append(build(policy, candidate, trial, channels_last, settings))
        except Exception as error:  # whatever an engine does, another one drives
            if settings.engine != "auto" and is_out_of_memory(error):
                raise
            excluded[candidate.label] = reason_of(error)
    return usable, excluded


def build(
    policy: Policy,
    candidate: Candidate,
    trial: ParityTrial,
    channels_last: frozenset[str],
    settings: EngineSettings,
) -> Measurement:
    """Build one engine and compare it with the policy.

    Raises
    ------
    EngineError
        If it does not act as the policy does.
    Exception
        Whatever keeps it from being built or run.
    """
    if candidate == Candidate(own_engine(policy)):
        return Measurement(candidate, policy, 0.0)
    built = make(policy, candidate, trial, channels_last, settings)
    error = trial.error(built)
    tolerance = TOLERANCES[candidate.precision]
    if error == np.inf:
        raise EngineError("it takes other choices than the policy")
    if not error <= tolerance:
        raise EngineError(f"it differs by {error:.1e} of the action range from the policy, allowed is {tolerance:g}")
    return Measurement(candidate, built, error)


def make(
    policy: Policy,
    candidate: Candidate,
    trial: ParityTrial,
    channels_last: frozenset[str],
    settings: EngineSettings,
) -> Policy:
    """Build one engine.

    Raises
    ------
    Exception
        Whatever keeps it from being built.
    """
    built = policy
    if candidate.engine != "cuda_graph" or candidate.precision != "float32":
        assert isinstance(policy, TorchPolicy)
        network_engine = "direct" if candidate.engine == "cuda_graph" else candidate.engine
        package: Path | None = None
        if candidate.engine == "aotinductor":
            package = cache.package_file(_package_key(policy, trial.robots, channels_last, settings.threads))
            if not package.is_file():
                if not (settings.compile or settings.engine == "aotinductor"):
                    raise EngineError("it is not compiled; policy.compile allows that")
                cache.make_package_folder(package)
        run = build_network_engine(
            network_engine, policy, trial.observations, channels_last, candidate.precision, package
        )
        built = EnginePolicy(policy, run, trial.robots, candidate.label, channels_last)
    return CapturedPolicy(built, trial.robots) if candidate.engine == "cuda_graph" else built


def measure(usable: Sequence[Measurement], trial: ParityTrial) -> dict[str, float]:
    """Return the shortest time in milliseconds of one inference by label; the engines take turns."""
    calls = {one.candidate.label: one_call(one.policy, trial) for one in usable}
    once_s = 0.0
    for call in calls.values():
        for _ in range(WARM_UP_RUNS):
            started = time.perf_counter()
            call()
        once_s += time.perf_counter() - started
    runs = int(np.clip(BUDGET_S / max(once_s, 1e-6), LEAST_RUNS, MOST_RUNS))
    # What else the machine does only makes an inference longer.
    shortest_s = dict.fromkeys(calls, np.inf)
    for _ in range(runs):
        for label, call in calls.items():
            started = time.perf_counter()
            call()
            shortest_s[label] = min(shortest_s[label], time.perf_counter() - started)
    return {label: shortest * 1e3 for label, shortest in shortest_s.items()}


def one_call(policy: Policy, trial: ParityTrial) -> Callable[[], None]:
    """Return a function that runs one inference and waits for it."""
    state = policy.initial_state(trial.robots)

    def call() -> None:
        policy(trial.observations, state)
        if policy.device.type == "cuda":
            torch.cuda.synchronize(policy.device)

    return call


def reason_of(error: Exception) -> str:
    """Return what kept an engine from being used, in one line."""
    if isinstance(error, EngineError):
        return str(error)
    # TorchScript says first where, and last what.
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, torch.jit.Error) else 0][:400]}"


def _remembered(key: Mapping[str, Any], candidates: Sequence[Candidate]) -> EngineChoice | None:
    """Return the choice of an earlier time, None if there is none that can be used."""
    entry = cache.read_entry(key)
    try:
        if entry is None or entry["name"] not in [candidate.label for candidate in candidates]:
            return None
        measured_ms = {str(name): float(ms) for name, ms in entry["measured_ms"].items()}
        excluded = {str(name): str(reason) for name, reason in entry["excluded"].items()}
        return EngineChoice(entry["name"], int(key["robots"]), measured_ms, excluded, remembered=True)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _key(policy: Policy, robots: int, settings: EngineSettings, channels_last: frozenset[str]) -> dict[str, Any]:
    spec = policy.spec
    return {
        "policy": spec.sha256,
        "spec": [str(part) for part in (*spec.observations.values(), spec.action, *spec.memory.values())],
        "robots": robots,
        "device": str(policy.device),
        "threads": settings.threads,
        "precision": settings.precision,
        "compile": settings.compile,
        "channels_last": sorted(channels_last),
        "machine": cache.machine_key(policy.device),
    }


def _package_key(policy: TorchPolicy, robots: int, channels_last: frozenset[str], threads: int) -> dict[str, Any]:
    """Return the key of a compiled package, which holds all numbers of the policy."""
    digest = hashlib.sha256()
    for module in policy.modules:
        for name, tensor in module.state_dict(keep_vars=True).items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    settings = EngineSettings(threads=threads)
    return {**_key(policy, robots, settings, channels_last), "weights": digest.hexdigest()}
