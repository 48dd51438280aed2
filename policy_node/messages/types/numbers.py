# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of numbers, read by the dotted paths of their fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np

from policy_node.config.parameters import ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import deserialise
from policy_node.messages.fields import MessageClass, MessageTypeError, NumericField, numeric_fields, value_at
from policy_node.messages.layouts import Layout, number_run
from policy_node.messages.reading import Reader, UnusableReading
from policy_node.messages.types import MessageType, vector_type
from policy_node.messages.vectors import NumberSource, ReadNumbers, VectorReader


class FieldSource(NumberSource):
    """The numbers at dotted paths of a message, one path after the other; `numeric_fields` describes the errors."""

    def __init__(self, message_type: MessageClass, paths: Sequence[str]) -> None:
        self._fields: list[NumericField] = [field for path in paths for field in numeric_fields(message_type, path)]
        paths = [field.path for field in self._fields]
        self._get: Callable[[Any], Any] = attrgetter(*paths)
        if any("[" in path for path in paths):
            values = [partial(value_at, path=path) for path in paths]
            self._get = values[0] if len(values) == 1 else lambda message: tuple(value(message) for value in values)
        self._only_numbers = not any(field.is_array for field in self._fields)
        self.dtypes = [field.dtype for field in self._fields]
        sizes = [field.size for field in self._fields]
        self.size = None if None in sizes else sum(size or 0 for size in sizes)

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        return number_run(layout, [field.path for field in self._fields])

    def numbers(self, message: Any) -> np.ndarray:
        """Return all numbers `[n]`."""
        values = self._get(message)
        if self._only_numbers or len(self._fields) == 1:
            return np.atleast_1d(np.asarray(values))
        return np.concatenate([np.atleast_1d(np.asarray(value)) for value in values])

    def label(self, message: Any, index: int) -> str:
        """Return the path of a number, with its index where the path is an array."""
        for field in self._fields:
            length = len(value_at(message, field.path)) if field.is_array else 1
            if index < length:
                return f"{field.path}[{index}]" if field.is_array else field.path
            index -= length
        raise IndexError(index)


class LayoutReader:
    """Reads a std_msgs MultiArray of several dimensions, which its layout must name; an empty one says nothing."""

    parallel = False

    def __init__(self, message_type: MessageClass, spec: ArraySpec) -> None:
        self._message_type = message_type
        self._shape = spec.shape
        self._strides = [math.prod(spec.shape[axis:]) for axis in range(len(spec.shape))]
        low, high = spec.low.ravel(), spec.high.ravel()
        flat = ArraySpec(spec.name, (math.prod(spec.shape),), spec.dtype, low, high)
        self._read = VectorReader(message_type, FieldSource(message_type, ["data"]), flat)

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        layout = deserialise(raw, self._message_type).layout
        sizes, strides = [axis.size for axis in layout.dim], [axis.stride for axis in layout.dim]
        if layout.data_offset or (sizes and (sizes != list(self._shape) or strides != self._strides)):
            raise UnusableReading(
                f"the layout has sizes {sizes}, strides {strides} and data_offset {layout.data_offset}, but the policy "
                f"takes {list(self._shape)}, whose strides are {self._strides}"
            )
        self._read(raw, out.reshape(-1))


def numbers_at(name: str, gives: str, count: str, *paths: str) -> MessageType:
    """Return the record of a type that is read by paths, by default `paths`; without a default they must be chosen."""

    def source(message_type: MessageClass, choices: ReadingChoices) -> FieldSource:
        chosen = choices.paths or paths
        if not chosen:
            exists = ", ".join(f"{name} ({kind})" for name, kind in message_type.get_fields_and_field_types().items())
            raise MessageTypeError(
                f"`field` is missing; name the dotted path to the numbers, starting at one of {exists}"
            )
        return FieldSource(message_type, chosen)

    record = vector_type(name, gives, count, source)

    def make(message_type: MessageClass, spec: ArraySpec, choices: ReadingChoices) -> Reader:
        has_layout = "layout" in message_type.get_fields_and_field_types()
        if len(spec.shape) < 2 or not has_layout or choices.paths not in ((), ("data",)):
            return record.make(message_type, spec, choices)
        return LayoutReader(message_type, spec)

    return replace(record, make=make)


MESSAGE_TYPES = (
    numbers_at(
        "sensor_msgs/msg/Imu",
        "`orientation` (x, y, z, w), `angular_velocity`, `linear_acceleration`",
        "10",
        *("orientation", "angular_velocity", "linear_acceleration"),
    ),
    numbers_at("geometry_msgs/msg/Twist", "`linear`, `angular`", "6", "linear", "angular"),
    numbers_at("geometry_msgs/msg/TwistStamped", "`linear`, `angular`", "6", "twist.linear", "twist.angular"),
    numbers_at(
        "geometry_msgs/msg/WrenchStamped", "`wrench.force`, `wrench.torque`", "6", "wrench.force", "wrench.torque"
    ),
    numbers_at(
        "nav_msgs/msg/Odometry",
        "position, orientation (x, y, z, w), linear and angular velocity",
        "13",
        *("pose.pose.position", "pose.pose.orientation", "twist.twist.linear", "twist.twist.angular"),
    ),
    numbers_at("std_msgs/msg/Float32MultiArray", "`data`", "as published", "data"),
    numbers_at("std_msgs/msg/Float64MultiArray", "`data`", "as published", "data"),
    numbers_at("std_msgs/msg/Bool", "`data`", "1", "data"),
    numbers_at("std_msgs/msg/Int32", "`data`", "1", "data"),
)
