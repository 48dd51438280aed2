# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench train`: how fast experience is collected, beside the vectorised environments of Stable-Baselines3.

All drive the same arenas with one forward pass of one policy for all of them, as PPO does while it collects. They take
turns of a fraction of a second in one run, so that what else the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecTransposeImage

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import number
from policy_node.cli.output import check_file
from policy_node.cli.process_environment import keep_memory
from policy_node.report.figures import SubParsers, machine, progress_bar, write_figures
from policy_node_rover.mujoco.environment import RoverArenaEnv
from policy_node_rover.mujoco.rendering import KINDS, RendererError
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.training.model import make_model, recorded_forward

OURS = "policy_node"
OTHERS = ("DummyVecEnv", "SubprocVecEnv")
# How long one collects before it is another's turn.
TURN_S = 0.3
# Of the first steps, in which drivers and PyTorch allocate what they need.
WARM_UP_STEPS = 3
# Of the arenas; those of Stable-Baselines3 count seeds on from here, too.
FIRST_SEED = 0
# Repetitions of each part of a step; the fastest counts, as others can only slow a part down.
REPETITIONS = 5
# As the tables name them.
RATIO = "× the better\nof the others"


@dataclass(frozen=True)
class TrainOptions:
    """The options of `policy_bench train`.

    Attributes
    ----------
    arenas
        Numbers of arenas.
    seconds
        Measured time of each number of arenas and environment.
    renderer
        Kind of the renderer.
    processes
        Processes of ours; 0 means one for each CPU.
    threads
        Threads of PyTorch in all; 0 means one for each CPU.
    """

    arenas: tuple[int, ...]
    seconds: float
    renderer: str
    processes: int
    threads: int


class Collector:
    """Drives all arenas of an environment with a policy, as PPO does while it collects.

    Parameters
    ----------
    arenas
        The environment.
    model
        Whose policy drives.
    recorded
        Whether its forward pass was recorded before, as `policy_train` does.

    Attributes
    ----------
    act
        Draws an action for every arena, with its value and probability, in one forward pass: [arenas, actions].
    """

    def __init__(self, arenas: VecEnv, model: PPO, recorded: bool = False) -> None:
        self.arenas = VecTransposeImage(arenas)
        # All begin in the same arenas: an image takes two to four times as long where much is near.
        self.arenas.seed(FIRST_SEED)
        self._observations: Any = self.arenas.reset()
        self.act = make_actor(model, self._observations, recorded)
        for _ in range(WARM_UP_STEPS):
            self.step()

    def step(self) -> None:
        """Drive all arenas for one step."""
        actions = self.act(self._observations)
        space: Any = self.arenas.action_space
        self._observations, _, _, _ = self.arenas.step(np.clip(actions, space.low, space.high))

    def collect(self, seconds: float) -> dict[str, float]:
        """Drive for some time; return the environment steps, the time and the CPU time that they took."""
        steps, started_s, cpu_s = 0, time.perf_counter(), _cpu_s()
        while steps == 0 or time.perf_counter() - started_s < seconds:
            self.step()
            steps += self.arenas.num_envs
        return {"steps": steps, "wall_s": time.perf_counter() - started_s, "cpu_s": _cpu_s() - cpu_s}


def make_actor(model: PPO, observations: Any, recorded: bool) -> Callable[[Any], np.ndarray]:
    """Return what draws actions; see `Collector`."""
    forward: Callable[..., Any] = model.policy
    if recorded:
        example: Any = obs_as_tensor(observations, model.device)
        forward = recorded_forward(model.policy, example)

    def act(observations: Any) -> np.ndarray:
        with torch.no_grad():
            actions, _, _ = forward(obs_as_tensor(observations, model.device))
        return actions.cpu().numpy()

    return act


def _cpu_s() -> float:
    """Return the CPU time of this process and of all that it started."""
    total_s = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        times = process.cpu_times()
        total_s += times.user + times.system
    return total_s


