# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The SDF of rover and arena equals the compiled MuJoCo model; both are parsed, not taken from the description."""

import itertools
import re
from dataclasses import dataclass
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_node_rover.gazebo import sdf
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import make_renderer

ARENAS = ArenaModel()
MODEL = ARENAS.model
ROVER = ElementTree.fromstring(sdf.rover_sdf("rover_0", "ogre")).find("model")
WORLD = ElementTree.fromstring(sdf.world_sdf(1, 0, "ogre")).find("world")
OBSTACLES = [name for name in ARENAS.mocap if name != "beacon"]


def numbers(element, path):
    return np.array([float(word) for word in element.findtext(path).split()])


def named(element, tag, name):
    return next(found for found in element.iter(tag) if found.get("name") == name)


def transform(element):
    """Return the homogeneous matrix [4, 4] of an element's pose in its parent's frame."""
    matrix = np.eye(4)
    if element.find("pose") is not None:
        *matrix[:3, 3], roll, pitch, yaw = numbers(element, "pose")
        for angle, axis in ((yaw, 2), (pitch, 1), (roll, 0)):
            quaternion, turn = np.zeros(4), np.zeros(9)
            mujoco.mju_axisAngle2Quat(quaternion, np.eye(3)[axis], angle)
            mujoco.mju_quat2Mat(turn, quaternion)
            matrix[:3, :3] = matrix[:3, :3] @ turn.reshape(3, 3)
    return matrix


@dataclass
class Body:
    """A link, a collision or a visual in the frame of its model."""

    element: ElementTree.Element
    matrix: np.ndarray


def bodies(model, tag):
    """Return the collisions or visuals of a model by name, in the model's frame."""
    found = {}
    for link in model.iter("link"):
        for element in link.findall(tag):
            found[element.get("name")] = Body(element, transform(link) @ transform(element))
    return found


def geom_matrix(geom_id):
    """Return the homogeneous matrix [4, 4] of a geom in its body's frame."""
    matrix = np.eye(4)
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, MODEL.geom_quat[geom_id])
    matrix[:3, :3], matrix[:3, 3] = turn.reshape(3, 3), MODEL.geom_pos[geom_id]
    return matrix


def sizes(element):
    """Return kind and sizes of a shape in MuJoCo's convention: radii and half lengths."""
    (shape,) = element.find("geometry")
    if shape.tag in ("box", "plane"):
        return shape.tag, numbers(shape, "size") / 2
    lengths = [float(shape.findtext("radius"))]
    if shape.tag != "sphere":
        lengths.append(float(shape.findtext("length")) / 2)
    return shape.tag, np.array(lengths)


def geom_sizes(geom_id):
    kind = mujoco.mjtGeom(MODEL.geom_type[geom_id]).name.removeprefix("mjGEOM_").lower()
    count = {"sphere": 1, "capsule": 2, "cylinder": 2, "box": 3, "plane": 2}[kind]
    return kind, MODEL.geom_size[geom_id][:count]


def assert_same_geometry(body, geom_id):
    kind, lengths = sizes(body.element)
    expected_kind, expected_lengths = geom_sizes(geom_id)
    assert kind == expected_kind
    np.testing.assert_allclose(lengths, expected_lengths, rtol=1e-6)
    np.testing.assert_allclose(body.matrix[:3, 3], MODEL.geom_pos[geom_id], atol=1e-6)
    # Round shapes are symmetric about their axis, and their ends are equal.
    axes = range(3) if kind == "box" else [2]
    for axis in axes:
        assert abs(body.matrix[:3, axis] @ geom_matrix(geom_id)[:3, axis]) == pytest.approx(1.0)


def standing():
    """Return collisions and visuals of the arena and the beacon by name."""
    arena, beacon = named(WORLD, "model", "arena_0"), named(WORLD, "model", "beacon_0")
    return bodies(arena, "collision") | bodies(beacon, "collision"), bodies(arena, "visual") | bodies(beacon, "visual")


