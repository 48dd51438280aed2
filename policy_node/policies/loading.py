# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Load policy files: find the device, run the checks that all formats share, then the format's loader."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace

import torch

from policy_node.config.files import reason_and_remedy
from policy_node.policies.contract import Policy, PolicyError
from policy_node.policies.formats import (
    PolicyFile,
    PolicyFormat,
    format_of,
    format_of_content,
    format_of_suffix,
    read_content,
)
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.unusable import why_unusable
from policy_node.policies.vecnormalize import read_vecnormalize

_OF_OUTPUT = ("action", "horizon", "discrete", "low", "high", "activation", "output_activation")
# Why a format does not take the file of `VecNormalize.save`.
NO_STATISTICS = (
    "takes no vecnormalize: export it with its normalisation inside (policy_export MODEL.zip --vecnormalize FILE), or "
    "leave vecnormalize out if that is done or training did not normalise"
)


def select_device(device: str) -> torch.device:
    """Return the device of a name, with its index if it is a GPU; `load_policy` describes the names.

    Raises PolicyError if there is no such name, or no such device on this machine.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise PolicyError(f"device is '{device}'; allowed are 'auto', 'cpu', 'cuda' and 'cuda:<index>'")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise PolicyError(
            f"device is '{device}', but PyTorch {torch.__version__} finds no CUDA here; use device 'cpu' or 'auto', "
            "or install a GPU driver and a CUDA build of PyTorch"
        )
    index = int(match[1]) if match[1] else torch.cuda.current_device()
    if index >= torch.cuda.device_count():
        raise PolicyError(
            f"device is '{device}', but there are {torch.cuda.device_count()} CUDA devices; "
            f"the highest allowed is 'cuda:{torch.cuda.device_count() - 1}'"
        )
    return torch.device("cuda", index)


def load_policy(
    path: str | os.PathLike[str],
    device: str = "cpu",
    trusted: bool = False,
    vecnormalize: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    *,
    format: str = "auto",
    interface: PolicyInterface | None = None,
    deterministic: bool = True,
    seed: int = 0,
) -> Policy:
    """Load a policy, ready to run.

    Parameters
    ----------
    path
        A file of one of the formats in `policy_node.policies.formats`.
    device
        Where to run: ``auto`` (CUDA where available, else CPU), ``cpu``, ``cuda`` or ``cuda:<index>``.
    trusted
        Whether the file may run code, as those of Stable-Baselines3, TorchScript and ``torch.export`` can when they
        are loaded. Bundles and ONNX files are data and need no trust.
    vecnormalize
        The file that ``VecNormalize.save`` wrote, if training normalised observations. Observations are then given as
        the environment gave them; nothing in that file is run. A bundle has them inside.
    sha256
        Hexadecimal SHA-256 that the policy file must have.
    format
        Name of the format; ``auto`` tells it by the content.
    interface
        Meaning of the inputs and outputs, where the file does not describe itself.
    deterministic
        Whether to take the most likely action; else actions are drawn as in training, for each robot by itself. With
        gSDE a robot keeps its noise matrix until it is reset.
    seed
        Seed of these draws.

    Raises
    ------
    PolicyError
        If a file is missing, empty, damaged or of another format, is not trusted or has another hash, its algorithm
        or spaces are not supported, it does not act as it did when it was exported, or the device does not exist.
    """
    target = select_device(device)
    name = os.fspath(path)
    content = read_policy_file(name, format)
    kind = format_of(name, format, content)
    file = PolicyFile(
        content,
        name,
        hashlib.sha256(content).hexdigest(),
        target,
        any_device=device == "auto",
        interface=interface or PolicyInterface(),
        deterministic=deterministic,
        seed=seed,
    )
    try:
        _check(file, kind, sha256, trusted, vecnormalize is not None)
        if vecnormalize is not None:
            file = replace(file, statistics=read_vecnormalize(vecnormalize), vecnormalize=os.fspath(vecnormalize))
        policy = _load(file, kind)
    except PolicyError as error:
        note = _other_content(content, kind)
        if not note:
            raise
        raise PolicyError(f"{error}; {note}", error.parameter) from error
    _check_interface(file.interface, policy, kind)
    if sha256 is not None and policy.spec.sha256 != file.sha256:
        raise file.error(
            "has weights in other files, which its SHA-256 does not cover; save it as one file, or leave sha256 out"
        )
    return policy


def _load(file: PolicyFile, kind: PolicyFormat) -> Policy:
    try:
        return kind.load(file)
    except ModuleNotFoundError as error:
        if not kind.requires:
            raise
        raise file.error(
            f"is {kind.title}, for which {error.name} is not installed; pip install {' '.join(kind.requires)}"
        ) from error


def _check_interface(interface: PolicyInterface, policy: Policy, kind: PolicyFormat) -> None:
    """Refuse values of an interface that a policy does not use, and would ignore."""
    if policy.interface_fields is None:
        return
    default = PolicyInterface()
    for name in (*_OF_OUTPUT, "memory", "lengths", "mask"):
        if name not in policy.interface_fields and getattr(interface, name) != getattr(default, name):
            used = "which describes itself" if not policy.interface_fields else "which does not need it"
            raise PolicyError(f"policy.{name} does not apply to {kind.title}, {used}; remove it", f"policy.{name}")
    if "shapes" in policy.interface_fields:
        return
    for key, shape in interface.shapes.items():
        spec = policy.spec.observations.get(key)
        if spec is not None and spec.shape != shape:
            raise PolicyError(
                f"the shape is {list(shape)}, but the policy wants {list(spec.shape)}; {kind.title} describes itself: "
                "remove the shape",
                f"observations.{key}.shape",
            )


def _other_content(content: bytes, kind: PolicyFormat) -> str:
    """Return for errors that a content is of another format than the one that was named; empty where it is not."""
    if kind.matches is None or kind.matches(content):
        return ""
    found = format_of_content(content)
    if found is not None:
        return f"its content is that of {found.title}, but the format is '{kind.name}'; use '{found.name}' or 'auto'"
    problem = why_unusable(content)
    return f"by its content, it {problem}" if problem else ""


def read_policy_file(path: str, format: str = "auto") -> bytes:
    """Read a policy file; raises PolicyError if that is not possible, or it is empty."""
    kind = format_of_suffix(path) if format == "auto" else format_of(path, format)
    title = "a policy file" if kind is None else kind.title
    try:
        content = read_content(path, format)
    except OSError as error:
        reason = reason_and_remedy(error, f"give the path of {title}")
        raise PolicyError(f"policy file '{path}' cannot be read: {reason}") from error
    if not content:
        raise PolicyError(f"policy file '{path}' is empty (0 bytes); give {title}")
    return content


def _check(file: PolicyFile, kind: PolicyFormat, sha256: str | None, trusted: bool, has_statistics: bool) -> None:
    """Refuse a file by its hash, format, trust and options, before its content is read."""
    if sha256 is not None and sha256.lower() != file.sha256:
        raise file.error(
            f"has the SHA-256 {file.sha256}, but {sha256} is wanted; "
            "get the file again, or set the new hash if the change was meant"
        )
    if kind.is_zip and not file.content.startswith(b"PK"):
        raise file.error(f"is no zip archive (it starts with {file.content[:8]!r}); give {kind.title}")
    if kind.runs_code and not trusted:
        raise file.error(
            f"can run code when it is loaded and is not trusted; {kind.without_trust}, which is data only, or set "
            "trusted (in the node's configuration `policy.trusted: true`) if you know where it comes from"
        )
    if has_statistics and not kind.takes_statistics:
        raise file.error(f"is {kind.title}, which {NO_STATISTICS}", "policy.vecnormalize")
    if not file.deterministic and not kind.draws:
        raise file.error(f"is {kind.title}, which acts as it was exported; use deterministic=True")
