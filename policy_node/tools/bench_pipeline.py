# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench pipeline`: the tick without ROS, beside the bare forward pass of the same engine.

`Pipeline.step` gets serialised messages as they arrive; the forward pass gets tensors that are already on the device.
Both run in turn, some steps of one and some of the other, so that the machine's moods meet both.
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
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from policy_node.config.registry import ENGINES
from policy_node.configuration import ConfigurationError
from policy_node.engines import EngineChoice
from policy_node.options import number
from policy_node.pipeline import Pipeline
from policy_node.policies import Policy, PolicyError, select_device
from policy_node.synchroniser import RobotState
from policy_node.tools.bench_report import SubParsers, distribution, image_size, machine, progress_bar, write_figures
from policy_node.tools.bench_robots import (
    IMAGE_TOPIC,
    TOUCH_TOPIC,
    check_parameters,
    checked_settings,
    parse_settings,
    robot_parameters,
    save_untrained_model,
)
from policy_node.tools.child import ToolError

# How long one thing is measured before it is another's turn.
TURN_S = 0.25
# A new process computes slowly at first.
WARM_UP_STEPS = 10
# At a tick the readings are so old, about half a period of a camera.
READING_AGE_NS = 15_000_000


@dataclass(frozen=True)
class PipelineOptions:
    """The options of `policy_bench pipeline`.

    Attributes
    ----------
    robots
        Rows of the batch.
    width, height
        Size of the camera images in pixels.
    grey
        Whether the images have one channel instead of three.
    touch
        Whether the policy takes the touch, too.
    stack
        Time steps of the camera.
    device
        Where the policy runs.
    rate_hz
        Control rate; it says how far apart the steps' readings are, and what period a step must keep.
    seconds
        Measured time of all together.
    model
        Policy file; empty for an untrained policy with the camera's image size.
    engines
        Values of `policy.engine` to measure.
    settings
        Further settings, see `parse_settings`.
    predict
        Whether `model.predict` per robot is measured as well.
    """

    robots: int
    width: int
    height: int
    grey: bool
    touch: bool
    stack: int
    device: str
    rate_hz: float
    seconds: float
    model: str
    engines: Sequence[str]
    settings: Sequence[str]
    predict: bool

    @property
    def title(self) -> str:
        """What is measured, in a line."""
        return (
            f"{self.robots} robots, {self.width}×{self.height} {'grey' if self.grey else 'RGB'} camera, "
            f"stack {self.stack}{', touch' if self.touch else ''}, on {self.device}"
        )


class Step:
    """One tick after another, each with a new message of every sensor.

    Parameters
    ----------
    pipeline
        The pipeline.
    messages
        `[robots][sensors]`: serialised messages in the order of the pipeline's sensors.
    period_ns
        Control period.
    """

    def __init__(self, pipeline: Pipeline, messages: Sequence[Sequence[bytes]], period_ns: int) -> None:
        self._pipeline = pipeline
        self._messages = messages
        self._period_ns = period_ns
        self._now_ns = time.time_ns()
        self.stages_s: list[Mapping[str, float]] = []

    def arrive(self) -> None:
        """Let time go on by one period and a message of every sensor arrive, which is not part of the step."""
        self._now_ns += self._period_ns
        for robot, messages in enumerate(self._messages):
            for sensor, message in enumerate(messages):
                self._pipeline.add(robot, sensor, self._now_ns - READING_AGE_NS, message)

    def __call__(self) -> None:
        """Run one step.

        Raises
        ------
        ToolError
            When a robot is not ready: what is measured would be something else.
        """
        result = self._pipeline.step(self._now_ns)
        self.stages_s.append(result.stages_s)
        for state, reason in zip(result.states, result.reasons, strict=True):
            if state is not RobotState.READY:
                raise ToolError(f"a synthetic robot is {state.name}: {reason}")


