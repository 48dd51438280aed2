# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Files from outside are regular, of a limited size, and never waited for without end."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from policy_node.config import files
from policy_node.config.files import HEAD_BYTES, check_file, read_file, reason_and_remedy

MAX_BYTES = 3 * HEAD_BYTES


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, MAX_BYTES])
def test_a_regular_file_is_read_up_to_its_largest_size(size: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content := os.urandom(size))
    heads: list[tuple[bytes, int]] = []
    assert read_file(file, MAX_BYTES, lambda *head: heads.append(head)) == content
    assert heads == ([(content[:HEAD_BYTES], size)] if size else [])
    assert check_file(file, MAX_BYTES) == check_file(file) == size
    with file.open("ab") as stream:
        stream.write(bytes(MAX_BYTES + 1 - size))
    for read in (read_file, check_file):
        with pytest.raises(OSError, match=f"it has {MAX_BYTES + 1} bytes, allowed are {MAX_BYTES}"):
            read(file, MAX_BYTES)


def test_files_that_could_block_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path, kind in (
            (tmp_path / "pipe", "a named pipe"),
            (tmp_path / "link", "a named pipe"),
            (tmp_path / "socket", "a socket"),
            (Path("/dev/zero"), "a device"),
        ):
            for read in (read_file, check_file):
                with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
                    read(path, MAX_BYTES)
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        read_file(tmp_path, MAX_BYTES)
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        check_file(tmp_path / "missing")


def test_a_file_is_refused_by_its_first_bytes_before_the_rest_is_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as stream:
        stream.truncate(2**40)

    def refuse(head: bytes, size: int) -> None:
        raise ValueError(f"{len(head)} of {size}")

    with pytest.raises(ValueError, match=f"{HEAD_BYTES} of {2**40}"):
        read_file(file, 2**41, refuse)


def test_a_file_system_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(files, "STALL_S", 0.05)
    # No test can mount a server that is gone.
    monkeypatch.setattr(os, "stat", lambda path: answered.wait())
    try:
        for read in (read_file, check_file):
            with pytest.raises(OSError, match=r"its file system did not answer for 0\.05 s"):
                read(tmp_path / "file", MAX_BYTES)
    finally:
        answered.set()


def test_the_remedy_of_a_dead_file_system_and_of_a_large_file_is_not_another_path(tmp_path: Path) -> None:
    dead = OSError(errno.ETIMEDOUT, "did not answer", "file")
    assert reason_and_remedy(dead, "give a path") == "did not answer; mount it again, or copy the file to a local disk"
    (tmp_path / "large").write_bytes(bytes(10))
    with pytest.raises(OSError) as large:
        read_file(tmp_path / "large", 9)
    assert reason_and_remedy(large.value, "give a path").endswith("allowed are 9; see that it is the right file")
    with pytest.raises(OSError) as absent:
        read_file(tmp_path / "absent", 9)
    assert reason_and_remedy(absent.value, "give a path") == "No such file or directory; give a path"


def test_a_slow_file_is_read_as_long_as_there_is_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(content := os.urandom(40 * 4096))
    monkeypatch.setattr(files, "STALL_S", 0.5)
    monkeypatch.setattr(files, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(files, "HEAD_BYTES", 4096)
    paused = threading.Event()

    class Slow(files.BytesIO):
        def write(self, block: bytes) -> int:  # type: ignore[override]
            paused.wait(0.02)
            return super().write(block)

    monkeypatch.setattr(files, "BytesIO", Slow)
    assert read_file(file, MAX_BYTES) == content
