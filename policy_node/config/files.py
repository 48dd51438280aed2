# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read files from outside: regular files of a limited size, without waiting forever for a dead file system."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import TimeoutError
from io import BytesIO
from typing import Generic, TypeVar

from policy_node.config.threads import start

# Longest time without progress: network file systems answer within seconds, or not at all.
STALL_S = 10.0
BLOCK_BYTES = 2**22
#: Part of a file that tells its kind.
HEAD_BYTES = 2**16

# What to do where the path is not at fault, by the number of the error.
_REMEDIES = {
    errno.ETIMEDOUT: "mount it again, or copy the file to a local disk",
    errno.EFBIG: "see that it is the right file",
}

Path = str | os.PathLike[str]
T = TypeVar("T")
# Kinds of files that can block the process that opens them, or have no end.
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read_file(path: Path, max_bytes: int, check_head: Callable[[bytes, int], None] | None = None) -> bytes:
    """Return the content of a regular file.

    Parameters
    ----------
    path
        Path of the file.
    max_bytes
        Largest size.
    check_head
        Called with the first `HEAD_BYTES` and the size of the file before the rest is read; may raise any exception.

    Raises
    ------
    OSError
        When the file is not regular, is too large, does not answer for `STALL_S` or cannot be read; `strerror` says
        what was found.
    """
    return _Attempt(path, lambda attempt: _read(path, max_bytes, check_head, attempt)).result()


def check_file(path: Path, max_bytes: int | None = None) -> int:
    """Return the size of a file that another library is about to open; raises OSError as `read_file` does."""
    return _Attempt(path, lambda attempt: _size(path, os.stat(path), max_bytes)).result()


def reason_and_remedy(error: OSError, remedy: str) -> str:
    """Return why a file cannot be read, and what to do: `remedy`, unless it is too large or its file system is dead."""
    return f"{error.strerror or error}; {_REMEDIES.get(error.errno or 0, remedy)}"


def answer(path: Path, act: Callable[[], T]) -> T:
    """Return the result of system calls on a file or folder, such as `is_file`.

    Raises
    ------
    OSError
        When they do not answer for `STALL_S`; any exception that they raise.
    """
    return _Attempt(path, lambda attempt: act()).result()


class _Attempt(Generic[T]):
    """Runs system calls on a file in another thread: nothing can end one that waits for a dead file system."""

    def __init__(self, path: Path, act: Callable[[_Attempt[T]], T]) -> None:
        #: Number of blocks that were read.
        self.blocks = 0
        self._path = path
        self._outcome = start(lambda: act(self), "file")

    def result(self) -> T:
        """Wait for the result, as long as there is progress."""
        blocks = -1
        while self.blocks != blocks:
            blocks = self.blocks
            try:
                return self._outcome.result(STALL_S)
            except TimeoutError:
                # The call may have raised it; it is another class before Python 3.11.
                if self._outcome.done():
                    raise
        text = f"its file system did not answer for {STALL_S:g} s"
        raise OSError(errno.ETIMEDOUT, text, os.fspath(self._path))


def _read(
    path: Path, max_bytes: int, check_head: Callable[[bytes, int], None] | None, attempt: _Attempt[bytes]
) -> bytes:
    # Opening a device or a pipe may already have an effect.
    _size(path, os.stat(path), max_bytes)
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
        size = _size(path, os.fstat(file.fileno()), max_bytes)
        content = BytesIO()
        while block := file.read(HEAD_BYTES if attempt.blocks == 0 else BLOCK_BYTES):
            if attempt.blocks == 0 and check_head is not None:
                check_head(block, size)
            content.write(block)
            attempt.blocks += 1
            if content.tell() > max_bytes:
                raise _too_large(path, content.tell(), max_bytes)
        return content.getvalue()


def _size(path: Path, found: os.stat_result, max_bytes: int | None) -> int:
    """Return the size of a regular file; raises OSError for any other."""
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(found.st_mode)), "of an unknown kind")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))
    if max_bytes is not None and found.st_size > max_bytes:
        raise _too_large(path, found.st_size, max_bytes)
    return found.st_size


def _too_large(path: Path, size: int, max_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {size} bytes, allowed are {max_bytes}", os.fspath(path))
