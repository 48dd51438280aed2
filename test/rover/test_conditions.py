# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from renderers import renderer_or_skip

from policy_node_rover.arena.conditions import (
    ADVERSE,
    CONDITIONS,
    MIN_COLOUR,
    NOMINAL,
    RANDOMISED,
    TRANSPARENT,
    Conditions,
)
from policy_node_rover.arena.description import LIGHT_DIRECTION, MATERIALS, OBSTACLES, ROVER
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.environment import CameraLink, RoverArenaEnv, RoverTask
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import make_renderer
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv

SEEDS = st.integers(0, 2**62)


@pytest.fixture(scope="module")
def model():
    return ArenaModel()


@given(st.sampled_from(list(CONDITIONS.values())), SEEDS)
def test_equal_seeds_draw_equal_conditions_within_their_ranges(conditions, seed):
    drawn = conditions.draw(np.random.default_rng(seed))
    assert drawn == conditions.draw(np.random.default_rng(seed))
    appearance = drawn.appearance
    assert drawn.camera_latency_s in conditions.camera_latencies_s
    assert conditions.dropped_images[0] <= drawn.dropped_images <= conditions.dropped_images[1]
    assert conditions.bumper_friction[0] <= drawn.bumper_friction <= conditions.bumper_friction[1]
    assert conditions.grip[0] <= drawn.grip <= conditions.grip[1]
    for name, colour in appearance.colours.items():
        change = conditions.beacon_colour_change if name == "beacon" else conditions.colour_change
        assert np.abs(np.array(colour) - MATERIALS[name][:3]).max() <= change + 1e-9
        assert min(colour) >= MIN_COLOUR
    usual, direction = np.array(LIGHT_DIRECTION), np.array(appearance.light_direction)
    cosine = usual @ direction / np.linalg.norm(usual) / np.linalg.norm(direction)
    assert cosine >= np.cos(np.radians(conditions.light_tilt_deg)) - 1e-9


@given(SEEDS)
def test_only_the_beacon_is_red(seed):
    colours = RANDOMISED.draw(np.random.default_rng(seed)).appearance.colours
    redness = {name: red - max(green, blue) for name, (red, green, blue) in colours.items()}
    beacon = redness.pop("beacon")
    assert beacon > max(redness.values())


def test_nominal_conditions_are_those_of_the_description(model):
    drawn = NOMINAL.draw(np.random.default_rng(0))
    assert drawn.appearance.colours == {name: tuple(colour[:3]) for name, colour in MATERIALS.items()}
    assert drawn.appearance.light_direction == pytest.approx(
        np.array(LIGHT_DIRECTION) / np.linalg.norm(LIGHT_DIRECTION)
    )
    assert (drawn.camera_latency_s, drawn.dropped_images, drawn.grip) == (0.0, 0.0, 1.0)
    assert drawn.bumper_friction == ROVER.bumper_friction
    assert not drawn.appearance.transparent
    # Applied, the drawn appearance gives the nominal image.
    renderer = make_renderer(model, "raycast")
    arena = Arena(model, 5)
    usual = renderer.camera(arena)
    arena.appearance = drawn.appearance
    assert np.abs(renderer.camera(arena).astype(int) - usual).max() <= 1


@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
def test_conditions_do_not_change_the_layout(model, conditions):
    task, plain = RoverTask(model, conditions), RoverTask(model)
    for seed in range(3):
        task.reset(seed)
        plain.reset(seed)
        assert task.arena.layout.beacon == plain.arena.layout.beacon
        assert task.arena.pose == plain.arena.pose


def test_surfaces_of_an_arena_do_not_change_others(model):
    task, other = RoverTask(model, RANDOMISED), RoverTask(model, RANDOMISED)
    bumper = model.model.geom("bumper").id
    task.reset(0)
    other.reset(1)
    frictions = {float(arena.model.model.geom_friction[bumper, 0]) for arena in (task.arena, other.arena)}
    assert len(frictions) == 2
    assert model.model.geom_friction[bumper, 0] == ROVER.bumper_friction
    gains = task.arena.model.model.actuator_gainprm[:, 0]
    assert (gains != model.model.actuator_gainprm[:, 0]).all()
    # Surfaces are set relative to the description, not to the previous ones.
    task.arena.model.set_surfaces(ROVER.bumper_friction, 1.0)
    assert (task.arena.model.model.actuator_gainprm == model.model.actuator_gainprm).all()


@pytest.mark.parametrize("kind", ["egl", "raycast"])
def test_transparent_obstacles_are_left_out_of_the_image(model, kind):
    renderer = renderer_or_skip(model, kind)
    task = RoverTask(model, TRANSPARENT)
    differences = 0
    for seed in range(8):
        task.reset(seed)
        transparent = renderer.camera(task.arena)
        assert all(task.arena.is_transparent(obstacle) for obstacle in OBSTACLES)
        plain = Arena(model, seed)
        differences += int((renderer.camera(plain) != transparent).any())
        for placed in plain.layout.obstacles:
            plain.data.mocap_pos[model.mocap[placed.obstacle.name]] = 0.0, 0.0, -5.0
        plain.advance(0.01)
        task.arena.advance(0.01)
        assert (renderer.camera(task.arena) == renderer.camera(plain)).mean() > 0.999
    assert differences > 0
    renderer.close()


