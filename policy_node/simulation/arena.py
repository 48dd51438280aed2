# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One rover in a walled arena: the MuJoCo model, the random layouts and the physics.

The task is to find the red beacon and to press it with the bumper. Inner walls and posts stand in the way; some of
them are transparent: the camera does not see them, only the bumper feels them. They are all lower than the camera,
so they never hide the beacon.

One compiled model serves any number of arenas: what differs from arena to arena (places of walls, posts and beacon)
are poses of mocap bodies, which belong to the data of each arena.

The rover is driven by two wheels; the traction of each, limited in force, pulls its side towards the commanded speed.
Sideways the tyres scrub, so that the rover slides along what it pushes against. Obstacles are smooth.

Frames follow REP 103: x forward, y left, z up, angles counter-clockwise.

The eight touch cells divide the round bumper into sectors of 45 degrees, numbered counter-clockwise from straight
ahead: cell ``k`` covers the bearings from ``45 k`` to ``45 (k + 1)`` degrees. So cell 0 is front left, cell 3 rear
left, cell 4 rear right and cell 7 front right. The cells are foam that springs back slowly: a force is felt at once,
and once it is gone its reading fades to 1/e every `RoverDimensions.touch_recovery_s`, down to a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

CAMERA_GROUP_HIDDEN = 1
ROVER_GROUP = 2


@dataclass(frozen=True)
class RoverDimensions:
    """Sizes and limits of the rover, in SI units."""

    radius_m: float = 0.17
    bumper_height_m: float = 0.10
    wheel_radius_m: float = 0.04
    wheel_offset_m: float = 0.12
    mass_kg: float = 4.0
    wheel_gain_n_s_m: float = 30.0
    wheel_force_n: float = 10.0
    scrub_n_s_m: float = 60.0
    max_linear_m_s: float = 0.6
    max_reverse_m_s: float = 0.3
    max_angular_rad_s: float = 2.0
    camera_height_m: float = 0.22
    camera_forward_m: float = 0.10
    camera_field_of_view_deg: float = 90.0
    camera_size_px: int = 64
    touch_cells: int = 8
    touch_limit_n: float = 5.0
    touch_recovery_s: float = 0.3


@dataclass(frozen=True)
class ArenaDimensions:
    """Sizes of the arena, what stands in it and the free space that every layout keeps, in SI units."""

    half_size_m: float = 2.0
    outer_wall_height_m: float = 0.30
    obstacle_height_m: float = 0.18
    post_radius_m: float = 0.09
    wall_half_length_m: float = 0.40
    wall_half_thickness_m: float = 0.03
    opaque_posts: int = 3
    transparent_posts: int = 2
    opaque_walls: int = 1
    transparent_walls: int = 1
    beacon_radius_m: float = 0.12
    beacon_height_m: float = 0.90
    passage_m: float = 0.50
    beacon_clearance_m: float = 0.45
    beacon_wall_clearance_m: float = 0.25
    rover_clearance_m: float = 0.08
    beacon_distance_m: float = 1.2
    press_force_n: float = 1.0
    timestep_s: float = 0.01


ROVER = RoverDimensions()
ARENA = ArenaDimensions()

_PARKED_HEIGHT_M = -5.0
_TOUCH_THRESHOLD_N = 0.05


@dataclass(frozen=True)
class Obstacle:
    """One kind of thing that a layout places: a post (a point with a radius) or a wall (a segment with a radius)."""

    name: str
    is_wall: bool
    transparent: bool

    @property
    def radius_m(self) -> float:
        """Distance from the axis or centre line of the obstacle to its surface."""
        return ARENA.wall_half_thickness_m if self.is_wall else ARENA.post_radius_m

    def outline(self, x_m: float, y_m: float, yaw_rad: float) -> np.ndarray:
        """Points on the centre line when the obstacle stands at a pose, float64 [points, 2] in metres."""
        if not self.is_wall:
            return np.array([[x_m, y_m]])
        along_m = np.linspace(-ARENA.wall_half_length_m, ARENA.wall_half_length_m, 9)
        return np.array([x_m, y_m]) + along_m[:, None] * np.array([np.cos(yaw_rad), np.sin(yaw_rad)])


