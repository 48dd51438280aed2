# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench zoo`: load every model of Stable-Baselines3 in a folder, and compare it with Stable-Baselines3 itself.

The folder may be laid out as that of RL Baselines3 Zoo: `vecnormalize.pkl` and `config.yml` beside a model or in a
folder beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console, RenderableType

from policy_node.cli.child_process import ToolError
from policy_node.config.warning import warnings_to
from policy_node.policies import Policy, PolicyError, load_policy
from policy_node.policies.golden import action_error, extreme_examples
from policy_node.policies.vecnormalize import read_vecnormalize
from policy_node.report.figures import machine, progress_bar
from policy_node_bench.command import Command, Figures, option
from policy_node_bench.tables import Rows, screen

# Largest difference of actions, in shares of their range.
TOLERANCE = 1e-5
ROBOTS = 64
RESULTS = ("same", "loaded", "differs", "refused")


@dataclass(frozen=True, kw_only=True)
class ZooOptions:
    """The options of `policy_bench zoo`."""

    folder: str = option("", "folder of the .zip files; they are trusted and can run code", "folder", metavar="FOLDER")
    judge: str = option(
        sys.executable,
        "Python that runs Stable-Baselines3; for models of OpenAI gym it needs gym and shimmy",
        metavar="PYTHON",
    )


class _Loader(yaml.SafeLoader):
    """Reads the ordered dictionaries of RL Baselines3 Zoo, and nothing for other objects of Python."""


_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor(
    f"{_PYTHON}object/apply:collections.OrderedDict",
    lambda loader, node: dict(loader.construct_sequence(node, deep=True)[0]),  # type: ignore[arg-type]
)
_Loader.add_multi_constructor(_PYTHON, lambda loader, suffix, node: None)


def measure(options: ZooOptions, console: Console) -> dict[str, Any]:
    """Load and compare all models and return the figures."""
    folder = Path(options.folder)
    models = sorted(folder.rglob("*.zip"))
    if not models:
        raise ToolError(f"folder '{folder}' has no .zip files; give a folder of models of Stable-Baselines3")
    rows, jobs, actions = [], [], {}
    with tempfile.TemporaryDirectory() as place, progress_bar(console) as bar, warnings_to(lambda text: None):
        task = bar.add_task("zoo", total=len(models) + 1, doing="")
        for index, model in enumerate(models):
            bar.update(task, doing=str(model.relative_to(folder)), advance=1)
            row, policy = load(model, folder)
            rows.append(row)
            if policy is not None:
                files = {name: str(Path(place, f"{index}.{name}")) for name in ("npz", "npy")}
                observations = draw(policy, row["vecnormalize"])
                np.savez(files["npz"], allow_pickle=False, **observations)
                actions[index] = act(policy, observations), policy.spec
                job = {"algorithm": row["algorithm"], "model": str(model), "vecnormalize": row["vecnormalize"]}
                jobs.append({**job, "observations": files["npz"], "actions": files["npy"]})
        bar.update(task, doing="Stable-Baselines3 predicts")
        judge(options.judge, jobs, Path(place))
        for index, (found, spec) in actions.items():
            rows[index] |= compare(spec, found, Path(place, f"{index}.npy"))
    counts = {result: sum(row["result"] == result for row in rows) for result in RESULTS}
    return {
        "options": asdict(options),
        "machine": machine(),
        "judge": versions(options.judge),
        "rows": rows,
        **counts,
        "violations": counts["differs"],
    }


def load(model: Path, folder: Path) -> tuple[dict[str, Any], Policy | None]:
    """Return the row of a model, and its policy unless it is refused.

    A model whose statistics do not fit is loaded without them.
    """
    training = beside(model, "config.yml")
    settings = (yaml.load(Path(training).read_text(), _Loader) or {}) if training else {}
    row: dict[str, Any] = {
        "file": str(model.relative_to(folder)),
        "version": version(model),
        "vecnormalize": beside(model, "vecnormalize.pkl"),
        "frame_stack": int(settings.get("frame_stack") or 1),
        "result": "refused",
        "reason": "",
    }
    try:
        try:
            policy = load_policy(model, trusted=True, vecnormalize=row["vecnormalize"] or None)
        except PolicyError as error:
            if not row["vecnormalize"]:
                raise
            policy = load_policy(model, trusted=True)
            row |= {"vecnormalize": "", "reason": f"loaded without its statistics: {_within(error, folder)}"}
    except PolicyError as error:
        return {**row, "reason": _within(error, folder)}, None
    spec = policy.spec
    described = {"observations": [str(one) for one in spec.observations.values()], "action": str(spec.action)}
    return {**row, "result": "loaded", "algorithm": spec.algorithm, **described}, policy


def _within(error: PolicyError, folder: Path) -> str:
    """Return the text of an error with paths as in the table."""
    return str(error).replace(f"{folder}/", "")


def beside(model: Path, name: str) -> str:
    """Return the path of a file that lies beside a model or in one folder beside it; empty without one."""
    places = [model.parent, model.with_suffix(""), *sorted(path for path in model.parent.iterdir() if path.is_dir())]
    return next((str(place / name) for place in places if (place / name).is_file()), "")


def version(model: Path) -> str:
    """Return the version of Stable-Baselines3 that wrote a model; empty where the file does not say."""
    try:
        with zipfile.ZipFile(model) as archive:
            return archive.read("_stable_baselines3_version").decode().strip()
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        return ""


