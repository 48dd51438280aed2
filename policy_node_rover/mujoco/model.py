# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Build the MuJoCo model of the rover in its arena from the description.

Arenas can share one compiled model: walls, posts and beacon are mocap bodies, whose poses belong to the data of each
arena.
"""

from __future__ import annotations

import copy
import math

import mujoco

from policy_node_rover.arena.description import (
    ARENA,
    BEACON,
    BUMPER,
    BUMPER_POSITION_M,
    CAMERA_POSITION_M,
    FLOOR_HALF_SIZE_M,
    HULL,
    LIGHT_AMBIENT,
    LIGHT_DIFFUSE,
    LIGHT_DIRECTION,
    MATERIALS,
    NOSE,
    OBSTACLES,
    OUTER_WALLS,
    ROVER,
    SKY,
    TOUCH_CELLS,
    WHEELS,
    Box,
    Cylinder,
    Part,
    Post,
)

CAMERA_GROUP_HIDDEN = 1
ROVER_GROUP = 2

_PARKED_HEIGHT_M = -5.0
# MuJoCo scales the clipping distances by the extent; computed, it would include the parked bodies.
_EXTENT_M = 8.311887937730537


def model_xml() -> str:
    """Return the arena and its rover in MuJoCo's XML format (MJCF)."""
    touch_sensors = "".join(
        f'<touch name="{cell.name}" site="{cell.name}" cutoff="{ROVER.touch_limit_n}"/>\n    ' for cell in TOUCH_CELLS
    )
    traction = "".join(
        f'<velocity name="{wheel.name}" site="{wheel.name}" gear="1 0 0 0 0 0" kv="{ROVER.wheel_gain_n_s_m}" '
        f'forcerange="-{ROVER.wheel_force_n} {ROVER.wheel_force_n}"/>\n    '
        for wheel in WHEELS
    )
    materials = "".join(
        f'<material name="{name}" rgba="{_numbers(*colour)}" specular="0"/>\n    ' for name, colour in MATERIALS.items()
    )
    sky = _numbers(*SKY)
    return f"""
<mujoco model="rover_arena">
  <compiler angle="degree"/>
  <option timestep="{ARENA.timestep_s}" integrator="implicitfast" cone="pyramidal" iterations="20"/>
  <statistic extent="{_EXTENT_M}"/>
  <visual>
    <headlight active="0"/>
    <global offwidth="640" offheight="640" orthographic="true" fovy="{2 * FLOOR_HALF_SIZE_M}"/>
    <quality shadowsize="0" offsamples="0" numquads="1"/>
    <map znear="{ROVER.camera_near_m / _EXTENT_M}" zfar="20"/>
  </visual>
  <default>
    <default class="obstacle"><geom contype="1" conaffinity="0"/></default>
    <default class="rover"><geom group="{ROVER_GROUP}"/></default>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" rgb1="{sky}" rgb2="{sky}" width="8" height="48"/>
    {materials}
  </asset>
  <worldbody>
    {_arena_xml()}
    {_rover_xml()}
  </worldbody>
  <actuator>
    {traction}
    <velocity name="scrub" site="axle" gear="0 1 0 0 0 0" kv="{ROVER.scrub_n_s_m}"/>
  </actuator>
  <sensor>
    {touch_sensors}
    <touch name="{BEACON.name}" site="{BEACON.name}"/>
  </sensor>
</mujoco>
"""


def _arena_xml() -> str:
    """Return light, floor, walls, and the obstacles and beacon as bodies that a layout places."""
    outer_walls = "".join(
        f'<geom name="{wall.name}" {_geometry(wall)} class="obstacle" material="{wall.material}"/>\n    '
        for wall in OUTER_WALLS
    )
    obstacles = "".join(
        f'<body name="{obstacle.name}" mocap="true" pos="0 0 {_PARKED_HEIGHT_M}">'
        f'<geom name="{obstacle.name}" {_geometry(obstacle.part)} class="obstacle" '
        f'group="{CAMERA_GROUP_HIDDEN if obstacle.transparent else 0}" material="{obstacle.part.material}"/>'
        f"</body>\n    "
        for obstacle in OBSTACLES
    )
    return f"""<light directional="true" castshadow="false" pos="0 0 5" dir="{_numbers(*LIGHT_DIRECTION)}"
           ambient="{_numbers(*[LIGHT_AMBIENT] * 3)}" diffuse="{_numbers(*[LIGHT_DIFFUSE] * 3)}" specular="0 0 0"/>
    <geom name="floor" type="plane" size="{FLOOR_HALF_SIZE_M} {FLOOR_HALF_SIZE_M} 0.1" material="floor"
          contype="0" conaffinity="0"/>
    {outer_walls}{obstacles}
    <body name="{BEACON.name}" mocap="true" pos="0 0 {_PARKED_HEIGHT_M}">
      <geom name="{BEACON.name}" {_geometry(BEACON)} material="{BEACON.material}" class="obstacle"/>
      <site name="{BEACON.name}" type="cylinder" size="{ARENA.beacon_radius_m + 0.05} 1.0" group="5"/>
    </body>"""