def run_train(options: TrainOptions, console: Console) -> dict[str, Any]:
    """Measure every number of arenas and return the figures, as they stand in the JSON file.

    Raises
    ------
    ToolError
        When the renderer cannot be had here.
    """
    # As policy_train does.
    keep_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    with progress_bar(console) as bar:
        task = bar.add_task("train", total=len(options.arenas), doing="")
        for arenas in options.arenas:
            bar.update(task, doing=f"{arenas} arenas")
            try:
                rows.append(measure(arenas, options))
            except RendererError as error:
                raise ToolError(str(error)) from error
            bar.advance(task)
    return {"options": asdict(options), "machine": machine(), "rows": rows}


def measure(arenas: int, options: TrainOptions) -> dict[str, Any]:
    """Let all environments collect in turn; return their rates, what ours gains, and where its time goes."""
    ours = RoverArenaVecEnv(arenas, itertools.count(FIRST_SEED), options.renderer, options.processes)
    model = make_model(ours)
    assert isinstance(model, PPO)
    makers: list[Callable[[], gymnasium.Env]] = [partial(RoverArenaEnv, ours.renderer.kind) for _ in range(arenas)]
    collectors: dict[str, Collector] = {}
    try:
        collectors[OURS] = Collector(ours, model, recorded=True)
        for kind in (DummyVecEnv, SubprocVecEnv):
            collectors[kind.__name__] = Collector(kind(makers), model)
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in collectors}
        for _ in range(max(2, round(options.seconds / TURN_S))):
            for name, collector in collectors.items():
                turns[name].append(collector.collect(TURN_S))
    finally:
        for collector in collectors.values():
            collector.arenas.close()
    rates = {name: [turn["steps"] / turn["wall_s"] for turn in taken] for name, taken in turns.items()}
    return {
        "arenas": arenas,
        "renderer": ours.renderer.kind,
        "environments": {
            name: {
                "steps_per_s": sum(turn["steps"] for turn in taken) / sum(turn["wall_s"] for turn in taken),
                "cpu_us_per_step": 1e6 * sum(turn["cpu_s"] for turn in taken) / sum(turn["steps"] for turn in taken),
            }
            for name, taken in turns.items()
        },
        # Of every round the ratio to the better of the two, so that no other load can favour one of them.
        "times_the_better": quartiles([own / max(others) for own, *others in zip(*rates.values(), strict=True)]),
        "parts_cpu_us_per_step": parts_us(arenas, model, ours.renderer.kind),
    }


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {"p25": float(low), "p50": float(median), "p75": float(high)}


def parts_us(count: int, model: PPO, renderer: str) -> dict[str, float]:
    """Return the CPU time in microseconds per environment step of the parts of training, in one process."""
    arenas = RoverArenaVecEnv(count, itertools.count(FIRST_SEED), renderer)
    with closing(VecTransposeImage(arenas)) as transposed:
        observations: Any = transposed.reset()
        act = make_actor(model, observations, recorded=True)
        actions = act(observations)
        batch = model.batch_size
        rows = np.arange(batch) % count
        minibatch = obs_as_tensor({key: values[rows] for key, values in observations.items()}, model.device)
        minibatch_actions = torch.as_tensor(actions[rows])

        def learn() -> None:
            values, probabilities, _ = model.policy.evaluate_actions(minibatch, minibatch_actions)
            model.policy.optimizer.zero_grad()
            (values.mean() + probabilities.mean()).backward()
            model.policy.optimizer.step()

        def move() -> None:
            for task, action in zip(arenas.tasks, actions, strict=True):
                task.step(action)

        def draw() -> None:
            for task in arenas.tasks:
                arenas.renderer.camera(task.arena)

        return {
            "physics and reward": _fastest_us(move) / count,
            "images": _fastest_us(draw) / count,
            "forward pass": _fastest_us(lambda: act(observations)) / count,
            # Every step is learnt from once in each epoch.
            "learning": _fastest_us(learn) / batch * model.n_epochs,
        }


def _fastest_us(part: Callable[[], object]) -> float:
    times_us = []
    for _ in range(REPETITIONS):
        started_ns = time.process_time_ns()
        part()
        times_us.append((time.process_time_ns() - started_ns) / 1e3)
    return min(times_us)


