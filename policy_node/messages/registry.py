# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the node can read and command: message types to arrays, and arrays to message types.

`reading_decoder` and `command_encoder` choose by the name of the type and check everything that can be known before
the first message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from policy_node.config.schema import (
    COMMAND_TYPES,
    FLOAT64_ARRAY,
    IMAGE,
    IMAGE_TYPES,
    JOINT_COMMAND_TYPES,
    JOINT_STATE,
    TWIST,
    TWIST_STAMPED,
    VELOCITY_COMMAND_TYPES,
)
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import header_stamp_ns
from policy_node.messages.commands import (
    ArrayEncoder,
    JointStateEncoder,
    JointTrajectoryEncoder,
    VelocityEncoder,
    require_one_each,
)
from policy_node.messages.contacts import CONTACTS, TouchSource
from policy_node.messages.fields import MessageClass, MessageTypeError, has_header, message_class
from policy_node.messages.images import CompressedImageReader, ImageReader, RawImageReader
from policy_node.messages.vectors import FieldSource, JointSource, NumberSource, RangeSource, VectorReader
from policy_node.sensing.samples import UnusableReading

__all__ = ["CommandEncoder", "MessageTypeError", "ReadingDecoder", "command_encoder", "reading_decoder", "reading_size"]

# The vector of each type that is read without a `field`.
USUAL_FIELDS = {
    "sensor_msgs/msg/Imu": ("orientation", "angular_velocity", "linear_acceleration"),
    "geometry_msgs/msg/WrenchStamped": ("wrench.force", "wrench.torque"),
    TWIST: ("linear", "angular"),
    TWIST_STAMPED: ("twist.linear", "twist.angular"),
    "nav_msgs/msg/Odometry": (
        "pose.pose.position",
        "pose.pose.orientation",
        "twist.twist.linear",
        "twist.twist.angular",
    ),
    "std_msgs/msg/Float32MultiArray": ("data",),
    FLOAT64_ARRAY: ("data",),
    "std_msgs/msg/Bool": ("data",),
    "std_msgs/msg/Int32": ("data",),
}
# The distances of each type that REP 117 rules, with the smallest and the largest measurable one.
DISTANCE_FIELDS = {
    "sensor_msgs/msg/LaserScan": ("ranges", "range_min", "range_max"),
    "sensor_msgs/msg/Range": ("range", "min_range", "max_range"),
}


class ReadingDecoder:
    """Decodes the serialised messages of one observation; made by `reading_decoder`.

    It keeps nothing of a robot, so one serves all robots of a fleet, in one thread; in several where it is `parallel`.

    Attributes
    ----------
    parallel
        Whether decoding takes long and lets other threads run meanwhile, as that of compressed images does.
    """

    def __init__(self, message_type: MessageClass, topic: str, read: ImageReader | VectorReader) -> None:
        self.message_type = message_type
        self._topic = topic
        self._read = read
        self._has_header = has_header(message_type)
        self.parallel = read.parallel

    def stamp_ns(self, raw: bytes) -> int | None:
        """Return the header stamp of a serialised message in nanoseconds.

        None for a type without a header, whose readings count from their source timestamp, and for a message that is
        cut before it, which `decode` then refuses.
        """
        return header_stamp_ns(raw) if self._has_header else None

    def decode(self, raw: bytes, out: np.ndarray) -> None:
        """Decode a serialised message into a row of the batch.

        Parameters
        ----------
        raw
            The message as the middleware delivers it (CDR); nothing in it is trusted.
        out
            C-contiguous array of the shape and dtype of the spec; unchanged when the message is unusable.

        Raises
        ------
        UnusableReading
            If the message is damaged, or does not give what the spec asks for; says topic, found and allowed.
        """
        try:
            self._read(raw, out)
        except UnusableReading as error:
            raise UnusableReading(f"{self._topic}: {error}") from error