class Forward:
    """The policy on observations that are already on its device.

    Parameters
    ----------
    policy
        The policy.
    robots
        Rows of the batch.
    """

    def __init__(self, policy: Policy, robots: int) -> None:
        self._policy = policy
        rng = np.random.default_rng(0)
        self._observations = {
            key: _on_device(spec.example(robots, rng), policy.device) for key, spec in policy.spec.observations.items()
        }
        self._state = policy.initial_state(robots)

    def __call__(self) -> None:
        """Run one forward pass and wait for its end."""
        with torch.inference_mode():
            _, self._state = self._policy(self._observations, self._state)
        if self._policy.device.type == "cuda":
            torch.cuda.synchronize(self._policy.device)


def _on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return observations on the device; images lie there as the camera gives them, channels last."""
    if array.ndim == 4 and array.shape[1] < array.shape[3]:
        channels_last = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        return torch.from_numpy(channels_last).to(device).movedim(-1, 1)
    return torch.from_numpy(array).to(device)


class Predict:
    """`model.predict` for one robot after another, as the loop that users write today does it.

    Parameters
    ----------
    model
        A PPO model, a .zip file.
    robots
        How many robots.
    device
        Where it runs.
    """

    def __init__(self, model: str, robots: int, device: str) -> None:
        from stable_baselines3 import PPO

        self._model = PPO.load(model, device=device)
        space = self._model.observation_space
        self._observations = [space.sample() for _ in range(robots)]

    def __call__(self) -> None:
        """Predict the actions of all robots; they come on the host, so that nothing is left to wait for."""
        for observation in self._observations:
            self._model.predict(observation, deterministic=True)


def in_turn(
    parts: Mapping[str, Callable[[], None]], before: Mapping[str, Callable[[], None]], seconds: float
) -> dict[str, list[np.ndarray]]:
    """Run the parts in turn until `seconds` have passed and each had three turns at least.

    Parameters
    ----------
    parts
        What to run, by name.
    before
        What to do before each run of some of them, outside of its time.
    seconds
        How long to measure.

    Returns
    -------
    dict
        By name, for each turn, the milliseconds of its runs.
    """
    times_ms: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s or min(map(len, times_ms.values())) < 3:
        for name, part in parts.items():
            prepare = before.get(name, _nothing)
            turn_s = time.monotonic() + TURN_S
            turn_ms: list[float] = []
            while not turn_ms or time.monotonic() < turn_s:
                prepare()
                started = time.perf_counter()
                part()
                turn_ms.append((time.perf_counter() - started) * 1e3)
            times_ms[name].append(np.array(turn_ms))
    return times_ms


def ratio_of_turns(turns: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Return how many times longer one thing takes than another, from turns that follow one another.

    Each turn is compared with the next one of the other, as the machine's speed changes from second to second.
    """
    return float(np.median([np.median(one) / np.median(other) for one, other in zip(turns, others, strict=True)]))