def test_mass_and_inertia_are_the_same():
    masses, centres, inertias = [], [], []
    for link in ROVER.iter("link"):
        inertial = link.find("inertial")
        matrix = transform(link) @ transform(inertial)
        tensor = np.diag([float(inertial.findtext(f"inertia/{name}")) for name in ("ixx", "iyy", "izz")])
        for name, (row, column) in {"ixy": (0, 1), "ixz": (0, 2), "iyz": (1, 2)}.items():
            tensor[row, column] = tensor[column, row] = float(inertial.findtext(f"inertia/{name}"))
        masses.append(float(inertial.findtext("mass")))
        centres.append(matrix[:3, 3])
        inertias.append(matrix[:3, :3] @ tensor @ matrix[:3, :3].T)
    centre = np.average(centres, axis=0, weights=masses)
    inertia = sum(inertias)
    for mass, at in zip(masses, centres - centre, strict=True):
        inertia = inertia + mass * (at @ at * np.eye(3) - np.outer(at, at))
    body = MODEL.body("rover")
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, body.iquat)
    turn = turn.reshape(3, 3)
    assert sum(masses) == pytest.approx(float(body.mass[0]))
    np.testing.assert_allclose(centre, body.ipos, atol=1e-9)
    np.testing.assert_allclose(inertia, turn @ np.diag(body.inertia) @ turn.T, atol=1e-7)


def test_wheels_are_the_same():
    drive = named(ROVER, "plugin", "gz::sim::systems::DiffDrive")
    places = {}
    for side in ("left", "right"):
        joint = named(ROVER, "joint", drive.findtext(f"{side}_joint"))
        link = named(ROVER, "link", joint.findtext("child"))
        matrix = transform(link)
        site, actuator = MODEL.site(f"wheel_{side}"), MODEL.actuator(f"wheel_{side}")
        places[side] = matrix[:3, 3]
        np.testing.assert_allclose(matrix[:3, 3], site.pos, atol=1e-9)
        # A positive rotation drives forward.
        np.testing.assert_allclose(matrix[:3, :3] @ numbers(joint, "axis/xyz"), (0, 1, 0), atol=1e-9)
        kind, (radius_m,) = sizes(link.find("collision"))
        assert kind == "sphere"
        assert radius_m == pytest.approx(site.pos[2]) == pytest.approx(float(drive.findtext("wheel_radius")))
        # The force limit of the motor, and the slip of the tyre.
        assert float(joint.findtext("axis/limit/effort")) / radius_m == pytest.approx(actuator.forcerange[1])
        slip = float(link.findtext("collision/surface/friction/ode/slip1"))
        assert 1 / slip == pytest.approx(actuator.gainprm[0])
        sideways = float(link.findtext("collision/surface/friction/ode/slip2"))
        assert 2 / sideways == pytest.approx(MODEL.actuator("scrub").gainprm[0] or -MODEL.actuator("scrub").biasprm[2])
    separation_m = float(drive.findtext("wheel_separation"))
    assert separation_m == pytest.approx(places["left"][1] - places["right"][1])


def test_limits_of_the_velocity_are_the_same():
    drive = named(ROVER, "plugin", "gz::sim::systems::DiffDrive")
    arena = Arena(ARENAS, 0)
    reached = {}
    for name, command in {"max": (99.0, 99.0), "min": (-99.0, -99.0)}.items():
        for kind, (linear, angular) in {"linear": (command[0], 0.0), "angular": (0.0, command[1])}.items():
            arena.command(linear, angular)
            left, right = arena.data.ctrl[:2]
            separation_m = float(drive.findtext("wheel_separation"))
            reached[name, kind] = (left + right) / 2 if kind == "linear" else (right - left) / separation_m
    for (name, kind), value in reached.items():
        assert float(drive.findtext(f"{name}_{kind}_velocity")) == pytest.approx(value)


def touch_spheres():
    """Group the collisions of the bumper by the touch cell at the end of their names."""
    spheres = {}
    for name, body in bodies(ROVER, "collision").items():
        if (cell := re.search(r"touch_\d+$", name)) is not None:
            spheres.setdefault(cell[0], []).append(body)
    return spheres


