# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Trained policies behind one small contract: `load_policy` reads a file, `Policy` is what it gives."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from policy_node.policies.contract import Observations, Policy, PolicyError, State

__all__ = ["Observations", "Policy", "PolicyError", "State", "load_policy", "select_device"]


def load_policy(path: str | os.PathLike[str], device: str = "cpu") -> Policy:
    """Load a policy that Stable-Baselines3 saved, ready to run.

    Restoring its spaces and network arguments unpickles them: load only files that you trust.

    Parameters
    ----------
    path
        The ``.zip`` file that ``model.save`` wrote.
    device
        Where to run: ``auto`` (CUDA where available, else CPU), ``cpu``, ``cuda`` or ``cuda:<index>``.

    Raises
    ------
    PolicyError
        If the file is missing, empty, damaged or of another format, its algorithm or spaces are not supported,
        or the device does not exist.
    """
    target = select_device(device)
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"policy file '{file}' cannot be read: {error.strerror}; "
            "give the path of a .zip file that model.save() wrote"
        ) from error
    # Importing Stable-Baselines3 takes seconds, and a wrong path or device should be reported at once.
    from policy_node.policies.sb3 import load_sb3

    return load_sb3(content, str(file), target)


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