def test_both_renderers_draw_the_same_appearances(model):
    renderers = [renderer_or_skip(model, kind) for kind in ("egl", "raycast")]
    task = RoverTask(model, RANDOMISED)
    looks = set()
    for seed in range(6):
        task.reset(seed)
        first, second = (renderer.camera(task.arena).astype(int) for renderer in renderers)
        assert (np.abs(first - second) > 2).mean() < 0.01
        looks.add(first[-1, -1].tobytes())
    assert len(looks) == 6
    # The appearance of an arena does not affect the image of another.
    plain = Arena(model, 9)
    for renderer in renderers:
        drawn = renderer.camera(plain)
        renderer.camera(task.arena)
        assert (renderer.camera(plain) == drawn).all()
        renderer.close()


@given(
    late_periods=st.integers(0, 3),
    lost=st.sampled_from([0.0, 0.2, 0.9]),
    periods=st.integers(1, 60),
    seed=SEEDS,
)
def test_images_arrive_after_the_latency_in_order_unless_lost(late_periods, lost, periods, seed):
    link = CameraLink()
    link.restart(late_periods, lost, np.random.default_rng(seed))
    sent: list[int] = []
    for period in range(periods):
        image = link.send()
        if image is not None:
            image[:] = period
            sent.append(period)
        arrived = [number for number in sent if number <= period - late_periods]
        assert link.receive()[0, 0, 0] == (arrived[-1] if arrived else 0)
    assert sent[0] == 0
    if lost == 0.0:
        assert sent == list(range(periods))


def test_the_share_of_lost_images_is_as_configured():
    link = CameraLink()
    link.restart(0, 0.2, np.random.default_rng(0))
    lost = 0
    for _ in range(5000):
        lost += link.send() is None
        link.receive()
    assert 0.17 < lost / 5000 < 0.23


def test_receiving_before_sending_is_refused():
    with pytest.raises(RuntimeError, match="call send before receive"):
        CameraLink().receive()


def test_vectorised_arenas_observe_as_single_ones(model):
    arenas = RoverArenaVecEnv(3, itertools.count(20), "raycast", 1, ADVERSE)
    observations = arenas.reset()
    renderer = make_renderer(model, "raycast")
    tasks = [RoverTask(model, ADVERSE) for _ in range(3)]
    for row, task in enumerate(tasks):
        task.reset(20 + row)
    action = np.array([0.4, 0.5], np.float32)
    for _ in range(12):
        for row, task in enumerate(tasks):
            alone = task.observe(renderer)
            assert (observations["image"][row] == alone["image"]).all()
            assert (observations["touch"][row] == alone["touch"]).all()
            task.step(action)
        arenas.step_async(np.tile(action, (3, 1)))
        observations, *_ = arenas.step_wait()
    arenas.close()


def test_a_latency_of_one_period_gives_the_previous_image():
    late = Conditions(camera_latencies_s=(0.05,))
    punctual, delayed = RoverArenaEnv("raycast"), RoverArenaEnv("raycast", conditions=late)
    action = np.array([0.5, 1.0], np.float32)
    before = punctual.reset(seed=3)[0]["image"]
    assert (delayed.reset(seed=3)[0]["image"] == before).all()
    for _ in range(5):
        seen = delayed.step(action)[0]["image"]
        # With an appearance, even the nominal one, colours are rounded differently.
        assert np.abs(seen.astype(int) - before).max() <= 1
        before = punctual.step(action)[0]["image"]


@pytest.mark.parametrize(("friction", "slides"), [(0.0, True), (ROVER.bumper_friction, False)])
def test_bumper_friction_turns_a_pushing_rover_towards_the_wall(model, friction, slides):
    own = model.copy()
    own.set_surfaces(friction, 1.0)
    arena = Arena(own, 0)
    for placed in arena.layout.obstacles:
        arena.data.mocap_pos[own.mocap[placed.obstacle.name]] = 0.0, 0.0, -5.0
    arena.data.mocap_pos[own.mocap["beacon"]] = -1.5, -1.5, 0.0
    arena.data.qpos[:] = 1.75, -1.0, np.radians(60.0)
    arena.command(0.5, 0.0)
    arena.advance(2.0)
    _, along_m, heading_rad = arena.pose
    arena.advance(0.25)
    slid_m = arena.pose[1] - along_m
    assert (slid_m > 0.05) == slides
    assert (np.degrees(heading_rad) > 55.0) == slides


def range_in_words(low, high, unit="", sign=""):
    return f"{sign}{low:g}{unit}" if low == high else f"{sign}{low:g} to {high:g}{unit}"


def in_words(conditions):
    """Format the ranges of conditions as in the documentation."""
    latencies = [f"{1000 * latency_s:g}" for latency_s in conditions.camera_latencies_s]
    late = " or ".join(filter(None, [", ".join(latencies[:-1]), latencies[-1]]))

    def change(limit):
        return f"±{limit:g}" if limit else "as described"

    return [
        f"{late} ms" if late != "0" else "0",
        range_in_words(*(100 * share for share in conditions.dropped_images), " %"),
        change(conditions.colour_change),
        change(conditions.beacon_colour_change),
        range_in_words(*conditions.light, sign="×") if conditions.light != (1.0, 1.0) else "as described",
        f"up to {conditions.light_tilt_deg:g}° off" if conditions.light_tilt_deg else "as described",
        range_in_words(*conditions.bumper_friction),
        range_in_words(*conditions.grip, sign="×"),
        f"{100 * conditions.transparent:g} %",
    ]


def test_the_documented_ranges_match_the_conditions():
    page = (Path(__file__).parents[2] / "doc" / "training.md").read_text()
    head = "| | `nominal` | `randomised` (training) | `adverse` |"
    rows = page.split(head)[1].split("\n\n")[0].splitlines()[2:]
    documented = [[cell.strip() for cell in row.strip("|").split("|")][1:] for row in rows]
    assert documented == [list(row) for row in zip(*map(in_words, (NOMINAL, RANDOMISED, ADVERSE)), strict=True)]
