# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find the device of a name."""

from __future__ import annotations

import re

import torch

from policy_node.policies.contract import PolicyError


def select_device(device: str) -> torch.device:
    """Return the device of a name, with its index if it is a GPU.

    Parameters
    ----------
    device
        ``auto`` (CUDA where available, else CPU), ``cpu``, ``cuda`` or ``cuda:<index>``.

    Raises
    ------
    PolicyError
        If there is no such name, or no such device on this machine.
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
