# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover and its world for Gazebo (SDFormat), made of the description from which the MuJoCo model is made, too.

Each rover has an arena of its own; the arenas stand on a grid, so far apart that no camera sees another arena. What
cameras shall not see, such as transparent obstacles, is drawn for the human only: the visibility flags of these
visuals are left out of the camera's mask.

``python -m policy_node_rover.gazebo.sdf world --robots 4 --seed 0`` and ``… rover rover_0`` write the files.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from policy_node.cli.options import number
from policy_node_rover.arena.description import (
    ARENA,
    BEACON,
    BUMPER,
    BUMPER_POSITION_M,
    CAMERA_POSITION_M,
    CASTERS,
    FLOOR_HALF_SIZE_M,
    HULL,
    LIGHT_AMBIENT,
    LIGHT_DIFFUSE,
    LIGHT_DIRECTION,
    MATERIALS,
    NOSE,
    OUTER_WALLS,
    ROVER,
    SKY,
    TOUCH_CELLS,
    WHEELS,
    Box,
    Cylinder,
    Part,
    Post,
    Shape,
    Sphere,
    Vector,
)
from policy_node_rover.arena.layout import Layout, draw_layout

SDF_VERSION = "1.9"
RENDER_ENGINES = ("ogre2", "ogre")
CAMERA_RATE_HZ = 30.0
ODOMETRY_RATE_HZ = 30.0

# A camera sees as far as across its arena; the next one begins beyond the corners of what it sees.
CAMERA_FAR_M = round(2 * math.sqrt(2) * FLOOR_HALF_SIZE_M + 0.05, 1)
GRID_PITCH_M = float(math.ceil(math.sqrt(2) * CAMERA_FAR_M + 2 * FLOOR_HALF_SIZE_M))

# ODE, with which Gazebo's physics looks for contacts, overlooks those of what reaches below z = 0, as the bumper does,
# with what is 0.5 m to 1 m long and stands in the square of x and y from 0 m to 1 m: there must be no arena.
_FIRST_ARENA_X_M = GRID_PITCH_M / 2

# The bumper reaches below the floor, where nothing may stop it: each touches only what has a bit in common.
_ON_THE_FLOOR = 0x01
_AT_THE_BUMPER = 0x02

# Gazebo names the collision that was touched, so each touch cell has its own: spheres that reach out to the bumper's
# surface at their bearings. Between two, where they remain 0.1 mm behind it, posts must find no notch to rest in.
_SPHERES_PER_CELL = 6
_SPHERE_OFFSET_M = 0.04

# Bits that Gazebo's render engines leave to the user; one of them is for humans only.
_HUMANS_ONLY = 0x01000000
_CAMERA_MASK = 0x0FFFFFFF & ~_HUMANS_ONLY

_GRAVITY_M_S2 = 9.81

# At this roughness Ogre 2 reflects almost alike to all sides: this part of what Lambert's law says.
_OGRE2_ROUGHNESS = 0.5
_OGRE2_DIFFUSE = 0.806


def grid_origin_m(robot: int, robots: int) -> tuple[float, float]:
    """Say where the middle of a rover's arena is in the world; the arenas fill a square, row by row.

    The origin of the world is in none of them.

    Parameters
    ----------
    robot
        Which rover, from 0.
    robots
        How many there are.
    """
    columns = math.ceil(math.sqrt(robots))
    row, column = divmod(robot, columns)
    return _FIRST_ARENA_X_M + column * GRID_PITCH_M, -row * GRID_PITCH_M


def layout_of(robot: int, seed: int) -> Layout:
    """Draw the layout of a rover's arena: the first one that `rover_sim` has with the same seed."""
    return draw_layout(np.random.default_rng(seed + robot))


def start_pose(robot: int, robots: int, seed: int) -> tuple[float, float, float]:
    """Say where a rover starts in the world: x_m, y_m, yaw_rad."""
    x_m, y_m = grid_origin_m(robot, robots)
    start_x_m, start_y_m, yaw_rad = layout_of(robot, seed).rover
    return x_m + start_x_m, y_m + start_y_m, yaw_rad