def test_touch_cells_are_the_same():
    sites = {MODEL.site(site).name: MODEL.site(site) for site in range(MODEL.nsite)}
    sites = {name: site for name, site in sites.items() if name.startswith("touch_")}
    cells = touch_spheres()
    assert sorted(sites) == sorted(cells)
    sensed = {element.text for element in named(ROVER, "sensor", "bumper_contacts").findall("contact/collision")}
    assert sensed == {body.element.get("name") for spheres in cells.values() for body in spheres}
    (radius_m,) = MODEL.geom("bumper").size[:1]
    centre = MODEL.geom("bumper").pos
    felt = set()
    for bearing in np.radians(np.arange(0.5, 360.0)):
        ahead = np.array([np.cos(bearing), np.sin(bearing), 0.0])
        reaches_m = {name: max(reach_m(body, centre, ahead) for body in spheres) for name, spheres in cells.items()}
        # In every direction both bumpers have the same radius.
        assert radius_m - 0.0003 < max(reaches_m.values()) <= radius_m + 1e-6
        foremost = max(reaches_m, key=reaches_m.get)
        turn = np.zeros(9)
        mujoco.mju_quat2Mat(turn, sites[foremost].quat)
        inside = (centre + radius_m * ahead - sites[foremost].pos) @ turn.reshape(3, 3)
        assert np.all(np.abs(inside) <= sites[foremost].size)
        felt.add(foremost)
    assert felt == set(cells)


def reach_m(body, centre, direction):
    """Return the distance from a point to the surface of a sphere in a direction."""
    kind, (radius_m,) = sizes(body.element)
    assert kind == "sphere"
    offset = body.matrix[:3, 3] - centre
    along = offset @ direction
    return along + np.sqrt(radius_m**2 - offset @ offset + along**2)


def test_the_bumper_collides_with_the_same_bodies():
    geom = MODEL.geom("bumper")
    spheres = list(itertools.chain(*touch_spheres().values()))
    others = standing()[0] | bodies(named(WORLD, "model", "ground"), "collision")
    felt = {
        MODEL.geom(other).name
        for other in range(MODEL.ngeom)
        if (MODEL.geom_contype[other] & geom.conaffinity[0]) | (geom.contype[0] & MODEL.geom_conaffinity[other])
    }
    for sphere in spheres:
        assert {name for name, other in others.items() if mask(other.element) & mask(sphere.element)} == felt
    # Gazebo uses the smaller friction of two bodies, MuJoCo that of the bumper, which has priority.
    assert geom.condim == 3
    for body in (*spheres, *(others[name] for name in felt)):
        assert numbers(body.element, "surface/friction/ode/mu") == geom.friction[0]
        assert numbers(body.element, "surface/friction/ode/mu2") == geom.friction[0]
    # With DART's default solver the bumper has no friction.
    assert WORLD.findtext("physics/dart/solver/solver_type") == "pgs"


def mask(collision):
    return int(collision.findtext("surface/contact/collide_bitmask"))


def test_the_rover_stands_on_its_wheels():
    ground = bodies(named(WORLD, "model", "ground"), "collision")["ground"]
    lowest_m = {
        name: body.matrix[2, 3] - sizes(body.element)[1][0]
        for name, body in bodies(ROVER, "collision").items()
        if mask(body.element) & mask(ground.element)
    }
    for name, height_m in lowest_m.items():
        assert height_m == pytest.approx(0.0 if name.startswith("wheel") else 0.0005, abs=1e-9)
    assert len(lowest_m) == 4


def test_cameras_are_the_same():
    sensor = named(ROVER, "sensor", "camera")
    camera, expected = sensor.find("camera"), MODEL.camera("camera")
    matrix = transform(sensor)
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, expected.quat)
    # Gazebo's cameras look along x with z up, MuJoCo's along -z with y up.
    looks, up = -axes.reshape(3, 3)[:, 2], axes.reshape(3, 3)[:, 1]
    np.testing.assert_allclose(matrix[:3, 3], expected.pos, atol=1e-9)
    np.testing.assert_allclose(matrix[:3, :3] @ (1, 0, 0), looks, atol=1e-9)
    np.testing.assert_allclose(matrix[:3, :3] @ (0, 0, 1), up, atol=1e-9)
    image = make_renderer(ARENAS, "raycast").camera(Arena(ARENAS, 0))
    width, height = int(camera.findtext("image/width")), int(camera.findtext("image/height"))
    assert (height, width, 3) == image.shape
    vertical = 2 * np.arctan(np.tan(float(camera.findtext("horizontal_fov")) / 2) * height / width)
    assert np.degrees(vertical) == pytest.approx(expected.fovy[0])
    assert float(camera.findtext("clip/near")) == pytest.approx(MODEL.vis.map.znear * MODEL.stat.extent, rel=1e-6)


