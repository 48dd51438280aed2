# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Contacts as Gazebo reports them, made of the definitions of ros_gz_interfaces, which need not be installed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from policy_node.messages.types.contacts import CONTACTS

# The definitions of ros_gz_interfaces, the same from Humble (0.244) to Jazzy (1.0) and Kilted (2.1).
DEFINITIONS = {
    "Entity": "uint64 id\nstring name\nuint8 type\n",
    "JointWrench": "std_msgs/Header header\nstd_msgs/String body_1_name\nstd_msgs/UInt32 body_1_id\n"
    "std_msgs/String body_2_name\nstd_msgs/UInt32 body_2_id\n"
    "geometry_msgs/Wrench body_1_wrench\ngeometry_msgs/Wrench body_2_wrench\n",
    "Contact": "ros_gz_interfaces/Entity collision1\nros_gz_interfaces/Entity collision2\n"
    "geometry_msgs/Vector3[] positions\ngeometry_msgs/Vector3[] normals\nfloat64[] depths\n"
    "ros_gz_interfaces/JointWrench[] wrenches\n",
    "Contacts": "std_msgs/Header header\nros_gz_interfaces/Contact[] contacts\n",
}
STORE = get_typestore(Stores.ROS2_JAZZY)
for name, definition in DEFINITIONS.items():
    STORE.register(get_types_from_msg(definition, f"ros_gz_interfaces/msg/{name}"))

Vector = tuple[float, float, float]


def make(type_name: str, **fields: Any) -> Any:
    return STORE.types[type_name](**fields)


def vector(xyz: Vector) -> Any:
    return make("geometry_msgs/msg/Vector3", x=xyz[0], y=xyz[1], z=xyz[2])


def wrench(force: Vector) -> Any:
    def on_body(sign: float) -> Any:
        pushed = vector((sign * force[0], sign * force[1], sign * force[2]))
        return make("geometry_msgs/msg/Wrench", force=pushed, torque=vector((0.0, 0.0, 0.0)))

    def text(data: str) -> Any:
        return make("std_msgs/msg/String", data=data)

    def number(data: int) -> Any:
        return make("std_msgs/msg/UInt32", data=data)

    return make(
        "ros_gz_interfaces/msg/JointWrench",
        header=header(0),
        body_1_name=text(""),
        body_1_id=number(0),
        body_2_name=text(""),
        body_2_id=number(0),
        body_1_wrench=on_body(1.0),
        body_2_wrench=on_body(-1.0),
    )


def header(stamp_ns: int) -> Any:
    sec, nanosec = divmod(stamp_ns, 10**9)
    stamp = make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id="")


def contact(
    collision: str,
    forces: Sequence[Vector] = (),
    normals: Sequence[Vector] = (),
    points: int = 1,
    touched: str = "arena_0::post_0::post_0",
) -> Any:
    """Make a contact as Gazebo does: as Fortress without forces, as newer ones with force and normal of each point."""

    def entity(name: str) -> Any:
        return make("ros_gz_interfaces/msg/Entity", id=7, name=name, type=5)

    return make(
        "ros_gz_interfaces/msg/Contact",
        collision1=entity(collision),
        collision2=entity(touched),
        positions=[vector((3.0, -1.0, 0.1))] * max(points, len(forces)),
        normals=[vector(normal) for normal in normals],
        depths=np.full(len(forces), 0.001),
        wrenches=[wrench(force) for force in forces],
    )


def contacts_message(*contacts: Any, stamp_ns: int = 12_340_000_000) -> Any:
    """Make the message of a sensor."""
    return make(CONTACTS, header=header(stamp_ns), contacts=list(contacts))
