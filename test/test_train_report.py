# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from PIL import Image

from policy_node.tools.train import main
from policy_node.tools.train_report import BEGIN, END, PLOT, TABLE

SMALL = ["--arenas", "2", "--renderer", "raycast"]
TINY = [*SMALL, "--imitation-steps", "384", "--imitation-passes", "1", "--steps", "512", "--quiet", "--evaluate", "0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train two tiny policies, and evaluate them and a reference."""
    folder = tmp_path_factory.mktemp("runs")
    for name, observations in (("both", "image+touch"), ("blind", "image")):
        main(["train", "--output", str(folder / name), "--observations", observations, *TINY])
        evaluate(folder / name / "rover.zip", folder / name / "nominal.json")
    evaluate(folder / "both" / "rover.zip", folder / "both" / "blanked.json", "--blank", "touch")
    evaluate("--driver=scripted", folder / "references" / "scripted.json", "--episodes", "3")
    return folder


def evaluate(model, file, *more):
    main(["evaluate", str(model), "--json", str(file), "--episodes", "1", *more, *SMALL])


def report(folder, *more):
    output = folder / "report"
    main(["report", f"image + touch={folder / 'both'}", str(folder / "blind"), *more, "--output", str(output)])
    return (output / TABLE).read_text(), output / PLOT


def test_the_table_has_every_evaluation_with_its_intervals_policies_before_references(runs, capsys):
    table, _ = report(runs, str(runs / "references"))
    assert capsys.readouterr().out == table
    cells = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    assert [row[:2] for row in cells[2:]] == [
        ["nominal", "image + touch"],
        ["nominal", "blind"],
        ["nominal", "scripted driver"],
        ["nominal, touch blanked", "image + touch"],
    ]
    scripted = json.loads((runs / "references" / "scripted.json").read_text())
    assert scripted["episodes"] == 3 and scripted["successes"] >= 2
    low, high = (100 * end for end in scripted["success_interval_95"])
    rate, count = 100 * scripted["success_rate"], scripted["successes"]
    assert cells[4][2] == f"{rate:.1f} % ({count} of 3), {low:.1f} to {high:.1f} %"
    low, high = scripted["time_to_press_interval_95_s"]
    assert cells[4][3] == f"{scripted['mean_time_to_press_s']:.2f} s, {low:.2f} to {high:.2f} s"
    low, high = scripted["collisions_interval_95"]
    assert cells[4][4] == f"{scripted['mean_collisions']:.2f}, {low:.2f} to {high:.2f}"


def test_the_plot_shows_a_curve_for_each_training(runs):
    _, plot = report(runs)
    with Image.open(plot) as image:
        assert image.width >= 1200
        pixels = np.asarray(image.convert("RGBA"))
    for colour in ((0x2F, 0x81, 0xF7), (0xDB, 0x6D, 0x28)):
        assert (pixels == (*colour, 255)).all(axis=-1).any()


def test_the_tables_take_their_places_in_pages_again_and_again(runs, tmp_path, capsys):
    whole, short = tmp_path / "whole.md", tmp_path / "short.md"
    begin, end = BEGIN.format("table"), END.format("table")
    whole.write_text(f"before\n{begin}\nan older table\n{end}\nafter\n")
    short.write_text(f"{BEGIN.format('successes')}\n{END.format('successes')}\n")
    for _ in range(2):
        table, _ = report(runs, str(runs / "references"), "--page", str(whole), "--page", str(short))
        assert whole.read_text() == f"before\n{begin}\n{table}{end}\nafter\n"
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in short.read_text().splitlines()[1:-1]]
        assert rows[0] == ["success", "nominal", "nominal, touch blanked"]
        assert [row[0] for row in rows[2:]] == ["image + touch", "blind", "scripted driver"]
        # Each driver in the columns in which it was evaluated.
        assert [[bool(cell) for cell in row[1:]] for row in rows[2:]] == [[True, True], [True, False], [True, False]]


def test_a_page_without_a_place_or_with_half_of_one_is_left_alone(runs, tmp_path):
    page = tmp_path / "page.md"
    for text, said in (
        ("no place for it", r"page.md' has no place for a table; mark it by the lines <!-- table: begin --> and"),
        (BEGIN.format("table"), r"page.md' needs the lines <!-- table: begin --> and <!-- table: end --> once each"),
    ):
        page.write_text(text)
        with pytest.raises(SystemExit, match=said):
            report(runs, "--page", str(page))
        assert page.read_text() == text


def test_a_folder_with_nothing_to_report_is_named(tmp_path):
    with pytest.raises(SystemExit, match=f"report: '{tmp_path}' holds no curve.json and no evaluation; give"):
        main(["report", str(tmp_path), "--output", str(tmp_path)])
