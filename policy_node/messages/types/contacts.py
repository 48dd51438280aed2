# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Contacts of Gazebo: the forces on the touch cells of a bumper.

A contact sensor of Gazebo names the touched collision of the robot in every contact, and gives the place in the frame
of the world. So each cell of a bumper is a collision whose name ends with the cell's number: ``touch_3`` is cell 3.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from policy_node.config.specs import ArraySpec
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types import MessageType
from policy_node.messages.vectors import NumberSource, VectorReader

CONTACTS = "ros_gz_interfaces/msg/Contacts"
_CELL = re.compile(r"(\d{1,9})$")


class TouchSource(NumberSource):
    """The normal forces on the cells of a bumper in newtons, in a ros_gz_interfaces/msg/Contacts.

    The forces on a cell add up, to at most the upper bound of the observation. A contact without forces, as from
    Gazebo Fortress, counts as a force of that bound, or of 1 N without a bound. The spec is `[cells]`.
    """

    dtypes = (np.dtype(np.float64),)
    size: int

    def __init__(self, spec: ArraySpec) -> None:
        self.size = int(np.prod(spec.shape))
        self._limit_n = spec.high.astype(np.float64).ravel()
        self._unknown_n = np.where(np.isfinite(self._limit_n), self._limit_n, 1.0)

    def numbers(self, message: Any) -> np.ndarray:
        """Return the force on each cell `[cells]`."""
        forces_n = np.zeros(self.size)
        for contact in message.contacts:
            cell = self._cell(contact.collision1.name)
            force_n = normal_force_n(contact)
            forces_n[cell] += self._unknown_n[cell] if force_n is None else force_n
        return np.minimum(forces_n, self._limit_n)

    def label(self, message: Any, index: int) -> str:
        """Return which cell a force is on."""
        return f"the force on cell {index}"

    def _cell(self, name: str) -> int:
        """Return the cell of a collision."""
        number = _CELL.search(name)
        if number is None or int(number[1]) >= self.size:
            raise UnusableReading(
                f"collision '{name}' is no cell of {self.size}; let the names of the sensor's collisions end with the "
                f"number of their cell, 0 to {self.size - 1}, as in touch_0"
            )
        return int(number[1])


def normal_force_n(contact: Any) -> float | None:
    """Add up the forces of a contact along its normals, of either sign; None for a contact without forces.

    Raises UnusableReading if the number of normals is not that of the forces.
    """
    if not len(contact.wrenches):
        return None
    pushes = [wrench.body_1_wrench.force for wrench in contact.wrenches]
    if len(contact.normals) != len(pushes):
        raise UnusableReading(f"{len(contact.normals)} normals found for {len(pushes)} wrenches")
    return sum(
        abs(push.x * normal.x + push.y * normal.y + push.z * normal.z)
        for push, normal in zip(pushes, contact.normals, strict=True)
    )


MESSAGE_TYPES = MessageType(
    CONTACTS,
    "the normal force on each touch cell ([gazebo.md](gazebo.md#touch))",
    "as many as the policy takes",
    make=lambda message_type, spec, choices: VectorReader(message_type, TouchSource(spec), spec),
    takes=frozenset(),
    refuses="contacts of collisions that are no cell",
)
