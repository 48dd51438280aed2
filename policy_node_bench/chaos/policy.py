# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy whose commands name the readings they were computed from, and that fails on request of a reading.

Readings contain robot and time. The policy copies both into the command, so that a command shows which robot's readings
it was computed from, and when they were taken. All numbers are whole and below 2^24, exact in float32.
"""

from __future__ import annotations

import warnings
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

IMAGE_SHAPE = (36, 36, 3)
TOUCH_SIZE = 6
TOUCH_JOINTS = tuple(f"touch_{cell}" for cell in range(TOUCH_SIZE))
COMMAND_SIZE = 8
# In every touch reading; the policy adds its own number, and any other sum shows that the command is from elsewhere.
CHECK = 7_654_321
# Numbers of the two policies that are swapped, and of the policy of a second node, which never drives.
POLICIES = (0, 1)
SECOND_POLICY = 2
POSITION_JOINTS = tuple(f"joint_{component}" for component in range(COMMAND_SIZE))

_MARK_SIZE = 8
_IMAGE_SIZE = int(np.prod(IMAGE_SHAPE))


class Request(IntEnum):
    """The behaviour that a reading requests of the policy."""

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
    policy: int = 0  # number of the policy

    @property
    def readings(self) -> tuple[Reading, Reading]:
        """Both readings."""
        return self.touch, self.image


class GarbledCommandError(ValueError):
    """A command is neither a position nor a copy of readings."""


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


def position_numbers(reading: Reading) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the position `[COMMAND_SIZE]` of a robot at a time; it is negative, as no command of a policy is."""
    second, microsecond = divmod(reading.time_us, 1_000_000)
    return -1.0 - np.array([reading.robot, second, microsecond] + [0] * (COMMAND_SIZE - 3))


def origin_of(command: np.ndarray) -> Origin | Reading:
    """Return the readings of a command `[COMMAND_SIZE]`, or the reading of the position that is the safe command.

    Raises GarbledCommandError for any other command.
    """
    if command.shape != (COMMAND_SIZE,) or not (np.isfinite(command) & (command == np.floor(command))).all():
        raise GarbledCommandError(f"found {command.tolist()}, expected {COMMAND_SIZE} whole numbers")
    numbers = [int(number) for number in command]
    if max(numbers) < 0 and set(numbers[3:]) == {-1}:
        return Reading(-1 - numbers[0], (-1 - numbers[1]) * 1_000_000 - 1 - numbers[2])
    robot, second, microsecond, image_robot, image_second, image_microsecond, check, torn = numbers
    policy = check - CHECK
    if policy not in (*POLICIES, SECOND_POLICY) or torn or min(numbers) < 0:
        raise GarbledCommandError(f"found {numbers}, which is not from a reading")
    return Origin(
        Reading(robot, second * 1_000_000 + microsecond),
        Reading(image_robot, image_second * 1_000_000 + image_microsecond),
        policy,
    )


class TellTale(torch.nn.Module):
    """Copy robot and time of both readings into the command, with the policy's number."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = float(number)
        self.nan, self.block, self.fail = float(Request.NAN), float(Request.BLOCK), float(Request.RAISE)
        # Convert the eight bytes of a mark to robot, second and microsecond.
        weights = torch.zeros(8, 3)
        weights[:2, 0] = torch.tensor([256.0, 1.0])
        for number, first in ((1, 2), (2, 5)):
            weights[first : first + 3, number] = torch.tensor([65536.0, 256.0, 1.0])
        self.weights = torch.nn.Parameter(weights, requires_grad=False)

    def forward(self, image: torch.Tensor, touch: torch.Tensor) -> torch.Tensor:
        """Return the commands `[robots, COMMAND_SIZE]` of images `[robots, *IMAGE_SHAPE]` and touch."""
        request = touch[:, 4]
        # Few operations, because the policy is not under test.
        if bool((request >= self.block).any()):
            self._misbehave(request, touch[:, 5])
        pixels = image.reshape(image.size(0), -1)
        first, last = pixels[:, :8], pixels[:, -8:]
        torn = (first != last).any(dim=1, keepdim=True).float()
        # Sums of whole numbers below 2^24, which are exact in float32.
        mark = first.float() @ self.weights
        command = torch.cat([touch[:, :3], mark, touch[:, 3:4] + self.number, torn], dim=1)
        return command.masked_fill((request == self.nan)[:, None], float("nan"))

    def _misbehave(self, request: torch.Tensor, seconds: torch.Tensor) -> None:
        blocking = request == self.block
        if bool(blocking.any()):
            end_ns = torch.ops.prim.TimePoint() + int((seconds * blocking.float()).max() * 1e9)
            while torch.ops.prim.TimePoint() < end_ns:
                pass
        if bool((request == self.fail).any()):
            raise ValueError("a reading requested a failure of the policy")


def save_policy(path: Path, number: int = 0) -> None:
    """Save the policy with a number as TorchScript."""
    with warnings.catch_warnings():
        # The format is deprecated, but no other one can hold a policy that blocks and raises on request.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(TellTale(number)).save(str(path))