def rover_sdf(name: str, render_engine: str = "ogre2", pose: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> str:
    """Describe one rover as an SDF model with its sensors, its drive and its odometry.

    Its topics in Gazebo: ``/model/NAME/cmd_vel``, ``/model/NAME/odometry`` (true pose in the world),
    ``/NAME/camera`` and ``/NAME/bumper_contacts``.

    Parameters
    ----------
    name
        Name of the model.
    render_engine
        ``"ogre2"`` or ``"ogre"``: they light surfaces differently, and colours make up for it.
    pose
        Where it starts: x_m, y_m, yaw_rad.
    """
    return _document(_rover(name, _Paint(render_engine), pose))


def world_sdf(robots: int, seed: int, render_engine: str = "ogre2", with_rovers: bool = True) -> str:
    """Describe the world: one arena for each rover, with the layout that `rover_sim` has for the same seed.

    The models are ``ground``, ``arena_0``, ``beacon_0``, ``rover_0`` and so on; a beacon is moved through
    ``/world/arenas/set_pose``.

    Parameters
    ----------
    robots
        How many arenas.
    seed
        Seed of the first layout; those of the others follow.
    render_engine
        ``"ogre2"`` or ``"ogre"``.
    with_rovers
        Whether the rovers stand in the world already, or will be spawned.
    """
    paint = _Paint(render_engine)
    world = ElementTree.Element("world", name="arenas")
    physics = _add(world, "physics", name="steps", type="dart")
    _add(physics, "max_step_size", ARENA.timestep_s)
    _add(physics, "real_time_factor", 1)
    _add(physics, "real_time_update_rate", 1 / ARENA.timestep_s)
    # DART's usual solver limits friction by the forces that there would be without any: a bumper that is pushed by
    # wheels, which push by friction, would slide along everything.
    _add(_add(_add(physics, "dart"), "solver"), "solver_type", "pgs")
    for system in ("Physics", "UserCommands", "SceneBroadcaster", "Contact"):
        _system(world, system)
    _add(_system(world, "Sensors"), "render_engine", render_engine)
    _add(world, "gravity", 0, 0, -_GRAVITY_M_S2)
    paint.light(world)
    world.append(_ground())
    for robot in range(robots):
        origin_m, layout = grid_origin_m(robot, robots), layout_of(robot, seed)
        world.append(_arena(f"arena_{robot}", paint, origin_m, layout))
        world.append(_beacon(f"beacon_{robot}", paint, origin_m, layout))
        if with_rovers:
            world.append(_rover(f"rover_{robot}", paint, start_pose(robot, robots, seed)))
    return _document(world)


class _Paint:
    """Light and materials that make a render engine's images look like MuJoCo's.

    A surface shall be as bright as its colour times (ambient + diffuse * cosine). That is how Ogre 1 computes.
    Ogre 2 computes light in linear colours and encodes the result as sRGB: there, colours are given decoded, and the
    brightness is exact in the shade and on the floor, the largest surface. The ambient part is emission in both, as
    the engines differ in what they make of ambient light.
    """

    def __init__(self, render_engine: str) -> None:
        if render_engine not in RENDER_ENGINES:
            raise ValueError(f"render_engine: {render_engine!r} is unknown; use one of {', '.join(RENDER_ENGINES)}")
        self._linear = render_engine == "ogre2"

    def light(self, world: ElementTree.Element) -> None:
        """Add the background and the one directional light."""
        scene = _add(world, "scene")
        _add(scene, "ambient", 0, 0, 0, 1)
        _add(scene, "background", *self._decoded(SKY), 1)
        _add(scene, "shadows", "false")
        _add(scene, "grid", "false")
        _add(scene, "origin_visual", "false")
        light = _add(world, "light", name="sun", type="directional")
        _add(light, "pose", 0, 0, 5, 0, 0, 0)
        # Ogre 1 leaves out lights without shadows; there are none, as nothing casts any.
        _add(light, "cast_shadows", "true")
        _add(light, "intensity", 1 / _OGRE2_DIFFUSE if self._linear else 1)
        _add(light, "diffuse", *[self._diffuse()] * 3, 1)
        _add(light, "specular", 0, 0, 0, 1)
        _add(light, "direction", *LIGHT_DIRECTION)

    def material(self, visual: ElementTree.Element, name: str) -> None:
        """Add a material to a visual."""
        *colour, opacity = MATERIALS[name]
        if opacity < 1.0:
            _add(visual, "transparency", 1.0 - opacity)
        material = _add(visual, "material")
        _add(material, "ambient", 0, 0, 0, 1)
        _add(material, "diffuse", *self._decoded(colour), 1)
        _add(material, "specular", 0, 0, 0, 1)
        _add(material, "emissive", *self._decoded([LIGHT_AMBIENT * part for part in colour]), 1)
        metal = _add(_add(material, "pbr"), "metal")
        _add(metal, "roughness", _OGRE2_ROUGHNESS)
        _add(metal, "metalness", 0)

    def _decoded(self, colour: Sequence[float]) -> list[float]:
        return [_linear(part) if self._linear else part for part in colour]

    def _diffuse(self) -> float:
        if not self._linear:
            return LIGHT_DIFFUSE
        on_the_floor = -LIGHT_DIRECTION[2] / math.hypot(*LIGHT_DIRECTION)
        lit = _linear(LIGHT_AMBIENT + LIGHT_DIFFUSE * on_the_floor)
        return (lit - _linear(LIGHT_AMBIENT)) / on_the_floor


def _linear(encoded: float) -> float:
    """Decode one part of an sRGB colour."""
    return encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4


def _rover(name: str, paint: _Paint, pose: tuple[float, float, float]) -> ElementTree.Element:
    x_m, y_m, yaw_rad = pose
    model = ElementTree.Element("model", name=name, canonical_link="base_link")
    _add(model, "pose", x_m, y_m, 0, 0, 0, yaw_rad)
    base = _add(model, "link", name="base_link")
    _inertia(base, HULL)
    for name_of_sphere, sphere, position_m in _bumper():
        _collision(base, name_of_sphere, sphere, position_m, _AT_THE_BUMPER, ROVER.bumper_friction)
    for caster in CASTERS:
        _collision(base, caster.name, caster.shape, caster.position_m, _ON_THE_FLOOR, friction=0)
    for part in (HULL, NOSE):
        _visual(base, paint, part, _HUMANS_ONLY)
    _camera(base, name)
    _bumper_sensor(base, name)
    for wheel in WHEELS:
        _wheel(model, paint, wheel)
    _drive(model, name)
    _odometry(model, name)
    return model


def _bumper() -> Iterator[tuple[str, Sphere, Vector]]:
    """Make the spheres that are the bumper: name, which ends with that of the cell, shape and position."""
    sphere = Sphere(BUMPER.radius_m - _SPHERE_OFFSET_M)
    sector_rad = 2 * math.pi / len(TOUCH_CELLS)
    x_m, y_m, z_m = BUMPER_POSITION_M
    for cell in TOUCH_CELLS:
        for index in range(_SPHERES_PER_CELL):
            bearing_rad = cell.bearing_rad + ((index + 0.5) / _SPHERES_PER_CELL - 0.5) * sector_rad
            ahead_m, left_m = _SPHERE_OFFSET_M * math.cos(bearing_rad), _SPHERE_OFFSET_M * math.sin(bearing_rad)
            yield f"bumper_{index}_{cell.name}", sphere, (x_m + ahead_m, y_m + left_m, z_m)


def _wheel(model: ElementTree.Element, paint: _Paint, wheel: Part) -> None:
    """Add a driven wheel, whose force is limited and which slips as that of the MuJoCo model does."""
    link = _add(model, "link", name=wheel.name)
    # The axis of its cylinder is turned to y.
    _add(link, "pose", *wheel.position_m, -math.pi / 2, 0, 0)
    centred = Part(wheel.name, wheel.shape, (0.0, 0.0, 0.0), wheel.material, wheel.mass_kg)
    _inertia(link, centred)
    # A sphere touches the floor in one point, where a cylinder would slip twice.
    tyre = Sphere(ROVER.wheel_radius_m)
    friction = _collision(link, wheel.name, tyre, centred.position_m, _ON_THE_FLOOR, friction=1)
    _add(friction, "slip1", 1 / ROVER.wheel_gain_n_s_m)
    _add(friction, "slip2", len(WHEELS) / ROVER.scrub_n_s_m)
    _visual(link, paint, centred, _HUMANS_ONLY)
    joint = _add(model, "joint", name=f"{wheel.name}_joint", type="revolute")
    _add(joint, "parent", "base_link")
    _add(joint, "child", wheel.name)
    axis = _add(joint, "axis")
    _add(axis, "xyz", 0, 0, 1)
    limit = _add(axis, "limit")
    _add(limit, "lower", -1e16)
    _add(limit, "upper", 1e16)
    _add(limit, "effort", ROVER.wheel_force_n * ROVER.wheel_radius_m)


def _camera(base: ElementTree.Element, name: str) -> None:
    sensor = _add(base, "sensor", name="camera", type="camera")
    _add(sensor, "pose", *CAMERA_POSITION_M, 0, 0, 0)
    _add(sensor, "always_on", "true")
    _add(sensor, "update_rate", CAMERA_RATE_HZ)
    _add(sensor, "topic", f"/{name}/camera")
    camera = _add(sensor, "camera")
    # The image is square: the vertical field of view of MuJoCo is the horizontal one, too.
    _add(camera, "horizontal_fov", math.radians(ROVER.camera_field_of_view_deg))
    image = _add(camera, "image")
    _add(image, "width", ROVER.camera_size_px)
    _add(image, "height", ROVER.camera_size_px)
    _add(image, "format", "R8G8B8")
    clip = _add(camera, "clip")
    _add(clip, "near", ROVER.camera_near_m)
    _add(clip, "far", CAMERA_FAR_M)
    _add(camera, "visibility_mask", _CAMERA_MASK)


def _bumper_sensor(base: ElementTree.Element, name: str) -> None:
    sensor = _add(base, "sensor", name="bumper_contacts", type="contact")
    _add(sensor, "always_on", "true")
    _add(sensor, "update_rate", 1 / ARENA.timestep_s)
    contact = _add(sensor, "contact")
    for name_of_sphere, _, _ in _bumper():
        _add(contact, "collision", name_of_sphere)
    _add(contact, "topic", f"/{name}/bumper_contacts")


def _drive(model: ElementTree.Element, name: str) -> None:
    drive = _system(model, "DiffDrive")
    for wheel in WHEELS:
        _add(drive, wheel.name.replace("wheel_", "") + "_joint", f"{wheel.name}_joint")
    _add(drive, "wheel_separation", 2 * ROVER.wheel_offset_m)
    _add(drive, "wheel_radius", ROVER.wheel_radius_m)
    _add(drive, "max_linear_velocity", ROVER.max_linear_m_s)
    _add(drive, "min_linear_velocity", -ROVER.max_reverse_m_s)
    _add(drive, "max_angular_velocity", ROVER.max_angular_rad_s)
    _add(drive, "min_angular_velocity", -ROVER.max_angular_rad_s)
    _add(drive, "topic", f"/model/{name}/cmd_vel")
    _add(drive, "odom_publish_frequency", ODOMETRY_RATE_HZ)
    # Tyres that slip make a wrong odometry: the true one below has the usual topic.
    _add(drive, "odom_topic", f"/model/{name}/wheel_odometry")
    _add(drive, "tf_topic", f"/model/{name}/wheel_tf")
    _add(drive, "frame_id", f"{name}/wheel_odom")
    _add(drive, "child_frame_id", f"{name}/base_link")


def _odometry(model: ElementTree.Element, name: str) -> None:
    publisher = _system(model, "OdometryPublisher")
    _add(publisher, "dimensions", 2)
    _add(publisher, "odom_publish_frequency", ODOMETRY_RATE_HZ)
    _add(publisher, "odom_topic", f"/model/{name}/odometry")
    _add(publisher, "tf_topic", f"/model/{name}/tf")
    _add(publisher, "odom_frame", f"{name}/odom")
    _add(publisher, "robot_base_frame", f"{name}/base_link")


def _ground() -> ElementTree.Element:
    """Make the ground on which all wheels roll; what is seen of it are the floors of the arenas."""
    model = _static_model("ground", 0.0, 0.0)
    link = _add(model, "link", name="ground")
    collision = _add(link, "collision", name="ground")
    plane = _add(_add(collision, "geometry"), "plane")
    _add(plane, "normal", 0, 0, 1)
    _add(plane, "size", 1000, 1000)
    _surface(collision, _ON_THE_FLOOR, friction=1)
    return model


def _arena(name: str, paint: _Paint, origin_m: tuple[float, float], layout: Layout) -> ElementTree.Element:
    """Make an arena with its floor, its walls and a link for each obstacle."""
    model = _static_model(name, *origin_m)
    link = _add(model, "link", name="arena")
    floor = _add(link, "visual", name="floor")
    _add(floor, "cast_shadows", "false")
    paint.material(floor, "floor")
    plane = _add(_add(floor, "geometry"), "plane")
    _add(plane, "normal", 0, 0, 1)
    _add(plane, "size", 2 * FLOOR_HALF_SIZE_M, 2 * FLOOR_HALF_SIZE_M)
    for wall in OUTER_WALLS:
        _obstruction(link, paint, wall)
    for placed in layout.obstacles:
        x_m, y_m, yaw_rad = placed.pose
        link = _add(model, "link", name=placed.obstacle.name)
        _add(link, "pose", x_m, y_m, 0, 0, 0, yaw_rad)
        _obstruction(link, paint, placed.obstacle.part, _HUMANS_ONLY if placed.obstacle.transparent else None)
    return model


def _beacon(name: str, paint: _Paint, origin_m: tuple[float, float], layout: Layout) -> ElementTree.Element:
    model = _static_model(name, origin_m[0] + layout.beacon[0], origin_m[1] + layout.beacon[1])
    _obstruction(_add(model, "link", name="beacon"), paint, BEACON)
    return model


def _static_model(name: str, x_m: float, y_m: float) -> ElementTree.Element:
    model = ElementTree.Element("model", name=name)
    _add(model, "static", "true")
    _add(model, "pose", x_m, y_m, 0, 0, 0, 0)
    return model


def _obstruction(link: ElementTree.Element, paint: _Paint, part: Part, flags: int | None = None) -> None:
    """Add a thing that stops the bumper, and at which it rubs."""
    _collision(link, part.name, part.shape, part.position_m, _AT_THE_BUMPER, ROVER.bumper_friction)
    _visual(link, paint, part, flags)


def _collision(
    link: ElementTree.Element,
    name: str,
    shape: Shape,
    position_m: Sequence[float],
    mask: int,
    friction: float,
) -> ElementTree.Element:
    """Add a collision; return the element of its friction."""
    collision = _add(link, "collision", name=name)
    _geometry(collision, shape, position_m)
    return _surface(collision, mask, friction)


def _surface(collision: ElementTree.Element, mask: int, friction: float) -> ElementTree.Element:
    surface = _add(collision, "surface")
    ode = _add(_add(surface, "friction"), "ode")
    _add(ode, "mu", friction)
    _add(ode, "mu2", friction)
    _add(_add(surface, "contact"), "collide_bitmask", mask)
    return ode


def _visual(link: ElementTree.Element, paint: _Paint, part: Part, flags: int | None = None) -> None:
    """Add what is seen of a part; without flags everybody sees it."""
    visual = _add(link, "visual", name=f"{part.name}_visual")
    _add(visual, "cast_shadows", "false")
    if flags is not None:
        _add(visual, "visibility_flags", flags)
    paint.material(visual, part.material)
    _geometry(visual, part.shape, part.position_m)


def _geometry(parent: ElementTree.Element, shape: Shape, position_m: Sequence[float]) -> None:
    """Add place and shape of a collision or a visual."""
    x_m, y_m, z_m = position_m
    if isinstance(shape, Post):
        z_m += sum(shape.ends_m) / 2
    _add(parent, "pose", x_m, y_m, z_m, 0, 0, 0)
    geometry = _add(parent, "geometry")
    if isinstance(shape, Box):
        _add(_add(geometry, "box"), "size", *(2 * half_m for half_m in shape.half_size_m))
    elif isinstance(shape, Sphere):
        _add(_add(geometry, "sphere"), "radius", shape.radius_m)
    elif isinstance(shape, Cylinder):
        cylinder = _add(geometry, "cylinder")
        _add(cylinder, "radius", shape.radius_m)
        _add(cylinder, "length", 2 * shape.half_length_m)
    else:
        capsule = _add(geometry, "capsule")
        low_m, high_m = shape.ends_m
        _add(capsule, "radius", shape.radius_m)
        _add(capsule, "length", high_m - low_m)


def _inertia(link: ElementTree.Element, part: Part) -> None:
    """Add mass and inertia of a solid cylinder."""
    if not isinstance(part.shape, Cylinder):
        raise TypeError(f"{part.name}: only cylinders have a mass, not {part.shape}")
    radius_m, length_m = part.shape.radius_m, 2 * part.shape.half_length_m
    across = part.mass_kg * (3 * radius_m**2 + length_m**2) / 12
    inertial = _add(link, "inertial")
    _add(inertial, "pose", *part.position_m, 0, 0, 0)
    _add(inertial, "mass", part.mass_kg)
    inertia = _add(inertial, "inertia")
    for name, value in (
        ("ixx", across),
        ("ixy", 0),
        ("ixz", 0),
        ("iyy", across),
        ("iyz", 0),
        ("izz", part.mass_kg * radius_m**2 / 2),
    ):
        _add(inertia, name, value)


def _system(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    """Add a system of Gazebo by the names that Fortress and all later versions know."""
    words = "".join("-" + letter.lower() if letter.isupper() else letter for letter in name)
    return _add(parent, "plugin", filename=f"gz-sim{words}-system", name=f"gz::sim::systems::{name}")


def _add(parent: ElementTree.Element, tag: str, *values: float | str, **attributes: str) -> ElementTree.Element:
    """Add an element; its text is made of the values."""
    element = ElementTree.SubElement(parent, tag, attributes)
    if values:
        element.text = " ".join(value if isinstance(value, str) else f"{value:.10g}" for value in values)
    return element


def _document(content: ElementTree.Element) -> str:
    root = ElementTree.Element("sdf", version=SDF_VERSION)
    root.append(content)
    ElementTree.indent(root)
    return f'<?xml version="1.0"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options of the command line.

    Raises
    ------
    SystemExit
        When an option is unknown or not allowed; the message says what is.
    """
    parser = argparse.ArgumentParser(
        prog="python -m policy_node_rover.gazebo.sdf", description="The rover arena as a world or a model for Gazebo."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--render-engine", choices=RENDER_ENGINES, default=RENDER_ENGINES[0])
    common.add_argument("--output", type=Path, help="file to write (default: standard output)")
    kinds = parser.add_subparsers(dest="kind", required=True)
    world = kinds.add_parser("world", parents=[common], help="arenas, beacons and rovers")
    world.add_argument("--robots", type=number(int, 1, 256), default=4, help="how many rovers (default 4)")
    world.add_argument(
        "--seed", type=number(int, 0, 2**31), default=0, help="layout of the first arena; the others follow (default 0)"
    )
    world.add_argument("--without-rovers", action="store_true", help="leave the rovers out, to spawn them later")
    rover = kinds.add_parser("rover", parents=[common], help="one rover")
    rover.add_argument("name", help="name of the model and namespace of its topics")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a world or a rover."""
    options = parse_options(arguments)
    if options.kind == "world":
        text = world_sdf(options.robots, options.seed, options.render_engine, not options.without_rovers)
    else:
        text = rover_sdf(options.name, options.render_engine)
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
