# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Formats of policy files: one module per format, found by a registry.

To add a format, add a module with `FORMAT`, one `PolicyFormat`. Another distribution names its record in the entry
points `policy_node.policy_formats`. These modules are imported to find the format of a file, so they import the
libraries of a format only when they load one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from policy_node.config.files import read_file, reason_and_remedy
from policy_node.config.registry import POLICY_FORMATS, Registry
from policy_node.policies.contract import Policy, PolicyError, TorchPolicy
from policy_node.policies.folder import is_listed, list_folder
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.unusable import is_text, why_unusable

if TYPE_CHECKING:
    from policy_node.policies.golden import GoldenVectors
    from policy_node.policies.vecnormalize import Statistics

# Largest policy file: Protobuf, and with it ONNX, allows no more.
MAX_POLICY_BYTES = 2**31
# From this size on a file is read only if its first bytes may be those of a policy. Smaller ones are read to say more.
LARGE_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class PolicyFile:
    """A policy file whose content was read and checked, and how to run it; see `load_policy`.

    Attributes
    ----------
    path
        Serves errors, and files that refer to others beside them.
    any_device
        Whether the user left the device open; a policy that `device` cannot run then runs on the CPU.
    statistics
        How to normalise observations, by key; empty: not at all.
    vecnormalize
        Path of the file that the statistics came from; empty if there is no such file.
    """

    content: bytes
    path: str
    sha256: str
    device: torch.device
    any_device: bool = False
    interface: PolicyInterface = field(default_factory=PolicyInterface)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    deterministic: bool = True
    seed: int = 0
    vecnormalize: str = ""

    @property
    def normalisation(self) -> str:
        """How `statistics` normalise observations, see `Policy.normalisation`."""
        if not self.statistics:
            return "none"
        return f"from {self.vecnormalize}" if self.vecnormalize else "inside"

    def error(self, text: str, parameter: str = "policy.path", is_missing: bool = False) -> PolicyError:
        """Return an error that names the file; see `PolicyError`."""
        return PolicyError(f"policy file '{self.path}' {text}", parameter, is_missing)


class SavedPolicy(Protocol):
    """The parts that a policy is built from, as its file has them."""

    def build(self, file: PolicyFile) -> TorchPolicy:
        """Build the policy; raises PolicyError if the parts do not fit each other."""


@dataclass(frozen=True, eq=False)
class ExportSource:
    """A policy to be written in another format.

    Attributes
    ----------
    saved, statistics
        The parts that the policy was built from.
    policy
        On the CPU.
    golden
        Actions that the written file must give again.
    path
        Path of the policy's file, for errors.
    """

    saved: SavedPolicy
    statistics: Mapping[str, Statistics]
    policy: TorchPolicy
    golden: GoldenVectors
    path: str


@dataclass(frozen=True)
class PolicyFormat:
    """One format of policy files.

    Attributes
    ----------
    name
        As `policy.format` names it; the name of the module or entry point.
    title
        Name with its article, for errors, such as ``an ONNX file``.
    description
        For the table in the documentation.
    suffixes
        Suffixes of such files, in lower case. `policy.format: auto` goes by them where the content does not tell.
    load
        Makes the policy. It raises `PolicyError`, or ModuleNotFoundError where a package of `requires` is missing.
    matches
        Whether a content is of this format. It takes any bytes, runs nothing of them and raises nothing; None: files
        are known by their suffix only.
    may_begin_with
        Whether a content of this format may begin with some bytes; None: with any, or with those of a zip archive.
    inspect
        Describes a content as far as it tells without running code, see `policy_node.policies.inspection`; None: only
        loading tells.
    requires
        Packages that the base installation lacks, as pip names them.
    is_zip
        Whether every such file is a zip archive.
    runs_code
        Whether loading can run code that the file holds, so that the file must be trusted.
    without_trust
        How to get a file that needs no trust.
    takes_statistics
        Whether the statistics of `VecNormalize` come in a separate file.
    draws
        Whether actions can be drawn as in training.
    is_ordered
        Whether inputs and outputs are known by their order alone.
    read
        Reads the parts that a policy is built from, to be exported; None: `policy_export` does not take such files.
    write
        Writes a policy in this format; None: `policy_export` does not offer it.
    """

    name: str
    title: str
    description: str
    suffixes: tuple[str, ...]
    load: Callable[[PolicyFile], Policy]
    matches: Callable[[bytes], bool] | None = None
    may_begin_with: Callable[[bytes], bool] | None = None
    inspect: Callable[[PolicyFile], Mapping[str, Any]] | None = None
    requires: tuple[str, ...] = ()
    is_zip: bool = False
    runs_code: bool = True
    without_trust: str = "export it as ONNX"
    takes_statistics: bool = False
    draws: bool = False
    is_ordered: bool = False
    read: Callable[[PolicyFile], SavedPolicy] | None = None
    write: Callable[[ExportSource, Path], None] | None = None


