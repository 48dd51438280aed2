# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies that are a folder of data files.

The content of such a folder is the list of its files with their hashes, as `sha256sum` prints it, so that the hash of
the list stands for all files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from policy_node.config.files import answer, read_file, reason_and_remedy
from policy_node.policies.contract import PolicyError

# Files that a policy may consist of: they are data.
SUFFIXES = (".json", ".safetensors")
MAX_FILES = 100
_LINE = re.compile(rb"([0-9a-f]{64})  ([^/\n]+)\n")


def is_listed(path: str | Path) -> bool:
    """Return whether a path is a folder with weights and their description; raises OSError as `answer` does."""
    folder = Path(path)
    needed = (folder / "config.json", folder / "model.safetensors")
    return answer(path, lambda: all(file.is_file() for file in needed))


def list_folder(path: str | Path, max_bytes: int) -> bytes:
    """Return the list of the data files in a folder: a line with hash and name for each, in the order of the names.

    Raises
    ------
    OSError
        When a file cannot be read, or all are larger than `max_bytes` together.
    PolicyError
        When there are too many files.
    """
    folder = Path(path)
    names = answer(path, lambda: sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES))
    if len(names) > MAX_FILES:
        raise PolicyError(f"policy folder '{path}' has {len(names)} files, allowed are {MAX_FILES}; give another one")
    lines = []
    for name in names:
        content = read_file(folder / name, max_bytes)
        max_bytes -= len(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    return "".join(lines).encode()


def listed(content: bytes) -> dict[str, str]:
    """Return the hashes in a list of files by their names; none where the content is no such list."""
    found = list(_LINE.finditer(content))
    if b"".join(match[0] for match in found) != content:
        return {}
    return {match[2].decode(errors="replace"): match[1].decode() for match in found}


def lists(*names: str) -> Callable[[bytes], bool]:
    """Return a function that tells whether a content is a list of files with these names."""
    return lambda content: listed(content).keys() >= set(names)


def read_listed(path: str, content: bytes, name: str, max_bytes: int) -> bytes:
    """Return the content of a file in a folder, given the list of its files.

    Raises
    ------
    PolicyError
        When the list lacks the file, or it cannot be read or is not the one that was listed.
    """
    hashes = listed(content)
    if name not in hashes:
        raise PolicyError(f"policy folder '{path}' has no '{name}'; copy all of its files, or save it again")
    try:
        found = read_file(Path(path) / name, max_bytes)
    except OSError as error:
        reason = reason_and_remedy(error, "copy all of its files")
        raise PolicyError(f"'{name}' of policy folder '{path}' cannot be read: {reason}") from error
    if hashlib.sha256(found).hexdigest() != hashes[name]:
        raise PolicyError(f"'{name}' of policy folder '{path}' was changed while it was read; load it again")
    return found
