# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Deploy a configuration: load its policy, pair it with sensors and command, choose an engine, and run it once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from policy_node.config.schema import (
    Configuration,
    ConfigurationError,
    TermConfiguration,
)
from policy_node.config.specs import ArraySpec
from policy_node.config.warning import warn
from policy_node.control.pairing import match_observations, policy_interface, side_by_side, unused_task
from policy_node.control.pipeline import Pipeline
from policy_node.control.planned_inference import has_plans, rows_of
from policy_node.engines import (
    EngineChoice,
    EngineError,
    EngineSettings,
    choose_engine,
    chunk_size,
    in_chunks,
    without_engine,
)
from policy_node.engines.failures import is_out_of_memory
from policy_node.messages.codecs import (
    CommandEncoder,
    MessageTypeError,
    ReadingDecoder,
    command_encoder,
    reading_decoder,
    reading_size,
)
from policy_node.messages.reading import Decode
from policy_node.policies import Policy, PolicyError, load_policy, select_device
from policy_node.sensing.batch import ObservationLayout


@dataclass(frozen=True, eq=False)
class Deployment:
    """A policy that was loaded, verified, paired with sensors and command, and warmed up."""

    configuration: Configuration
    policy: Policy
    decoders: dict[str, ReadingDecoder]
    pipeline: Pipeline
    engine: EngineChoice


def deploy(configuration: Configuration, beside: str | None = None) -> Deployment:
    """Load the policy, pair it with the configured sensors and command, and run it on example observations.

    Parameters
    ----------
    configuration
        The configuration to deploy.
    beside
        Name of the engine of another policy that drives meanwhile, see `choose_engine`; None: nothing drives.

    Raises
    ------
    ConfigurationError
        When the policy cannot be loaded, or does not fit.
    Exception
        Raised by the policy on example observations.
    """
    torch.set_num_threads(configuration.policy.threads)
    policy = load_configured(configuration)
    if beside is None:
        check_task_is_taken(configuration, policy)
    elif unused := unused_task(configuration, policy):
        warn(f"{unused}; the texts are kept for the next policy that takes some")
    return deploy_paired(configuration, policy, *pair(configuration, policy), beside)


def deploy_paired(
    configuration: Configuration,
    policy: Policy,
    layouts: Mapping[str, ObservationLayout],
    decoders: dict[str, ReadingDecoder],
    beside: str | None = None,
) -> Deployment:
    """Deploy a policy that was loaded and paired, as `deploy` does."""
    decode = {key: decoder.decode for key, decoder in decoders.items()}
    pipeline, engine = _fit(configuration, policy, layouts, decode, beside)
    return Deployment(configuration, policy, decoders, pipeline, engine)


def slowness(deployment: Deployment) -> str:
    """Return a warning if inference takes longer than the control period, or than a plan lasts; empty otherwise."""
    configuration, inference_s = deployment.configuration, deployment.pipeline.inference_s
    if configuration.policy.inference == "background":
        return _slow_plans(deployment)
    if inference_s * configuration.control_rate_hz <= 1.0:
        return ""
    limits_s = {
        "synchronisation.max_age_s": configuration.synchronisation.max_age_s,
        "watchdog.timeout_s": configuration.watchdog_timeout_s,
    }
    beyond = [f"{name} ({limit_s:.3g} s)" for name, limit_s in limits_s.items() if inference_s > limit_s]
    follows = f"at most {1 / inference_s:.3g} of {configuration.control_rate_hz:g} commands a second can be sent"
    if beyond:
        follows = f"that is also longer than {' and '.join(beyond)}, so the robots will only get their safe commands"
    return (
        f"policy.path: one inference takes {inference_s * 1e3:.1f} ms at configure (engine {deployment.engine.name} on "
        f"{deployment.policy.device}), the control period is {1e3 / configuration.control_rate_hz:.1f} ms: {follows}; "
        f"set policy.inference to background, lower control_rate_hz below {1 / inference_s:.3g}, or choose a faster "
        f"policy, policy.engine or policy.device"
    )


