# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Make messages of random content that a policy can observe, for robots that are simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from policy_node.config.catalogue import IMAGE_ENCODINGS
from policy_node.config.specs import ArraySpec
from policy_node.messages.command_fields import find_target
from policy_node.messages.fields import NUMBERS, MessageClass, elements_of, message_of
from policy_node.messages.types.images import wanted_encoding

QUATERNION = "geometry_msgs/Quaternion"
# Parts of messages that are no readings.
LEFT_ALONE = ("std_msgs/Header", "std_msgs/MultiArrayLayout")
# Of a sensor of distances, in metres.
NEAREST_M, FARTHEST_M = 0.05, 30.0


def example_message(
    message_type: MessageClass,
    spec: ArraySpec,
    rng: np.random.Generator,
    joints: Sequence[str] = (),
    encoding: str = "",
    whole: bool = False,
    paths: Sequence[str] = (),
) -> Any:
    """Return a message with random numbers everywhere.

    Parameters
    ----------
    message_type
        Class of the message.
    spec
        What is read from it: images `[height, width, channels]`, else the length of its lists.
    rng
        Source of the numbers.
    joints, encoding
        As the parameters of an observation.
    whole
        Whether all numbers are 0 or 1, as for a category.
    paths
        Sequences get the elements that these paths name.
    """
    message = message_type()
    if len(spec.shape) == 3:
        _fill_image(message, spec, encoding, rng)
        return message
    count = len(joints) or int(np.prod(spec.shape))
    for path in paths:
        if "[" in path:
            find_target(message, path)
    _fill(message, count, rng, whole)
    for name in ("name", "joint_names"):
        if isinstance(getattr(message, name, None), list):
            setattr(message, name, list(joints) or [f"joint_{index}" for index in range(count)])
    for lowest, highest, distances in (("range_min", "range_max", "ranges"), ("min_range", "max_range", "range")):
        if hasattr(message, lowest) and hasattr(message, distances):
            setattr(message, lowest, NEAREST_M)
            setattr(message, highest, FARTHEST_M)
            drawn = rng.uniform(NEAREST_M, FARTHEST_M, count).tolist()
            setattr(message, distances, drawn if distances == "ranges" else drawn[0])
    return message


def _fill(message: Any, count: int, rng: np.random.Generator, whole: bool) -> None:
    """Set all numbers of a message and of the messages in it; lists of numbers get `count` of them, or stay longer."""
    for name, kind in message.get_fields_and_field_types().items():
        elements = elements_of(kind)
        if kind in NUMBERS:
            setattr(message, name, _numbers(NUMBERS[kind], 1, rng, whole)[0])
        elif elements is not None and elements[0] in NUMBERS:
            dtype, length = NUMBERS[elements[0]], elements[1] or max(count, len(getattr(message, name)))
            setattr(message, name, _numbers(dtype, length, rng, whole))
        elif elements is not None and message_of(elements[0]) is not None:
            for part in getattr(message, name):
                _fill(part, count, rng, whole)
        elif kind == QUATERNION:
            x, y, z, w = rng.normal(size=4)
            norm = float(np.sqrt(x * x + y * y + z * z + w * w))
            part = getattr(message, name)
            part.x, part.y, part.z, part.w = (float(number / norm) for number in (x, y, z, w))
        elif kind not in LEFT_ALONE and message_of(kind) is not None:
            _fill(getattr(message, name), count, rng, whole)


def _numbers(dtype: np.dtype, count: int, rng: np.random.Generator, whole: bool) -> list[Any]:
    """Return numbers as the fields of messages take them: from -1 to 1, integers 0 or 1."""
    if dtype.kind == "f" and not whole:
        return rng.uniform(-1.0, 1.0, count).tolist()
    drawn = rng.integers(0, 2, count)
    return drawn.astype(bool).tolist() if dtype.kind == "b" else drawn.astype(dtype).tolist()


def _fill_image(message: Any, spec: ArraySpec, encoding: str, rng: np.random.Generator) -> None:
    """Set the pixels of an Image or a CompressedImage."""
    height, width, _ = spec.shape
    name = wanted_encoding(spec, encoding, tuple(IMAGE_ENCODINGS))
    found = IMAGE_ENCODINGS[name]
    shape = (height, width, found.channels)
    if found.dtype.kind == "f":
        pixels = rng.uniform(0.1, 5.0, shape).astype(found.dtype)
    else:
        pixels = rng.integers(0, np.iinfo(found.dtype).max, shape, dtype=found.dtype, endpoint=True)
    if hasattr(message, "step"):
        message.height, message.width, message.encoding = height, width, name
        message.step = width * found.channels * found.dtype.itemsize
        message.data.frombytes(pixels.tobytes())
        return
    message.format = "png"
    message.data.frombytes(cv2.imencode(".png", pixels)[1].tobytes())
