# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the rover and its world for Gazebo (SDFormat), from the description that the MuJoCo model is built from, too.

Each rover has its own arena. The arenas stand on a grid, so far apart that no camera sees another arena. Transparent
obstacles and the rovers are hidden from the cameras by visibility flags.

``python -m policy_node_rover.gazebo.sdf world --robots 4 --seed 0`` and ``… rover rover_0`` write the files.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

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

# A camera sees across its own arena and not as far as the next one.
CAMERA_FAR_M = round(2 * math.sqrt(2) * FLOOR_HALF_SIZE_M + 0.05, 1)
GRID_PITCH_M = float(math.ceil(math.sqrt(2) * CAMERA_FAR_M + 2 * FLOOR_HALF_SIZE_M))

# No arena may cover x and y from 0 m to 1 m: there ODE, the collision detector of Gazebo's physics, misses contacts of
# bodies that reach below z = 0, as the bumper does, with bodies that are 0.5 m to 1 m long.
_FIRST_ARENA_X_M = GRID_PITCH_M / 2

# Bits of collide_bitmask: bodies collide if they share one. The bumper reaches below the floor and must not touch it.
_FLOOR_BIT = 0x01
_BUMPER_BIT = 0x02

# Gazebo reports the names of the collisions in contact, so each touch cell has its own: spheres that reach the surface
# of the bumper. Between two spheres the surface is 0.1 mm behind it, so that posts find no notch.
_SPHERES_PER_CELL = 6
_SPHERE_OFFSET_M = 0.04

# A visibility bit that Gazebo leaves to users: visuals that only the window shows.
_WINDOW_ONLY = 0x01000000
_CAMERA_MASK = 0x0FFFFFFF & ~_WINDOW_ONLY

_GRAVITY_M_S2 = 9.81

# At this roughness, the diffuse reflection of Ogre 2 is nearly this part of Lambert's law in all directions.
_OGRE2_ROUGHNESS = 0.5
_OGRE2_DIFFUSE = 0.806


def grid_origin_m(robot: int, robots: int) -> tuple[float, float]:
    """Return the position of the arena of a rover in the world of `robots` arenas, which fill a square row by row."""
    columns = math.ceil(math.sqrt(robots))
    row, column = divmod(robot, columns)
    return _FIRST_ARENA_X_M + column * GRID_PITCH_M, -row * GRID_PITCH_M


def layout_of(robot: int, seed: int) -> Layout:
    """Draw the layout of a rover's arena: the first one of `rover_sim` with the same seed."""
    return draw_layout(np.random.default_rng(seed + robot))


def start_pose(robot: int, robots: int, seed: int) -> tuple[float, float, float]:
    """Return the start of a rover in the world: x_m, y_m, yaw_rad."""
    x_m, y_m = grid_origin_m(robot, robots)
    start_x_m, start_y_m, yaw_rad = layout_of(robot, seed).rover
    return x_m + start_x_m, y_m + start_y_m, yaw_rad