def _rover_xml() -> str:
    # A touch sensor measures the contacts inside its site: one box per sector.
    cells = "".join(
        f'<site name="{cell.name}" type="box" pos="{_rounded(cell.position_m)}" size="{_rounded(cell.half_size_m)}" '
        f'euler="0 0 {math.degrees(cell.bearing_rad)}" group="5"/>\n      '
        for cell in TOUCH_CELLS
    )
    wheels = "".join(
        f'<geom {_geometry(wheel)} class="rover" euler="90 0 0" mass="{wheel.mass_kg}" material="{wheel.material}" '
        f'contype="0" conaffinity="0"/>'
        f'<site name="{wheel.name}" pos="{_numbers(*wheel.position_m)}" group="5"/>\n      '
        for wheel in WHEELS
    )
    return f"""<body name="rover" pos="0 0 0">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="yaw" type="hinge" axis="0 0 1"/>
      <site name="axle" group="5"/>
      <geom name="bumper" type="sphere" size="{BUMPER.radius_m}" pos="{_numbers(*BUMPER_POSITION_M)}" group="5"
            contype="2" conaffinity="1" condim="3" friction="{ROVER.bumper_friction}" priority="2" mass="0"
            rgba="0 0 0 0"/>
      <geom name="{HULL.name}" {_geometry(HULL)} class="rover" material="{HULL.material}"
            mass="{HULL.mass_kg}" contype="0" conaffinity="0"/>
      <geom name="{NOSE.name}" {_geometry(NOSE)} class="rover" material="{NOSE.material}" mass="0"
            contype="0" conaffinity="0"/>
      <camera name="camera" pos="{_numbers(*CAMERA_POSITION_M)}" xyaxes="0 -1 0 0 0 1"
              fovy="{ROVER.camera_field_of_view_deg}"/>
      {cells}
      {wheels}
    </body>"""


def _geometry(part: Part) -> str:
    """Return shape and position of a part as attributes of a `geom`."""
    shape = part.shape
    if isinstance(shape, Post):
        low_m, high_m = shape.ends_m
        return f'type="capsule" size="{shape.radius_m}" fromto="0 0 {low_m} 0 0 {high_m}"'
    if isinstance(shape, Box):
        size = f'type="box" size="{_numbers(*shape.half_size_m)}"'
    elif isinstance(shape, Cylinder):
        size = f'type="cylinder" size="{_numbers(shape.radius_m, shape.half_length_m)}"'
    else:
        size = f'type="sphere" size="{shape.radius_m}"'
    return f'{size} pos="{_numbers(*part.position_m)}"'


def _numbers(*values: float) -> str:
    return " ".join(str(value) for value in values)


def _rounded(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.5f}" for value in values)


class ArenaModel:
    """The compiled model; arenas share it, or each has a copy to change its surfaces.

    `mocap` has the row in the mocap arrays by name of an obstacle or the beacon; `geom_names` the names of all geoms,
    and `geom_materials` those of the materials of geoms that have one, by id.
    """

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(model_xml())
        names = [obstacle.name for obstacle in OBSTACLES] + ["beacon"]
        self.mocap = {name: int(self.model.body(name).mocapid[0]) for name in names}
        self.camera_id = self.model.camera("camera").id
        geoms = range(self.model.ngeom)
        self.geom_names = [self.model.geom(geom).name for geom in geoms]
        materials = self.model.geom_matid.tolist()
        self.geom_materials = {geom: self.model.mat(materials[geom]).name for geom in geoms if materials[geom] >= 0}
        self._bumper = self.model.geom("bumper").id
        self._nominal = self.model

    def copy(self) -> ArenaModel:
        """Return a copy whose surfaces can be changed."""
        twin = copy.copy(self)
        twin.model = copy.copy(self.model)
        return twin

    def set_surfaces(self, bumper_friction: float, grip: float) -> None:
        """Set the friction coefficient of the bumper, and the factor on the nominal forces of all tyres."""
        model, nominal = self.model, self._nominal
        model.geom_friction[self._bumper, 0] = bumper_friction
        model.actuator_gainprm[:, 0] = grip * nominal.actuator_gainprm[:, 0]
        model.actuator_biasprm[:, 2] = grip * nominal.actuator_biasprm[:, 2]
        model.actuator_forcerange[:] = grip * nominal.actuator_forcerange
