# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import gc
import itertools
import logging
import subprocess
import sys

import mujoco
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from renderers import renderer_or_skip
from stable_baselines3.common.env_checker import check_env as check_env_for_stable_baselines3

from policy_node_rover.arena.description import ARENA, OBSTACLES, ROVER
from policy_node_rover.arena.layout import clearance_m, draw_layout
from policy_node_rover.mujoco import rendering
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.environment import RoverArenaEnv, RoverTask
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import RendererError, make_renderer
from policy_node_rover.mujoco.scripted_driver import scripted_command


@pytest.fixture(scope="module")
def model():
    return ArenaModel()


def drive(arena, linear_m_s, angular_rad_s, duration_s):
    """Drive with one command, and yield after each control period."""
    arena.command(linear_m_s, angular_rad_s)
    for _ in range(round(duration_s / 0.05)):
        arena.advance(0.05)
        yield


def put(arena, x_m, y_m, yaw_rad):
    """Place the rover at a pose, at rest."""
    arena.data.qpos[:] = x_m, y_m, yaw_rad
    arena.data.qvel[:] = 0.0
    arena.command(0.0, 0.0)
    arena.advance(0.01)


def empty_arena(model, beacon=(1.7, 1.7)):
    """Return an arena without obstacles and with the beacon in a corner."""
    arena = Arena(model, 0)
    for placed in arena.layout.obstacles:
        arena.data.mocap_pos[model.mocap[placed.obstacle.name]] = 0.0, 0.0, -5.0
    arena.data.mocap_pos[model.mocap["beacon"]] = *beacon, 0.0
    put(arena, 0.0, 0.0, 0.0)
    return arena


def test_equal_seeds_give_equal_layouts_and_trajectories(model):
    first, second, other = Arena(model, 7), Arena(model, 1), Arena(model, 8)
    second.reset(7)
    for arena in (first, second, other):
        for _ in drive(arena, 0.5, 0.7, 3.0):
            pass
    assert first.layout.beacon == second.layout.beacon != other.layout.beacon
    assert first.pose == second.pose != other.pose
    np.testing.assert_array_equal(first.touch_n, second.touch_n)


def test_layouts_keep_the_clearances():
    for seed in range(100):
        layout = draw_layout(np.random.default_rng(seed))
        assert len(layout.obstacles) == len(OBSTACLES)
        for one, two in itertools.combinations(layout.obstacles, 2):
            gaps = np.linalg.norm(one.outline_m[:, None] - two.outline_m[None], axis=-1)
            assert gaps.min() - one.obstacle.radius_m - two.obstacle.radius_m >= ARENA.passage_m
        for placed in layout.obstacles:
            to_wall = ARENA.half_size_m - np.abs(placed.outline_m).max() - placed.obstacle.radius_m
            assert to_wall >= ARENA.passage_m
            to_beacon = np.linalg.norm(placed.outline_m - layout.beacon, axis=1).min()
            assert to_beacon - placed.obstacle.radius_m - ARENA.beacon_radius_m >= ARENA.beacon_clearance_m
        x, y, _ = layout.rover
        assert clearance_m(np.array([[x, y]]), layout.obstacles) >= ROVER.radius_m + ARENA.rover_clearance_m
        assert np.hypot(x - layout.beacon[0], y - layout.beacon[1]) >= ARENA.beacon_distance_m
    assert ARENA.passage_m > 2 * ROVER.radius_m


@pytest.mark.parametrize(("linear", "angular"), [(0.5, 0.0), (-0.25, 0.0), (0.0, 1.5), (0.3, -1.0)])
def test_the_rover_reaches_the_commanded_velocity(model, linear, angular):
    arena = empty_arena(model)
    for _ in drive(arena, linear, angular, 1.0):
        pass
    np.testing.assert_allclose(arena.velocity, (linear, angular), atol=0.02)
    expected_yaw = angular * 1.0
    assert arena.pose[2] == pytest.approx(expected_yaw, abs=0.15)


def test_commands_are_clipped_to_the_limits(model):
    arena = empty_arena(model)
    for _ in drive(arena, 0.0, 50.0, 1.0):
        pass
    assert arena.velocity[1] == pytest.approx(ROVER.max_angular_rad_s, abs=0.02)
    for _ in drive(arena, -9.0, 0.0, 1.0):
        pass
    assert arena.velocity[0] == pytest.approx(-ROVER.max_reverse_m_s, abs=0.02)


def test_time_advances_by_the_duration_whatever_the_time_step(model):
    arena = Arena(model, 0)
    for _ in range(60):
        arena.advance(1 / 60)
    assert arena.time_s == pytest.approx(1.0, abs=ARENA.timestep_s)


@pytest.mark.parametrize("cell", range(ROVER.touch_cells))
def test_each_touch_cell_feels_its_own_sector(model, cell):
    arena = empty_arena(model)
    bearing = (cell + 0.5) * np.pi / 4
    post = ROVER.radius_m + ARENA.post_radius_m - 0.002
    arena.data.mocap_pos[model.mocap["post_0"]] = post * np.cos(bearing), post * np.sin(bearing), 0.0
    arena.advance(0.02)
    assert arena.touch_n.argmax() == cell
    assert np.count_nonzero(arena.touch_n) == 1