def rover_sdf(name: str, render_engine: str = "ogre2", pose: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> str:
    """Return the SDF of one rover with sensors, drive and odometry, at a pose x_m, y_m, yaw_rad.

    Its topics in Gazebo: ``/model/NAME/cmd_vel``, ``/model/NAME/odometry`` and ``/model/NAME/tf`` (true pose in the
    world), ``/NAME/camera``, ``/NAME/camera_info`` and ``/NAME/bumper_contacts``. The render engines ``"ogre2"`` and
    ``"ogre"`` need different colours for the same image.
    """
    return _document(_rover(name, _Materials(render_engine), pose))


def world_sdf(robots: int, seed: int, render_engine: str = "ogre2", with_rovers: bool = True) -> str:
    """Return the SDF of the world: one arena for each rover, with the layouts of `rover_sim` for the same seed.

    The models are ``ground``, ``arena_0``, ``beacon_0``, ``rover_0`` and so on; ``/world/arenas/set_pose`` moves them.
    Without rovers, these can be spawned later.
    """
    materials = _Materials(render_engine)
    models = [_ground()]
    for robot in range(robots):
        origin_m, layout = grid_origin_m(robot, robots), layout_of(robot, seed)
        beacon_x_m, beacon_y_m = np.add(origin_m, layout.beacon)
        beacon = f'<link name="beacon">{_solid(materials, BEACON)}</link>'
        models += [
            _arena(f"arena_{robot}", materials, origin_m, layout),
            _static_model(f"beacon_{robot}", beacon_x_m, beacon_y_m, beacon),
        ]
        if with_rovers:
            models.append(_rover(f"rover_{robot}", materials, start_pose(robot, robots, seed)))
    # The default solver of DART bounds friction by the forces without friction. Wheels push by friction, so the bumper
    # would slide along everything; pgs has no such bound.
    return _document(f"""
    <world name="arenas">
      <physics name="steps" type="dart">
        <max_step_size>{_text(ARENA.timestep_s)}</max_step_size><real_time_factor>1</real_time_factor>
        <real_time_update_rate>{_text(1 / ARENA.timestep_s)}</real_time_update_rate>
        <dart><solver><solver_type>pgs</solver_type></solver></dart>
      </physics>
      {"".join(_plugin(system) for system in ("Physics", "UserCommands", "SceneBroadcaster", "Contact"))}
      {_plugin("Sensors", f"<render_engine>{render_engine}</render_engine>")}
      <gravity>{_text(0, 0, -_GRAVITY_M_S2)}</gravity>
      {materials.light()}
      {"".join(models)}
    </world>""")


class _Materials:
    """Light and materials that give the same image as MuJoCo in a render engine.

    The brightness of a surface is its colour times (ambient + diffuse * cosine). Ogre 1 computes just that. Ogre 2
    computes with linear colours and encodes the result as sRGB; with decoded colours, the brightness is exact in the
    shade and on the floor, the largest surface. Emission replaces ambient light, which the engines treat differently.
    """

    def __init__(self, render_engine: str) -> None:
        if render_engine not in RENDER_ENGINES:
            raise ValueError(f"render_engine: {render_engine!r} is unknown; use one of {', '.join(RENDER_ENGINES)}")
        self._is_linear = render_engine == "ogre2"

    def light(self) -> str:
        """Return the background and the one directional light."""
        # Ogre 1 ignores lights that cast no shadows; no visual casts any.
        return f"""
        <scene>
          <ambient>0 0 0 1</ambient><background>{_text(*self._decoded(SKY), 1)}</background>
          <shadows>false</shadows><grid>false</grid><origin_visual>false</origin_visual>
        </scene>
        <light name="sun" type="directional">
          <pose>0 0 5 0 0 0</pose><cast_shadows>true</cast_shadows>
          <intensity>{_text(1 / _OGRE2_DIFFUSE if self._is_linear else 1)}</intensity>
          <diffuse>{_text(*[self._diffuse()] * 3, 1)}</diffuse><specular>0 0 0 1</specular>
          <direction>{_text(*LIGHT_DIRECTION)}</direction>
        </light>"""

    def material(self, name: str) -> str:
        """Return transparency and material of a visual."""
        *colour, opacity = MATERIALS[name]
        transparency = f"<transparency>{_text(1.0 - opacity)}</transparency>" if opacity < 1.0 else ""
        return f"""{transparency}
        <material>
          <ambient>0 0 0 1</ambient><diffuse>{_text(*self._decoded(colour), 1)}</diffuse><specular>0 0 0 1</specular>
          <emissive>{_text(*self._decoded([LIGHT_AMBIENT * part for part in colour]), 1)}</emissive>
          <pbr><metal><roughness>{_text(_OGRE2_ROUGHNESS)}</roughness><metalness>0</metalness></metal></pbr>
        </material>"""

    def _decoded(self, colour: Sequence[float]) -> list[float]:
        return [_linear(part) if self._is_linear else part for part in colour]

    def _diffuse(self) -> float:
        if not self._is_linear:
            return LIGHT_DIFFUSE
        cosine = -LIGHT_DIRECTION[2] / math.hypot(*LIGHT_DIRECTION)
        lit = _linear(LIGHT_AMBIENT + LIGHT_DIFFUSE * cosine)
        return (lit - _linear(LIGHT_AMBIENT)) / cosine


def _linear(encoded: float) -> float:
    """Decode a component of an sRGB colour."""
    return encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4


def _rover(name: str, materials: _Materials, pose: tuple[float, float, float]) -> str:
    x_m, y_m, yaw_rad = pose
    name = escape(name, {'"': "&quot;"})
    bumper = "".join(_collision(*sphere, _BUMPER_BIT, ROVER.bumper_friction) for sphere in _bumper())
    casters = "".join(_collision(part.name, part.shape, part.position_m, _FLOOR_BIT, 0) for part in CASTERS)
    return f"""
    <model name="{name}" canonical_link="base_link">
      <pose>{_text(x_m, y_m, 0, 0, 0, yaw_rad)}</pose>
      <link name="base_link">
        {_inertial(HULL)}
        {bumper}
        {casters}
        {_visual(materials, HULL, _WINDOW_ONLY)}
        {_visual(materials, NOSE, _WINDOW_ONLY)}
        {_sensors(name)}
      </link>
      {"".join(_wheel(materials, wheel) for wheel in WHEELS)}
      {_drive(name)}
    </model>"""


def _bumper() -> Iterator[tuple[str, Sphere, Vector]]:
    """Yield the spheres of the bumper: name, which ends with the name of the cell, shape and position."""
    sphere = Sphere(BUMPER.radius_m - _SPHERE_OFFSET_M)
    sector_rad = 2 * math.pi / len(TOUCH_CELLS)
    x_m, y_m, z_m = BUMPER_POSITION_M
    for cell in TOUCH_CELLS:
        for index in range(_SPHERES_PER_CELL):
            bearing_rad = cell.bearing_rad + ((index + 0.5) / _SPHERES_PER_CELL - 0.5) * sector_rad
            ahead_m, left_m = _SPHERE_OFFSET_M * math.cos(bearing_rad), _SPHERE_OFFSET_M * math.sin(bearing_rad)
            yield f"bumper_{index}_{cell.name}", sphere, (x_m + ahead_m, y_m + left_m, z_m)


def _wheel(materials: _Materials, wheel: Part) -> str:
    """Return a driven wheel with the force limit and the slip of the MuJoCo model."""
    centred = Part(wheel.name, wheel.shape, (0.0, 0.0, 0.0), wheel.material, wheel.mass_kg)
    slip = f"<slip1>{1 / ROVER.wheel_gain_n_s_m:.10g}</slip1><slip2>{len(WHEELS) / ROVER.scrub_n_s_m:.10g}</slip2>"
    # A sphere has one contact with the floor; the slip of a cylinder would count twice.
    tyre = _collision(wheel.name, Sphere(ROVER.wheel_radius_m), centred.position_m, _FLOOR_BIT, 1, slip)
    effort = _text(ROVER.wheel_force_n * ROVER.wheel_radius_m)
    return f"""
    <link name="{wheel.name}">
      <pose>{_text(*wheel.position_m, -math.pi / 2, 0, 0)}</pose>
      {_inertial(centred)}
      {tyre}
      {_visual(materials, centred, _WINDOW_ONLY)}
    </link>
    <joint name="{wheel.name}_joint" type="revolute">
      <parent>base_link</parent><child>{wheel.name}</child>
      <axis><xyz>0 0 1</xyz><limit><lower>-1e+16</lower><upper>1e+16</upper><effort>{effort}</effort></limit></axis>
    </joint>"""


def _sensors(name: str) -> str:
    # The image is square: the vertical field of view of MuJoCo is also the horizontal one.
    size_px = ROVER.camera_size_px
    return f"""
    <sensor name="camera" type="camera">
      <pose>{_text(*CAMERA_POSITION_M, 0, 0, 0)}</pose>
      <always_on>true</always_on><update_rate>{_text(CAMERA_RATE_HZ)}</update_rate><topic>/{name}/camera</topic>
      <gz_frame_id>{name}/camera_optical</gz_frame_id>
      <camera>
        <horizontal_fov>{_text(math.radians(ROVER.camera_field_of_view_deg))}</horizontal_fov>
        <image><width>{size_px}</width><height>{size_px}</height><format>R8G8B8</format></image>
        <clip><near>{_text(ROVER.camera_near_m)}</near><far>{_text(CAMERA_FAR_M)}</far></clip>
        <visibility_mask>{_CAMERA_MASK}</visibility_mask>
      </camera>
    </sensor>
    <sensor name="bumper_contacts" type="contact">
      <always_on>true</always_on><update_rate>{_text(1 / ARENA.timestep_s)}</update_rate>
      <contact>
        {"".join(f"<collision>{sphere_name}</collision>" for sphere_name, _, _ in _bumper())}
        <topic>/{name}/bumper_contacts</topic>
      </contact>
    </sensor>"""


def _drive(name: str) -> str:
    """Return the differential drive and a separate odometry: the odometry of the drive is wrong when tyres slip."""
    drive = f"""
      <left_joint>{WHEELS[0].name}_joint</left_joint><right_joint>{WHEELS[1].name}_joint</right_joint>
      <wheel_separation>{_text(2 * ROVER.wheel_offset_m)}</wheel_separation>
      <wheel_radius>{_text(ROVER.wheel_radius_m)}</wheel_radius>
      <max_linear_velocity>{_text(ROVER.max_linear_m_s)}</max_linear_velocity>
      <min_linear_velocity>{_text(-ROVER.max_reverse_m_s)}</min_linear_velocity>
      <max_angular_velocity>{_text(ROVER.max_angular_rad_s)}</max_angular_velocity>
      <min_angular_velocity>{_text(-ROVER.max_angular_rad_s)}</min_angular_velocity>
      <topic>/model/{name}/cmd_vel</topic>
      <odom_publish_frequency>{_text(ODOMETRY_RATE_HZ)}</odom_publish_frequency>
      <odom_topic>/model/{name}/wheel_odometry</odom_topic><tf_topic>/model/{name}/wheel_tf</tf_topic>
      <frame_id>{name}/wheel_odom</frame_id><child_frame_id>{name}/base_link</child_frame_id>"""
    odometry = f"""
      <dimensions>2</dimensions><odom_publish_frequency>{_text(ODOMETRY_RATE_HZ)}</odom_publish_frequency>
      <odom_topic>/model/{name}/odometry</odom_topic><tf_topic>/model/{name}/tf</tf_topic>
      <odom_frame>{name}/odom</odom_frame><robot_base_frame>{name}/base_link</robot_base_frame>"""
    return _plugin("DiffDrive", drive) + _plugin("OdometryPublisher", odometry)


def _ground() -> str:
    """Return the ground for all wheels; only the floors of the arenas are visible."""
    plane = "<geometry><plane><normal>0 0 1</normal><size>1000 1000</size></plane></geometry>"
    collision = f'<collision name="ground">{plane}{_surface(_FLOOR_BIT, 1)}</collision>'
    return _static_model("ground", 0.0, 0.0, f'<link name="ground">{collision}</link>')


def _arena(name: str, materials: _Materials, origin_m: tuple[float, float], layout: Layout) -> str:
    """Return an arena: floor and outer walls, and a link for each obstacle."""
    obstacles = ""
    for placed in layout.obstacles:
        x_m, y_m, yaw_rad = placed.pose
        flags = _WINDOW_ONLY if placed.obstacle.transparent else None
        obstacles += f"""
        <link name="{placed.obstacle.name}">
          <pose>{_text(x_m, y_m, 0, 0, 0, yaw_rad)}</pose>
          {_solid(materials, placed.obstacle.part, flags)}
        </link>"""
    content = f"""
      <link name="arena">
        <visual name="floor">
          <cast_shadows>false</cast_shadows>
          {materials.material("floor")}
          <geometry>
            <plane><normal>0 0 1</normal><size>{_text(2 * FLOOR_HALF_SIZE_M, 2 * FLOOR_HALF_SIZE_M)}</size></plane>
          </geometry>
        </visual>
        {"".join(_solid(materials, wall) for wall in OUTER_WALLS)}
      </link>
      {obstacles}"""
    return _static_model(name, *origin_m, content)


def _static_model(name: str, x_m: float, y_m: float, content: str) -> str:
    pose = _text(x_m, y_m, 0, 0, 0, 0)
    return f'<model name="{name}"><static>true</static><pose>{pose}</pose>{content}</model>'


def _solid(materials: _Materials, part: Part, flags: int | None = None) -> str:
    """Return collision and visual of a part that stops the bumper."""
    collision = _collision(part.name, part.shape, part.position_m, _BUMPER_BIT, ROVER.bumper_friction)
    return collision + _visual(materials, part, flags)


def _collision(
    name: str, shape: Shape, position_m: Sequence[float], bitmask: int, friction: float, slip: str = ""
) -> str:
    return f'<collision name="{name}">{_geometry(shape, position_m)}{_surface(bitmask, friction, slip)}</collision>'


def _surface(bitmask: int, friction: float, slip: str = "") -> str:
    return f"""
    <surface>
      <friction><ode><mu>{_text(friction)}</mu><mu2>{_text(friction)}</mu2>{slip}</ode></friction>
      <contact><collide_bitmask>{bitmask}</collide_bitmask></contact>
    </surface>"""


def _visual(materials: _Materials, part: Part, flags: int | None = None) -> str:
    return f"""
    <visual name="{part.name}_visual">
      <cast_shadows>false</cast_shadows>
      {"" if flags is None else f"<visibility_flags>{flags}</visibility_flags>"}
      {materials.material(part.material)}
      {_geometry(part.shape, part.position_m)}
    </visual>"""


def _geometry(shape: Shape, position_m: Sequence[float]) -> str:
    """Return pose and shape of a collision or a visual."""
    x_m, y_m, z_m = position_m
    if isinstance(shape, Box):
        content = f"<box><size>{_text(*(2 * half_m for half_m in shape.half_size_m))}</size></box>"
    elif isinstance(shape, Sphere):
        content = f"<sphere><radius>{_text(shape.radius_m)}</radius></sphere>"
    else:
        tag, length_m = "cylinder", 0.0
        if isinstance(shape, Post):
            low_m, high_m = shape.ends_m
            tag, length_m, z_m = "capsule", high_m - low_m, z_m + (low_m + high_m) / 2
        else:
            length_m = 2 * shape.half_length_m
        content = f"<{tag}><radius>{_text(shape.radius_m)}</radius><length>{_text(length_m)}</length></{tag}>"
    return f"<pose>{_text(x_m, y_m, z_m, 0, 0, 0)}</pose><geometry>{content}</geometry>"


def _inertial(part: Part) -> str:
    """Return mass and inertia of a solid cylinder."""
    if not isinstance(part.shape, Cylinder):
        raise TypeError(f"{part.name}: the mass of {part.shape} is not supported; use a Cylinder")
    radius_m, length_m = part.shape.radius_m, 2 * part.shape.half_length_m
    across = _text(part.mass_kg * (3 * radius_m**2 + length_m**2) / 12)
    return f"""
    <inertial>
      <pose>{_text(*part.position_m, 0, 0, 0)}</pose><mass>{_text(part.mass_kg)}</mass>
      <inertia>
        <ixx>{across}</ixx><ixy>0</ixy><ixz>0</ixz>
        <iyy>{across}</iyy><iyz>0</iyz><izz>{_text(part.mass_kg * radius_m**2 / 2)}</izz>
      </inertia>
    </inertial>"""


def _plugin(system: str, content: str = "") -> str:
    """Return a system of Gazebo, with the names that Fortress and later versions know."""
    words = "".join("-" + letter.lower() if letter.isupper() else letter for letter in system)
    return f'<plugin filename="gz-sim{words}-system" name="gz::sim::systems::{system}">{content}</plugin>'


def _text(*values: float) -> str:
    return " ".join(f"{value:.10g}" for value in values)


def _document(content: str) -> str:
    root = ElementTree.fromstring(f'<sdf version="{SDF_VERSION}">{content}</sdf>')
    ElementTree.indent(root)
    return f'<?xml version="1.0"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m policy_node_rover.gazebo.sdf", description="Write the rover arena as SDF for Gazebo."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--render-engine", choices=RENDER_ENGINES, default=RENDER_ENGINES[0])
    common.add_argument("--output", type=Path, help="file to write (default: standard output)")
    kinds = parser.add_subparsers(dest="kind", required=True)
    world = kinds.add_parser("world", parents=[common], help="arenas, beacons and rovers")
    world.add_argument("--robots", type=number(int, 1, 256), default=4, help="number of rovers (default 4)")
    world.add_argument(
        "--seed", type=number(int, 0, 2**31), default=0, help="layout of the first arena; the others follow (default 0)"
    )
    world.add_argument("--without-rovers", action="store_true", help="omit the rovers, to spawn them later")
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