def _slow_plans(deployment: Deployment) -> str:
    """Return a warning if plans end before the next ones can come; empty otherwise."""
    inference_s, lasts_s = deployment.pipeline.inference_s, deployment.pipeline.plan_lasts_s
    parts = -(-len(deployment.configuration.robots) // rows_of(deployment.configuration))
    # A plan that is wanted waits for the one before it.
    needed_s = 2 * inference_s * parts
    if needed_s <= lasts_s:
        return ""
    return (
        f"policy.path: one inference takes {inference_s * 1e3:.1f} ms at configure (engine {deployment.engine.name} on "
        f"{deployment.policy.device}), so a robot may wait {needed_s:.3g} s for its next plan, but a plan lasts "
        f"{lasts_s:.3g} s: robots may stop in between; set chunk.on_exhausted to hold or raise chunk.max_age_s if "
        f"that is safe, or choose a faster policy, policy.engine or policy.device"
    )


def check_task_is_taken(configuration: Configuration, policy: Policy) -> None:
    """Check that texts are given only to a policy that takes some; a swap keeps them for the next one.

    Raises
    ------
    ConfigurationError
        When the policy takes none.
    """
    if unused := unused_task(configuration, policy):
        raise ConfigurationError(f"{unused}; remove it")


def pair(
    configuration: Configuration, policy: Policy
) -> tuple[dict[str, ObservationLayout], dict[str, ReadingDecoder]]:
    """Pair a policy with the configured sensors.

    Returns
    -------
    dict
        Layout by configured key, see `match_observations`.
    dict
        By the name of each source, and of the safe position: the decoder of its messages.

    Raises
    ------
    ConfigurationError
        When they do not fit.
    """
    layouts = match_observations(configuration, policy, reading_sizes(configuration))
    specs = {name: spec for layout in layouts.values() for name, spec in layout.readings.items()}
    problems: list[str] = []
    decoders: dict[str, ReadingDecoder] = {}
    # Sources that read one topic in the same way share a decoder, so that staging decodes its messages once.
    shared: dict[Hashable, ReadingDecoder] = {}
    position = configuration.safe_position
    if position is not None:
        specs[position.name] = ArraySpec(position.name, (len(position.joints),), np.float64, -np.inf, np.inf)
    for source in (*configuration.sources, *([position] if position else [])):
        spec = specs[source.name]
        key = (
            source.topic,
            source.type,
            *source.choices.values(),
            spec.shape,
            spec.dtype,
            spec.low.tobytes(),
            spec.high.tobytes(),
        )
        try:
            if key not in shared:
                shared[key] = reading_decoder(source.type, spec, topic=source.topic, **source.choices)
        except MessageTypeError as error:
            prefix = "" if source is position else "observations."
            problems.append(f"{prefix}{source.name}: {error}")
        else:
            decoders[source.name] = shared[key]
    if problems:
        raise ConfigurationError([*problems, side_by_side(configuration, policy)])
    return layouts, decoders


def configured_encoders(configuration: Configuration, components: int) -> tuple[CommandEncoder, ...]:
    """Return by command topic the encoder into its messages; `components` is the size of a command of all of them.

    Raises
    ------
    ConfigurationError
        When the message cannot carry them.
    """
    encoders, problems = [], []
    for command in configuration.commands:
        try:
            encoders.append(
                command_encoder(
                    command.type,
                    len(command.components) or components,
                    fields=command.fields,
                    joints=command.joints,
                    field=command.field,
                    frame_id=command.frame_id,
                    time_from_start_s=command.time_from_start_s or 1.0 / configuration.control_rate_hz,
                    constants=command.constants,
                    points=command.points,
                )
            )
        except MessageTypeError as error:
            problems.append(f"{command.prefix}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return tuple(encoders)


def _fit(
    configuration: Configuration,
    policy: Policy,
    layouts: Mapping[str, ObservationLayout],
    decode: Mapping[str, Decode],
    beside: str | None,
) -> tuple[Pipeline, EngineChoice]:
    """Choose the engine and warm up the pipeline, with as many robots in one inference as fit into the memory."""
    robots = _inferred_robots(configuration, policy)
    rows = chunk_size(robots, configuration.policy.max_batch or robots)
    too_many = 0
    while True:
        try:
            pipeline, engine = _warmed_up(configuration, policy, layouts, decode, beside, rows)
            return pipeline, replace(engine, too_many=too_many)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if rows == 1:
                raise ConfigurationError(
                    f"policy.path: there is not enough memory on {policy.device} for a single robot: {error}"
                ) from error
        too_many, rows = rows, chunk_size(robots, rows // 2)
        if policy.device.type == "cuda":
            torch.cuda.empty_cache()


def _inferred_robots(configuration: Configuration, policy: Policy) -> int:
    """Return how many robots the policy acts for at once, if the memory allows it."""
    return rows_of(configuration) if has_plans(configuration, policy) else len(configuration.robots)


def _warmed_up(
    configuration: Configuration,
    policy: Policy,
    layouts: Mapping[str, ObservationLayout],
    decode: Mapping[str, Decode],
    beside: str | None,
    rows: int,
) -> tuple[Pipeline, EngineChoice]:
    """Choose the engine for `rows` robots in one inference and warm up the pipeline with it."""
    chosen, robots = configuration.policy, _inferred_robots(configuration, policy)
    channels_last = [layout.key for layout in layouts.values() if layout.channels_first]
    settings = EngineSettings(chosen.engine, chosen.precision, chosen.threads)
    try:
        run_by, engine = choose_engine(policy, rows, settings, channels_last, beside)
    except EngineError as error:
        raise ConfigurationError(f"policy.engine: {error}") from error
    try:
        pipeline = Pipeline(configuration, in_chunks(run_by, robots, rows), layouts, decode)
        pipeline.warm_up()
    except Exception as error:
        if chosen.engine != "auto" or run_by is policy or is_out_of_memory(error):
            raise
        # The engine runs alone, but not within the pipeline.
        engine = without_engine(engine, policy, error)
        pipeline = Pipeline(configuration, in_chunks(policy, robots, rows), layouts, decode)
        pipeline.warm_up()
    return pipeline, engine


def load_configured(configuration: Configuration) -> Policy:
    """Load the configured policy.

    Raises
    ------
    ConfigurationError
        When it cannot be loaded; names the parameter.
    """
    try:
        select_device(configuration.policy.device)
    except PolicyError as error:
        raise ConfigurationError(f"policy.device: {error}") from error
    try:
        return load_policy(
            configuration.policy.path,
            configuration.policy.device,
            trusted=configuration.policy.trusted,
            vecnormalize=configuration.policy.vecnormalize or None,
            sha256=configuration.policy.sha256 or None,
            format=configuration.policy.format,
            interface=policy_interface(configuration),
        )
    except PolicyError as error:
        raise ConfigurationError(_named(error, configuration)) from error


def _named(error: PolicyError, configuration: Configuration) -> str:
    """Return the text of an error behind the parameter to correct, with the configured key of the observation."""
    parameter, observations = error.parameter, configuration.observations
    if len(observations) == 1:
        parameter = parameter.replace("observations.observation.", f"observations.{observations[0].key}.")
    return str(error) if str(error).startswith(parameter) else f"{parameter}: {error}"


def reading_sizes(configuration: Configuration) -> dict[str, int | None]:
    """Return by the name of each term the length of its readings, None where it depends on the message.

    Raises
    ------
    ConfigurationError
        When a message type cannot be read as configured; with one line for every problem.
    """
    sizes: dict[str, int | None] = {}
    problems = []
    for source in configuration.sources:
        if isinstance(source, TermConfiguration):
            try:
                sizes[source.name] = reading_size(source.type, **source.choices)
            except MessageTypeError as error:
                problems.append(f"observations.{source.name}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return sizes