def _obstacles() -> tuple[Obstacle, ...]:
    """Everything that a layout places besides beacon and rover; walls first, since they are the hardest to place."""
    groups = (
        ("wall", True, False, ARENA.opaque_walls),
        ("glass_wall", True, True, ARENA.transparent_walls),
        ("post", False, False, ARENA.opaque_posts),
        ("glass_post", False, True, ARENA.transparent_posts),
    )
    return tuple(
        Obstacle(f"{name}_{index}", is_wall, transparent)
        for name, is_wall, transparent, count in groups
        for index in range(count)
    )


OBSTACLES = _obstacles()


def _model_xml() -> str:
    """Describe the arena and its rover in MuJoCo's XML."""
    obstacle_bodies = []
    for obstacle in OBSTACLES:
        group = CAMERA_GROUP_HIDDEN if obstacle.transparent else 0
        material = "glass" if obstacle.transparent else ("wall" if obstacle.is_wall else "post")
        if obstacle.is_wall:
            shape = (
                f'type="box" size="{ARENA.wall_half_length_m} {ARENA.wall_half_thickness_m} '
                f'{ARENA.obstacle_height_m / 2}" pos="0 0 {ARENA.obstacle_height_m / 2}"'
            )
        else:
            # The capsule reaches below the floor, so that only its upper end is round.
            top_m = ARENA.obstacle_height_m - ARENA.post_radius_m
            shape = f'type="capsule" size="{ARENA.post_radius_m}" fromto="0 0 -0.2 0 0 {top_m}"'
        obstacle_bodies.append(
            f'<body name="{obstacle.name}" mocap="true" pos="0 0 {_PARKED_HEIGHT_M}">'
            f'<geom name="{obstacle.name}" {shape} class="obstacle" group="{group}" material="{material}"/></body>'
        )
    half, height = ARENA.half_size_m, ARENA.outer_wall_height_m
    outer_walls = "".join(
        f'<geom name="outer_wall_{name}" type="box" class="obstacle" material="outer_{name}" '
        f'pos="{x} {y} {height / 2}" size="{size_x} {size_y} {height / 2}"/>'
        for name, x, y, size_x, size_y in (
            ("east", half + 0.05, 0, 0.05, half + 0.1),
            ("west", -half - 0.05, 0, 0.05, half + 0.1),
            ("north", 0, half + 0.05, half + 0.1, 0.05),
            ("south", 0, -half - 0.05, half + 0.1, 0.05),
        )
    )
    # A touch sensor counts the contacts inside its site: one box per sector, wide enough to leave no gap between them.
    sector_rad = 2 * np.pi / ROVER.touch_cells
    cells, sensors = [], []
    for cell in range(ROVER.touch_cells):
        bearing = (cell + 0.5) * sector_rad
        x, y = ROVER.radius_m * np.cos(bearing), ROVER.radius_m * np.sin(bearing)
        tangential = ROVER.radius_m * np.tan(sector_rad / 2) * 0.98
        cells.append(
            f'<site name="touch_{cell}" type="box" pos="{x:.5f} {y:.5f} {ROVER.bumper_height_m}" '
            f'size="0.03 {tangential:.5f} 0.08" euler="0 0 {np.degrees(bearing)}" group="5"/>'
        )
        sensors.append(f'<touch name="touch_{cell}" site="touch_{cell}" cutoff="{ROVER.touch_limit_n}"/>')
    wheels = "".join(
        f'<geom type="cylinder" size="{ROVER.wheel_radius_m} 0.012" pos="0 {y} {ROVER.wheel_radius_m}" class="rover" '
        f'euler="90 0 0" mass="0.15" material="wheel" contype="0" conaffinity="0"/>'
        f'<site name="wheel_{side}" pos="0 {y} {ROVER.wheel_radius_m}" group="5"/>'
        for side, y in (("left", ROVER.wheel_offset_m), ("right", -ROVER.wheel_offset_m))
    )
    return f"""
<mujoco model="rover_arena">
  <compiler angle="degree"/>
  <option timestep="{ARENA.timestep_s}" integrator="implicitfast" cone="pyramidal" iterations="20"/>
  <visual>
    <headlight active="0"/>
    <global offwidth="640" offheight="640" orthographic="true" fovy="{2 * (ARENA.half_size_m + 0.1)}"/>
    <quality shadowsize="0" offsamples="0"/>
    <map znear="0.02" zfar="20"/>
  </visual>
  <default>
    <default class="obstacle"><geom contype="1" conaffinity="0"/></default>
    <default class="rover"><geom group="{ROVER_GROUP}"/></default>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" rgb1="0.66 0.77 0.88" rgb2="0.66 0.77 0.88" width="8" height="48"/>
    <material name="floor" rgba="0.42 0.43 0.45 1" specular="0"/>
    <material name="outer_east" rgba="0.80 0.74 0.60 1" specular="0"/>
    <material name="outer_west" rgba="0.62 0.66 0.58 1" specular="0"/>
    <material name="outer_north" rgba="0.70 0.70 0.74 1" specular="0"/>
    <material name="outer_south" rgba="0.64 0.58 0.50 1" specular="0"/>
    <material name="wall" rgba="0.85 0.65 0.20 1" specular="0"/>
    <material name="post" rgba="0.20 0.42 0.72 1" specular="0"/>
    <material name="glass" rgba="0.35 0.95 0.90 0.45" specular="0"/>
    <material name="beacon" rgba="0.90 0.08 0.08 1" specular="0"/>
    <material name="hull" rgba="0.13 0.14 0.17 1" specular="0"/>
    <material name="wheel" rgba="0.30 0.30 0.32 1" specular="0"/>
    <material name="nose" rgba="0.95 0.90 0.25 1" specular="0"/>
  </asset>
  <worldbody>
    <light directional="true" castshadow="false" pos="0 0 5" dir="-0.35 0.45 -0.82"
           ambient="0.55 0.55 0.55" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
    <geom name="floor" type="plane" size="{half + 0.1} {half + 0.1} 0.1" material="floor" contype="0" conaffinity="0"/>
    {outer_walls}
    {"".join(obstacle_bodies)}
    <body name="beacon" mocap="true" pos="0 0 {_PARKED_HEIGHT_M}">
      <geom name="beacon" type="capsule" size="{ARENA.beacon_radius_m}" material="beacon" class="obstacle"
            fromto="0 0 -0.2 0 0 {ARENA.beacon_height_m - ARENA.beacon_radius_m}"/>
      <site name="beacon" type="cylinder" size="{ARENA.beacon_radius_m + 0.05} 1.0" group="5"/>
    </body>
    <body name="rover" pos="0 0 0">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="yaw" type="hinge" axis="0 0 1"/>
      <site name="axle" group="5"/>
      <geom name="bumper" type="sphere" size="{ROVER.radius_m}" pos="0 0 {ROVER.bumper_height_m}" group="5"
            contype="2" conaffinity="1" condim="1" priority="2" mass="0" rgba="0 0 0 0"/>
      <geom name="hull" type="cylinder" size="{ROVER.radius_m} 0.06" pos="0 0 0.09" class="rover" material="hull"
            mass="{ROVER.mass_kg - 0.3}" contype="0" conaffinity="0"/>
      <geom name="nose" type="box" size="0.05 0.02 0.01" pos="0.09 0 0.16" class="rover" material="nose" mass="0"
            contype="0" conaffinity="0"/>
      <camera name="camera" pos="{ROVER.camera_forward_m} 0 {ROVER.camera_height_m}" xyaxes="0 -1 0 0 0 1"
              fovy="{ROVER.camera_field_of_view_deg}"/>
      {"".join(cells)}
      {wheels}
    </body>
  </worldbody>
  <actuator>
    <velocity name="wheel_left" site="wheel_left" gear="1 0 0 0 0 0" kv="{ROVER.wheel_gain_n_s_m}"
              forcerange="-{ROVER.wheel_force_n} {ROVER.wheel_force_n}"/>
    <velocity name="wheel_right" site="wheel_right" gear="1 0 0 0 0 0" kv="{ROVER.wheel_gain_n_s_m}"
              forcerange="-{ROVER.wheel_force_n} {ROVER.wheel_force_n}"/>
    <velocity name="scrub" site="axle" gear="0 1 0 0 0 0" kv="{ROVER.scrub_n_s_m}"/>
  </actuator>
  <sensor>
    {"".join(sensors)}
    <touch name="beacon" site="beacon"/>
  </sensor>
</mujoco>
"""


