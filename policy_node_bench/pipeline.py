# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench pipeline`: a tick without ROS, compared with the forward pass of the same engine.

`Pipeline.step` takes serialised messages; the forward pass takes tensors that are already on the device. They are
measured in turn, with the same pauses.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import number
from policy_node.config.registry import ENGINES
from policy_node.config.schema import ConfigurationError
from policy_node.control.pipeline import Pipeline
from policy_node.engines import EngineChoice
from policy_node.policies import PolicyError, select_device
from policy_node.report.figures import distribution, machine, progress_bar
from policy_node.sensing.synchroniser import RobotState
from policy_node_bench.command import Command, Figures, image_size, option, plot_option
from policy_node_bench.forward_pass import forward_pass, predict_each
from policy_node_bench.harness.robots import (
    IMAGE_TOPIC,
    TOUCH_TOPIC,
    check_parameters,
    checked_settings,
    parse_settings,
    robot_parameters,
    untrained_policy,
)
from policy_node_bench.harness.turns import Part, in_turn, ratio_of_turns
from policy_node_bench.tables import pipeline_rows, screen, times

TURN_S = 0.25
LEAST_TURNS = 3
# The first steps of a process are slow.
WARM_UP_STEPS = 10
# Age of the readings at a tick, about half a camera period.
READING_AGE_NS = 15_000_000


def _engine_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    allowed = ("auto", *ENGINES.names)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise argparse.ArgumentTypeError(f"found '{unknown[0]}', allowed are {', '.join(allowed)}")
    return names


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """The options of `policy_bench pipeline`."""

    robots: int = option(64, "number of robots", type=number(int, 1))
    image: tuple[int, int] = option("64", "camera image in pixels", type=image_size, metavar="S|WxH")
    grey: bool = option(False, "images of one channel (default: RGB)", action="store_true")
    touch: bool = option(True, "camera only (default: camera and touch)", "--no-touch", action="store_false")
    stack: int = option(1, "time steps of the camera", type=number(int, 1), metavar="T")
    device: str = option("cpu", "cpu, cuda or cuda:i")
    rate_hz: float = option(20.0, "control rate", "--rate", type=number(float, 1), metavar="HZ")
    seconds: float = option(10.0, "measured time of all parts together", type=number(float, 1))
    model: str = option("", "policy for these observations (default: an untrained one)", metavar="PATH")
    engines: Sequence[str] = option(
        "auto,direct", "values of policy.engine to measure", type=_engine_names, metavar="NAME,…"
    )
    settings: Sequence[str] = option(
        (), "set a parameter", "--set", action="append", type=checked_settings, metavar="NAME:=VALUE"
    )
    hot: bool = option(False, "without pauses between runs (default: those of the control rate)", action="store_true")
    predict: bool = option(False, "also measure model.predict per robot on the device", action="store_true")

    @property
    def turn_s(self) -> float:
        """Shortest turn of a part: with pauses it is one run, so that neighbours are compared."""
        return TURN_S if self.hot else 0.0

    @property
    def pause_s(self) -> float:
        """Period in which runs start; 0 without pauses."""
        return 0.0 if self.hot else 1.0 / self.rate_hz

    @property
    def channels(self) -> int:
        """Channels of the camera images."""
        return 1 if self.grey else 3

    @property
    def title(self) -> str:
        """Size of the fleet and its observations, for titles."""
        width, height = self.image
        return (
            f"{self.robots} robots, {width}×{height} {'grey' if self.grey else 'RGB'} camera, "
            f"stack {self.stack}{', touch' if self.touch else ''}, on {self.device}, "
            f"{'without pauses' if self.hot else f'at {self.rate_hz:g} Hz'}"
        )


class Step:
    """Run a pipeline tick by tick; each tick has a new message `[robots][sensors]` of every sensor of the pipeline."""

    def __init__(self, pipeline: Pipeline, messages: Sequence[Sequence[bytes]], period_ns: int) -> None:
        self._pipeline = pipeline
        self._messages = messages
        self._period_ns = period_ns
        self._now_ns = time.time_ns()
        self.stages_s: list[Mapping[str, float]] = []

    def arrive(self) -> None:
        """Advance time by one period and add a message of every sensor, which is not part of the step."""
        self._now_ns += self._period_ns
        for robot, messages in enumerate(self._messages):
            for sensor, message in enumerate(messages):
                self._pipeline.add(robot, sensor, self._now_ns - READING_AGE_NS, message)

    def __call__(self) -> None:
        """Run one step.

        Raises ToolError if a robot is not ready, so that the step skips work.
        """
        result = self._pipeline.step(self._now_ns)
        self.stages_s.append(result.stages_s)
        for state, reason in zip(result.states, result.reasons, strict=True):
            if state is not RobotState.READY:
                raise ToolError(f"a synthetic robot is {state.name}: {reason}")


class Measured(NamedTuple):
    """The parts that are measured of one engine."""

    choice: EngineChoice
    step: Step
    forward: Callable[[], None]


