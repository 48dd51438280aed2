# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Show what a policy file is and what it needs to run (`policy_export info`)."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policy_node.cli.export import add_checkpoint_options, interface_of
from policy_node.config.warning import warnings_to
from policy_node.policies import Policy, PolicyError, PolicyInterface, load_policy
from policy_node.policies.description import spec_to_json
from policy_node.policies.formats import PolicyFile, PolicyFormat, format_of
from policy_node.policies.interface import parse_memory
from policy_node.policies.loading import read_policy_file

# Numbers of a bound that are shown.
_SHOWN_NUMBERS = 8
_NOT_DESCRIBED = "its content cannot be described"


def policy_info(
    path: Path,
    format: str = "auto",
    trusted: bool = False,
    vecnormalize: Path | None = None,
    interface: PolicyInterface | None = None,
) -> dict[str, Any]:
    """Return what is known of a policy file; it is loaded where that is possible.

    Parameters
    ----------
    path, format, trusted, vecnormalize, interface
        See `load_policy`.

    Returns
    -------
    dict
        As JSON. Arrays are described as in `policy_node.policies.description`; ``loaded`` says whether the policy was
        loaded, ``not_loaded`` why not, ``failed`` whether that is more than missing trust or a missing parameter.

    Raises
    ------
    PolicyError
        When the file cannot be read, or its content is of no format.
    """
    content = read_policy_file(str(path), format)
    kind = format_of(str(path), format, content)
    file = PolicyFile(content, str(path), hashlib.sha256(content).hexdigest(), torch.device("cpu"))
    info: dict[str, Any] = {
        "file": str(path),
        "bytes": len(content),
        "sha256": file.sha256,
        "format": kind.name,
        "needs_trust": kind.runs_code,
        "title": kind.title,
        "runs": "not known without loading it",
        "notes": [],
        **_inspected(kind, file),
    }
    info.setdefault("stack", _stack(info.get("observations", ())))
    info["packages"] = [*kind.requires, *info.get("packages", ())]
    info["missing_packages"] = [name for name in info["packages"] if find_spec(name.replace("-", "_")) is None]
    if kind.runs_code and not trusted:
        reason = "it can run code when it is loaded; give --trusted if you know where it comes from"
        return {**info, "loaded": False, "not_loaded": reason, "failed": False}
    try:
        with warnings_to(info["notes"].append):
            policy = load_policy(path, trusted=trusted, vecnormalize=vecnormalize, format=format, interface=interface)
    except Exception as error:  # such as a ModuleNotFoundError of a module of the user
        # Says why the content cannot be described, too.
        info["notes"] = [note for note in info["notes"] if not note.startswith(_NOT_DESCRIBED)]
        is_missing = isinstance(error, PolicyError) and error.is_missing
        return {**info, "loaded": False, "not_loaded": _reason(error), "failed": not is_missing}
    return {**info, **_loaded(policy), "loaded": True, "failed": False}


def _reason(error: Exception) -> str:
    """Return why a file cannot be loaded, with the option for a missing shape."""
    if not isinstance(error, PolicyError):
        return f"{type(error).__name__}: {error}"
    if not (error.is_missing and error.parameter.endswith(".shape")):
        return str(error)
    key = error.parameter.removeprefix("observations.").removesuffix(".shape")
    return f"{error} (--shape {'' if key == 'observation' else f'{key}='}47)"


def _inspected(kind: PolicyFormat, file: PolicyFile) -> dict[str, Any]:
    if kind.inspect is None:
        return {}
    try:
        return dict(kind.inspect(file))
    except Exception as error:
        reason = str(error) if isinstance(error, PolicyError) else f"{type(error).__name__}: {error}"
        return {"notes": [f"{_NOT_DESCRIBED} ({reason})"]}


def _stack(observations: Sequence[Mapping[str, Any]]) -> str:
    """Return what a file tells of stacked frames: only the channels of images hint at them."""
    for array in observations:
        channels = min(array["shape"]) if array["dtype"] == "uint8" and len(array["shape"]) == 3 else 0
        colours = 3 if channels % 3 == 0 else 1
        if channels > 3:
            return (
                f"not in the file; {channels} = {channels // colours} × {colours} channels of {array['name']} suggest "
                f"`stack: {channels // colours}`"
            )
    return "not in the file; where training stacked frames, set the observation's `stack`"


def _loaded(policy: Policy) -> dict[str, Any]:
    """Return what is known of a policy that was loaded."""
    found = {
        **spec_to_json(policy.spec),
        "engine": policy.engine_name,
        "runs": getattr(policy, "how_it_runs", "one batch"),
        "normalisation": policy.normalisation,
        "golden_vectors": policy.golden is not None,
    }
    stack = "of frames that are normalised one by one, before they are stacked"
    return {**found, "stack": stack if "frames" in policy.spec.memory else _stack(found["observations"])}


def info_text(info: Mapping[str, Any]) -> str:
    """Return what `policy_info` found as lines of text."""
    lines = []
    for label, value in _rows(info):
        parts = value if isinstance(value, list) else [value]
        for place, part in enumerate(parts):
            lines.append(f"  {label if place == 0 else '':<15} {part}".rstrip())
    return "\n".join([str(info["file"]), *lines])


