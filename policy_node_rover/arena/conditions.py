# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Conditions of an episode: camera latency and loss, colours, light, friction and transparent obstacles.

Training draws them for each episode from its seed (domain randomisation, Tobin et al. 2017,
https://arxiv.org/abs/1703.06907).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from policy_node_rover.arena.description import (
    LIGHT_AMBIENT,
    LIGHT_DIFFUSE,
    LIGHT_DIRECTION,
    MATERIALS,
    OBSTACLES,
    ROVER,
    SKY,
    Vector,
)

Range = tuple[float, float]

# The renderer uses black for the sky, so no surface may be black.
MIN_COLOUR = 0.04


@dataclass(frozen=True)
class Appearance:
    """Colours (red, green, blue in 0 to 1), light, and the names of obstacles that are transparent in this episode."""

    colours: dict[str, Vector]
    sky: Vector
    ambient: float
    diffuse: float
    light_direction: Vector
    transparent: frozenset[str]


@dataclass(frozen=True)
class EpisodeConditions:
    """The conditions of one episode, see `Conditions` for their meaning."""

    camera_latency_s: float
    dropped_images: float
    bumper_friction: float
    grip: float
    appearance: Appearance


@dataclass(frozen=True)
class Conditions:
    """Distribution of the conditions of episodes; a range is drawn from uniformly."""

    camera_latencies_s: tuple[float, ...] = (0.0,)  # choices, in whole control periods
    # Share of images that are lost; the policy then gets the image before again.
    dropped_images: Range = (0.0, 0.0)
    colour_change: float = 0.0  # maximum change of red, green and blue of every material and of the sky
    beacon_colour_change: float = 0.0  # the same for the beacon, which must stay the only red object
    light: Range = (1.0, 1.0)  # factors on ambient and directional light, drawn separately
    light_tilt_deg: float = 0.0  # maximum angle between the light and its nominal direction
    bumper_friction: Range = (ROVER.bumper_friction, ROVER.bumper_friction)  # friction coefficient
    grip: Range = (1.0, 1.0)  # factor on the forces of the tyres
    transparent: float = 0.0  # probability that a visible obstacle is transparent

    def draw(self, rng: np.random.Generator) -> EpisodeConditions:
        """Draw the conditions of an episode."""
        colours = {
            name: _changed_colour(rng, colour, self.beacon_colour_change if name == "beacon" else self.colour_change)
            for name, (*colour, _) in MATERIALS.items()
        }
        sky = _changed_colour(rng, SKY, self.colour_change)
        light = rng.uniform(*self.light, 2)
        direction = _tilted(rng, LIGHT_DIRECTION, math.radians(self.light_tilt_deg))
        visible = [obstacle.name for obstacle in OBSTACLES if not obstacle.transparent]
        transparent = frozenset(name for name in visible if rng.random() < self.transparent)
        return EpisodeConditions(
            camera_latency_s=float(rng.choice(self.camera_latencies_s)),
            dropped_images=float(rng.uniform(*self.dropped_images)),
            bumper_friction=float(rng.uniform(*self.bumper_friction)),
            grip=float(rng.uniform(*self.grip)),
            appearance=Appearance(
                colours, sky, LIGHT_AMBIENT * light[0], LIGHT_DIFFUSE * light[1], direction, transparent
            ),
        )


def _changed_colour(rng: np.random.Generator, colour: list[float] | Vector, change: float) -> Vector:
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-change, change, 3), MIN_COLOUR, 1.0).tolist()
    return red, green, blue


def _tilted(rng: np.random.Generator, direction: Vector, max_angle_rad: float) -> Vector:
    """Rotate a direction by a random angle about a random axis."""
    along = np.array(direction) / np.linalg.norm(direction)
    across = np.cross(along, rng.normal(size=3))
    angle_rad = rng.uniform(0.0, max_angle_rad)
    x, y, z = (along * math.cos(angle_rad) + across / np.linalg.norm(across) * math.sin(angle_rad)).tolist()
    return x, y, z


NOMINAL = Conditions()
# The shipped policy is trained in these.
RANDOMISED = Conditions(
    camera_latencies_s=(0.0, 0.05, 0.10),
    dropped_images=(0.0, 0.3),
    colour_change=0.15,
    beacon_colour_change=0.06,
    light=(0.7, 1.3),
    light_tilt_deg=40.0,
    bumper_friction=(0.1, 0.7),
    grip=(0.8, 1.2),
    transparent=0.25,
)
# A bad camera link: always late, and every fifth image is lost.
ADVERSE = replace(RANDOMISED, camera_latencies_s=(0.05,), dropped_images=(0.2, 0.2), transparent=0.0)
TRANSPARENT = Conditions(transparent=1.0)
CONDITIONS = {"nominal": NOMINAL, "randomised": RANDOMISED, "adverse": ADVERSE, "transparent": TRANSPARENT}
