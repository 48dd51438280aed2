# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of trainers: weights without a network, which is rebuilt from their names and shapes.

They are read as tensors only, so they need no trust. A module for each trainer turns its names into layers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from policy_node.policies.archive import read_members
from policy_node.policies.contract import PolicyError
from policy_node.policies.formats import PolicyFile
from policy_node.policies.unusable import is_checkpoint

# Numbers of NumPy, such as the best reward, which trainers save beside the weights.
_NUMPY = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


class Dropped:
    """Stands in for any object that is no tensor: it takes all arguments and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Dropped:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


def has_names(*alternatives: tuple[bytes, ...]) -> Callable[[bytes], bool]:
    """Return a function that tells whether a content is a checkpoint with all the names of one of some groups."""
    # The names are in its pickle as they are.
    return lambda content: (
        is_checkpoint(content) and any(all(name in content for name in names) for names in alternatives)
    )


def read_checkpoint(file: PolicyFile) -> dict[str, Any]:
    """Return the tensors, numbers, texts and collections of a checkpoint; other objects are `Dropped`.

    Raises PolicyError if the file is damaged, or no file of ``torch.save``.
    """
    names = set(_NUMPY)
    try:
        if file.content.startswith(b"PK"):
            # PyTorch checks none of the limits of an archive.
            read_members(file.content, (), file.path)
            names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(file.content)))
        with torch.serialization.safe_globals([(Dropped, name) for name in names]):
            saved = torch.load(io.BytesIO(file.content), map_location="cpu", weights_only=True)
    except PolicyError:
        raise
    except Exception as error:
        # PyTorch puts its advice around the reason.
        found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        reason = found[1] if found else f"{type(error).__name__}: {error}"
        raise file.error(
            f"cannot be read as a training checkpoint ({reason}); give a file that the trainer saved"
        ) from error
    if not isinstance(saved, dict):
        raise file.error(f"is no training checkpoint but holds a {type(saved).__name__}; give one that a trainer saved")
    return saved


def weights_of(file: PolicyFile, saved: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a module by their names, without the prefix of compiled modules; empty if missing.

    Raises PolicyError if one of them repeats its numbers, as a small file could then fill the memory.
    """
    part = saved.get(name)
    found = part.items() if isinstance(part, Mapping) else ()
    weights = {str(key).replace("_orig_mod.", ""): value for key, value in found if isinstance(value, torch.Tensor)}
    for key, value in weights.items():
        if value.nbytes > value.untyped_storage().nbytes():
            raise file.error(
                f"is refused: its tensor '{key}' of {value.nbytes} bytes has data of {value.untyped_storage().nbytes()}"
                "; give a file that the trainer saved"
            )
    return weights