def is_seen(visual):
    flags = int(visual.findtext("visibility_flags", str(0xFFFFFFFF)))
    return bool(flags & int(named(ROVER, "sensor", "camera").findtext("camera/visibility_mask")))


def test_everything_in_the_arena_has_the_same_shape_and_place():
    collisions, visuals = standing()
    names = ["outer_wall_east", "outer_wall_west", "outer_wall_north", "outer_wall_south", *OBSTACLES, "beacon"]
    assert sorted(collisions) == sorted(names)
    for name in names:
        link = next(link for link in WORLD.iter("link") if any(c.get("name") == name for c in link.iter("collision")))
        body = collisions[name]
        # The pose of an obstacle is that of its link; in MuJoCo that of its body.
        inside = Body(body.element, np.linalg.inv(transform(link)) @ body.matrix)
        assert_same_geometry(inside, MODEL.geom(name).id)
        np.testing.assert_allclose(visuals[f"{name}_visual"].matrix, body.matrix)
        assert_same_geometry(Body(visuals[f"{name}_visual"].element, inside.matrix), MODEL.geom(name).id)
    kind, half_size_m = sizes(visuals["floor"].element)
    assert kind == "plane"
    np.testing.assert_allclose(half_size_m, MODEL.geom("floor").size[:2])


def test_the_rover_looks_the_same():
    visuals = bodies(ROVER, "visual")
    geoms = [geom for geom in range(MODEL.ngeom) if MODEL.geom_bodyid[geom] == MODEL.body("rover").id]
    drawn = [geom for geom in geoms if MODEL.geom_matid[geom] >= 0]
    assert len(visuals) == len(drawn)
    for geom, visual in itertools.product(drawn, visuals.values()):
        if np.allclose(visual.matrix[:3, 3], MODEL.geom_pos[geom]):
            assert_same_geometry(visual, geom)
            drawn = [other for other in drawn if other != geom]
    assert drawn == []


def test_the_camera_sees_what_it_sees_in_mujoco():
    _, visuals = standing()
    for name, body in (visuals | bodies(ROVER, "visual")).items():
        name = name.removesuffix("_visual")
        hidden = name not in [MODEL.geom(geom).name for geom in range(MODEL.ngeom) if MODEL.geom_group[geom] == 0]
        assert is_seen(body.element) != hidden, name
    assert sum(not is_seen(body.element) for body in visuals.values()) == 3


def test_light_and_colours_are_the_same():
    _, visuals = standing()
    sun = WORLD.find("light")
    direction = numbers(sun, "direction")
    np.testing.assert_allclose(direction / np.linalg.norm(direction), MODEL.light_dir[0], atol=1e-6)
    np.testing.assert_allclose(numbers(sun, "diffuse")[:3], MODEL.light_diffuse[0], atol=1e-6)
    assert {visual.findtext("cast_shadows") for visual in WORLD.iter("visual")} == {"false"}
    sky = numbers(WORLD, "scene/background")[:3]
    np.testing.assert_allclose(sky * 255, MODEL.tex_data[:3], atol=1.0)
    for name, body in visuals.items():
        geom = MODEL.geom(name.removesuffix("_visual")).id
        colour = MODEL.mat_rgba[MODEL.geom_matid[geom]]
        material = body.element.find("material")
        np.testing.assert_allclose(numbers(material, "diffuse")[:3], colour[:3], atol=1e-6)
        unlit = (
            numbers(material, "emissive")[:3] + numbers(material, "ambient")[:3] * numbers(WORLD, "scene/ambient")[:3]
        )
        np.testing.assert_allclose(unlit, colour[:3] * MODEL.light_ambient[0], atol=1e-6)
        assert 1 - float(body.element.findtext("transparency", "0")) == pytest.approx(colour[3])


