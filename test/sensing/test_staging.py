# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of several robots, decoded one after the other or at once."""

import threading

import numpy as np
import pytest

from policy_node.sensing.samples import Sample, UnusableReading
from policy_node.sensing.staging import FEW_BYTES, Rejections, Staging

PATIENCE_S = 30.0
LARGE = bytes(FEW_BYTES)


class Decoder:
    """Writes the length of a message, once as many threads as are expected are here."""

    def __init__(self, parallel: bool, threads: int = 1) -> None:
        self.parallel = parallel
        self._together = threading.Barrier(threads)

    def decode(self, message: bytes, out: np.ndarray) -> None:
        self._together.wait(PATIENCE_S)
        if not message:
            raise UnusableReading("empty")
        if message == b"crash":
            raise ZeroDivisionError("in the decoder")
        out[...] = len(message)


def staging_of(decoder: Decoder, robots: int) -> tuple[Staging, np.ndarray]:
    rows = np.zeros((robots, 1))
    by_robot = [{"camera": row} for row in rows]
    return Staging([["camera"]], by_robot, {"camera": decoder.decode}, Rejections(robots)), rows


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})


def test_large_messages_are_decoded_at_once_where_the_decoder_allows_it():
    """The decoder waits for a second thread, so that one alone would never end."""
    staging, rows = staging_of(Decoder(parallel=True, threads=2), robots=4)
    assert staging([(robot, [Sample(0, LARGE + bytes(robot))]) for robot in range(4)]) == {}
    assert rows.ravel().tolist() == [len(LARGE) + robot for robot in range(4)]


@pytest.mark.parametrize(("parallel", "message"), [(False, LARGE), (True, b"small")])
def test_others_are_decoded_in_the_calling_thread(parallel, message):
    here = []
    decoder = Decoder(parallel)
    decode = decoder.decode
    decoder.decode = lambda *arguments: (here.append(threading.get_ident()), decode(*arguments))  # type: ignore
    staging, rows = staging_of(decoder, robots=3)
    assert staging([(robot, [Sample(0, message)]) for robot in (0, 2)]) == {}
    assert set(here) == {threading.get_ident()}
    assert rows.ravel().tolist() == [len(message), 0, len(message)]


@pytest.mark.parametrize("parallel", [False, True])
def test_what_cannot_be_used_is_named_and_counted_once(parallel):
    staging, rows = staging_of(Decoder(parallel), robots=4)
    chosen = [(robot, [Sample(0, message)]) for robot, message in enumerate([b"", LARGE, b"crash", LARGE])]
    for _ in range(2):
        assert staging(chosen) == {0: "camera: empty", 2: "camera: ZeroDivisionError: in the decoder"}
    assert staging.rejections.count.tolist() == [1, 0, 1, 0]
    assert rows.ravel().tolist() == [0, len(LARGE), 0, len(LARGE)]
