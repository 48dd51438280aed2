# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Staging decodes messages in turn or in several threads, and each message once."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from policy_node.messages.reading import UnusableReading
from policy_node.sensing.samples import Sample
from policy_node.sensing.staging import FEW_BYTES, OrZeros, Rejections, Staging

PATIENCE_S = 30.0
LARGE = bytes(FEW_BYTES)


class Decoder:
    """Writes the length of a message, once as many threads as are expected are here."""

    def __init__(self, parallel: bool, threads: int = 1) -> None:
        self.parallel = parallel
        self._together = threading.Barrier(threads)
        #: Thread and length of each message that it was given.
        self.calls: list[tuple[int, int]] = []

    def decode(self, message: bytes, out: np.ndarray) -> None:
        self.calls.append((threading.get_ident(), len(message)))
        self._together.wait(PATIENCE_S)
        if not message:
            raise UnusableReading("empty")
        if message == b"crash":
            raise ZeroDivisionError("in the decoder")
        out[...] = len(message)


def staging_of(decoder: Decoder, robots: int) -> tuple[Staging, np.ndarray]:
    rows = np.zeros((robots, 1))
    return Staging([["camera"]], {"camera": rows}, {"camera": decoder.decode}, Rejections(robots)), rows


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})


def test_large_messages_are_decoded_at_once_where_the_decoder_allows_it():
    """The decoder waits for a second thread, so that one alone would never end."""
    staging, rows = staging_of(Decoder(parallel=True, threads=2), robots=4)
    assert staging([(robot, [Sample(0, LARGE + bytes(robot))]) for robot in range(4)]) == {}
    assert rows.ravel().tolist() == [len(LARGE) + robot for robot in range(4)]


