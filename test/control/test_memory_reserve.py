# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The reserve returns its memory, and the monitor detects that the system refuses more."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from policy_node.control import memory_reserve
from policy_node.control.memory_reserve import RESERVE_BYTES, MemoryMonitor

LIMIT_BYTES = 2**30

# Uses all memory, then as much as the reserve gives back.
EXHAUSTED = """
import mmap, resource, sys
from policy_node.control import memory_reserve
reserve, monitor = memory_reserve.MemoryReserve(), memory_reserve.MemoryMonitor()
assert not monitor.is_exhausted()
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
taken = []
def take(size):
    try:
        while True:
            taken.append(bytearray(size))
    except MemoryError:
        pass
for size in (2**20, 2**16, 2**12):
    take(size)
checks = []
for _ in range(3):
    monitor._last_check_s -= 1.0
    checks.append(monitor.is_exhausted())
count = len(taken)
reserve.release()
reserve.release()
take(2**16)
given_back = (len(taken) - count) * 2**16
del taken[:]
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
monitor._last_check_s -= 1.0
assert not monitor.is_exhausted()
print(checks, given_back > memory_reserve.RESERVE_BYTES / 2)
"""


def test_the_reserve_gives_memory_back_and_its_lack_is_noticed() -> None:
    ended = subprocess.run([sys.executable, "-c", EXHAUSTED], capture_output=True, text=True)
    assert ended.stdout == "[False, True, True] True\n", ended.stderr


def test_the_reserve_takes_memory_not_only_addresses() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    reserve = memory_reserve.MemoryReserve()
    assert resident() - before > 0.9 * RESERVE_BYTES
    reserve.release()
    assert resident() - before < 0.5 * RESERVE_BYTES


@pytest.mark.parametrize(
    ("changes", "is_exhausted"),
    [
        ({}, False),
        ({"memory.current": LIMIT_BYTES - RESERVE_BYTES}, False),
        ({"memory.current": LIMIT_BYTES - RESERVE_BYTES + 1}, True),
        ({"memory.current": LIMIT_BYTES, "swaps": "header\n/swapfile"}, False),
        ({"memory.current": LIMIT_BYTES, "swaps": "header\n/swapfile", "memory.swap.max": 0}, True),
        ({"memory.current": LIMIT_BYTES, "memory.max": "max"}, False),
        ({"memory.current": LIMIT_BYTES, "memory.stat": f"file 9\ninactive_file {LIMIT_BYTES}"}, False),
        ({"memory.current": LIMIT_BYTES, "memory.max": "a lot"}, False),
    ],
    ids=["used a little", "reserve left", "less left", "swap", "no swap for it", "no limit", "page cache", "unknown"],
)
@pytest.mark.parametrize("place", ["", "robot.slice", "robot.slice/node.service"])
def test_the_limit_of_a_container_or_service_is_noticed(
    changes: dict[str, object], is_exhausted: bool, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "robot.slice" / "node.service").mkdir(parents=True)
    unlimited: dict[str, object] = {"memory.max": "max", "memory.swap.max": "max"}
    files: dict[str, object] = {
        "memory.max": LIMIT_BYTES,
        "memory.current": 2**20,
        "memory.swap.max": "max",
        "memory.stat": "file 0",
        "swaps": "header",
        **changes,
    }
    files["memory.stat"] = "active_file 0\ninactive_file 0\nslab_reclaimable 0\n" + str(files["memory.stat"])
    for group in ("", "robot.slice", "robot.slice/node.service"):
        for name, content in (files if group == place else unlimited).items():
            (tmp_path / group / name).write_text(f"{content}\n")
    (tmp_path / "swaps").write_text(f"{files['swaps']}\n")
    (tmp_path / "cgroup").write_text("1:cpu:/other\n0::/robot.slice/node.service\n")
    monkeypatch.setattr(memory_reserve, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory_reserve, "_OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory_reserve, "_SWAPS", tmp_path / "swaps")
    monitor = MemoryMonitor()
    found = []
    for _ in range(2):
        monitor._last_check_s -= 1.0
        found.append(monitor.is_exhausted())
    assert found == [False, is_exhausted]


def test_a_system_without_control_groups_sets_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_reserve, "_OWN_GROUP", tmp_path / "missing")
    assert memory_reserve._has_room()


def test_memory_is_exhausted_after_several_checks_in_a_row_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(s=100.0, is_refused=False)
    taken: list[tuple[int, int]] = []

    def take(file: int, size: int) -> Any:
        taken.append((file, size))
        if now.is_refused:
            raise OSError("no memory")
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(memory_reserve, "time", SimpleNamespace(monotonic=lambda: now.s))
    monkeypatch.setattr(memory_reserve, "mmap", SimpleNamespace(mmap=take))
    monitor = memory_reserve.MemoryMonitor()

    def checks(is_refused: bool, count: int, after_s: float = 1.0) -> list[bool]:
        now.is_refused, found = is_refused, []
        for _ in range(count):
            found.append(monitor.is_exhausted())
            now.s += after_s
        return found

    assert checks(False, 2) == [False, False] and taken == [(-1, memory_reserve.RESERVE_BYTES)] * 2
    assert checks(True, 3) == [False, True, True]
    # One success is enough, and the count starts again.
    assert checks(False, 1) == [False] and checks(True, 2) == [False, True]
    # At most one check in a second; no check is no failure.
    assert checks(True, 4, 0.25) == [True, False, False, False] and len(taken) == 9
    assert checks(True, 1) == [True] and len(taken) == 10
