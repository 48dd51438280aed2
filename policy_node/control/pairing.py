# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Pair a policy's observation space with the configured sensors, and describe a policy file as configured."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import numpy as np

from policy_node.config.catalogue import IMAGE_ENCODINGS
from policy_node.config.schema import (
    Configuration,
    ConfigurationError,
    ObservationConfiguration,
    SourceConfiguration,
)
from policy_node.config.specs import OUTPUT, ArraySpec
from policy_node.config.warning import warn
from policy_node.policies import Policy, PolicyError, PolicyInterface
from policy_node.policies.formats import format_of
from policy_node.policies.interface import parse_memory
from policy_node.sensing.batch import ObservationLayout, observation_layout
from policy_node.sensing.terms import MotionError, TermInputs

CHANNELS_WITH_ALPHA = 4


def policy_interface(configuration: Configuration) -> PolicyInterface | None:
    """Return the configured inputs and outputs of a policy file; None when none are configured.

    Raises
    ------
    PolicyError
        When the configuration contradicts itself.
    """
    policy, observations = configuration.policy, configuration.observations
    # A policy with one observation takes it under any name.
    fed_back = chunk_inputs(configuration)
    alone = len(observations) == 1 and not observations[0].input and not fed_back
    keyed = {"observation" if alone else entry.key: entry for entry in observations}
    # Named once each, in the order of the terms.
    outputs = tuple(dict.fromkeys(term.output for entry in observations for term in entry.terms if term.output))
    counters = tuple(
        key for key, entry in keyed.items() if entry.terms and all(term.kind == "step" for term in entry.terms)
    )
    of_action = (policy.action, policy.horizon, policy.discrete, policy.low, policy.high)
    of_network = (policy.activation, policy.output_activation)
    given = (policy.memory, policy.lengths, policy.mask, *of_action, *of_network, outputs, counters, fed_back)
    if not any(given) and not any(entry.input or entry.history or entry.shape for entry in observations):
        return None
    try:
        memories = [parse_memory(text) for text in policy.memory]
    except PolicyError as error:
        raise PolicyError(f"policy.memory: {error}", "policy.memory") from error
    in_order = format_of(policy.path, policy.format).is_ordered
    return PolicyInterface(
        # Inputs that are known by their order only are all named.
        inputs={key: entry.input or key for key, entry in keyed.items() if entry.input or in_order}
        | {name: name for name in fed_back},
        memory=tuple((name, output) for name, output, _ in memories),
        lengths=policy.lengths,
        mask=policy.mask,
        padding=policy.padding,  # type: ignore[arg-type]
        action=policy.action,
        outputs=outputs,
        horizon=policy.horizon,
        discrete=policy.discrete,
        low=_bound(policy.low, -np.inf),
        high=_bound(policy.high, np.inf),
        activation=policy.activation,
        output_activation=policy.output_activation,
        history={key: entry.history for key, entry in keyed.items() if entry.history},
        shapes={key: entry.shape for key, entry in keyed.items() if entry.shape}
        | {name: shape for name, _, shape in memories if shape is not None}
        | (_chunk_shapes(configuration) if in_order else {}),
        counters=counters,
        dtypes={key: _dtype_of_image(entry) for key, entry in keyed.items() if entry.is_image},
    )


def chunk_inputs(configuration: Configuration) -> tuple[str, ...]:
    """Return the inputs of the policy that take the previous plan and its delay, as far as there are any."""
    return tuple(filter(None, (configuration.chunk.prefix_input, configuration.chunk.delay_input)))


def _chunk_shapes(configuration: Configuration) -> dict[str, tuple[int, ...]]:
    """Return the shapes of these inputs for one robot, for files that do not say them, as far as they are known."""
    chunk, horizon = configuration.chunk, configuration.policy.horizon
    action = configuration.action
    components = len(action.joints or action.fields or action.safe_command)
    shapes: dict[str, tuple[int, ...]] = {chunk.delay_input: ()} if chunk.delay_input else {}
    is_known = chunk.prefix_input and horizon and components
    return shapes | ({chunk.prefix_input: (horizon, components)} if is_known else {})


def _dtype_of_image(entry: ObservationConfiguration) -> str:
    """Return the dtype of the configured encoding; uint8 without one, as most cameras give."""
    return IMAGE_ENCODINGS[entry.encoding].dtype.name if entry.encoding else "uint8"


def _bound(numbers: tuple[float, ...], none: float) -> tuple[float, ...] | float:
    return numbers if len(numbers) > 1 else next(iter(numbers), none)


