# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Drive by rules from the true state of the arena: the expert for imitation and a reference in evaluations.

The rules use only state that the policy can observe, too: the beacon while it is in view, visible obstacles, and the
touch readings. They have no memory.
"""

from __future__ import annotations

import numpy as np

from policy_node_rover.arena.description import ARENA, ROVER
from policy_node_rover.mujoco.arena import Arena

_HALF_VIEW_RAD = np.radians(ROVER.camera_field_of_view_deg / 2 - 3.0)
_SEARCH_RAD_S = 1.8
_TURN_GAIN = 4.0
_LOOK_AHEAD_M = 1.0
_MARGIN_M = 0.07
_CELL_BEARINGS_RAD = (np.arange(ROVER.touch_cells) + 0.5) * 2 * np.pi / ROVER.touch_cells
_CANDIDATES_RAD = np.radians(np.arange(-36.0, 37.0, 4.0))
# Tuned by a random search with bumper frictions from 0.2 to 0.7.
_TOUCHED_AHEAD_RAD = np.radians(110.0)
_TOUCHED_RIGHT_RAD = np.radians(-11.0)
_PRESS_DISTANCE_M = 0.08
_BACK_OFF_N = 2.5
_BACK_OFF_RAD_S = 1.75
_PASS_M_S = 0.56
_PASS_RAD_S = 0.67


def scripted_command(arena: Arena) -> tuple[float, float]:
    """Return the command for the present state: linear_m_s, angular_rad_s.

    While the beacon is out of view, the rover turns left. In view, it heads for the beacon, past visible obstacles.
    It passes a touched obstacle on the right: it backs off turning right, then drives in a curve to the left. The
    decaying touch readings tell the two phases apart.
    """
    distance_m, bearing = arena.beacon_polar
    touch = arena.touch_n
    if touch.max() > 0.0 and distance_m > _PRESS_DISTANCE_M:
        contact = float(np.arctan2(touch @ np.sin(_CELL_BEARINGS_RAD), touch @ np.cos(_CELL_BEARINGS_RAD)))
        if abs(contact) < _TOUCHED_AHEAD_RAD:
            away = -1.0 if contact >= _TOUCHED_RIGHT_RAD else 1.0
            if touch.max() > _BACK_OFF_N:
                return -ROVER.max_reverse_m_s, away * _BACK_OFF_RAD_S
            return _PASS_M_S, -away * _PASS_RAD_S
    if abs(bearing) > _HALF_VIEW_RAD:
        return 0.0, _SEARCH_RAD_S
    heading = _free_heading(arena, bearing, distance_m)
    angular = float(np.clip(_TURN_GAIN * heading, -ROVER.max_angular_rad_s, ROVER.max_angular_rad_s))
    return ROVER.max_linear_m_s * max(float(np.cos(heading)) ** 2, 0.1), angular


def _free_heading(arena: Arena, bearing: float, distance_m: float) -> float:
    """Return the free heading nearest to the beacon's bearing."""
    x, y, yaw = arena.pose
    points = [
        (point, placed.obstacle.radius_m)
        for placed in arena.layout.obstacles
        if not arena.is_transparent(placed.obstacle)
        for point in placed.outline_m
    ]
    if not points:
        return bearing
    centres = np.array([point for point, _ in points]) - (x, y)
    radii = np.array([radius for _, radius in points]) + ROVER.radius_m + _MARGIN_M
    cos, sin = np.cos(yaw), np.sin(yaw)
    ahead, left = centres @ (cos, sin), centres @ (-sin, cos)
    reach_m = min(_LOOK_AHEAD_M, distance_m)
    headings = bearing + _CANDIDATES_RAD
    along = ahead * np.cos(headings)[:, None] + left * np.sin(headings)[:, None]
    aside = np.abs(left * np.cos(headings)[:, None] - ahead * np.sin(headings)[:, None])
    blocked = (along > 0.0) & (along < reach_m + radii) & (aside < radii)
    # The cost grows with the overlap of the path with an obstacle's margin, and is higher for near obstacles.
    cost = np.where(blocked, (radii - aside) / radii * (1.2 - np.minimum(along, 1.0)), 0.0).max(axis=1)
    edge_m = ARENA.half_size_m - ROVER.radius_m - 0.02
    ends = np.stack([x + 0.3 * np.cos(yaw + headings), y + 0.3 * np.sin(yaw + headings)])
    outside = np.maximum(np.abs(ends).max(axis=0) - edge_m, 0.0)
    return float(headings[np.argmin(3.0 * cost + outside + np.abs(_CANDIDATES_RAD))])