def test_touch_is_felt_saturates_and_fades(model):
    arena = empty_arena(model)
    put(arena, ARENA.half_size_m - ROVER.radius_m - 0.02, 0.0, 0.0)
    for _ in drive(arena, 0.5, 0.0, 1.0):
        pass
    assert arena.touch_n.dtype == np.float32
    assert arena.touch_n.max() == ROVER.touch_limit_n
    assert arena.collisions == 1
    for _ in drive(arena, -0.3, 0.0, 0.5):
        pass
    assert 0.0 < arena.touch_n.max() < ROVER.touch_limit_n
    for _ in drive(arena, 0.0, 0.0, 2.0):
        pass
    assert arena.touch_n.max() == 0.0


def test_a_press_counts_and_moves_the_beacon(model):
    arena = empty_arena(model, beacon=(0.8, 0.0))
    steps = 0
    for _ in drive(arena, 0.5, 0.0, 3.0):
        steps += 1
        if arena.presses:
            break
    assert arena.presses == 1
    assert arena.pose[0] == pytest.approx(0.8 - ARENA.beacon_radius_m - ROVER.radius_m, abs=0.03)
    place = arena.data.mocap_pos[model.mocap["beacon"]][:2]
    assert tuple(place) == arena.layout.beacon
    assert np.hypot(*(place - arena.data.qpos[:2])) >= ARENA.beacon_distance_m
    for _ in drive(arena, 0.0, 0.0, 0.5):
        pass
    assert arena.presses == 1


@pytest.mark.parametrize("kind", ["egl", "raycast"])
def test_transparent_obstacles_are_felt_but_not_seen_by_the_rover(model, kind):
    renderer = renderer_or_skip(model, kind)
    arena = empty_arena(model)
    nothing, nothing_above = renderer.camera(arena), renderer.overhead(arena)
    for name in ("glass_post_0", "glass_wall_0"):
        arena = empty_arena(model)
        arena.data.mocap_pos[model.mocap[name]] = 0.6, 0.0, 0.0
        arena.advance(0.01)
        np.testing.assert_array_equal(renderer.camera(arena), nothing)
        assert np.any(renderer.overhead(arena) != nothing_above)
        for _ in drive(arena, 0.5, 0.0, 2.0):
            pass
        assert arena.touch_n.max() > 1.0
    arena = empty_arena(model)
    arena.data.mocap_pos[model.mocap["post_0"]] = 0.6, 0.0, 0.0
    arena.advance(0.01)
    assert np.any(renderer.camera(arena) != nothing)
    renderer.close()


