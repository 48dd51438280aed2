# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Fuzz the parsers in this process, which may crash; `fuzz.cli` starts it and reads the input that crashed it."""

from __future__ import annotations

import os
import random
import signal
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from struct import Struct
from typing import Any

from policy_node_bench.fuzz.case import ProblemError, check
from policy_node_bench.fuzz.cases import CASES

MAX_INPUT = 8192
# Index of the input, index of the case, length of the input.
_HEADER = Struct("<QII")
STATE_SIZE = _HEADER.size + MAX_INPUT
REPORT_EVERY = 500
# A parser is replaced by a new one after this many inputs.
PARSER_LIFE = 4000
ACCEPTED_KEPT = 40
PROBLEMS_KEPT = 20
# An input that takes longer ends the process, because a parser must not block a tick.
HANG_S = 20

_LENGTHS = tuple(
    number.to_bytes(4, order)
    for order in ("little", "big")
    for number in (0, 1, 2, 3, 4, 5, 255, 256, 2**16, 2**24, 2**29, 2**30, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)
)
# Infinities, NaN, the limits of normal and subnormal numbers, a double above the range of float32.
_NUMBERS = tuple(
    bits.to_bytes(size, order)
    for order in ("little", "big")
    for size, patterns in (
        (4, (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF, 0x00000001, 0x80000000)),
        (8, (0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, (0x7FF << 52) + 1, 0x7FEFFFFFFFFFFFFF, 1, 1 << 63, 0x47F << 52)),
    )
    for bits in patterns
)
_TO_END = 1 << 30

# Takes random numbers, the input, a position in it and another input; returns position, length and new bytes of a part.
Mutation = Callable[[random.Random, bytearray, int, bytes], tuple[int, int, bytes]]


def _number(rng: random.Random, raw: bytearray, at: int, other: bytes) -> tuple[int, int, bytes]:
    number = rng.choice(_NUMBERS)
    return at - at % 4, len(number), number


def _png_header(rng: random.Random, raw: bytearray, at: int, other: bytes) -> tuple[int, int, bytes]:
    """Change the header of a PNG and its checksum."""
    start = raw.find(b"IHDR")
    if start < 0 or len(raw) < start + 21:
        return 0, 0, b""
    header = raw[start : start + 17]
    header[4 + rng.randrange(13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return start, 21, bytes(header) + zlib.crc32(header).to_bytes(4, "big")


def _encapsulation(rng: random.Random, raw: bytearray, at: int, other: bytes) -> tuple[int, int, bytes]:
    return 0, 4, bytes((0, rng.choice((0, 1, 1, 2, 3, 6, 7)), 0, rng.choice((0, 0, 1, 2, 3, 255))))


MUTATIONS: tuple[Mutation, ...] = (
    # Flip a bit, set a length and set a number are twice as frequent as the others.
    *2
    * (
        lambda rng, raw, at, other: (at, 1, bytes(byte ^ 1 << rng.randrange(8) for byte in raw[at : at + 1])),
        lambda rng, raw, at, other: (at - at % 4, 4, rng.choice(_LENGTHS)),
        _number,
    ),
    _png_header,
    _encapsulation,
    # Replace a byte, cut, append, insert, delete, join with another input.
    lambda rng, raw, at, other: (at, 1, rng.randbytes(1)),
    lambda rng, raw, at, other: (rng.randrange(len(raw) + 1), _TO_END, b""),
    lambda rng, raw, at, other: (len(raw), 0, rng.randbytes(rng.choice((1, 2, 3, 4, 8, 64)))),
    lambda rng, raw, at, other: (at - at % 4, 0, rng.randbytes(rng.choice((1, 4, 8)))),
    lambda rng, raw, at, other: (at - at % 4, rng.choice((1, 4, 8)), b""),
    lambda rng, raw, at, other: (at - at % 4, _TO_END, other[rng.choice((at, rng.randrange(len(other) + 1))) :]),
)


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Return an input made from the messages of `corpus`."""
    if rng.random() < 0.02:
        return rng.choice([b"", b"\0\1\0\0", b"\0\0\0\0", b"\0\1\0\3"]) + rng.randbytes(rng.randrange(160))
    raw = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        # Lengths and sizes are in the first bytes.
        limit = min(len(raw), 96) if rng.random() < 0.6 else len(raw)
        start, removed, inserted = rng.choice(MUTATIONS)(rng, raw, rng.randrange(limit or 1), rng.choice(corpus))
        raw[start : start + removed] = inserted
    return bytes(raw[:MAX_INPUT])


def note(state: Any, index: int, case: int, raw: bytes) -> None:
    """Write the next input to memory that survives this process."""
    memoryview(state).cast("B")[: _HEADER.size + len(raw)] = _HEADER.pack(index, case, len(raw)) + raw


def noted(state: Any) -> tuple[int, int, bytes]:
    """Return the index, case and bytes of the last input that a process noted."""
    index, case, length = _HEADER.unpack_from(state)
    return index, case, bytes(state)[_HEADER.size : _HEADER.size + length]


def fuzz(connection: Connection, state: Any, log: str, first: int, inputs: int, seed: int) -> None:
    """Parse `inputs` inputs from the index `first` on, made with the seed, and report progress.

    The connection gets for every `REPORT_EVERY` inputs the numbers of parsed and accepted inputs by case, and the
    problems. `state` is the shared memory of `note`, `log` the file for the standard error output.
    """
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    rng = random.Random(f"{seed} {first}")
    seeds = [case.seeds() for case in CASES]
    accepted: list[list[bytes]] = [[] for _ in CASES]
    decoders = [case.decoder() for case in CASES]
    parsed: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    problems: list[dict[str, str]] = []
    for index in range(first, first + inputs):
        number = rng.randrange(len(CASES))
        case, kept = CASES[number], accepted[number]
        if rng.randrange(PARSER_LIFE) == 0:
            decoders[number] = case.decoder()
        raw = mutated(rng, seeds[number] + kept)
        note(state, index, number, raw)
        signal.alarm(HANG_S)
        try:
            if check(case, decoders[number], raw):
                taken[case.name] += 1
                if len(kept) == ACCEPTED_KEPT:
                    del kept[rng.randrange(ACCEPTED_KEPT)]
                kept.append(raw)
        except ProblemError as error:
            problems.append({"case": case.name, "problem": str(error)[:500], "input": raw.hex()})
        parsed[case.name] += 1
        if (index - first) % REPORT_EVERY == REPORT_EVERY - 1 or index == first + inputs - 1:
            connection.send((parsed, taken, len(problems), problems[:PROBLEMS_KEPT]))
            parsed, taken, problems = Counter(), Counter(), []
