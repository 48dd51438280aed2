# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The fuzzer of the parsers: a short run, and that it sees what goes wrong."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray

from policy_node.messages.types import TYPES
from policy_node.ros.messages import ReadingDecoder
from policy_node.tools import fuzz
from policy_node.tools.fuzz_cases import CASES, ProblemError, check
from policy_node.tools.fuzz_parsers import State

ARRAY = next(case for case in CASES if case.name == "float64_array")


def test_no_input_of_a_short_run_fails(tmp_path: Path) -> None:
    file = tmp_path / "fuzz.json"
    assert fuzz.main(["--inputs", "6000", "--seed", "5", "--save", str(tmp_path), "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["inputs"] == 6000 and result["crashes"] == [] and result["failed"] == 0
    assert set(result["accepted"]) == {case.name for case in CASES}


def test_every_message_type_is_fuzzed() -> None:
    """All that can be imported: ros_gz_interfaces comes with Gazebo."""
    installed = {name for name in TYPES if importlib.util.find_spec(name.split("/")[0])}
    assert installed <= {case.type_name for case in CASES}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals of the process")
def test_an_input_that_kills_the_process_is_kept_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying_parsers.py").write_text(
        "import os, sys\\n"
        "from pathlib import Path\\n"
        "from policy_node.tools import fuzz_parsers\\n"
        "def note(self, index, case, raw, note=fuzz_parsers.State.note):\\n"
        "    note(self, index, case, raw)\\n"
        "    if index == 700:\\n"
        "        os.abort()\\n"
        "fuzz_parsers.State.note = note\\n"
        "sys.exit(fuzz_parsers.main())\\n".replace("\\n", "\n")
    )
    monkeypatch.setattr(fuzz, "CHILD", "dying_parsers")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    file = tmp_path / "fuzz.json"
    assert fuzz.main(["--inputs", "1000", "--save", str(tmp_path / "crashes"), "--json", str(file)]) == 1
    (crash,) = json.loads(file.read_text())["crashes"]
    assert crash["signal"] == str(int(signal.SIGABRT))
    kept = Path(crash["file"])
    assert kept.name == f"{crash['case']}_700.bin" and kept.stat().st_size


def test_what_a_parser_must_not_do_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_state_survives(tmp_path: Path) -> None:
    from policy_node.tools.fuzz_parsers import STATE_SIZE, read_state

    file = tmp_path / "state"
    file.write_bytes(bytes(STATE_SIZE))
    State(file).note(12, 3, b"an input")
    assert read_state(file) == (12, CASES[3], b"an input")
