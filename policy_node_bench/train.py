# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench train`: rate of collecting experience, compared with the environments of Stable-Baselines3.

All drive the same arenas with one forward pass of one policy, as PPO does while it collects. They are measured in
turns of a fraction of a second, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import itertools
import time
import timeit
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
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
from policy_node.cli.process_environment import keep_memory
from policy_node.report.figures import machine, progress_bar
from policy_node_bench.command import Command, Figures, counts, option, plot_option
from policy_node_bench.tables import screen
from policy_node_rover.mujoco.environment import RoverArenaEnv
from policy_node_rover.mujoco.rendering import KINDS, RendererError
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.training.model import make_model, recorded_forward

OURS = "policy_node"
OTHERS = ("DummyVecEnv", "SubprocVecEnv")
TURN_S = 0.3
# Not measured: drivers and PyTorch allocate in the first steps.
WARM_UP_STEPS = 3
# Seed of the first arena; all environments count up from it.
FIRST_SEED = 0
# Each part of a step is repeated; the fastest run counts, as other load can only slow it down.
REPETITIONS = 5
RATIO = "× the better\nof the others"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of `policy_bench train`."""

    arenas: Sequence[int] = option("1,4,16,64", "numbers of arenas", type=counts, metavar="N,…")
    seconds: float = option(6.0, "measured time of each environment", type=number(float, 0))
    renderer: str = option("auto", "renderer of the camera images", choices=KINDS)
    processes: int = option(0, "processes of policy_node; 0: one for each CPU", type=number(int, 0))
    threads: int = option(0, "threads of PyTorch in all; 0: one for each CPU; policy_train uses 1", type=number(int, 0))


class Collector:
    """Drive all arenas of an environment with a policy, as PPO does while it collects.

    `recorded` records the forward pass first, as `policy_train` does.
    """

    def __init__(self, arenas: VecEnv, model: PPO, recorded: bool = False) -> None:
        self.arenas = VecTransposeImage(arenas)
        # All begin in the same arenas: an image with many near objects takes two to four times as long.
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
        """Drive for some time and return the environment steps, their wall time and CPU time."""
        steps, started_s, cpu_s = 0, time.perf_counter(), _cpu_s()
        while steps == 0 or time.perf_counter() - started_s < seconds:
            self.step()
            steps += self.arenas.num_envs
        return {"steps": steps, "wall_s": time.perf_counter() - started_s, "cpu_s": _cpu_s() - cpu_s}


def make_actor(model: PPO, observations: Any, recorded: bool) -> Callable[[Any], np.ndarray]:
    """Return the function that samples actions `[arenas, actions]` in one forward pass."""
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
    """Return the CPU time of this process and its descendants, user and system."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


def run_train(options: TrainOptions, console: Console) -> dict[str, Any]:
    """Measure every number of arenas and return the figures."""
    keep_memory()  # as in policy_train
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
    """Collect with all environments in turn; return their rates, the gain of ours and its time by part."""
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
    # The ratio is taken round by round, so that other load cannot favour one of them.
    ratios = [own / max(others) for own, *others in zip(*rates.values(), strict=True)]
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
        "times_the_better": dict(zip(("p25", "p50", "p75"), np.percentile(ratios, (25, 50, 75)).tolist(), strict=True)),
        "parts_cpu_us_per_step": parts_us(arenas, model, ours.renderer.kind),
    }


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
            # Each epoch uses every step once.
            "learning": _fastest_us(learn) / batch * model.n_epochs,
        }


def _fastest_us(part: Callable[[], object]) -> float:
    return 1e6 * min(timeit.repeat(part, timer=time.process_time, number=1, repeat=REPETITIONS))


def show(figures: Figures) -> Iterable[Table]:
    """Yield a table of the rates and one of the parts of a training step, with a row for each number of arenas."""
    rates, parts = [["arenas", OURS, *OTHERS, RATIO]], [["arenas", *figures["rows"][0]["parts_cpu_us_per_step"]]]
    for row in figures["rows"]:
        ratio, environments = row["times_the_better"], [row["environments"][name] for name in (OURS, *OTHERS)]
        cells = [f"{each['steps_per_s']:.0f} ({each['cpu_us_per_step']:.0f})" for each in environments]
        rates.append([str(row["arenas"]), *cells, f"{ratio['p50']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})"])
        parts.append([str(row["arenas"]), *(f"{value:.0f}" for value in row["parts_cpu_us_per_step"].values())])
    yield screen("environment steps per second while collecting (CPU µs per step)", rates)
    yield screen(f"CPU µs per environment step with {OURS}", parts)


COMMAND = Command(
    "train",
    "experience per second of training, compared with the vectorised environments of Stable-Baselines3",
    "Measure how many environment steps per second policy_train collects, compared with DummyVecEnv and SubprocVecEnv, "
    "which begin in the same arenas with the same policy, and the parts of a training step. policy_train records the "
    "forward pass of its policy; the others run it as Stable-Baselines3 does.",
    TrainOptions,
    run_train,
    show,
    plot_option("plot_train"),
)