def prepare(options: PipelineOptions, model: str, console: Console) -> dict[str, Measured]:
    """Configure the pipeline with each engine.

    Raises ToolError if the model does not fit or a setting is not allowed.
    """
    from rclpy.serialization import serialize_message

    from policy_node.ros.deployment import deploy
    from policy_node_bench.harness.publishers import readings

    topics = (IMAGE_TOPIC, TOUCH_TOPIC) if options.touch else (IMAGE_TOPIC,)
    published = [readings(robot, *options.image, options.channels) for robot in range(options.robots)]
    messages = [[serialize_message(messages[topic]) for topic in topics] for messages in published]
    parameters = robot_parameters(
        options.robots, options.rate_hz, model, device=options.device, stack=options.stack, touch=options.touch
    )
    parameters |= parse_settings(" ".join(options.settings)).parameters
    measured = {}
    for engine in options.engines:
        with console.status(f"{engine}: configuring"):
            configuration = check_parameters({**parameters, "policy.engine": engine})
            try:
                deployment = deploy(configuration)
            except ConfigurationError as error:
                raise ToolError(f"--model, --engines, --set: {error}") from error
        step = Step(deployment.pipeline, messages, configuration.period_ns)
        measured[engine] = Measured(deployment.engine, step, forward_pass(deployment, options.robots))
    return measured


def run_pipeline(options: PipelineOptions, console: Console) -> dict[str, Any]:
    """Measure all engines and return the figures."""
    try:
        device = select_device(options.device)
    except PolicyError as error:
        raise ToolError(f"--device: {error}") from error
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="policy_bench_"))
        # An earlier result may come from a busy machine.
        os.environ["XDG_CACHE_HOME"] = folder
        model = options.model or untrained_policy(
            Path(folder), options.image, options.channels, stack=options.stack, touch=options.touch
        )
        measured = prepare(options, model, console)
        parts: dict[str, Part] = {}
        for engine, (_, step, forward) in measured.items():
            parts |= {f"{engine}: step": Part(step, step.arrive), f"{engine}: forward": Part(forward)}
        if options.predict:
            parts["predict"] = Part(predict_each(model, options.robots, str(device)))
        for name, part in parts.items():
            for _ in range(1 if name == "predict" else WARM_UP_STEPS):
                part.before_run()
                part.run()
        for each in measured.values():
            each.step.stages_s.clear()
        # As in the node.
        gc.collect()
        gc.freeze()
        bar = stack.enter_context(progress_bar(console))
        bar.add_task("pipeline", total=None, doing=options.title)
        times_ms = in_turn(parts, options.seconds, options.turn_s, LEAST_TURNS, 1, options.pause_s)
    return {
        "title": options.title,
        "options": asdict(options),
        "machine": machine(device),
        **engine_figures(measured, times_ms, options),
        **({"device_memory_mb": torch.cuda.max_memory_allocated(device) / 1e6} if device.type == "cuda" else {}),
    }


def engine_figures(
    measured: Mapping[str, Measured], times_ms: Mapping[str, Sequence[np.ndarray]], options: PipelineOptions
) -> dict[str, Any]:
    """Return the figures of each engine, and the ratios of the first one."""
    engines: dict[str, Any] = {}
    for engine, (choice, step, _) in measured.items():
        steps_ms, forwards_ms = times_ms[f"{engine}: step"], times_ms[f"{engine}: forward"]
        step_ms = np.concatenate(steps_ms)
        stages_ms = {stage: np.array([each[stage] for each in step.stages_s]) * 1e3 for stage in step.stages_s[0]}
        engines[engine] = {
            "engine": choice.name,
            "measured_ms": dict(choice.measured_ms),
            "excluded": dict(choice.excluded),
            "steps": len(step_ms),
            "step_ms": distribution(step_ms),
            "forward_ms": distribution(np.concatenate(forwards_ms)),
            "stages_ms": {stage: distribution(values) for stage, values in stages_ms.items()},
            "overhead_ratio": ratio_of_turns(steps_ms, forwards_ms),
            "robots_per_s": options.robots * 1e3 / float(np.median(step_ms)),
            "within_period_fraction": float(np.mean(step_ms <= 1e3 / options.rate_hz)),
        }
    first = options.engines[0]
    figures = {"engines": engines, "overhead_ratio": engines[first]["overhead_ratio"]}
    if "direct" in engines:
        figures["overhead_ratio_direct"] = engines["direct"]["overhead_ratio"]
    if options.predict:
        figures["predict_ms"] = distribution(np.concatenate(times_ms["predict"]))
        figures["ratio_predict"] = ratio_of_turns(times_ms["predict"], times_ms[f"{first}: step"])
    return figures


def table(figures: Figures) -> Table:
    """Return a table with a column for each engine."""
    engines = figures["engines"]
    rates = [f"{engine['robots_per_s']:.0f}" for engine in engines.values()]
    result = screen(figures["title"], [*pipeline_rows(engines), ["robots per second", *rates]])
    if "predict_ms" in figures:
        result.caption = (
            f"model.predict per robot: {times(figures['predict_ms'])} ms for all robots, "
            f"{figures['ratio_predict']:.1f} times the step"
        )
    return result


COMMAND = Command(
    "pipeline",
    "a tick without ROS, compared with the forward pass",
    "Measure Pipeline.step on serialised messages, stage by stage, and the forward pass of the same engine on tensors "
    "that are already on the device, in turn, with the pauses of the control rate. The forward pass of onnxruntime on "
    "a CPU is the bare session of the network.",
    PipelineOptions,
    run_pipeline,
    lambda figures: [table(figures)],
    plot_option("plot_pipeline"),
)
