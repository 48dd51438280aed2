# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the parsers in this process, which may die of it: `fuzz.cli` starts it and sees what is left.

Each input is written to a file before it is parsed. Every so often a line of JSON on the output says how far it got.
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from policy_node_bench.fuzz.cases import CASES, Case, ProblemError, check

STATE_SIZE = 1 << 16
HEADER_SIZE = 16  # of the state: index of the input, of the case, length of the input
REPORT_EVERY = 500
# A parser that has seen so many inputs is replaced by one that has seen none.
PARSER_LIFE = 4000
ACCEPTED_KEPT = 40
MAX_INPUT = 8192
PROBLEMS_KEPT = 20
# An input that takes longer ends the process: no parser may keep a tick for so long.
HANG_S = 20

_LENGTHS = tuple(
    number.to_bytes(4, order)
    for order in ("little", "big")
    for number in (0, 1, 2, 3, 4, 5, 255, 256, 2**16, 2**24, 2**29, 2**30, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)
)
_NUMBERS = tuple(
    bits.to_bytes(size, order)
    for order in ("little", "big")
    for size, patterns in (
        (4, (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7F7FFFFF, 0x00000001, 0x80000000)),
        (8, (0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, (0x7FF << 52) + 1, 0x7FEFFFFFFFFFFFFF, 1, 1 << 63, 0x47F << 52)),
    )
    for bits in patterns
)


class Mutator:
    """Makes inputs out of valid messages.

    Parameters
    ----------
    rng
        Its choices.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kinds: tuple[Callable[[bytearray, Sequence[bytes]], None], ...] = (
            self._flip,
            self._flip,
            self._byte,
            self._length,
            self._length,
            self._number,
            self._number,
            self._cut,
            self._append,
            self._insert,
            self._delete,
            self._splice,
            self._encapsulation,
            self._png_header,
        )

    def __call__(self, corpus: Sequence[bytes]) -> bytes:
        """Return an input, made of messages of `corpus`."""
        if self._rng.random() < 0.02:
            head = self._rng.choice([b"", b"\0\1\0\0", b"\0\0\0\0", b"\0\1\0\3"])
            return head + self._rng.randbytes(self._rng.randrange(160))
        raw = bytearray(self._rng.choice(corpus))
        for _ in range(self._rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            self._rng.choice(self._kinds)(raw, corpus)
        return bytes(raw[:MAX_INPUT])

    def _position(self, raw: bytearray, align: int = 1) -> int:
        # Most of what can be wrong is told in the first bytes.
        limit = min(len(raw), 96) if self._rng.random() < 0.6 else len(raw)
        position = self._rng.randrange(limit) if limit else 0
        return position - position % align

    def _flip(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        if raw:
            raw[self._position(raw)] ^= 1 << self._rng.randrange(8)

    def _byte(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        if raw:
            raw[self._position(raw)] = self._rng.randrange(256)

    def _length(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        position = self._position(raw, 4)
        raw[position : position + 4] = self._rng.choice(_LENGTHS)

    def _number(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        number = self._rng.choice(_NUMBERS)
        position = self._position(raw, 4)
        raw[position : position + len(number)] = number

    def _cut(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        del raw[self._rng.randrange(len(raw) + 1) :]

    def _append(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        raw += self._rng.randbytes(self._rng.choice((1, 2, 3, 4, 8, 64)))

    def _insert(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        position = self._position(raw, 4)
        raw[position:position] = self._rng.randbytes(self._rng.choice((1, 4, 8)))

    def _delete(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        position = self._position(raw, 4)
        del raw[position : position + self._rng.choice((1, 4, 8))]

    def _splice(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        other = self._rng.choice(corpus)
        position = self._position(raw, 4)
        raw[position:] = other[self._rng.choice((position, self._rng.randrange(len(other) + 1))) :]

    def _encapsulation(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        raw[:4] = bytes((0, self._rng.choice((0, 1, 1, 2, 3, 6, 7)), 0, self._rng.choice((0, 0, 1, 2, 3, 255))))

    def _png_header(self, raw: bytearray, corpus: Sequence[bytes]) -> None:
        """Change the header of a PNG so that its checksum is right."""
        start = raw.find(b"IHDR")
        if start < 0 or len(raw) < start + 21:
            return
        position = start + 4 + self._rng.randrange(13)
        raw[position] = self._rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        raw[start + 17 : start + 21] = zlib.crc32(raw[start : start + 17]).to_bytes(4, "big")


class State:
    """The input at hand, in a file that survives this process."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), STATE_SIZE)

    def note(self, index: int, case: int, raw: bytes) -> None:
        """Write down which input comes next."""
        self._map[HEADER_SIZE : HEADER_SIZE + len(raw)] = raw
        self._map[:HEADER_SIZE] = (
            index.to_bytes(8, "little") + case.to_bytes(4, "little") + len(raw).to_bytes(4, "little")
        )


def read_state(file: Path) -> tuple[int, Case, bytes]:
    """Return index, case and bytes of the input that a process noted last."""
    content = file.read_bytes()
    index, case, length = (int.from_bytes(content[a:b], "little") for a, b in ((0, 8), (8, 12), (12, 16)))
    return index, CASES[case], content[HEADER_SIZE : HEADER_SIZE + length]


def fuzz(first: int, inputs: int, seed: int, state: State) -> None:
    """Parse inputs and report on the output."""
    rng = random.Random(f"{seed} {first}")
    mutate = Mutator(rng)
    seeds = [case.seeds() for case in CASES]
    accepted: list[list[bytes]] = [[] for _ in CASES]
    decoders = [case.decoder() for case in CASES]
    parsed: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    problems: list[dict[str, str]] = []
    for index in range(first, first + inputs):
        number = rng.randrange(len(CASES))
        case = CASES[number]
        if parsed[case.name] % PARSER_LIFE == PARSER_LIFE - 1:
            decoders[number] = case.decoder()
        raw = mutate(seeds[number] + accepted[number])
        state.note(index, number, raw)
        signal.alarm(HANG_S)
        try:
            if check(case, decoders[number], raw):
                taken[case.name] += 1
                kept = accepted[number]
                if len(kept) < ACCEPTED_KEPT:
                    kept.append(raw)
                else:
                    kept[rng.randrange(ACCEPTED_KEPT)] = raw
        except ProblemError as error:
            problems.append({"case": case.name, "problem": str(error)[:500], "input": raw.hex()})
        parsed[case.name] += 1
        if (index - first) % REPORT_EVERY == REPORT_EVERY - 1 or index == first + inputs - 1:
            report = {"parsed": parsed, "accepted": taken, "problems": problems[:PROBLEMS_KEPT]}
            print(json.dumps({**report, "failed": len(problems)}), flush=True)
            parsed, taken, problems = Counter(), Counter(), []


def main() -> int:
    """Run from the command line of `policy_node_bench.fuzz.cli`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args()
    fuzz(options.first, options.inputs, options.seed, State(options.state))
    return 0


if __name__ == "__main__":
    sys.exit(main())