def _rows(info: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return label and text or texts of each line."""
    missing = info["missing_packages"]
    needs = [f"{name}{' (not installed)' if name in missing else ''}" for name in info["packages"]]
    needs = [", ".join(needs)] if needs else []
    needs += ["policy.trusted: true, as loading it can run code"] if info["needs_trust"] else []
    by_key: list[tuple[str, str, Callable[[Any], Any]]] = [
        ("sha256", "SHA-256", str),
        ("bytes", "size", lambda count: f"{count} bytes"),
        ("algorithm", "algorithm", str),
        ("policy_class", "policy class", str),
        ("module", "module", str),
        ("written_by", "written by", str),
        ("saved_with", "saved with", lambda version: f"Stable-Baselines3 {version}"),
        ("observations", "observations", _array_texts),
        ("action", "action", _action_text),
        ("horizon", "plan", lambda steps: f"{steps} actions"),
        ("memory", "memory", lambda memory: _array_texts(memory) or "none"),
        ("mask", "action mask", lambda length: f"{length} choices" if length else "none"),
        ("inputs", "inputs", _array_texts),
        ("outputs", "outputs", _array_texts),
        ("attributes", "attributes", list),
        ("methods", "methods", ", ".join),
        ("metadata", "metadata", ", ".join),
        ("normalisation", "normalisation", str),
        ("stack", "stack", str),
        ("golden_vectors", "golden vectors", lambda present: "yes" if present else "none"),
        ("runs", "runs as", str),
        ("engine", "engine", str),
    ]
    rows: list[tuple[str, Any]] = [("format", f"{info['format']} ({info['title']})")]
    shown = [(label, show(info[key])) for key, label, show in by_key if info.get(key) is not None]
    rows += [(label, value) for label, value in shown if value not in ("", [])]
    rows += [("needs", needs or "nothing beyond the base installation")]
    rows += [("note", note) for note in info["notes"]]
    return rows + ([] if info["loaded"] else [("not loaded", info["not_loaded"])])


def _action_text(action: Mapping[str, Any]) -> str:
    is_open = (action.get("low"), action.get("high")) == ("-inf", "inf")
    return _array_text(action) + (", without bounds (policy.low, policy.high)" if is_open else "")


def _array_texts(arrays: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{array['name']}: {_array_text(array)}" for array in arrays]


def _array_text(array: Mapping[str, Any]) -> str:
    """Return one array, action or input as text."""
    if array.get("type") == "Discrete":
        return f"one of {array['n']} choices"
    if array.get("type") == "MultiDiscrete":
        return f"{len(array['choices'])} at once, each one of {', '.join(map(str, array['choices']))} choices"
    if "shape" not in array:
        return f"{array['type']}, without its shape (--shape)"
    text = f"{array['dtype']} [{', '.join(map(str, array['shape']))}]"
    low, high = array.get("low", "-inf"), array.get("high", "inf")
    if (low, high) == ("-inf", "inf"):
        return text
    return f"{text} from {_bound_text(low)} to {_bound_text(high)}"


def _bound_text(bound: Any) -> str:
    numbers = np.array(bound, object).ravel()
    words = [f"{float(number):g}" for number in numbers[:_SHOWN_NUMBERS]]
    if not isinstance(bound, list):
        return words[0]
    return f"[{', '.join(words)}{', …' if len(numbers) > _SHOWN_NUMBERS else ''}]"


def make_info_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_export info`."""
    parser = argparse.ArgumentParser(
        prog="policy_export info",
        description="Show what a policy file is: format, algorithm, spaces, action, memory, normalisation, and what it "
        "needs to run. Without --trusted no code in the file is run.",
    )
    parser.add_argument("path", type=Path, help="policy file")
    parser.add_argument("--trusted", action="store_true", help="load PATH although it can run code")
    parser.add_argument("--vecnormalize", type=Path, help="file of VecNormalize.save()")
    parser.add_argument("--format", default="auto", help="as policy.format; by default that of the content")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=LENGTHS",
        help="shape of an input for one robot, as observation=45 or image=3,64,64; once for each, in their order",
    )
    parser.add_argument(
        "--memory", action="append", default=[], metavar="INPUT=OUTPUT[:SHAPE]", help="as an entry of policy.memory"
    )
    add_checkpoint_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def parse_interface(shapes: Sequence[str], memories: Sequence[str]) -> PolicyInterface | None:
    """Return the interface that the options describe, None without any; raises PolicyError for other texts."""
    if not shapes and not memories:
        return None
    parsed = {}
    for text in shapes:
        name, _, lengths = text.rpartition("=")
        if not all(length.isdecimal() for length in lengths.split(",")):
            raise PolicyError(f"--shape is '{text}'; give its lengths, such as 45, or image=3,64,64 for one of several")
        parsed[name or "observation"] = tuple(int(length) for length in lengths.split(","))
    pairs = [parse_memory(text) for text in memories]
    named = {} if list(parsed) == ["observation"] else {name: name for name in parsed}
    of_memory = {name: shape for name, _, shape in pairs if shape is not None}
    return PolicyInterface(named, tuple((name, output) for name, output, _ in pairs), shapes=parsed | of_memory)


def show_info(arguments: argparse.Namespace) -> int:
    """Print what `policy_export info` was asked for and return the exit status."""
    interface, parsed = interface_of(arguments), parse_interface(arguments.shape, arguments.memory)
    if parsed is not None:
        interface = replace(interface, inputs=parsed.inputs, memory=parsed.memory, shapes=parsed.shapes)
    info = policy_info(arguments.path, arguments.format, arguments.trusted, arguments.vecnormalize, interface)
    print(json.dumps(info, indent=2) if arguments.json else info_text(info))
    return int(info["failed"])