FORMATS: Registry[PolicyFormat] = POLICY_FORMATS


def lazily(module: str, function: str) -> Callable[..., Any]:
    """Return a function of a module in `policy_node.policies`, which is imported when the function is called."""

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"policy_node.policies.{module}"), function)(*arguments)

    return call


def format_of(path: str, name: str = "auto", content: bytes | None = None) -> PolicyFormat:
    """Return the format of a policy file.

    Parameters
    ----------
    path
        Its suffix tells the format where the content does not.
    name
        Name of the format; ``auto``: that of the content.
    content
        What the file holds; None: it is read, if it can be.

    Raises
    ------
    PolicyError
        If there is no format of that name, or neither content nor suffix tells one.
    """
    if name != "auto":
        if name not in FORMATS.names:
            raise PolicyError(f"the format is '{name}'; allowed are 'auto', {', '.join(map(repr, FORMATS.names))}")
        return FORMATS[name]
    if content is None:
        try:
            content = read_content(path, name)
        except OSError as error:
            if format_of_suffix(path) is None:
                reason = reason_and_remedy(error, "give the path of a policy file")
                raise PolicyError(f"policy file '{path}' cannot be read: {reason}") from error
            content = b""  # reading reports it when the policy is loaded
    found, by_suffix = format_of_content(content), format_of_suffix(path)
    if found is None and (by_suffix is None or by_suffix.matches is not None):
        problem = why_unusable(content)
        if problem:
            raise PolicyError(f"policy file '{path}' {problem}")
        if by_suffix is not None and is_text(content):
            raise PolicyError(
                f"policy file '{path}' is text (it starts with {content[:8]!r}), not {by_suffix.title}; give "
                f"{by_suffix.title}"
            )
    if found is None and by_suffix is None:
        known = ", ".join(sorted({suffix for one in _importable() for suffix in one.suffixes}))
        raise PolicyError(
            f"policy file '{path}' has neither a content (it starts with {content[:8]!r}) nor a suffix that tells its "
            f"format; known suffixes are {known}, or name the format (in the node's configuration `policy.format`)"
        )
    return found or by_suffix  # type: ignore[return-value]


def read_content(path: str, name: str = "auto") -> bytes:
    """Return the content of a policy file, or the list of the files of a policy folder.

    Raises
    ------
    OSError
        When it cannot be read.
    PolicyError
        When no policy of the format that `name` gives begins like that.
    """
    if is_listed(path):
        return list_folder(path, MAX_POLICY_BYTES)
    return read_file(path, MAX_POLICY_BYTES, lambda head, size: check_head(path, head, size, name))


def check_head(path: str, head: bytes, size: int, name: str = "auto") -> None:
    """Refuse a large file by its first bytes, before the rest is read.

    Raises
    ------
    PolicyError
        If no policy of the format that `name` gives begins like that.
    """
    if size < LARGE_BYTES:
        return
    formats = [FORMATS[name]] if name in FORMATS.names else _importable()
    if not any(_may_begin_with(one, head) for one in formats):
        problem = why_unusable(head) or f"is no policy (it starts with {head[:8]!r})"
        raise PolicyError(f"policy file '{path}' of {size} bytes {problem}; give a policy file")


def _may_begin_with(kind: PolicyFormat, head: bytes) -> bool:
    if kind.may_begin_with is not None:
        return kind.may_begin_with(head)
    return head.startswith(b"PK") or not kind.is_zip


def format_of_content(content: bytes) -> PolicyFormat | None:
    """Return the format that a content is of; None where none is known."""
    return next((one for one in _importable() if one.matches is not None and one.matches(content)), None)


def format_of_suffix(path: str) -> PolicyFormat | None:
    """Return the format of a path's suffix; None where none is known."""
    suffix = Path(path).suffix.lower()
    return next((one for one in _importable() if suffix in one.suffixes), None)


def _importable() -> Iterator[PolicyFormat]:
    """Yield the formats, without those of other packages that cannot be imported: the file may be of another format."""
    for name in FORMATS.names:
        with suppress(ImportError):
            yield FORMATS[name]
