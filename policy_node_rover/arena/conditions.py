# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The conditions of an episode: how late and how often images come, colours, light, friction, and what is transparent.

A policy that has met many of them in training drives in a world that is none of them exactly (domain randomisation,
Tobin et al. 2017, https://arxiv.org/abs/1703.06907). All draws of an episode come from its seed.
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

# What the camera sees is never quite black: black is where it sees nothing, the sky.
DARKEST = 0.04


@dataclass(frozen=True)
class Appearance:
    """How an arena looks to the camera.

    Attributes
    ----------
    colours
        Red, green and blue in 0 to 1 of every material.
    sky
        Red, green and blue of what is behind everything.
    ambient, diffuse
        Strengths of the light.
    light_direction
        Where the light shines to.
    unseen
        Names of the obstacles that are transparent besides those that always are.
    """

    colours: dict[str, Vector]
    sky: Vector
    ambient: float
    diffuse: float
    light_direction: Vector
    unseen: frozenset[str]


@dataclass(frozen=True)
class EpisodeConditions:
    """What was drawn for one episode.

    Attributes
    ----------
    camera_latency_s
        How old the newest image is that has arrived.
    dropped_images
        Share of the images that never arrive.
    bumper_friction
        Coefficient between the bumper and what it touches.
    grip
        Factor on the forces of the tyres on the floor, forwards and sideways.
    appearance
        How the arena looks.
    """

    camera_latency_s: float
    dropped_images: float
    bumper_friction: float
    grip: float
    appearance: Appearance


@dataclass(frozen=True)
class Conditions:
    """From what the conditions of an episode are drawn; ranges are drawn from uniformly.

    Attributes
    ----------
    camera_latencies_s
        One of them is drawn, whole control periods.
    dropped_images
        Range of the share of images that never arrive; the policy sees the one before again.
    colour_change
        How far red, green and blue of every material but the beacon's, and of the sky, may be from the description's.
    beacon_colour_change
        The same for the beacon, which must stay the only red thing.
    light
        Range of the factor on the strengths of the ambient and, drawn apart, of the directional light.
    light_tilt_deg
        How far the light may be turned away from its direction.
    bumper_friction
        Range of the coefficient between the bumper and what it touches.
    grip
        Range of the factor on the forces of the tyres on the floor.
    transparent
        Share of the visible obstacles that are transparent, besides those that always are.
    """

    camera_latencies_s: tuple[float, ...] = (0.0,)
    dropped_images: Range = (0.0, 0.0)
    colour_change: float = 0.0
    beacon_colour_change: float = 0.0
    light: Range = (1.0, 1.0)
    light_tilt_deg: float = 0.0
    bumper_friction: Range = (ROVER.bumper_friction, ROVER.bumper_friction)
    grip: Range = (1.0, 1.0)
    transparent: float = 0.0

    def draw(self, rng: np.random.Generator) -> EpisodeConditions:
        """Draw the conditions of an episode; equal states of the generator give equal ones."""
        colours = {
            name: _changed(rng, colour, self.beacon_colour_change if name == "beacon" else self.colour_change)
            for name, (*colour, _) in MATERIALS.items()
        }
        sky = _changed(rng, SKY, self.colour_change)
        light = rng.uniform(*self.light, 2)
        tilted = _tilted(rng, LIGHT_DIRECTION, math.radians(self.light_tilt_deg))
        visible = [obstacle.name for obstacle in OBSTACLES if not obstacle.transparent]
        unseen = frozenset(name for name in visible if rng.random() < self.transparent)
        appearance = Appearance(colours, sky, LIGHT_AMBIENT * light[0], LIGHT_DIFFUSE * light[1], tilted, unseen)
        return EpisodeConditions(
            camera_latency_s=float(rng.choice(self.camera_latencies_s)),
            dropped_images=float(rng.uniform(*self.dropped_images)),
            bumper_friction=float(rng.uniform(*self.bumper_friction)),
            grip=float(rng.uniform(*self.grip)),
            appearance=appearance,
        )


def _changed(rng: np.random.Generator, colour: list[float] | Vector, change: float) -> Vector:
    """Draw a colour near another one."""
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-change, change, 3), DARKEST, 1.0).tolist()
    return red, green, blue


def _tilted(rng: np.random.Generator, direction: Vector, limit_rad: float) -> Vector:
    """Turn a direction by an angle up to a limit, about an axis that is drawn too."""
    along = np.array(direction) / np.linalg.norm(direction)
    across = np.cross(along, rng.normal(size=3))
    angle_rad = rng.uniform(0.0, limit_rad)
    x, y, z = (along * math.cos(angle_rad) + across / np.linalg.norm(across) * math.sin(angle_rad)).tolist()
    return x, y, z


NOMINAL = Conditions()
# What the shipped policy is trained in.
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
# The same world with a bad camera link: always late, and every fifth image lost.
ADVERSE = replace(RANDOMISED, camera_latencies_s=(0.05,), dropped_images=(0.2, 0.2), transparent=0.0)
TRANSPARENT = Conditions(transparent=1.0)
CONDITIONS = {"nominal": NOMINAL, "randomised": RANDOMISED, "adverse": ADVERSE, "transparent": TRANSPARENT}