@pytest.mark.parametrize("render_engine", ["ogre", "ogre2"])
def test_the_floor_is_as_bright_as_in_mujoco(render_engine):
    world = ElementTree.fromstring(sdf.world_sdf(1, 0, render_engine)).find("world")
    material = next(visual for visual in world.iter("visual") if visual.get("name") == "floor").find("material")
    light = numbers(world, "light/diffuse")[:3] * numbers(world, "light/intensity")
    falls_at = -MODEL.light_dir[0][2]
    encode = {"ogre": lambda part: part, "ogre2": srgb}[render_engine]
    if render_engine == "ogre2":
        # The factor of its shader on Lambert's reflection, seen from the light.
        roughness, metalness = (float(material.findtext(f"pbr/metal/{name}")) for name in ("roughness", "metalness"))
        assert metalness == 0
        light *= (1 + roughness * (1 / 1.51 - 1)) * (1 - 0.03)
    brightness = numbers(material, "emissive")[:3] + numbers(material, "diffuse")[:3] * light * falls_at
    expected = MODEL.material("floor").rgba[:3] * (MODEL.light_ambient[0] + MODEL.light_diffuse[0] * falls_at)
    np.testing.assert_allclose([encode(part) for part in brightness], expected, atol=0.01)
    background = [encode(part) for part in numbers(world, "scene/background")[:3]]
    np.testing.assert_allclose(np.array(background) * 255, MODEL.tex_data[:3], atol=1.0)


def srgb(linear):
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


@settings(max_examples=15, deadline=None)
@given(robots=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_equal_seeds_give_equal_layouts(robots, seed):
    world = ElementTree.fromstring(sdf.world_sdf(robots, seed)).find("world")
    for robot in range(robots):
        arena = Arena(ARENAS, seed + robot)
        model, rover = named(world, "model", f"arena_{robot}"), named(world, "model", f"rover_{robot}")
        origin = transform(model)
        places = {name: origin @ transform(named(model, "link", name)) for name in OBSTACLES}
        places["beacon"] = transform(named(world, "model", f"beacon_{robot}"))
        for name, row in ARENAS.mocap.items():
            turn = np.zeros(9)
            mujoco.mju_quat2Mat(turn, arena.data.mocap_quat[row])
            np.testing.assert_allclose((places[name] - origin)[:3, 3], arena.data.mocap_pos[row], atol=1e-6)
            np.testing.assert_allclose(places[name][:3, :3], turn.reshape(3, 3), atol=1e-6)
        x_m, y_m, yaw = numbers(rover, "pose")[[0, 1, 5]]
        np.testing.assert_allclose((x_m - origin[0, 3], y_m - origin[1, 3], yaw), arena.data.qpos, atol=1e-6)


@given(robots=st.integers(1, 256))
@settings(max_examples=20, deadline=None)
def test_no_camera_sees_another_arena(robots):
    origins_m = np.array([sdf.grid_origin_m(robot, robots) for robot in range(robots)])
    camera = named(ROVER, "sensor", "camera").find("camera")
    far_m = float(camera.findtext("clip/far"))
    half_size_m = float(MODEL.geom("floor").size[0])
    assert far_m >= 2 * np.sqrt(2) * half_size_m
    # At the edge of the image the far plane is farther than in its middle.
    sight_m = far_m / np.cos(float(camera.findtext("horizontal_fov")) / 2)
    for one, other in itertools.combinations(origins_m, 2):
        assert np.abs(one - other).max() - 2 * half_size_m >= sight_m


@given(robots=st.integers(1, 256))
@settings(max_examples=20, deadline=None)
def test_no_arena_covers_the_square_where_ode_misses_contacts(robots):
    half_size_m = float(MODEL.geom("floor").size[0])
    for robot in range(robots):
        origin_m = np.array(sdf.grid_origin_m(robot, robots))
        # The square metre at the origin of the world, in which ODE misses contacts of a bumper with a wall.
        assert np.any((origin_m + half_size_m < 0.0) | (origin_m - half_size_m > 1.0))


def test_an_unknown_render_engine_is_refused():
    with pytest.raises(ValueError, match=r"'vulkan'.*ogre2, ogre"):
        sdf.rover_sdf("rover_0", "vulkan")