def draw(policy: Policy, vecnormalize: str) -> dict[str, np.ndarray]:
    """Draw observations by key, `[robots, *shape]`: extreme and random ones, around the mean of the statistics."""
    rng = np.random.default_rng(0)
    observations = extreme_examples(policy.spec, ROBOTS, rng)
    for key, part in (read_vecnormalize(vecnormalize) if vecnormalize else {}).items():
        array = observations[key]
        if array.shape[1:] == part.mean.shape and array.dtype.kind == "f":
            near = part.mean + part.deviation * rng.standard_normal((ROBOTS // 2, *part.mean.shape))
            array[ROBOTS // 2 :] = near.astype(array.dtype)
    return observations


def act(policy: Policy, observations: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the actions of a policy that has seen nothing before."""
    given = {key: torch.from_numpy(array) for key, array in observations.items()}
    return policy(given, policy.initial_state(ROBOTS))[0].numpy().copy()


def judge(python: str, jobs: Sequence[Mapping[str, str]], place: Path) -> None:
    """Let Stable-Baselines3 predict all jobs in another process; see `zoo_judge`."""
    file = place / "jobs.json"
    file.write_text(json.dumps(jobs))
    script = Path(__file__).with_name("zoo_judge.py")
    try:
        done = subprocess.run([python, str(script), str(file)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ToolError(f"--judge {python} cannot be run: {error.strerror}; give a Python interpreter") from error
    if done.returncode:
        raise ToolError(f"--judge {python} ended with status {done.returncode}:\n{done.stderr.strip()[-2000:]}")


def compare(spec: Any, found: np.ndarray, expected: Path) -> dict[str, Any]:
    """Return the result of a model whose actions are `found`, by the file that the judge wrote."""
    if not expected.exists():
        return {"result": "loaded", "not_judged": expected.with_suffix(".txt").read_text()}
    judged = np.load(expected)
    error = action_error(spec, found, judged.astype(found.dtype).reshape(found.shape))
    return {"result": "same" if error <= TOLERANCE else "differs", "error": error}


def versions(python: str) -> dict[str, str]:
    """Return the versions that matter of the Python that judges; those that it lacks are missing."""
    code = (
        "import json, platform\nfrom importlib.metadata import distributions\n"
        "names = ('stable_baselines3', 'sb3_contrib', 'gymnasium', 'gym', 'shimmy', 'numpy', 'torch')\n"
        "found = {d.metadata['Name'].lower().replace('-', '_'): d.version for d in reversed(list(distributions()))}\n"
        "print(json.dumps({'python': platform.python_version(), **{n: found[n] for n in names if n in found}}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def summary(figures: Figures) -> str:
    """Return the figures in a sentence."""
    rows = figures["rows"]
    errors = [row["error"] for row in rows if row["result"] == "same"]
    largest = f" (largest error {max(errors):.1e} of the action range)" if any(errors) else ""
    text = (
        f"{len(rows)} models: {len(rows) - figures['refused']} load, {figures['same']} act as Stable-Baselines3 does"
        f"{largest}; {figures['loaded']} not judged, {figures['differs']} differ, {figures['refused']} refused"
    )
    without = sum(bool(row["reason"]) for row in rows if row["result"] != "refused")
    return f"{text}; {without} without statistics that do not fit." if without else f"{text}."


def model_rows(figures: Figures) -> Rows:
    """Return a row for each model."""
    rows = [["model", "algorithm", "written by", "normalised", "stack", "result", "error"]]
    for row in figures["rows"]:
        normalised = "yes" if row["vecnormalize"] else "no"
        error = (f"{row['error']:.1e}" if row["error"] else "exact") if "error" in row else "–"
        cells = [row["file"], row.get("algorithm", "–"), row["version"] or "–", normalised, f"{row['frame_stack']}"]
        rows.append([*cells, row["result"], error])
    return rows


def notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each model that was not simply the same."""
    return [f"{row['file']}: {text}" for row in rows if (text := row["reason"] or row.get("not_judged", ""))]


def write_page(figures: Figures, file: Path) -> None:
    """Write the table and the summary as a page of the documentation."""
    head, *rows = model_rows(figures)
    versions = ", ".join(f"{name} {number}" for name, number in figures["judge"].items())
    text = (
        f"Each model was loaded with `load_policy`, without gym, with the `vecnormalize.pkl` beside it where there is "
        f"one, and compared with `model.predict(deterministic=True)` on {ROBOTS} observations: the extremes of the "
        "observation space, random ones, and ones around the mean of the statistics. An error is the largest of any "
        f"component, as a share of its action range; allowed is {TOLERANCE:g}. Choices must be equal. "
        f"Stable-Baselines3 ran in another process, with {versions}."
    )
    lines = [
        "# Models of RL Baselines3 Zoo",
        "",
        *_wrapped(
            "`policy_bench zoo FOLDER --judge PYTHON --page doc/zoo.md` writes this page. Do not edit it. The models "
            "are those of [rl-trained-agents](https://github.com/DLR-RM/rl-trained-agents)."
        ),
        "",
        *_wrapped(f"**{summary(figures)}**"),
        "",
        *_wrapped(text),
        "",
        *(line for note in notes(figures["rows"]) for line in _wrapped(f"- {note}", "  ")),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def show(figures: Figures) -> Iterable[RenderableType]:
    """Return the table, notes and summary to print."""
    table = screen(figures["options"]["folder"], model_rows(figures))
    table.columns[0].overflow = "fold"
    return [table, *notes(figures["rows"]), summary(figures)]


COMMAND = Command(
    "zoo",
    "models of a folder: which load, and which act as with Stable-Baselines3",
    "Load every .zip file of Stable-Baselines3 in a folder, with the vecnormalize.pkl beside it, and compare its "
    "actions with those of Stable-Baselines3 in another process.",
    ZooOptions,
    measure,
    show,
    {"page": ("write the result as a page of the documentation", write_page)},
)
