# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench exported`: how the exported policies in a folder run, and what one batch saves over one by one."""

from __future__ import annotations

import re
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import number
from policy_node.config.warning import warnings_to
from policy_node.policies import Policy, PolicyError, PolicyInterface, load_policy
from policy_node.policies.foreign import ForeignPolicy
from policy_node.report.figures import machine, progress_bar
from policy_node_bench.command import Command, Figures, option

SUFFIXES = {".onnx": "ONNX", ".pt": "TorchScript", ".jit": "TorchScript", ".ts": "TorchScript", ".pt2": "torch.export"}
STEPS = 20
# The shortest of so many runs counts, as other load only makes them longer.
RUNS = 20
# Robots whose actions are compared with those of a copy of the file for each.
JUDGED = 6
# Largest difference, in shares of the largest action, that still counts as equal.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ExportedOptions:
    """The options of `policy_bench exported`."""

    folder: str = option("", "folder with exported policies; they are trusted and can run code", "folder")
    shape: Sequence[str] = option(
        (), "shape of the observation of files whose path contains TEXT, such as himloco=270", action="append",
        metavar="TEXT=N,…",
    )  # fmt: skip
    robots: int = option(64, "robots in one inference", type=number(int, 2))
    threads: int = option(1, "CPU threads of one inference", type=number(int, 1))
    device: str = option("cpu", "cpu, cuda or cuda:i")


def run_exported(options: ExportedOptions, console: Console) -> dict[str, Any]:
    """Load, compare and measure all files and return the figures."""
    torch.set_num_threads(options.threads)
    folder = Path(options.folder)
    shapes = dict(map(_parse_shape, options.shape))
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise ToolError(f"{folder} has no file with the suffix {', '.join(SUFFIXES)}")
    rows = []
    with progress_bar(console) as bar:
        task = bar.add_task("exported", total=len(files), doing="")
        for file in files:
            name = str(file.relative_to(folder))
            bar.update(task, doing=file.name)
            given = next((shape for text, shape in shapes.items() if text in name), None)
            rows.append({"file": name, "format": SUFFIXES[file.suffix]} | measure_file(file, options, given))
            bar.advance(task)
    return {
        "options": asdict(options),
        "machine": machine(torch.device(options.device)),
        "rows": rows,
        "violations": sum(row.get("error", 0.0) > TOLERANCE for row in rows),
    }


def measure_file(file: Path, options: ExportedOptions, shape: tuple[int, ...] | None) -> dict[str, Any]:
    """Return how a file runs, its error and its times; or why it is refused."""
    try:
        # How it runs stands in its row.
        with warnings_to(lambda text: None):
            policy = load(file, options.device, shape)
    except PolicyError as error:
        return {"refused": str(error)}
    steps = _observations(policy, options.robots)
    found = _rollout(policy, steps)[:, :JUDGED]
    expected = _judge(file, policy, steps).reshape(found.shape)
    figures = {
        "how": policy.how_it_runs,
        "observations": {key: list(spec.shape) for key, spec in policy.spec.observations.items()},
        "memory": {key: list(spec.shape) for key, spec in policy.spec.memory.items()},
        "error": float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())),
        "batch_ms": _shortest_ms(policy, steps[0]),
    }
    policy.batch = 1
    return figures | {"alone_ms": _shortest_ms(policy, steps[0])}


def load(file: Path, device: str, shape: tuple[int, ...] | None) -> ForeignPolicy:
    """Load a file; a TorchScript file without a given shape gets the input size of its first layer."""
    if SUFFIXES[file.suffix] != "TorchScript":
        return _foreign(load_policy(file, device, trusted=True))
    module = _script(file)
    memory = dict(_memory_shapes(module))
    refused = PolicyError(f"the input size of '{file}' is not known; give --shape")
    for given in [shape] if shape else _likely_shapes(module):
        interface = PolicyInterface(
            inputs={"observation": "observation"},
            memory=tuple((name, f"next_{name}") for name in memory),
            shapes={"observation": given} | memory,
        )
        try:
            return _foreign(load_policy(file, device, trusted=True, format="torchscript", interface=interface))
        except PolicyError as error:
            refused = error
    raise refused


def _foreign(policy: Policy) -> ForeignPolicy:
    if not isinstance(policy, ForeignPolicy):
        raise PolicyError("it describes itself and always runs as one batch")
    return policy


def _script(file: Path) -> Any:
    try:
        return torch.jit.load(str(file), map_location="cpu")
    except RuntimeError as error:
        raise PolicyError(f"'{file}' is no TorchScript file: {str(error).splitlines()[0]}") from error


