# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench train`: all environments collect with the same arenas, and the parts of a step are told apart."""

import json

import pytest

from policy_node_bench import cli as bench
from policy_node_bench.train import OTHERS, OURS, RATIO


@pytest.mark.slow
def test_all_environments_are_measured_in_one_run(tmp_path, capsys):
    figures_file, plot = tmp_path / "train.json", tmp_path / "train.png"
    arguments = ["--arenas", "1,2", "--seconds", "0", "--renderer", "raycast", "--threads", "1"]
    assert bench.main(["train", *arguments, "--json", str(figures_file), "--plot", str(plot)]) == 0
    figures = json.loads(figures_file.read_text())
    assert [row["arenas"] for row in figures["rows"]] == [1, 2]
    for row in figures["rows"]:
        assert set(row["environments"]) == {OURS, *OTHERS}
        for measured in row["environments"].values():
            assert measured["steps_per_s"] > 0
            # All processes are counted.
            assert measured["cpu_us_per_step"] > 0
        assert 0 < row["times_the_better"]["p25"] <= row["times_the_better"]["p50"]
        assert all(part > 0 for part in row["parts_cpu_us_per_step"].values())
    assert plot.stat().st_size > 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in RATIO.splitlines())


@pytest.mark.parametrize("arenas", ["0", "4,-1", "many"])
def test_numbers_of_arenas_are_checked(arenas, capsys):
    with pytest.raises(SystemExit):
        bench.main(["train", "--arenas", arenas])
    assert "such as 1,4,16,64" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_files_are_tried_before_anything_is_measured(tmp_path, option, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=rf"^policy_bench train: {option}: found '.*below', which cannot be written"):
        bench.main(["train", option, str(tmp_path / "file" / "below")])
    assert capsys.readouterr().out == ""