def match_observations(
    configuration: Configuration, policy: Policy, sizes: Mapping[str, int | None] | None = None
) -> dict[str, ObservationLayout]:
    """Pair the configured sensors with the policy's observation space.

    Parameters
    ----------
    configuration
        The deployment.
    policy
        The policy.
    sizes
        By name of a term: how many numbers its messages give, None or missing where only each message says it.

    Returns
    -------
    dict
        Layout by configured key.

    Raises
    ------
    ConfigurationError
        When they do not fit; shows both side by side.
    """
    _check_task_is_given(configuration, policy)
    wanted = _wanted(configuration, policy)
    configured = {observation.key: observation for observation in configuration.observations}
    if list(wanted) == ["observation"] and len(configured) > 1:
        problem = (
            f"observations.keys: found {list(configured)}, but the policy has one observation; keep one of the keys"
        )
        raise ConfigurationError([problem, side_by_side(configuration, policy)])
    problems = [
        f"observations.keys: '{key}' is not in the policy's observation space"
        for key in configured
        if key not in wanted
    ]
    problems += [
        f"observations.keys: '{key}' is missing, the policy needs it{_memory_hint(key, policy)}"
        for key in wanted
        if key not in configured
    ]
    action = policy.spec.action
    inputs = TermInputs(
        sizes or {},
        math.prod(action.shape) if isinstance(action, ArraySpec) else 0,
        {
            name.removeprefix(OUTPUT): math.prod(part.shape)
            for name, part in policy.spec.memory.items()
            if name.startswith(OUTPUT)
        },
        configuration.control_rate_hz,
    )
    layouts = {}
    motion_problems: list[str] = []
    for key, observation in configured.items():
        if key in wanted:
            policy_key = key if key in policy.spec.observations else "observation"
            try:
                layouts[key] = observation_layout(policy_key, wanted[key], observation, inputs)
            except MotionError as error:
                motion_problems += error.problems
            except ConfigurationError as error:
                problems += error.problems
            else:
                _warn_of_channels(observation, layouts[key])
    if problems:
        raise ConfigurationError([*motion_problems, *problems, side_by_side(configuration, policy)])
    if motion_problems:
        raise ConfigurationError(motion_problems)
    if task := policy.spec.task:
        layouts[task] = ObservationLayout(task, policy.spec.observations[task], steps=1, channels_first=False)
    return layouts


def _check_task_is_given(configuration: Configuration, policy: Policy) -> None:
    """Check that a policy that takes a text is given some."""
    chosen = configuration.policy
    if policy.spec.task and not (chosen.task or chosen.task_topic):
        raise ConfigurationError(
            "policy.task: missing, but the policy takes a text that says what a robot is to do; give one, such as "
            "['pick up the red cube'], or the topic of such texts with policy.task_topic"
        )


def unused_task(configuration: Configuration, policy: Policy) -> str:
    """Return the problem where texts are given to a policy that takes none; empty without one."""
    given = [name for name in ("task", "task_topic") if getattr(configuration.policy, name)]
    return f"policy.{given[0]}: given, but the policy takes no text" if given and not policy.spec.task else ""


def _memory_hint(key: str, policy: Policy) -> str:
    """Return how to name an input as memory, if an output of the network may give its next value; else nothing."""
    close = difflib.get_close_matches(key, policy.unused_outputs, n=1, cutoff=0.0)
    return f"; if it is memory of the network, give policy.memory: ['{key}={close[0]}']" if close else ""


def _warn_of_channels(observation: ObservationConfiguration, layout: ObservationLayout) -> None:
    """Warn if four grey images may be taken for one with an alpha channel, which few policies see."""
    if observation.is_image and not observation.encoding and layout.frame.shape[-1] == CHANNELS_WITH_ALPHA:
        warn(
            f"observations.{observation.key}: the policy wants {CHANNELS_WITH_ALPHA} channels, and images are "
            "converted to colours with alpha; name their encoding, or, for 4 = 4 × 1, trained with VecFrameStack(4) on "
            "grey images, set `stack: 4`"
        )


def _wanted(configuration: Configuration, policy: Policy) -> Mapping[str, ArraySpec]:
    """Return the policy's observation space by configured key."""
    fed_back, configured = chunk_inputs(configuration), configuration.observations
    without_sensor = (*fed_back, policy.spec.task)
    wanted = {key: spec for key, spec in policy.spec.observations.items() if key not in without_sensor}
    # A space that is not a Dict has one observation, under any configured name.
    if list(wanted) == ["observation"] and len(configured) == 1:
        return {configured[0].key: wanted["observation"]}
    return wanted


def side_by_side(configuration: Configuration, policy: Policy) -> str:
    """Show the policy's observation space beside the configured sensors, a line per key."""
    wanted = _wanted(configuration, policy)
    sensors = {
        observation.key: _described(observation)
        + (f", stack {observation.stack}" if observation.stack > 1 else "")
        + (f" as {observation.stack_as}" if observation.stack_as != "vecframestack" else "")
        + (", newest first" if observation.stack_order == "newest_first" else "")
        + (f", grouped {observation.stack_grouping}" if observation.stack_grouping else "")
        + (f", history {observation.history}" if observation.history else "")
        + (" from the first step" if observation.history_start == "first" else "")
        for observation in configuration.observations
    }
    rows = [
        (key, str(wanted.get(key, "not there")), sensors.get(key, "not configured")) for key in {**wanted, **sensors}
    ]
    rows = [("key", "policy wants", "configured sensor"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)


def _described(source: SourceConfiguration) -> str:
    """Describe where an observation comes from."""
    if isinstance(source, ObservationConfiguration) and source.terms:
        return "terms " + ", ".join(
            f"{term.term} (stack {term.stack})" if term.stack else term.term for term in source.terms
        )
    paths = list(source.fields) or source.field
    return (
        f"{source.type} on {source.topic}"
        + (f", field {paths}" if paths else "")
        + (f", joints {list(source.joints)}" if source.joints else "")
    )
