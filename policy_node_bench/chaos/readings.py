# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write robot and time into readings, and read them from commands.

The policy of `chaos.policy` copies both from the readings into the command, so that a command shows which robot's
readings it was computed from, and when they were taken. All numbers are whole and below 2^24, exact in float32.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

IMAGE_SHAPE = (36, 36, 3)
TOUCH_SIZE = 6
COMMAND_SIZE = 8
# In every touch reading; the policy copies it, and another number shows that the reading is not from these robots.
CHECK = 7_654_321
# The policy's commands are never negative.
SAFE_COMMAND = (-1.0,) * COMMAND_SIZE

_MARK_SIZE = 8
_IMAGE_SIZE = int(np.prod(IMAGE_SHAPE))


class Request(IntEnum):
    """What a reading requests of the policy."""

    NOTHING = 0
    NAN = 1  # for this robot
    BLOCK = 2  # compute for some time, for all robots
    RAISE = 3  # for all robots


class Reading(NamedTuple):
    """A robot, and the time of its reading in microseconds since the begin of the run."""

    robot: int
    time_us: int


class Origin(NamedTuple):
    """The readings that a command was computed from."""

    touch: Reading
    image: Reading


class GarbledCommandError(ValueError):
    """A command is neither the safe one nor a copy of readings."""


def touch_numbers(
    reading: Reading, request: Request = Request.NOTHING, argument_s: float = 0.0
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the touch values `[TOUCH_SIZE]`, with a request to the policy and its argument."""
    second, microsecond = divmod(reading.time_us, 1_000_000)
    return np.array([reading.robot, second, microsecond, CHECK, request, argument_s], np.float64)


def image_bytes(reading: Reading) -> bytes:
    """Return the pixels; the first and the last ones hold the reading, to detect a partial image."""
    second, microsecond = divmod(reading.time_us, 1_000_000)
    mark = reading.robot.to_bytes(2, "big") + second.to_bytes(3, "big") + microsecond.to_bytes(3, "big")
    return mark + bytes([reading.robot % 256]) * (_IMAGE_SIZE - 2 * _MARK_SIZE) + mark


def origin_of(command: np.ndarray) -> Origin | None:
    """Return the readings of a command `[COMMAND_SIZE]`, or None for the safe command.

    Raises
    ------
    GarbledCommandError
        For any other command.
    """
    if np.array_equal(command, SAFE_COMMAND):
        return None
    if command.shape != (COMMAND_SIZE,) or not (np.isfinite(command) & (command == np.floor(command))).all():
        raise GarbledCommandError(f"found {command.tolist()}, expected {COMMAND_SIZE} whole numbers")
    numbers = [int(number) for number in command]
    robot, second, microsecond, image_robot, image_second, image_microsecond, check, torn = numbers
    if check != CHECK or torn or min(numbers) < 0:
        raise GarbledCommandError(f"found {numbers}, which is not from a reading")
    return Origin(
        Reading(robot, second * 1_000_000 + microsecond),
        Reading(image_robot, image_second * 1_000_000 + image_microsecond),
    )