class CommandEncoder(Protocol):
    """Turns commands of one robot after the other into messages of one type."""

    message_type: MessageClass
    components: int

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]` float64; the next call changes it."""


def reading_decoder(
    type_name: str,
    spec: ArraySpec,
    *,
    topic: str,
    field: str = "",
    fields: Sequence[str] = (),
    joints: Sequence[str] = (),
    encoding: str = "",
) -> ReadingDecoder:
    """Make the decoder that turns messages of a type into what a policy observes.

    Parameters
    ----------
    type_name
        Such as ``sensor_msgs/msg/Image``; any installed message type, with `field` where it is none of those listed
        in this module.
    spec
        One frame: `[height, width, channels]` for images, `[n]` for all else.
    topic
        Named in errors.
    field
        Position, velocity or effort of a JointState; for other types the dotted path to a number, an array of numbers,
        or a message of only numbers, which is flattened in the order of its definition.
    fields
        Several such paths, one after the other, instead of `field`.
    joints
        Joints of a JointState, in the order that the policy wants; empty for all, in the order of each message.
    encoding
        Of images: rgb8, bgr8, rgba8, bgra8, mono8, 16UC1 or 32FC1, as the policy was trained; empty to choose by
        channels and dtype. Messages of another colour encoding are converted, and images of another size resized.

    Raises
    ------
    MessageTypeError
        If the type cannot give what `spec` asks for; says topic, observation, found, allowed and what to do.
    """
    try:
        message_type = message_class(type_name)
        read: ImageReader | VectorReader
        if type_name in IMAGE_TYPES:
            _refuse(type_name, field=field, fields=fields, joints=joints)
            read = (RawImageReader if type_name == IMAGE else CompressedImageReader)(spec, encoding)
        elif type_name == CONTACTS:
            _refuse(type_name, field=field, fields=fields, joints=joints, encoding=encoding)
            read = VectorReader(message_type, TouchSource(spec), spec)
        else:
            if type_name == JOINT_STATE:
                _refuse(type_name, encoding=encoding, fields=fields)
            else:
                _refuse(type_name, encoding=encoding, joints=joints)
            read = VectorReader(message_type, _number_source(type_name, message_type, fields or (field,), joints), spec)
    except MessageTypeError as error:
        what = f"topic '{topic}' of {type_name} cannot give observation '{spec.name}'"
        raise MessageTypeError(f"{what}: {error}") from error
    return ReadingDecoder(message_type, topic, read)


def command_encoder(
    type_name: str,
    components: int,
    *,
    fields: Sequence[str] = (),
    joints: Sequence[str] = (),
    field: str = "position",
    frame_id: str = "",
    time_from_start_s: float,
) -> CommandEncoder:
    """Make the encoder that turns commands into messages of a type.

    Parameters
    ----------
    type_name
        A geometry_msgs Twist or TwistStamped, std_msgs Float64MultiArray, sensor_msgs JointState or
        trajectory_msgs JointTrajectory.
    components
        How many numbers a command has.
    fields
        The field of each component in a Twist or TwistStamped, such as ``linear.x``.
    joints
        The joint of each component in a JointState or JointTrajectory.
    field
        What a JointState commands: position, velocity or effort.
    frame_id
        Frame of the types with a header.
    time_from_start_s
        When the point of a JointTrajectory is to be reached, in seconds.

    Raises
    ------
    MessageTypeError
        If the type is none of these, or fields or joints do not fit it; says found, allowed and what to do.
    """
    try:
        if type_name in VELOCITY_COMMAND_TYPES:
            _refuse(type_name, joints=joints)
            require_one_each("fields", fields, components, "linear.x, angular.z")
            return VelocityEncoder(message_class(type_name), fields, frame_id)
        _refuse(type_name, fields=fields)
        if type_name == FLOAT64_ARRAY:
            _refuse(type_name, joints=joints)
            return ArrayEncoder(message_class(type_name), components)
        if type_name in JOINT_COMMAND_TYPES:
            require_one_each("joints", joints, components, "shoulder, elbow")
            if type_name == JOINT_STATE:
                return JointStateEncoder(message_class(type_name), joints, field, frame_id)
            _refuse(type_name, field="" if field == "position" else field)
            return JointTrajectoryEncoder(message_class(type_name), joints, frame_id, time_from_start_s)
    except MessageTypeError as error:
        raise MessageTypeError(f"{type_name} cannot carry the command: {error}") from error
    raise MessageTypeError(f"type '{type_name}' cannot carry the command; allowed: {', '.join(COMMAND_TYPES)}")


def reading_size(type_name: str, field: str = "", fields: Sequence[str] = (), joints: Sequence[str] = ()) -> int | None:
    """Return how many numbers a message of a type gives, read as by `reading_decoder`; None where each message says it.

    Raises
    ------
    MessageTypeError
        If the type cannot be read like that.
    """
    if type_name == CONTACTS:
        return None
    return _number_source(type_name, message_class(type_name), fields or (field,), joints).size


def _number_source(
    type_name: str, message_type: MessageClass, fields: Sequence[str], joints: Sequence[str]
) -> NumberSource:
    if type_name == JOINT_STATE:
        return JointSource(fields[0], joints)
    if type_name in DISTANCE_FIELDS and tuple(fields) in (("",), DISTANCE_FIELDS[type_name][:1]):
        return RangeSource(message_type, *DISTANCE_FIELDS[type_name])
    paths = fields if fields[0] else USUAL_FIELDS.get(type_name, ())
    if not paths:
        exists = ", ".join(f"{name} ({kind})" for name, kind in message_type.get_fields_and_field_types().items())
        raise MessageTypeError(f"`field` is missing; name the dotted path to the numbers, starting at one of {exists}")
    return FieldSource(message_type, paths)


def _refuse(type_name: str, **given: str | Sequence[str]) -> None:
    """Raise for a choice that has no meaning for the type."""
    for name, value in given.items():
        if value:
            raise MessageTypeError(f"{name}: {value!r} is given, which has no meaning for {type_name}; remove it")