def test_two_messages_that_are_large_together_are_decoded_at_once():
    staging, rows = staging_of(Decoder(parallel=True, threads=2), robots=2)
    assert staging([(0, [Sample(0, bytes(FEW_BYTES // 2))]), (1, [Sample(0, bytearray(FEW_BYTES // 2))])]) == {}
    assert rows.ravel().tolist() == [FEW_BYTES // 2] * 2


def test_no_more_threads_decode_than_there_are_cpus_and_each_message_once():
    decoder = Decoder(parallel=True, threads=2)
    staging, _ = staging_of(decoder, robots=6)
    assert staging([(robot, [Sample(0, LARGE + bytes(robot))]) for robot in range(6)]) == {}
    assert len({thread for thread, _ in decoder.calls}) == 2
    assert sorted(length for _, length in decoder.calls) == [len(LARGE) + robot for robot in range(6)]


@pytest.mark.parametrize(("parallel", "message"), [(False, LARGE), (True, b"small")])
def test_others_are_decoded_in_the_calling_thread(parallel, message):
    decoder = Decoder(parallel)
    staging, rows = staging_of(decoder, robots=3)
    assert staging([(robot, [Sample(0, message)]) for robot in (0, 2)]) == {}
    assert {thread for thread, _ in decoder.calls} == {threading.get_ident()}
    assert rows.ravel().tolist() == [len(message), 0, len(message)]


def test_several_small_messages_are_decoded_in_the_calling_thread():
    decoder = Decoder(parallel=True)
    staging, rows = staging_of(decoder, robots=3)
    assert staging([(robot, [Sample(0, bytes(1 + robot))]) for robot in range(3)]) == {}
    assert decoder.calls == [(threading.get_ident(), 1 + robot) for robot in range(3)]
    assert rows.ravel().tolist() == [1, 2, 3]


@pytest.mark.parametrize("parallel", [False, True])
def test_what_cannot_be_used_is_named_and_counted_once(parallel):
    staging, rows = staging_of(Decoder(parallel), robots=4)
    chosen = [(robot, [Sample(0, message)]) for robot, message in enumerate([b"", LARGE, b"crash", LARGE])]
    for _ in range(2):
        assert staging(chosen) == {0: "camera: empty", 2: "camera: ZeroDivisionError: in the decoder"}
    assert staging.rejections.count.tolist() == [1, 0, 1, 0]
    assert rows.ravel().tolist() == [0, len(LARGE), 0, len(LARGE)]


def test_counts_that_a_tick_has_do_not_change():
    rejections = Rejections(2)
    counts = [rejections.count]
    for messages in (1, 2):
        rejections.add(1, messages)
        counts.append(rejections.count)
    assert [count.tolist() for count in counts] == [[0, 0], [0, 1], [0, 3]]
    assert not any(count.flags.writeable for count in counts)
    assert all(count.dtype == np.int64 for count in counts)


def test_a_decoder_that_says_nothing_runs_in_the_calling_thread():
    threads = set()

    def decode(message: bytes, out: np.ndarray) -> None:
        threads.add(threading.get_ident())

    staging = Staging([["camera"]], {"camera": np.zeros((4, 1))}, {"camera": decode}, Rejections(4))
    assert staging([(robot, [Sample(0, LARGE + bytes(robot))]) for robot in range(4)]) == {}
    assert threads == {threading.get_ident()}


class CountingDecoder:
    """Writes the length of a message and counts the calls."""

    def __init__(self, parallel: bool) -> None:
        self.parallel = parallel
        self.calls = 0

    def decode(self, message: bytes, out: np.ndarray) -> None:
        self.calls += 1
        if not message:
            raise UnusableReading("empty")
        out[...] = len(message)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_message_that_all_robots_share_is_decoded_once(parallel):
    decoder = CountingDecoder(parallel)
    staging, rows = staging_of(decoder, robots=32)
    for message in (bytes(FEW_BYTES), bytes(FEW_BYTES + 1)):
        decoder.calls = 0
        assert staging([(robot, [Sample(0, message)]) for robot in range(32)]) == {}
        assert decoder.calls == 1
        assert set(rows.ravel().tolist()) == {len(message)}


@pytest.mark.parametrize("parallel", [False, True])
def test_a_shared_message_that_cannot_be_used_counts_for_each_robot_once(parallel):
    decoder = CountingDecoder(parallel)
    staging, rows = staging_of(decoder, robots=3)
    message = b""
    for tick in range(1, 3):
        assert staging([(robot, [Sample(0, message)]) for robot in (0, 2)]) == {0: "camera: empty", 2: "camera: empty"}
        assert decoder.calls == tick
    assert staging.rejections.count.tolist() == [1, 0, 1]
    assert not rows.any()


def test_equal_messages_of_different_robots_are_decoded_for_each():
    """Only a message that was taken once is decoded once: comparing bytes would cost as much as decoding."""
    decoder = CountingDecoder(parallel=False)
    staging, _ = staging_of(decoder, robots=2)
    staging([(robot, [Sample(0, bytes(bytearray(b"equal")))]) for robot in range(2)])
    assert decoder.calls == 2


def test_observations_with_equal_decoders_share_a_decoded_message():
    decoder = CountingDecoder(parallel=False)
    other = CountingDecoder(parallel=False)
    names = ["left", "right", "small", "other"]
    rows = {name: np.zeros(1 if name == "small" else 2) for name in names}
    decoders = {name: OrZeros(decoder.decode) for name in ("left", "right", "small")}
    arrays = {name: row[None] for name, row in rows.items()}
    staging = Staging([[name] for name in names], arrays, {**decoders, "other": other.decode}, Rejections(1))
    message = b"four"
    assert staging([(0, [Sample(0, message)] * 4)]) == {}
    # Once for each shape of rows.
    assert (decoder.calls, other.calls) == (2, 1)
    assert [row.tolist() for row in rows.values()] == [[4, 4], [4, 4], [4], [4, 4]]


def test_a_staging_that_replaces_another_keeps_its_threads_and_counts():
    threads = set()

    class Noting(Decoder):
        def decode(self, message: bytes, out: np.ndarray) -> None:
            threads.add(threading.get_ident())
            super().decode(message, out)

    decoder = Noting(parallel=True, threads=2)
    before, _ = staging_of(decoder, robots=2)
    after, _ = staging_of(decoder, robots=2)
    after.take_over(before)
    for staging in (before, after):
        staging([(robot, [Sample(0, LARGE + bytes(robot))]) for robot in range(2)])
    assert len(threads) == 2
    assert after.rejections is before.rejections


# Decodes in a thread with a real-time priority, and prints how each decoding thread is scheduled.
SCHEDULED = """
import os, sys, threading, numpy as np
from policy_node.sensing.samples import Sample
from policy_node.sensing.staging import FEW_BYTES, Rejections, Staging

class Decoder:
    parallel = True
    together = threading.Barrier(2)
    def decode(self, message, out):
        if "refused" in sys.argv:
            return
        self.together.wait(30)
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        name = "tick" if threading.current_thread().name == "tick" else "helper"
        scheduler, priority = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0).sched_priority
        os.write(1, f"{name} {scheduler} {priority} {cpus}\\n".encode())

staging = Staging([["camera"]], {"camera": np.zeros((2, 1))}, {"camera": Decoder().decode}, Rejections(2))

def tick():
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-2:])
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(7))
    if "refused" in sys.argv:
        os.seteuid(65534)
    try:
        staging([(robot, [Sample(0, bytes(FEW_BYTES + robot))]) for robot in range(2)])
    except PermissionError as error:
        print(error)
        os._exit(0)

thread = threading.Thread(target=tick, name="tick")
thread.start()
thread.join()
"""


def scheduled(*arguments: str) -> list[str]:
    """Return what `SCHEDULED` prints; skips where real-time priorities are not permitted, or one CPU only is there."""
    if os.geteuid() != 0 or len(os.sched_getaffinity(os.getppid())) < 2:
        pytest.skip("needs root and two CPUs")
    process = subprocess.run(
        [sys.executable, "-c", SCHEDULED, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    if "os.SCHED_FIFO" in process.stderr and "PermissionError" in process.stderr:
        pytest.skip("real-time priority is not permitted here")
    return sorted(process.stdout.splitlines())


def test_decoding_threads_have_the_priority_and_the_cpus_of_the_tick():
    helper, tick = scheduled()
    assert helper.split() == ["helper", *tick.split()[1:]]
    assert tick.split()[1:3] == [str(os.SCHED_FIFO), "7"]


def test_a_priority_that_is_refused_to_decoding_threads_is_reported():
    (text,) = scheduled("refused")
    assert "realtime.priority: found 7" in text
    assert "refuses to the threads that decode compressed images" in text
