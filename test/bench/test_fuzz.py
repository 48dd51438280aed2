# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The fuzzer finds no problem in the parsers, and reports the problems that a parser has."""

import importlib.util
import json
import random
import signal
import sys
import zlib
from multiprocessing import get_context
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64MultiArray

from policy_node.messages.codecs import ReadingDecoder
from policy_node.messages.commands import COMMAND_TYPES
from policy_node.messages.encodings import IMAGE_ENCODINGS
from policy_node.messages.types import MESSAGE_TYPES
from policy_node.messages.types.images import compressed_encodings
from policy_node_bench.cli import main
from policy_node_bench.fuzz import worker
from policy_node_bench.fuzz.case import ProblemError, check
from policy_node_bench.fuzz.cases import CASES
from policy_node_bench.fuzz.command_cases import COMMAND_CASES, COMMANDS
from policy_node_bench.fuzz.image_cases import IMAGE_CASES
from policy_node_bench.fuzz.reading_cases import OPTIONAL, READING_CASES

ARRAY = next(case for case in CASES if case.name == "float64_array")


@pytest.mark.slow
def test_a_short_run_finds_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "fuzz.json"
    assert main(["fuzz", "--inputs", "6000", "--seed", "5", "--save", str(tmp_path), "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["inputs"] == 6000 and result["crashes"] == [] and result["failed"] == 0
    assert set(result["accepted"]) == {case.name for case in CASES}


def test_every_message_type_is_fuzzed() -> None:
    """All that can be imported: ros_gz_interfaces comes with Gazebo."""
    installed = {name for name in MESSAGE_TYPES if importlib.util.find_spec(name.split("/")[0])}
    assert installed <= {case.type_name for case in CASES}
    # Those that cannot be imported have a case for where they can.
    assert set(MESSAGE_TYPES) <= {case.type_name for case in READING_CASES + IMAGE_CASES} | set(OPTIONAL)


def test_every_command_type_is_fuzzed() -> None:
    assert set(COMMAND_TYPES) <= set(COMMANDS)
    installed = {name for name in COMMAND_TYPES if importlib.util.find_spec(name.split("/")[0])}
    assert installed <= {case.type_name for case in COMMAND_CASES}


def test_every_image_encoding_is_fuzzed() -> None:
    images = [image for case in IMAGE_CASES for image in case.messages]
    assert {image.encoding for image in images if isinstance(image, Image)} == set(IMAGE_ENCODINGS)
    compressed = [image for image in images if isinstance(image, CompressedImage)]
    assert {image.format.partition(";")[0] for image in compressed} == set(compressed_encodings())
    assert {image.format.split()[-1] for image in compressed if "compressedDepth" in image.format} == {"png", "rvl"}


def test_every_case_has_another_name_and_takes_all_its_messages() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        decoder = case.decoder()
        assert all(check(case, decoder, raw) for raw in case.seeds()), case.name


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals of the process")
def test_an_input_that_crashes_the_process_is_saved_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing_worker.py").write_text(
        "import os\n"
        "from policy_node_bench.fuzz import worker\n"
        "original_fuzz, original_note = worker.fuzz, worker.note\n"
        "def note(state, index, case, raw):\n"
        "    original_note(state, index, case, raw)\n"
        "    if index == 700:\n"
        "        os.abort()\n"
        "def fuzz(*arguments):\n"
        "    worker.note = note\n"
        "    original_fuzz(*arguments)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(worker, "fuzz", importlib.import_module("crashing_worker").fuzz)
    file = tmp_path / "fuzz.json"
    assert main(["fuzz", "--inputs", "1500", "--save", str(tmp_path / "crashes"), "--json", str(file)]) == 1
    result = json.loads(file.read_text())
    (crash,) = result["crashes"]
    assert crash["signal"] == str(int(signal.SIGABRT))
    saved = Path(crash["file"])
    assert saved.name == f"{crash['case']}_700.bin" and saved.stat().st_size
    # The first process reported 500 inputs, the second one parsed those after the crash.
    assert result["inputs"] == 500 + 1500 - 701


def test_mutations_change_what_they_must_and_keep_the_size_limit() -> None:
    rng, corpus = random.Random(1), [case.seeds()[0] for case in CASES] + [bytes(worker.MAX_INPUT), b""]
    made = [worker.mutated(rng, corpus) for _ in range(2000)]
    assert max(map(len, made)) == worker.MAX_INPUT and min(map(len, made)) == 0
    assert 0.05 < sum(raw in corpus for raw in made) / len(made) < 0.5
    png = bytearray(next(case for case in CASES if case.name == "image_png").seeds()[0])
    _, removed, header = worker._png_header(rng, png, 0, b"")
    assert len(header) == removed and int.from_bytes(header[17:], "big") == zlib.crc32(header[:17])


def test_wrong_results_of_a_parser_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    good, short = (serialize_message(Float64MultiArray(data=[1.0] * count)) for count in (3, 2))
    decoder = ARRAY.decoder()
    assert check(ARRAY, decoder, good)
    assert not check(ARRAY, decoder, short)
    for decode, raw, text in (
        (lambda self, raw, out: out.fill(2.0), good, "gives"),
        (lambda self, raw, out: out.fill(2.0), good[:20], "the deserialiser rejects it"),
        (lambda self, raw, out: out.fill(2.0), short, "cannot be used"),
        (lambda self, raw, out: {}[raw], good, "KeyError"),
    ):
        monkeypatch.setattr(ReadingDecoder, "decode", decode)
        with pytest.raises(ProblemError, match=text):
            check(ARRAY, decoder, raw)


def test_the_noted_input_is_read_back() -> None:
    state = get_context("spawn").RawArray("B", worker.STATE_SIZE)
    worker.note(state, 12, 3, b"an input")
    assert worker.noted(state) == (12, 3, b"an input")
