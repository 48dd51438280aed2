# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Trained policies behind one small contract: `load_policy` reads a file, `Policy` is what it gives."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import torch

from policy_node.policies.contract import Observations, Policy, PolicyError, State, WrappedPolicy
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.vecnormalize import read_vecnormalize

__all__ = [
    "Observations",
    "Policy",
    "PolicyError",
    "PolicyInterface",
    "State",
    "WrappedPolicy",
    "load_policy",
    "select_device",
]

# Format of a policy file by its suffix, for the format `auto`.
_SUFFIXES = {
    ".zip": "sb3",
    ".bundle": "bundle",
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".ts": "torchscript",
    ".pt2": "exported",
}
_NAMES = {
    "sb3": "a .zip file of Stable-Baselines3",
    "bundle": "a bundle",
    "onnx": "an ONNX file",
    "torchscript": "a TorchScript file",
    "exported": "a torch.export file",
}
_DATA_ONLY = ("bundle", "onnx")


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
        A ``.zip`` file that ``model.save`` of Stable-Baselines3 or sb3-contrib wrote, a ``.bundle`` file that
        `policy_export` wrote, or a policy of any trainer as ONNX (``.onnx``), TorchScript (``.pt``, ``.ts``) or
        ``torch.export`` (``.pt2``).
    device
        Where to run: ``auto`` (CUDA where available, else CPU), ``cpu``, ``cuda`` or ``cuda:<index>``.
    trusted
        Whether the file may run code: restoring the spaces and network arguments of a ``.zip`` file unpickles them,
        and TorchScript and ``.pt2`` files hold code. Bundles and ONNX files are data and need no trust.
    vecnormalize
        The file that ``VecNormalize.save`` wrote, if training normalised observations. Observations are then given as
        the environment gave them; nothing in that file is run. A ``.bundle`` file has them inside.
    sha256
        Hexadecimal SHA-256 that the policy file must have.
    format
        ``sb3``, ``bundle``, ``onnx``, ``torchscript`` or ``exported``; ``auto`` tells it by the suffix.
    interface
        What the inputs and outputs of an ONNX, TorchScript or ``.pt2`` file are, where the file does not say it.
    deterministic
        Whether to take the most likely action; else actions are drawn as in training, for each robot by itself. With
        gSDE a robot keeps its noise matrix until it is reset.
    seed
        Of those draws.

    Raises
    ------
    PolicyError
        If a file is missing, empty, damaged or of another format, is not trusted or has another hash, its algorithm
        or spaces are not supported, it does not act as it did when it was exported, or the device does not exist.
    """
    target = select_device(device)
    file = Path(path)
    kind = _SUFFIXES.get(file.suffix.lower(), "sb3") if format == "auto" else format
    if kind not in _NAMES:
        raise PolicyError(f"the format is '{format}'; allowed are 'auto', {', '.join(map(repr, _NAMES))}")
    remedy = f"give {_NAMES[kind]}" + (" that model.save() wrote" if kind == "sb3" else "")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"policy file '{file}' cannot be read: {error.strerror}; {remedy.replace('give', 'give the path of', 1)}"
        ) from error
    if not content:
        raise PolicyError(f"policy file '{file}' is empty (0 bytes); {remedy}")
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and sha256.lower() != found:
        raise PolicyError(
            f"policy file '{file}' has the SHA-256 {found}, but {sha256} is wanted; "
            "get the file again, or set the new hash if the change was meant"
        )
    if kind != "onnx" and not content.startswith(b"PK"):
        raise PolicyError(f"policy file '{file}' is no zip archive (it starts with {content[:8]!r}); {remedy}")
    if not trusted and kind not in _DATA_ONLY:
        remedy = "export it to a bundle with policy_export" if kind == "sb3" else "export it as ONNX"
        raise PolicyError(
            f"policy file '{file}' can run code when it is loaded and is not trusted; {remedy}, which "
            "is data only, or set trusted (in the node's configuration `policy.trusted: true`) if you know where it "
            "comes from"
        )
    if vecnormalize is not None and kind != "sb3":
        raise PolicyError(
            f"policy file '{file}' is {_NAMES[kind]}, which has its normalisation inside; leave vecnormalize out"
        )
    # What a format needs is imported only for it: that takes seconds, and need not be installed.
    if kind == "bundle":
        from policy_node.policies.bundle import load_bundle

        return load_bundle(content, str(file), target, deterministic, seed)
    if kind != "sb3":
        if not deterministic:
            raise PolicyError(
                f"policy file '{file}' is {_NAMES[kind]}, which acts as it was exported; use deterministic=True"
            )
        policy = _load_foreign(kind, content, str(file), target, device == "auto", interface or PolicyInterface())
        if sha256 is not None and policy.spec.sha256 != found:
            raise PolicyError(
                f"policy file '{file}' has weights in other files, for which its SHA-256 says nothing; "
                "save it as one file, or leave sha256 out"
            )
        return policy
    statistics = {} if vecnormalize is None else read_vecnormalize(vecnormalize)
    from policy_node.policies.sb3 import load_sb3

    return load_sb3(content, str(file), target, statistics, deterministic, seed)


def _load_foreign(
    kind: str, content: bytes, path: str, device: torch.device, any_device: bool, interface: PolicyInterface
) -> Policy:
    if kind == "onnx":
        try:
            from policy_node.policies.onnx import load_onnx, runs_on_gpu
        except ModuleNotFoundError as error:
            raise PolicyError(
                f"policy file '{path}' is an ONNX file, for which {error.name} is not installed; "
                "pip install onnx onnxruntime onnxscript"
            ) from error
        if any_device and not runs_on_gpu():
            device = torch.device("cpu")
        return load_onnx(content, path, device, interface)
    if kind == "torchscript":
        from policy_node.policies.torchscript import load_torchscript

        return load_torchscript(content, path, device, interface)
    from policy_node.policies.exported import load_exported

    return load_exported(content, path, device, interface)


def select_device(device: str) -> torch.device:
    """Return the device of that name, with its index if it is a GPU.

    Parameters
    ----------
    device
        ``auto`` (CUDA where available, else CPU), ``cpu``, ``cuda`` or ``cuda:<index>``.

    Raises
    ------
    PolicyError
        If the name is none of these or the device does not exist here.
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
