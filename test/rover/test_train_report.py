# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from PIL import Image

from policy_node_rover.training.cli import main
from policy_node_rover.training.report import BEGIN, END, PLOT, TABLE

SMALL = ["--arenas", "2", "--renderer", "raycast", "--processes", "1"]
LEARNING = ["--imitation-steps", "384", "--imitation-passes", "1", "--steps", "512", "--value-steps", "0"]
TINY = [*SMALL, *LEARNING, "--quiet", "--evaluate", "0"]


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_plot_shows_a_curve_for_each_training(runs):
    _, plot = report(runs)
    with Image.open(plot) as image:
        assert image.width >= 1200
        pixels = np.asarray(image.convert("RGBA"))
    for colour in ((0x2F, 0x81, 0xF7), (0xDB, 0x6D, 0x28)):
        assert (pixels == (*colour, 255)).all(axis=-1).any()


@pytest.mark.slow
def test_tables_in_pages_are_replaced(runs, tmp_path, capsys):
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
        assert [[cell != "–" for cell in row[1:]] for row in rows[2:]] == [[True, True], [True, False], [True, False]]


@pytest.mark.slow
def test_a_page_without_a_pair_of_marks_is_not_changed(runs, tmp_path):
    page = tmp_path / "page.md"
    for text, said in (
        ("no place for it", r"page.md' has no place for a table; mark it by the lines <!-- table: begin --> and"),
        (BEGIN.format("table"), r"page.md' needs the lines <!-- table: begin --> and <!-- table: end --> once each"),
    ):
        page.write_text(text)
        with pytest.raises(SystemExit, match=said):
            report(runs, "--page", str(page))
        assert page.read_text() == text


@pytest.mark.slow
def test_unwritable_pages_and_folders_are_refused_first(runs, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    output = tmp_path / "output"
    for options, said in (
        (["--output", str(output), "--page", str(tmp_path / "missing.md")], r"--page: found '.*missing\.md', which"),
        (["--output", str(output), "--page", str(tmp_path / "folder")], r"--page: found '.*folder', which cannot"),
        (["--output", str(tmp_path / "file" / "below")], r"--output: found '.*below', which cannot be written into"),
    ):
        with pytest.raises(SystemExit, match=rf"^report: {said}[^\n]*; give a [^\n]*$"):
            main(["report", str(runs / "both"), *options])
    assert capsys.readouterr().out == ""
    assert not list(output.iterdir())


@pytest.mark.slow
def test_equal_names_of_folders_are_refused(runs, tmp_path):
    (tmp_path / "both").symlink_to(runs / "blind")
    with pytest.raises(SystemExit, match="2 folders have the name 'same'; give names: NAME"):
        main(["report", f"same={runs / 'both'}", f"same={runs / 'blind'}", "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()


def test_an_invalid_json_file_is_reported(tmp_path):
    (tmp_path / "curve.json").write_text("[{")
    with pytest.raises(SystemExit, match=r"report: '.*curve\.json' cannot be read as JSON .*; write it again"):
        main(["report", str(tmp_path), "--output", str(tmp_path)])


def write_curve(folder, *successes):
    """Write the curve of an imitation with given success rates."""
    folder.mkdir()
    points = [
        {"phase": "imitation", "steps": 1000 * step, "elapsed_s": 60.0 * step, "success_rate": success}
        for step, success in enumerate(successes)
    ]
    (folder / "curve.json").write_text(json.dumps(points))


def colours_over_steps(plot):
    """Count the pixels of the first two colours in the left panel, whose legend has no runs."""
    with Image.open(plot) as image:
        pixels = np.asarray(image.convert("RGBA"))[:, : image.width // 2]
    colours = ((0x2F, 0x81, 0xF7), (0xDB, 0x6D, 0x28))
    return [int((pixels == (*colour, 255)).all(axis=-1).sum()) for colour in colours]


def test_without_evaluations_only_the_plot_is_written(tmp_path, capsys):
    write_curve(tmp_path / "run", None, 0.5, 0.9)
    main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "report")])
    assert [file.name for file in (tmp_path / "report").iterdir()] == [PLOT]
    assert "no evaluations, so that only the plot was written" in capsys.readouterr().err


def test_a_curve_is_visible_beneath_a_later_equal_one(tmp_path):
    write_curve(tmp_path / "short", None, 0.5, 0.9)
    write_curve(tmp_path / "long", None, 0.5, 0.9, 0.95)
    main(["report", str(tmp_path / "short"), str(tmp_path / "long"), "--output", str(tmp_path / "report")])
    assert min(colours_over_steps(tmp_path / "report" / PLOT)) > 500


def test_a_curve_without_success_has_the_usual_width(tmp_path):
    drawn = []
    for name, success in (("never", 0.0), ("often", 0.9)):
        write_curve(tmp_path / name, success, success)
        main(["report", str(tmp_path / name), "--output", str(tmp_path / "report")])
        drawn.append(colours_over_steps(tmp_path / "report" / PLOT)[0])
    assert drawn[0] == pytest.approx(drawn[1], rel=0.1)


def test_an_empty_folder_is_reported(tmp_path):
    with pytest.raises(SystemExit, match=f"report: '{tmp_path}' holds no curve.json and no evaluation; give"):
        main(["report", str(tmp_path), "--output", str(tmp_path)])