class ArenaModel:
    """The compiled model and the numbers needed to use it; shared, and never changed, by all arenas.

    Attributes
    ----------
    model
        The compiled `mujoco.MjModel`.
    mocap
        From the name of an obstacle, or ``"beacon"``, to its row in the mocap arrays.
    camera_id
        Number of the rover's camera in the model.
    """

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(_model_xml())
        names = [obstacle.name for obstacle in OBSTACLES] + ["beacon"]
        self.mocap = {name: int(self.model.body(name).mocapid[0]) for name in names}
        self.camera_id = self.model.camera("camera").id


@dataclass(frozen=True)
class PlacedObstacle:
    """An obstacle and its place: `outline_m` are points of its centre line, float64 [points, 2]."""

    obstacle: Obstacle
    pose: tuple[float, float, float]
    outline_m: np.ndarray


@dataclass(frozen=True)
class Layout:
    """What stands where: obstacles, the beacon (x_m, y_m) and where the rover starts (x_m, y_m, yaw_rad)."""

    obstacles: tuple[PlacedObstacle, ...]
    beacon: tuple[float, float]
    rover: tuple[float, float, float]


def clearance_m(points_m: np.ndarray, obstacles: tuple[PlacedObstacle, ...] | list[PlacedObstacle]) -> float:
    """Distance from points [points, 2] to the nearest surface of the obstacles and of the outer walls."""
    nearest_m = ARENA.half_size_m - float(np.abs(points_m).max())
    for placed in obstacles:
        offsets = points_m[:, None, :] - placed.outline_m[None, :, :]
        nearest_m = min(nearest_m, float(np.hypot(offsets[..., 0], offsets[..., 1]).min()) - placed.obstacle.radius_m)
    return nearest_m