def _memory_shapes(module: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of the memory that a module takes beside its first argument."""
    count = str(module.forward.schema).partition("->")[0].count("Tensor") - 1
    weights = [tensor for name, tensor in module.named_parameters() if "weight_hh" in name]
    for index in range(count if weights else 0):
        yield f"memory_{index}", (len(weights), -1, weights[0].shape[1])


def _likely_shapes(module: Any) -> Iterator[tuple[int, ...]]:
    """Yield the input sizes of the layers of a module, in the order of its parameters."""
    weights = [tensor for name, tensor in module.named_parameters() if tensor.ndim == 2 and "weight_hh" not in name]
    yield from dict.fromkeys((weight.shape[1],) for weight in weights)


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    match = re.fullmatch(r"(.+)=(\d+(?:,\d+)*)", text)
    if match is None:
        raise ToolError(f"--shape is '{text}'; give a part of the path and the shape, such as himloco=270")
    return match[1], tuple(map(int, match[2].split(",")))


def _observations(policy: Policy, robots: int) -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    return [
        {
            key: torch.from_numpy(spec.example(robots, rng)).to(policy.device)
            for key, spec in policy.spec.observations.items()
        }
        for _ in range(STEPS)
    ]


def _rollout(policy: Policy, steps: Sequence[Mapping[str, torch.Tensor]]) -> np.ndarray:
    """Return the actions of all robots `[steps, robots, ...]`."""
    state, found = policy.initial_state(len(next(iter(steps[0].values())))), []
    for observations in steps:
        action, state = policy(observations, state)
        found.append(action.double().cpu().numpy())
    return np.stack(found)


def _judge(file: Path, policy: Policy, steps: Sequence[Mapping[str, torch.Tensor]]) -> np.ndarray:
    """Return the actions of some robots `[steps, robots, ...]`, each by a copy of the file that nothing else runs."""
    robots = [_alone(file, policy) for _ in range(min(JUDGED, len(next(iter(steps[0].values())))))]
    return np.stack(
        [
            np.concatenate(
                [run([part[row, None].cpu() for part in given.values()]) for row, run in enumerate(robots)], axis=0
            )
            for given in steps
        ]
    )


def _alone(file: Path, policy: Policy) -> Callable[[list[torch.Tensor]], np.ndarray]:
    """Return a function that runs a file for one robot without policy_node."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        return lambda inputs: session.run(None, {n: part.numpy() for n, part in zip(names, inputs, strict=True)})[0]
    if file.suffix == ".pt2":
        program = torch.export.load(str(file)).module()
        return lambda inputs: program(*inputs).detach().numpy()
    module = _script(file).eval()
    memory = [
        torch.zeros(1, *spec.shape).movedim(0, 1) for name, spec in policy.spec.memory.items() if "memory_" in name
    ]

    def run(inputs: list[torch.Tensor]) -> np.ndarray:
        nonlocal memory
        with torch.no_grad():
            result = module(*inputs, tuple(memory)) if memory else module(*inputs)
        action, memory = result if memory else (result, memory)
        return action.reshape(1, -1).numpy()

    return run


def _shortest_ms(policy: Policy, observations: Mapping[str, torch.Tensor]) -> float:
    state = policy.initial_state(len(next(iter(observations.values()))))

    def call() -> None:
        policy(observations, state)
        if policy.device.type == "cuda":
            torch.cuda.synchronize(policy.device)

    # On a CPU its time counts, which other load of the machine hardly changes.
    timer = time.process_time if policy.device.type == "cpu" else time.perf_counter
    timeit.timeit(call, number=5)
    return 1e3 * min(timeit.repeat(call, repeat=RUNS, number=1, timer=timer))


def markdown(figures: Figures) -> str:
    """Return a table in Markdown with a row for each file."""
    robots = figures["options"]["robots"]
    lines = [
        f"| file | format | how it runs | error | {robots} robots one by one | in one batch |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        cells = [f"`{row['file']}`", row["format"]]
        if "refused" in row:
            cells += [f"refused: {row['refused']}", "", "", ""]
        else:
            cells += [row["how"], f"{row['error']:.0e}", f"{row['alone_ms']:.2f} ms", f"{row['batch_ms']:.2f} ms"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _write_markdown(figures: Figures, file: Path) -> None:
    file.write_text(markdown(figures) + "\n")


COMMAND = Command(
    "exported",
    "how the exported policies in a folder run: as one batch or robot after robot",
    "Load all exported policies of a folder, compare the actions of all robots at once with those of one robot after "
    "the other, and measure both.",
    ExportedOptions,
    run_exported,
    lambda figures: [markdown(figures)],
    {"markdown": ("write the table into this Markdown file", _write_markdown)},
)