def run_pipeline(options: PipelineOptions, console: Console) -> dict[str, Any]:
    """Measure all engines and return the figures, as they stand in the JSON file.

    Raises
    ------
    ToolError
        When the model does not fit or what was set is not allowed.
    """
    from rclpy.serialization import serialize_message

    from policy_node.ros.swap import deploy
    from policy_node.tools.bench_publishers import readings

    try:
        device = select_device(options.device)
    except PolicyError as error:
        raise ToolError(f"--device: {error}") from error
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="policy_bench_"))
        # What an earlier time left may have been measured on a busy machine.
        os.environ["XDG_CACHE_HOME"] = folder
        model = options.model
        if not model:
            model = str(Path(folder) / "untrained.zip")
            frame = (options.height, options.width, 1 if options.grey else 3)
            save_untrained_model(Path(model), frame, options.stack, options.touch)
        topics = (IMAGE_TOPIC, TOUCH_TOPIC) if options.touch else (IMAGE_TOPIC,)
        published = [
            readings(robot, options.width, options.height, 1 if options.grey else 3) for robot in range(options.robots)
        ]
        messages = [[serialize_message(messages[topic]) for topic in topics] for messages in published]
        parameters = robot_parameters(
            options.robots, options.rate_hz, model, device=options.device, stack=options.stack, touch=options.touch
        )
        parameters |= parse_settings(" ".join(options.settings)).parameters
        parts: dict[str, Callable[[], None]] = {}
        arrivals: dict[str, Callable[[], None]] = {}
        steps: dict[str, Step] = {}
        chosen: dict[str, EngineChoice] = {}
        for engine in options.engines:
            with console.status(f"{engine}: configuring"):
                configuration = check_parameters({**parameters, "policy.engine": engine})
                try:
                    deployment = deploy(configuration)
                except ConfigurationError as error:
                    raise ToolError(f"--model, --engines, --set: {error}") from error
            step = steps[engine] = Step(deployment.pipeline, messages, configuration.period_ns)
            parts[f"{engine}: step"], arrivals[f"{engine}: step"] = step, step.arrive
            parts[f"{engine}: forward"] = Forward(deployment.pipeline.policy, options.robots)
            chosen[engine] = deployment.engine
        if options.predict:
            parts["predict"] = Predict(model, options.robots, str(device))
        for name, part in parts.items():
            for _ in range(1 if name == "predict" else WARM_UP_STEPS):
                arrivals.get(name, _nothing)()
                part()
        for step in steps.values():
            step.stages_s.clear()
        # As the node does it.
        gc.collect()
        gc.freeze()
        bar = stack.enter_context(progress_bar(console))
        bar.add_task("pipeline", total=None, doing=options.title)
        times_ms = in_turn(parts, arrivals, options.seconds)
    figures: dict[str, Any] = {"options": asdict(options), "machine": machine(device), "engines": {}}
    for engine, step in steps.items():
        steps_ms, forwards_ms = times_ms[f"{engine}: step"], times_ms[f"{engine}: forward"]
        step_ms = np.concatenate(steps_ms)
        stages_ms = {stage: np.array([each[stage] for each in step.stages_s]) * 1e3 for stage in step.stages_s[0]}
        figures["engines"][engine] = {
            "engine": chosen[engine].name,
            "measured_ms": dict(chosen[engine].measured_ms),
            "excluded": dict(chosen[engine].excluded),
            "steps": len(step_ms),
            "step_ms": distribution(step_ms),
            "forward_ms": distribution(np.concatenate(forwards_ms)),
            "stages_ms": {stage: distribution(values) for stage, values in stages_ms.items()},
            "overhead_ratio": ratio_of_turns(steps_ms, forwards_ms),
            "robots_per_s": options.robots * 1e3 / float(np.median(step_ms)),
            "within_period_fraction": float(np.mean(step_ms <= 1e3 / options.rate_hz)),
        }
    first = figures["engines"][options.engines[0]]
    figures["overhead_ratio"] = first["overhead_ratio"]
    if "direct" in figures["engines"]:
        figures["overhead_ratio_direct"] = figures["engines"]["direct"]["overhead_ratio"]
    if options.predict:
        figures["predict_ms"] = distribution(np.concatenate(times_ms["predict"]))
        figures["ratio_predict"] = ratio_of_turns(times_ms["predict"], times_ms[f"{options.engines[0]}: step"])
    if device.type == "cuda":
        figures["device_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return figures


def _nothing() -> None:
    pass


def table(options: PipelineOptions, figures: dict[str, Any]) -> Table:
    """Show a column for each engine."""
    engines = figures["engines"]
    result = Table(title=f"{options.title}\nms, p50 / p99")
    result.add_column("")
    for name, engine in engines.items():
        result.add_column(name if name == engine["engine"] else f"{name}: {engine['engine']}", justify="right")

    def row(label: str, values: Sequence[str]) -> None:
        result.add_row(label, *values)

    def times(values: Mapping[str, float]) -> str:
        return f"{values['p50']:.3f} / {values['p99']:.3f}"

    for stage in next(iter(engines.values()))["stages_ms"]:
        row(f"  {stage}", [times(engine["stages_ms"][stage]) for engine in engines.values()])
    row("step", [times(engine["step_ms"]) for engine in engines.values()])
    row("forward pass alone", [times(engine["forward_ms"]) for engine in engines.values()])
    row("overhead_ratio", [f"{engine['overhead_ratio']:.2f}" for engine in engines.values()])
    row("robots per second", [f"{engine['robots_per_s']:.0f}" for engine in engines.values()])
    if "predict_ms" in figures:
        result.caption = (
            f"model.predict per robot: {times(figures['predict_ms'])} ms for all robots, "
            f"{figures['ratio_predict']:.1f} times the step"
        )
    return result


def _engine_names(text: str) -> list[str]:
    names = text.split(",")
    allowed = ("auto", *ENGINES.names)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise argparse.ArgumentTypeError(f"found '{unknown[0]}', allowed are {', '.join(allowed)}")
    return names


def add_parser(subparsers: SubParsers) -> None:
    """Add the command line of `policy_bench pipeline`."""
    pipeline = subparsers.add_parser(
        "pipeline",
        help="the tick without ROS, beside the bare forward pass",
        description="Measures Pipeline.step on serialised messages, stage by stage, beside the forward pass of the "
        "same engine on tensors that are already on the device, in turn.",
    )
    pipeline.add_argument("--robots", type=number(int, 1), default=64, help="number of robots (default 64)")
    pipeline.add_argument(
        "--image", type=image_size, default=(64, 64), metavar="S|WxH", help="camera image in pixels (default 64)"
    )
    pipeline.add_argument("--grey", action="store_true", help="images of one channel (default: RGB)")
    pipeline.add_argument("--no-touch", action="store_true", help="camera only (default: camera and touch)")
    pipeline.add_argument(
        "--stack", type=number(int, 1), default=1, metavar="T", help="time steps of the camera (default 1)"
    )
    pipeline.add_argument("--device", default="cpu", help="cpu, cuda or cuda:i (default cpu)")
    pipeline.add_argument("--rate", type=number(float, 1), default=20.0, metavar="HZ", help="control rate (default 20)")
    pipeline.add_argument("--seconds", type=number(float, 1), default=10.0, help="measured time (default 10)")
    pipeline.add_argument(
        "--model", default="", metavar="PATH", help="policy for these observations (default: an untrained one)"
    )
    pipeline.add_argument(
        "--engines",
        type=_engine_names,
        default="auto,direct",
        metavar="NAME,…",
        help="values of policy.engine to measure (default auto,direct)",
    )
    pipeline.add_argument(
        "--set", action="append", default=[], type=checked_settings, metavar="NAME:=VALUE", help="set a parameter"
    )
    pipeline.add_argument(
        "--predict", action="store_true", help="measure model.predict per robot on the device as well"
    )
    pipeline.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (default: nowhere)")
    pipeline.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them there (default: nowhere)")
    pipeline.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run `policy_bench pipeline`.

    Raises
    ------
    ToolError
        When the model does not fit or what was set is not allowed.
    """
    options = PipelineOptions(
        robots=given.robots,
        width=given.image[0],
        height=given.image[1],
        grey=given.grey,
        touch=not given.no_touch,
        stack=given.stack,
        device=given.device,
        rate_hz=given.rate,
        seconds=given.seconds,
        model=given.model,
        engines=given.engines,
        settings=given.set,
        predict=given.predict,
    )
    console = Console()
    figures = run_pipeline(options, console)
    console.print(table(options, figures))
    if given.json:
        write_figures(given.json, figures)
        console.print(f"figures: {given.json}")
    if given.plot:
        from policy_node.tools.bench_plots import plot_pipeline

        plot_pipeline(figures, options.title, given.plot)
        console.print(f"plot: {given.plot}")
    return 0