def test_the_optimised_image_equals_that_of_the_whole_scene(model):
    renderer = renderer_or_skip(model, "egl")
    # Render the whole scene in the same context.
    option = mujoco.MjvOption()
    option.geomgroup[1:] = 0
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera_id
    scene = mujoco.MjvScene(model.model, maxgeom=100)
    for flag in ("SHADOW", "REFLECTION", "FOG"):
        scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
    viewport, expected = mujoco.MjrRect(0, 0, 64, 64), np.empty((64, 64, 3), np.uint8)
    given = np.empty((64, 64, 3), np.uint8)
    rng = np.random.default_rng(0)
    for seed in range(20):
        arena = Arena(model, seed)
        for _ in range(20):
            # Anywhere, also inside obstacles.
            arena.data.qpos[:] = *rng.uniform(-1.9, 1.9, 2), rng.uniform(-np.pi, np.pi)
            mujoco.mj_forward(model.model, arena.data)
            assert renderer.camera(arena, given) is given
            mujoco.mjv_updateScene(model.model, arena.data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
            mujoco.mjr_render(viewport, scene, renderer._render_context)
            mujoco.mjr_readPixels(expected, None, viewport, renderer._render_context)
            np.testing.assert_array_equal(given, expected[::-1])
    renderer.close()


def is_beacon(image):
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    return (red > 80) & (green < 60) & (blue < 60)


@pytest.mark.parametrize("kind", ["egl", "raycast"])
def test_the_camera_looks_forward(model, kind):
    renderer = renderer_or_skip(model, kind)
    arena = empty_arena(model, beacon=(1.5, 0.5))
    image = renderer.camera(arena)
    assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
    _, columns = np.nonzero(is_beacon(image))
    assert len(columns) > 10
    assert columns.max() < 32
    # Seen from above the beacon is to the right of and above the rover in the middle.
    rows, columns = np.nonzero(is_beacon(renderer.overhead(arena, 200)))
    scale = 200 / (2 * (ARENA.half_size_m + 0.1))
    assert columns.mean() == pytest.approx(100 + 1.5 * scale, abs=2)
    assert rows.mean() == pytest.approx(100 - 0.5 * scale, abs=2)
    renderer.close()


def test_both_renderers_draw_the_same_images(model):
    opengl = renderer_or_skip(model, "egl")
    raycast = make_renderer(model, "raycast")
    for seed in range(20):
        arena = Arena(model, seed)
        one, two = opengl.camera(arena).astype(int), raycast.camera(arena).astype(int)
        assert np.abs(one - two).mean() < 0.5
        union = np.count_nonzero(is_beacon(one) | is_beacon(two))
        assert np.count_nonzero(is_beacon(one) & is_beacon(two)) >= 0.9 * union
        above = np.abs(opengl.overhead(arena).astype(int) - raycast.overhead(arena)).mean()
        assert above < 2.0
    opengl.close()


@pytest.mark.parametrize("kind", ["egl", "raycast"])
def test_renderers_are_independent(model, kind):
    arena = Arena(model, 3)
    first = renderer_or_skip(model, kind)
    expected = first.camera(arena)
    second = make_renderer(model, kind)
    np.testing.assert_array_equal(second.camera(arena), expected)
    np.testing.assert_array_equal(first.camera(arena), expected)
    del first
    gc.collect()
    np.testing.assert_array_equal(second.camera(arena), expected)
    third = make_renderer(model, kind)
    second.close()
    second.close()
    np.testing.assert_array_equal(third.camera(arena), expected)
    third.close()


def test_a_process_may_end_with_a_renderer_open(model):
    renderer_or_skip(model, "egl").close()
    program = (
        "import weakref\n"
        "from policy_node_rover.mujoco.rendering import *\n"
        "weakref.finalize(Arena, print)\n"
        "model = ArenaModel()\n"
        "kept = [make_renderer(model, 'egl') for _ in range(2)]\n"
        "kept[0].camera(Arena(model, 0))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_without_egl_the_images_are_ray_cast(model, monkeypatch, caplog):
    # With another platform, EGL fails in the trial process.
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    rendering.egl_failure.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert make_renderer(model).kind == "raycast"
    assert "PYOPENGL_PLATFORM" in caplog.text
    with pytest.raises(RendererError, match="PYOPENGL_PLATFORM"):
        make_renderer(model, "egl")
    rendering.egl_failure.cache_clear()


def test_an_unknown_renderer_is_refused(model):
    with pytest.raises(ValueError, match=r"'vulkan'.*auto, egl, raycast"):
        make_renderer(model, "vulkan")


def test_the_environment_passes_the_checkers():
    environment = RoverArenaEnv(renderer="raycast", render_mode="rgb_array")
    check_env(environment, skip_render_check=True)
    check_env_for_stable_baselines3(environment)
    assert environment.render().shape == (320, 320, 3)
    first, _ = environment.reset(seed=5)
    again, _ = environment.reset(seed=5)
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    environment.close()


@pytest.mark.parametrize("action", [[0.1, 0.2, 0.3], [0.1], [float("nan"), 0.0], [0.0, float("inf")], [[0.1, 0.2]]])
def test_an_action_that_is_not_two_finite_numbers_is_refused(action):
    environment = RoverArenaEnv(renderer="raycast")
    environment.reset(seed=3)
    before = environment.task.arena.time_s
    with pytest.raises(ValueError, match=r"action: found .*, but it must give forward speed in m/s and turn rate"):
        environment.step(np.array(action, np.float32))
    assert environment.task.arena.time_s == before


def test_a_step_needs_an_episode_that_runs(monkeypatch):
    monkeypatch.setattr("policy_node_rover.mujoco.environment.EPISODE_STEPS", 1)
    environment = RoverArenaEnv(renderer="raycast")
    with pytest.raises(ResetNeeded, match="call reset first"):
        environment.step(np.zeros(2))
    environment.reset(seed=3)
    assert environment.step(np.zeros(2))[3], "the only step of the episode"
    with pytest.raises(ResetNeeded, match="after the end of an episode"):
        environment.step(np.zeros(2))


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(ValueError, match="render_mode: found 'human', allowed are None and 'rgb_array'"):
        RoverArenaEnv(renderer="raycast", render_mode="human")


def test_the_reward_sums_progress_time_and_press():
    environment = RoverArenaEnv(renderer="raycast")
    environment.reset(seed=3)
    arena = environment.task.arena
    distance, bearing = arena.beacon_polar
    total, terminated, truncated, steps = 0.0, False, False, 0
    while not (terminated or truncated):
        _, reward, terminated, truncated, info = environment.step(np.array(scripted_command(arena), np.float32))
        total += reward
        steps += 1
    assert terminated
    assert info["is_success"]
    assert total == pytest.approx(distance + 0.3 * (1 - np.cos(bearing)) + 5.0 - 0.01 * steps)


def test_the_scripted_driver_presses_most_beacons():
    task = RoverTask(ArenaModel())
    presses = 0
    for seed in range(20):
        task.reset(seed)
        ended = False
        while not ended:
            _, terminated, truncated, _ = task.step(np.array(scripted_command(task.arena)))
            ended = terminated or truncated
        presses += terminated
    assert presses >= 17
