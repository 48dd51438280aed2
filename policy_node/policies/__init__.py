# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Trained policies behind one small contract: `load_policy` reads a file, `Policy` is what it gives."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import torch

from policy_node.policies.contract import Observations, Policy, PolicyError, State
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.vecnormalize import read_vecnormalize

__all__ = ["Observations", "Policy", "PolicyError", "PolicyInterface", "State", "load_policy", "select_device"]

# Format of a policy file by its suffix, for the format `auto`.
_SUFFIXES = {".zip": "sb3", ".onnx": "onnx", ".pt": "torchscript", ".ts": "torchscript", ".pt2": "exported"}


def load_policy(
    path: str | os.PathLike[str],
    device: str = "cpu",
    trusted: bool = True,
    vecnormalize: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    *,
    deterministic: bool = True,
    seed: int = 0,
) -> Policy:
    """Load a policy, ready to run.

    Parameters
    ----------
    path
        A ``.zip`` file that ``model.save`` of Stable-Baselines3 or sb3-contrib wrote, or a ``.bundle`` file that
        `policy_export` wrote.
    device
        Where to run: ``auto`` (CUDA where available, else CPU), ``cpu``, ``cuda`` or ``cuda:<index>``.
    trusted
        Whether the file may run code: restoring the spaces and network arguments of a ``.zip`` file unpickles them.
        A ``.bundle`` file is data and needs no trust.
    vecnormalize
        The file that ``VecNormalize.save`` wrote, if training normalised observations. Observations are then given as
        the environment gave them; nothing in that file is run. A ``.bundle`` file has them inside.
    sha256
        Hexadecimal SHA-256 that the policy file must have.
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
    remedy = "give a .zip file that model.save() of Stable-Baselines3 wrote, or a .bundle file"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"policy file '{file}' cannot be read: {error.strerror}; "
            "give the path of a .zip file that model.save() wrote"
        ) from error
    if not content:
        raise PolicyError(f"policy file '{file}' is empty (0 bytes); {remedy}")
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and sha256.lower() != found:
        raise PolicyError(
            f"policy file '{file}' has the SHA-256 {found}, but {sha256} is wanted; "
            "get the file again, or set the new hash if the change was meant"
        )
    if not content.startswith(b"PK"):
        raise PolicyError(f"policy file '{file}' is no zip archive (it starts with {content[:8]!r}); {remedy}")
    # Importing Stable-Baselines3 takes seconds, and a wrong path or device should be reported at once.
    if file.suffix == ".bundle":
        if vecnormalize is not None:
            raise PolicyError(
                f"policy file '{file}' is a bundle, which has its normalisation inside; leave vecnormalize out"
            )
        from policy_node.policies.bundle import load_bundle

        return load_bundle(content, str(file), target, deterministic, seed)
    if not trusted:
        raise PolicyError(
            f"policy file '{file}' can run code when it is loaded and is not trusted; export it to a bundle, which is "
            "data only (policy_export), or set trusted (of the node: policy.trusted: true) if you know where the file "
            "comes from"
        )
    statistics = {} if vecnormalize is None else read_vecnormalize(vecnormalize)
    from policy_node.policies.sb3 import load_sb3

    return load_sb3(content, str(file), target, statistics, deterministic, seed)


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
