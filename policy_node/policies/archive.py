# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read zip archives of unknown origin into memory, with limits and never to disk."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import NoReturn

from policy_node.policies.contract import PolicyError

MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 4 * 2**30
# Weights hardly compress and the description tenfold: archives that grow more were made to fill the memory.
MAX_GROWTH = 100


def read_members(content: bytes, names: Sequence[str], path: str) -> dict[str, bytes]:
    """Read some members of an archive by name, without the missing ones; `path` serves errors.

    Raises
    ------
    PolicyError
        If the archive is damaged, or its members are too many or too large, doubled, encrypted or outside of it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check(members, len(content), path)
            # In a file that is cut off, a complete archive inside could be found instead.
            if min(member.header_offset for member in members) > 0:
                raise zipfile.BadZipFile("the directory at the end is missing")
            # No more than the declared size is unpacked, even if the compressed data hold more.
            return {member.filename: archive.read(member) for member in members if member.filename in names}
    except PolicyError:
        raise
    except Exception as error:
        raise PolicyError(
            f"policy file '{path}' is cut off or damaged after {len(content)} bytes ({error}); copy or save it again"
        ) from error


def member_names(content: bytes) -> frozenset[str]:
    """Return the names of all members of an archive; none where the content is no archive, or one that is cut off."""
    if not content.startswith(b"PK"):
        return frozenset()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception:  # zipfile raises many kinds for damaged directories
        return frozenset()
    complete = min((member.header_offset for member in members), default=1) == 0
    return frozenset(member.filename for member in members) if complete else frozenset()


def has_members(*names: str) -> Callable[[bytes], bool]:
    """Return a function that tells whether a content is an archive with members of these names."""
    return lambda content: member_names(content).issuperset(names)


def _check(members: Sequence[zipfile.ZipInfo], archive_bytes: int, path: str) -> None:
    """Refuse archives with too many or too large members, and with doubled, encrypted or outside ones."""
    if len(members) > MAX_MEMBERS:
        _refuse(path, f"it has {len(members)} members, allowed are {MAX_MEMBERS}")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        _refuse(path, f"it has two members '{next(name for name in names if names.count(name) > 1)}'")
    limit = min(MAX_MEMBER_BYTES, MAX_GROWTH * archive_bytes)
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in member.filename:
            _refuse(path, f"its member '{member.filename}' lies outside of it")
        if member.file_size > limit:
            _refuse(path, f"its member '{member.filename}' unpacks to {member.file_size} bytes, allowed are {limit}")
        if member.flag_bits & 1:
            _refuse(path, f"its member '{member.filename}' is encrypted")
    # Members may overlap in the file, and each be small.
    total = sum(member.file_size for member in members)
    if total > limit:
        _refuse(path, f"its members unpack to {total} bytes together, allowed are {limit}")


def _refuse(path: str, reason: str) -> NoReturn:
    raise PolicyError(f"policy file '{path}' is refused: {reason}; get it again from somebody whom you trust")
