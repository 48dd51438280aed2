# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
from PIL import Image

from policy_node_rover.evaluation.animation import (
    FRAME_MS,
    GAP_PX,
    LAST_FRAME_MS,
    MAX_GIF_BYTES,
    PANEL_PX,
    TOP_PX,
    EpisodeFrame,
    EpisodeRecorder,
    RecordedEpisode,
    draw_episodes,
)
from policy_node_rover.evaluation.evaluate import reference_driver, run_episodes
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.training.cli import main


@pytest.fixture(scope="module")
def recorders():
    """Record two episodes of three, with and without a blanked touch."""
    recorded = []
    for blanked in (None, "touch"):
        rovers = RoverArenaVecEnv(2, itertools.count(1002))
        recorder = EpisodeRecorder(rovers, [1002, 1003], blanked)
        results = run_episodes(recorder, reference_driver("scripted", rovers), range(1002, 1005))
        recorder.close()
        recorded.append((recorder, {result.seed: result for result in results}))
    return recorded


@pytest.mark.slow
def test_episodes_are_recorded_from_start_to_end(recorders):
    recorder, results = recorders[0]
    assert list(recorder.episodes) == [1002, 1003]
    for seed, episode in recorder.episodes.items():
        times_s = np.array([frame.time_s for frame in episode.frames])
        assert times_s[0] == 0.0
        assert np.allclose(np.diff(times_s[:-1]), 0.1)
        assert (times_s[-1], episode.success) == (results[seed].time_s, results[seed].success)
        # The scripted driver drives from the first frame on.
        path_m = np.array([frame.position_m for frame in episode.frames])
        assert np.abs(np.diff(path_m, axis=0)).max() > 0.01
        assert all(np.abs(frame.action).max() > 0.0 for frame in episode.frames)
    # The touch of the press is recorded.
    assert recorder.episodes[1002].success
    assert recorder.episodes[1002].frames[-1].touch_n.max() > 1.0


@pytest.mark.slow
def test_a_blanked_observation_is_shown_as_zeros(recorders):
    seeing, blanked = recorders[0][0].episodes[1002].frames, recorders[1][0].episodes[1002].frames
    assert any(frame.touch_n.any() for frame in seeing) and not any(frame.touch_n.any() for frame in blanked)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(seeing, blanked, strict=True))


@pytest.mark.slow
def test_the_animation_runs_in_real_time_and_is_small(recorders, tmp_path):
    recorder, _ = recorders[0]
    file = tmp_path / "new" / "episodes.gif"
    draw_episodes(recorder.episodes, "scripted driver", "nominal conditions", file)
    assert file.stat().st_size <= MAX_GIF_BYTES
    with Image.open(file) as animation:
        shown_ms = 0
        for index in range(animation.n_frames):
            animation.seek(index)
            shown_ms += animation.info["duration"]
    frames = [len(episode.frames) for episode in recorder.episodes.values()]
    # The GIF merges equal frames.
    assert shown_ms == sum((count - 1) * FRAME_MS + LAST_FRAME_MS for count in frames)


@pytest.mark.parametrize(("cell", "to_the_right", "to_the_front"), [(0, -1, 1), (3, -1, -1), (4, 1, -1), (7, 1, 1)])
def test_a_touched_cell_lights_up_where_it_is_on_the_rover(tmp_path, cell, to_the_right, to_the_front):
    touch_n = np.zeros(8, np.float32)
    touch_n[cell] = 5.0
    blank = np.zeros((64, 64, 3), np.uint8)
    frame = EpisodeFrame(
        0.1, blank, touch_n, np.zeros(2, np.float32), np.zeros((PANEL_PX, PANEL_PX, 3), np.uint8), (0.0, 0.0)
    )
    draw_episodes({1: RecordedEpisode([frame], success=False)}, "driver", "", tmp_path / "still.gif")
    with Image.open(tmp_path / "still.gif") as still:
        panel = np.asarray(still.convert("RGB"), float)[TOP_PX : TOP_PX + PANEL_PX, GAP_PX + PANEL_PX + GAP_PX :][
            :, :PANEL_PX
        ]
    redness = panel[..., 0] - panel[..., 2]
    rows, columns = np.nonzero(redness > 100.0)
    assert np.sign(columns.mean() - PANEL_PX / 2) == to_the_right
    assert np.sign(PANEL_PX / 2 - rows.mean()) == to_the_front


def test_unused_observations_have_a_caption(recorders, tmp_path):
    frame = recorders[0][0].episodes[1002].frames[1]
    # Below camera and bumper: a grey caption, the colour scale, or nothing.
    for unread, beneath in (
        ((), ("nothing", "colours")),
        (("touch",), ("nothing", "words")),
        (("image",), ("words", "colours")),
    ):
        draw_episodes({1: RecordedEpisode([frame], success=False)}, "driver", "", tmp_path / "still.gif", unread)
        with Image.open(tmp_path / "still.gif") as still:
            strip = np.asarray(still.convert("RGB"), int)[TOP_PX + PANEL_PX + 2 :]
        found = []
        for left in (GAP_PX, 2 * GAP_PX + PANEL_PX):
            red, _, blue = np.moveaxis(strip[:, left : left + PANEL_PX], -1, 0)
            drawn = "words" if np.ptp(red) > 50 else "nothing"
            found.append("colours" if (red - blue).max() > 100 else drawn)
        assert tuple(found) == beneath


def test_an_animation_has_one_episode_by_default(tmp_path, capsys):
    main(["evaluate", "--driver", "scripted", "--seed", "1004", "--gif", str(tmp_path / "one.gif")])
    assert "of 1 episodes succeeded" in capsys.readouterr().out
    assert (tmp_path / "one.gif").stat().st_size > 10_000