def table(figures: dict[str, Any]) -> Table:
    """Show a line for each number of arenas."""
    result = Table(title="environment steps per second while collecting (CPU µs per step)")
    for name in ("arenas", OURS, *OTHERS, RATIO):
        result.add_column(name, justify="right", no_wrap=True)
    for row in figures["rows"]:
        ratio = row["times_the_better"]
        result.add_row(
            str(row["arenas"]),
            *(
                f"{row['environments'][name]['steps_per_s']:.0f} ({row['environments'][name]['cpu_us_per_step']:.0f})"
                for name in (OURS, *OTHERS)
            ),
            f"{ratio['p50']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})",
        )
    return result


def parts_table(figures: dict[str, Any]) -> Table:
    """Show where the time of a training step of ours goes."""
    result = Table(title=f"CPU µs per environment step with {OURS}")
    names = list(figures["rows"][0]["parts_cpu_us_per_step"])
    for name in ("arenas", *names):
        result.add_column(name, justify="right")
    for row in figures["rows"]:
        result.add_row(str(row["arenas"]), *(f"{row['parts_cpu_us_per_step'][name]:.0f}" for name in names))
    return result


def draw(figures: dict[str, Any], file: Path) -> None:
    """Draw the rates of all environments, and the parts of a step of ours, over the number of arenas."""
    import matplotlib
    from matplotlib.figure import Figure

    from policy_node.report.plots import STYLE, finish

    rows = figures["rows"]
    labels = [str(row["arenas"]) for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.6), layout="constrained")
        rates, parts = figure.subplots(1, 2)
        for name in (OURS, *OTHERS):
            values = [row["environments"][name]["steps_per_s"] for row in rows]
            rates.plot(labels, values, marker="o", label=name)
        rates.set(xlabel="arenas", title="environment steps per second while collecting", ylim=(0, None))
        rates.grid()
        rates.legend()
        below = np.zeros(len(rows))
        for name in rows[0]["parts_cpu_us_per_step"]:
            heights = [row["parts_cpu_us_per_step"][name] for row in rows]
            parts.bar(labels, heights, bottom=below, label=name)
            below += heights
        parts.set(xlabel="arenas", title=f"CPU time of a training step with {OURS}, µs")
        parts.grid(axis="y")
        parts.legend()
        finish(figure, "Collecting experience in the rover arena", figures["machine"], file)


def _arenas(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"found '{text}'; give numbers of arenas, such as 1,4,16,64")
    return tuple(sorted({int(part) for part in parts}))


def add_parser(subparsers: SubParsers) -> None:
    """Add the command line of `policy_bench train`."""
    train = subparsers.add_parser(
        "train",
        help="experience per second of training, beside the vectorised environments of Stable-Baselines3",
        description="Measures how many environment steps per second policy_train collects, beside DummyVecEnv and "
        "SubprocVecEnv, which begin in the same arenas with the same policy, and where the time goes. policy_train "
        "records the forward pass of its policy; the others take it as Stable-Baselines3 has it.",
    )
    train.add_argument(
        "--arenas", type=_arenas, default="1,4,16,64", metavar="N,…", help="arenas at once (default 1,4,16,64)"
    )
    train.add_argument(
        "--seconds", type=number(float, 0), default=6.0, help="measured time of each environment (default 6)"
    )
    train.add_argument("--renderer", choices=KINDS, default="auto", help="how camera images are made (default auto)")
    train.add_argument(
        "--processes", type=number(int, 0), default=0, help="processes of ours; 0: one for each CPU (default 0)"
    )
    train.add_argument(
        "--threads",
        type=number(int, 0),
        default=0,
        help="threads of PyTorch, in all; 0: one for each CPU (default 0; policy_train: 1)",
    )
    train.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (default: nowhere)")
    train.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them there (default: nowhere)")
    train.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run `policy_bench train`."""
    for option, file in (("--json", given.json), ("--plot", given.plot)):
        if file:
            check_file(f"policy_bench train: {option}", file)
    console = Console()
    figures = run_train(
        TrainOptions(given.arenas, given.seconds, given.renderer, given.processes, given.threads), console
    )
    console.print(table(figures))
    console.print(parts_table(figures))
    if given.json:
        write_figures(given.json, figures)
    if given.plot:
        draw(figures, given.plot)
    return 0
