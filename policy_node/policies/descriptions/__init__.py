# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions that trainers write into a policy file or beside it; each module is a kind of them, `DESCRIPTION`."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from policy_node.config.files import answer, read_file, reason_and_remedy
from policy_node.config.registry import Registry
from policy_node.policies.contract import PolicyError
from policy_node.policies.formats import MAX_POLICY_BYTES

# Parsed YAML takes many times as much memory as its text.
MAX_YAML_BYTES = 2**24


@dataclass(frozen=True)
class DescribedTerm:
    """One term of an observation.

    Attributes
    ----------
    quantity
        Key of `policy_node.policies.described_parameters.QUANTITIES`; empty where it is not known how to observe it.
    values
        Parameters that the description gives, by their names below the term; None for one that must be given.
    note
        What was assumed.
    """

    name: str
    quantity: str
    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class DescribedObservation:
    """One input of the policy; `values` are its parameters, `note` tells what was assumed or is missing."""

    key: str
    terms: tuple[DescribedTerm, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class TrainerDescription:
    """What a trainer says of a policy.

    Attributes
    ----------
    path
        File that the description was read from.
    title
        Kind of the description in words.
    policy
        Policy file; None if none was found.
    values
        Parameters by full name, without those of the observations.
    notes
        What was assumed, by the name of the parameter.
    missing
        What must be given, by the name of the parameter.
    facts
        Lines for the reader that no parameter takes, such as gains of the joints.
    """

    path: Path
    title: str
    policy: Path | None
    observations: tuple[DescribedObservation, ...]
    values: Mapping[str, Any]
    notes: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class DescriptionKind:
    """One kind of description.

    Attributes
    ----------
    matches
        Whether the content of a file may be of this kind, told cheaply.
    read
        Returns the description in a content of that kind; raises PolicyError if it is damaged or cannot be used.
    """

    title: str
    matches: Callable[[bytes], bool]
    read: Callable[[bytes, Path], TrainerDescription]


DESCRIPTIONS: Registry[DescriptionKind] = Registry(
    "policy_node.policies.descriptions", "DESCRIPTION", "policy_node.descriptions"
)


# What to do without a description.
REMEDY = "; name the file of the description, or write the parameter file"


def read_description(path: Path) -> TrainerDescription:
    """Return the description in a file.

    Raises
    ------
    PolicyError
        If the file cannot be read, or has no description of a known kind, or a damaged one.
    """
    description = _read_known(path)
    if description is None:
        known = ", ".join(kind.title for kind in DESCRIPTIONS)
        raise PolicyError(f"'{path}' is no description of a known kind; known are {known}{REMEDY}")
    return description


def _read_known(path: Path) -> TrainerDescription | None:
    """Return the description in a file, None if it is of no known kind; raises as `read_description`."""
    try:
        content = read_file(path, MAX_YAML_BYTES if path.suffix in (".yaml", ".yml") else MAX_POLICY_BYTES)
        found = next((kind.read(content, path) for kind in DESCRIPTIONS if kind.matches(content)), None)
        if found is None or found.policy is None:
            return found
        return replace(found, policy=answer(found.policy, found.policy.resolve))
    except OSError as error:
        reason = reason_and_remedy(error, "give the path of a description")
        raise PolicyError(f"description '{path}' cannot be read: {reason}") from error


def find_description(policy: Path) -> TrainerDescription:
    """Return the description in a policy file or beside it.

    A YAML file may lie in the folder of the policy file, or in `params` beside that folder.

    Raises
    ------
    PolicyError
        If there is none, or a damaged one.
    """
    try:
        beside = answer(policy.parent, lambda: _files_beside(policy))
    except OSError as error:
        reason = reason_and_remedy(error, REMEDY.removeprefix("; "))
        raise PolicyError(f"folder '{policy.parent}' of the policy file cannot be read: {reason}") from error
    reasons = []
    for path in [policy, *beside]:
        try:
            found = _read_known(path)
            if found is not None and (path == policy or not found.policy or _is_same(found.policy, policy)):
                return found
        except PolicyError as error:
            reasons.append(str(error).removesuffix(REMEDY))
        except OSError as error:
            reasons.append(f"'{path}' names a policy file that cannot be read: {error.strerror}")
    found_instead = "".join(f"; {reason}" for reason in reasons)
    raise PolicyError(f"policy file '{policy}' has no description inside, nor beside it{found_instead}{REMEDY}")


def _files_beside(policy: Path) -> list[Path]:
    beside = [policy.parent.parent / "params" / "deploy.yaml", *sorted(policy.parent.glob("*.yaml"))]
    return [path for path in beside if path.is_file()]


def _is_same(first: Path, second: Path) -> bool:
    return answer(first, lambda: first.resolve() == second.resolve())


@dataclass(frozen=True)
class Value:
    """A value in a description, with its file and key, which errors name; a value that is not there is None."""

    content: Any
    path: Path
    key: str = ""

    def __getitem__(self, key: str) -> Value:
        """Return an entry of a mapping."""
        return Value(self._mapping().get(key), self.path, self._below(key))

    def items(self) -> list[tuple[str, Value]]:
        """Return the entries of a mapping."""
        return [(str(key), Value(value, self.path, self._below(key))) for key, value in self._mapping().items()]

    def entries(self) -> list[Value]:
        """Return the entries of a list; a single value counts as one."""
        if self.content is None:
            return []
        entries = self.content if isinstance(self.content, list) else [self.content]
        return [Value(entry, self.path, f"{self.key}[{index}]") for index, entry in enumerate(entries)]

    def numbers(self, *counts: int) -> tuple[float, ...]:
        """Return a list of finite numbers, or one number, as floats; `counts` are the lengths that are allowed."""
        found = tuple(entry.number() for entry in self.entries())
        if found and counts and len(found) not in counts:
            raise self.error(f"{len(found)} numbers", " or ".join(map(str, sorted(set(counts)))))
        return found

    def number(self) -> float:
        """Return a finite number as a float."""
        if isinstance(self.content, (int, float)) and not isinstance(self.content, bool):
            try:
                if math.isfinite(self.content):
                    return float(self.content)
            except OverflowError:  # an integer beyond the floats
                pass
        raise self.error(reprlib.repr(self.content), "a finite number")

    def integers(self) -> tuple[int, ...]:
        """Return a list of integers that are 0 or more."""
        return tuple(entry.integer() for entry in self.entries())

    def integer(self) -> int:
        """Return an integer that is 0 or more."""
        if isinstance(self.content, int) and not isinstance(self.content, bool) and 0 <= self.content < 2**31:
            return self.content
        raise self.error(reprlib.repr(self.content), "an integer of 0 or more")

    def texts(self) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(entry.text() for entry in self.entries())

    def text(self) -> str:
        """Return a text that is not empty."""
        if isinstance(self.content, str) and self.content.isprintable() and self.content:
            return self.content
        raise self.error(reprlib.repr(self.content), "a text")

    def error(self, found: str, allowed: str) -> PolicyError:
        """Return the error of a value that is not allowed."""
        return PolicyError(
            f"description '{self.path}': {self.key or 'the file'}: found {found}, but it must be {allowed}; "
            "correct it or export the policy again"
        )

    def _mapping(self) -> Mapping[Any, Any]:
        if self.content is None:
            return {}
        if not isinstance(self.content, dict):
            raise self.error(reprlib.repr(self.content), "a mapping")
        return self.content

    def _below(self, key: Any) -> str:
        return f"{self.key}.{key}" if self.key else str(key)


def read_yaml(content: bytes, path: Path) -> Value:
    """Return a YAML text; objects of Python in it are read as None, and nothing is run."""
    try:
        return Value(yaml.load(content.decode(), _InertLoader), path)
    except Exception as error:  # PyYAML raises more than YAMLError for damaged dates and numbers
        raise PolicyError(
            f"description '{path}' is damaged ({type(error).__name__}: {error}); get it again or export it again"
        ) from error


class _InertLoader(yaml.SafeLoader):
    """Reads what a trainer dumped of Python's objects, such as slices, as None."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave merge keys, which no trainer writes and which can fill the memory, to be refused as unknown."""


_InertLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def observation_key(name: str) -> tuple[str, dict[str, Any]]:
    """Return the key of the observation of an input, and its `input` where a key cannot have that name."""
    key = name.replace(".", "_") + ("_" if name == "keys" else "")
    return key, {"input": name} if key != name else {}


def file_beside(name: Value) -> Path:
    """Return the path of a file that a description names; raises PolicyError if it lies outside of its folder."""
    path = Path(name.text())
    if path.is_absolute() or ".." in path.parts:
        raise name.error(repr(name.text()), "a file in the folder of the description")
    return name.path.parent / path