def _draw_beacon(
    rng: np.random.Generator, obstacles: tuple[PlacedObstacle, ...] | list[PlacedObstacle]
) -> tuple[float, float] | None:
    """Draw a free place for the beacon, or None after too many tries."""
    reach_m = ARENA.half_size_m - ARENA.beacon_radius_m - ARENA.beacon_wall_clearance_m
    for _ in range(200):
        x, y = rng.uniform(-reach_m, reach_m, 2)
        point = np.array([[x, y]])
        inside = [
            np.hypot(*(point - placed.outline_m).T).min() - placed.obstacle.radius_m - ARENA.beacon_radius_m
            for placed in obstacles
        ]
        if min(inside, default=np.inf) >= ARENA.beacon_clearance_m:
            return float(x), float(y)
    return None


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draw a random layout in which every passage is at least `ARENA.passage_m` wide.

    Parameters
    ----------
    rng
        The source of randomness; equal states give equal layouts.
    """
    half_m = ARENA.half_size_m
    while True:
        obstacles: list[PlacedObstacle] = []
        for obstacle in OBSTACLES:
            for _ in range(100):
                x, y = rng.uniform(-half_m, half_m, 2)
                pose = (float(x), float(y), float(rng.uniform(-np.pi, np.pi)))
                outline_m = obstacle.outline(*pose)
                if clearance_m(outline_m, obstacles) - obstacle.radius_m >= ARENA.passage_m:
                    obstacles.append(PlacedObstacle(obstacle, pose, outline_m))
                    break
        beacon = _draw_beacon(rng, obstacles)
        if beacon is None or len(obstacles) < len(OBSTACLES):
            continue
        for _ in range(200):
            x, y = rng.uniform(-half_m, half_m, 2)
            free = clearance_m(np.array([[x, y]]), obstacles) - ROVER.radius_m >= ARENA.rover_clearance_m
            if free and np.hypot(x - beacon[0], y - beacon[1]) >= ARENA.beacon_distance_m:
                return Layout(tuple(obstacles), beacon, (float(x), float(y), float(rng.uniform(-np.pi, np.pi))))


class Arena:
    """One rover in its own arena.

    Not thread-safe, but different arenas may be advanced in different threads.

    Parameters
    ----------
    model
        The compiled model, shared with other arenas.
    seed
        Seed of the layouts; None draws one from the operating system.

    Attributes
    ----------
    touch_n
        Normal forces on the bumper cells in newtons, saturated at `ROVER.touch_limit_n`, float32 [cells].
    presses
        How often the beacon was pressed since `reset`.
    collisions
        How often the bumper came into contact with anything but the beacon since `reset`.
    layout
        What stands where.
    """

    def __init__(self, model: ArenaModel, seed: int | None = None) -> None:
        self.model = model
        self.data = mujoco.MjData(model.model)
        self._rng = np.random.default_rng(seed)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Draw a new layout and start again at time zero; a seed makes it, and all that follow, reproducible."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.layout = draw_layout(self._rng)
        self.presses = 0
        self.collisions = 0
        self._touching = False
        self._armed = True
        self._due_s = 0.0
        self.touch_n = np.zeros(ROVER.touch_cells, np.float32)
        data = self.data
        mujoco.mj_resetData(self.model.model, data)
        for placed in self.layout.obstacles:
            self._place(placed.obstacle.name, *placed.pose)
        self._place("beacon", *self.layout.beacon, 0.0)
        data.qpos[:] = self.layout.rover
        mujoco.mj_forward(self.model.model, data)

    def command(self, linear_m_s: float, angular_rad_s: float) -> None:
        """Set the target velocities, clipped to the limits of the rover, until the next call."""
        linear = min(max(float(linear_m_s), -ROVER.max_reverse_m_s), ROVER.max_linear_m_s)
        angular = min(max(float(angular_rad_s), -ROVER.max_angular_rad_s), ROVER.max_angular_rad_s)
        self.data.ctrl[0] = linear - angular * ROVER.wheel_offset_m
        self.data.ctrl[1] = linear + angular * ROVER.wheel_offset_m

    def advance(self, duration_s: float) -> None:
        """Simulate a duration; what is left over below one time step is simulated by the next call."""
        self._due_s += duration_s
        steps = int(self._due_s / ARENA.timestep_s + 1e-6)
        self._due_s -= steps * ARENA.timestep_s
        data = self.data
        touch_n = self.touch_n.astype(np.float64)
        fading = np.exp(-ARENA.timestep_s / ROVER.touch_recovery_s)
        for _ in range(steps):
            mujoco.mj_step(self.model.model, data)
            forces_n = data.sensordata[: ROVER.touch_cells]
            np.maximum(forces_n, touch_n * fading, out=touch_n)
            touching = bool(forces_n.max() > 0.0) and data.sensordata[ROVER.touch_cells] == 0.0
            self.collisions += int(touching and not self._touching)
            self._touching = touching
            pressing = data.sensordata[ROVER.touch_cells] > ARENA.press_force_n
            if pressing and self._armed:
                self.presses += 1
                self._move_beacon()
            # The sensor still shows the old contact in the step in which the beacon moves.
            self._armed = not pressing
        touch_n[touch_n < _TOUCH_THRESHOLD_N] = 0.0
        self.touch_n = touch_n.astype(np.float32)

    @property
    def pose(self) -> tuple[float, float, float]:
        """The pose of the rover on the floor: x_m, y_m, yaw_rad in (-pi, pi]."""
        x, y, yaw = self.data.qpos
        return float(x), float(y), float(np.arctan2(np.sin(yaw), np.cos(yaw)))

    @property
    def velocity(self) -> tuple[float, float]:
        """The velocity of the rover in its own frame: forward linear_m_s, angular_rad_s."""
        yaw = self.data.qpos[2]
        x_m_s, y_m_s, angular_rad_s = self.data.qvel
        return float(x_m_s * np.cos(yaw) + y_m_s * np.sin(yaw)), float(angular_rad_s)

    @property
    def time_s(self) -> float:
        """Simulated time since `reset`."""
        return float(self.data.time)

    @property
    def beacon_polar(self) -> tuple[float, float]:
        """Where the beacon is for the rover: distance of the surfaces in metres, bearing in (-pi, pi]."""
        x, y, yaw = self.pose
        dx, dy = self.layout.beacon[0] - x, self.layout.beacon[1] - y
        bearing = np.arctan2(dy, dx) - yaw
        distance_m = np.hypot(dx, dy) - ARENA.beacon_radius_m - ROVER.radius_m
        return float(distance_m), float(np.arctan2(np.sin(bearing), np.cos(bearing)))

    def _place(self, name: str, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Stand an obstacle or the beacon at a pose on the floor."""
        row = self.model.mocap[name]
        self.data.mocap_pos[row] = x_m, y_m, 0.0
        self.data.mocap_quat[row] = np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)

    def _move_beacon(self) -> None:
        """Place the beacon somewhere else, away from the rover."""
        x, y, _ = self.pose
        while True:
            beacon = _draw_beacon(self._rng, self.layout.obstacles)
            if beacon is not None and np.hypot(beacon[0] - x, beacon[1] - y) >= ARENA.beacon_distance_m:
                break
        self.layout = Layout(self.layout.obstacles, beacon, self.layout.rover)
        self._place("beacon", *beacon, 0.0)
